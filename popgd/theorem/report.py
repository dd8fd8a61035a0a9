"""`check`: one theorem, one setting, one report. The Python interface and the command line both go
through here.
"""

import io
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import jax
import jaxlib.version
import numpy as np

from popgd.descent.budget import Budget, Cut
from popgd.descent.interpolant import Unresolved
from popgd.descent.memory import FORGETFUL, Memory
from popgd.problem.errors import SettingError
from popgd.problem.number import Number
from popgd.theorem import settings as config
from popgd.theorem import written
from popgd.theorem.base import COMMON, Findings, Progress, Setting, Theorem, examine
from popgd.theorem.readers import nearest, word
from popgd.theorem.registry import add, theorems
from popgd.theorem.settings import TABLE
from popgd.theorem.verdict import Claim, Outcome, Verdicts, not_applicable, overall

_QUIET: Progress = lambda name, done, total: None
_DEAF: Callable[[Claim], None] = lambda claim: None


@dataclass(frozen=True)
class Report:
    """What `check` found: the outcome, the judged claims of the theorem and popgd's checks of
    itself, named numbers with their errors, and the studies behind them; `unfinished` is what its
    budget had no time for.
    """

    theorem: Theorem
    setting: Setting
    outcome: Outcome
    reason: str
    claims: tuple[Claim, ...]
    self_checks: tuple[Claim, ...]
    quantities: Mapping[str, Number]
    studies: Mapping[str, Any]
    unfinished: tuple[Cut, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The report as plain data: no NaN or Infinity, None in their place."""
        return {
            "theorem": self.theorem.name,
            "outcome": str(self.outcome),
            "reason": self.reason,
            "statement": self.theorem.statement,
            "source": self.theorem.source,
            "settings": self.setting.describe(),
            "environment": environment(self.setting),
            "claims": _rows(self.claims),
            "self_checks": _rows(self.self_checks),
            "unfinished": [cut._asdict() for cut in self.unfinished],
            "quantities": {
                name: {"value": _plain(number.value), "error": _plain(number.error)}
                for name, number in self.quantities.items()
            },
        }

    def __repr__(self) -> str:
        counted = f"{len(self.claims)} claims, {len(self.self_checks)} checks of popgd itself"
        return f"Report(Theorem {self.theorem.name}: {self.outcome}, {counted})"

    def _repr_html_(self) -> str:
        """Tables, pictures and what would settle the rest, as a notebook shows them."""
        pictures = {}
        for name, figure in self.figures().items():
            stream = io.BytesIO()
            figure.savefig(stream, format="png", dpi=80)
            pictures[name] = stream.getvalue()
        return written.fragment(self.to_json(), pictures)

    def figures(self) -> dict[str, Any]:
        """matplotlib figures by file name: those of every study, its settings below each."""
        made, below = {}, fill(typed(self.theorem, self.setting.describe()), 110)
        for suffix, study in self.studies.items():
            title = f"Theorem {self.theorem.name}{' (' + suffix[1:] + ' target)' if suffix else ''}"
            made |= {
                name + suffix.replace("@", "_"): figure
                for name, figure in study.figures(title).items()
            }
        for figure in made.values():
            figure.supxlabel(below, fontsize=7, color="0.4")
        return made


def typed(theorem: Theorem, settings: Mapping[str, Any]) -> str:
    """The settings that say what was run, as one types them: those of its law, its own, and the
    commonest.
    """
    own = [name for name in settings if name not in COMMON]
    own.sort(key=lambda name: name not in theorem.law_options)
    own += ["L"] if "L" in theorem.declared else []
    named = {name: settings.get(name) for name in (*own, "eta", "steps", "samples", "seed")}
    return " ".join(f"{name}={word(x)}" for name, x in named.items() if x is not None)


def _rows(judged: Sequence[Claim]) -> list[dict[str, Any]]:
    return [{**claim.__dict__, "outcome": str(claim.outcome)} for claim in judged]


def _plain(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None


def environment(setting: Setting) -> dict[str, Any]:
    """Versions, devices and seed: what a number may depend on."""
    from popgd import __version__

    return {
        "popgd": __version__,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.version.__version__,
        "numpy": np.__version__,
        "devices": [str(device) for device in jax.devices()],
        "machine": platform.machine(),
        "seed": setting.seed,
    }


def find_theorem(name: str) -> Theorem:
    every = theorems()
    if name not in every:
        known = ", ".join(every)
        raise SettingError(f"unknown theorem {name}{nearest(name, every)}; known: {known}")
    return every[name]


def resolve(values: Mapping[str, Any]) -> Setting:
    """All settings, ranges checked and defaults filled in; `law` may be a `Law` object.

    Raises SettingError: unknown names, values out of range, contradictions, settings that the
    theorem does not take.
    """
    values = dict(values)
    own_law = {"law": values.pop("law")} if not isinstance(values.get("law"), str | None) else {}
    if values.get("theorem") is None:
        config.without_theorem(values)
    theorem = find_theorem(config.read({"theorem": values["theorem"]}, {})["theorem"])
    own = theorem.declared
    if "L" not in own and str(values.get("L")) == "1":
        del values["L"]  # every stored run tells it
    _foreign(theorem, values)
    given = config.read(values, own)
    defaults = {name: option.default for name, option in (*TABLE.items(), *own.items())}
    settings = {"law": None, "L": 1, **defaults, **theorem.defaults}
    settings |= {name: value for name, value in given.items() if value is not None} | own_law
    settings |= theorem.fill(settings)
    law = theorem.make_law(settings)
    if not jax.config.read("jax_enable_x64"):
        raise SettingError(
            'JAX has float64 off, the exact engine needs it: jax.config.update("jax_enable_x64", '
            "True)"
        )
    if settings["eta"] is None:
        settings["eta"] = theorem.step_size(law, settings["L"])
    options = {name: settings[name] for name in theorem.options if name not in COMMON}
    common = {name: settings[name] for name in COMMON}
    return Setting(**common, law=law, options=options, idle=theorem.idle)


def _every() -> set[str]:
    """The names of all settings that any theorem declares."""
    return {name for theorem in theorems().values() for name in theorem.declared}


def _foreign(theorem: Theorem, values: Mapping[str, Any]) -> None:
    """Raises SettingError for a setting that other theorems take."""
    for name in values:
        if name in _every() - theorem.declared.keys():
            raise SettingError(
                f"{name}={values[name]}: Theorem {theorem.name} does not take {name}; leave it out"
            )
        if name in theorem.idle:
            raise SettingError(
                f"{name}={values[name]}: Theorem {theorem.name} is about no descent, {name} means "
                "nothing to it; leave it out"
            )


def restore(stored: Mapping[str, Any]) -> Setting:
    """The setting that describes itself like this. Raises SettingError if none does."""
    again = "start the run afresh elsewhere"
    try:
        setting = resolve(stored)
    except (SettingError, TypeError) as error:
        raise SettingError(f"the stored settings are damaged ({error}): {again}") from None
    if setting.describe() != stored:
        names = {**stored, **setting.describe()}
        changed = [
            name for name in names if stored.get(name, ...) != setting.describe().get(name, ...)
        ]
        raise SettingError(
            "the stored settings have been edited, or are another version's "
            f"({', '.join(changed)}): {again}"
        )
    return setting


def check(theorem: str | Theorem, *, progress: Progress = _QUIET, **values: Any) -> Report:
    """Judge one theorem: `check("4.1", spectrum=[8, 5, 4, 2, 1], L=3)`, or one of your own, as
    `about` makes it. Settings are those of the command line, `budget` among them.

    `claim.exponent` is spelt claim_exponent here, and `law` may be a `Law` object. Nothing is
    written. Raises SettingError (a ValueError) on bad settings.
    """
    if isinstance(theorem, Theorem):
        theorem = add(theorem)
    own = find_theorem(theorem).declared
    for name in (name for name in _every() if "." in name):
        spelt = name.replace(".", "_")
        if spelt in values and spelt not in own:
            values[name] = values.pop(spelt)
    budget = Budget(config.budget(values))
    return check_setting(resolve({"theorem": theorem, **values}), progress, Memory(budget))


def _excused(claim: Claim) -> bool:
    """Whether the failure of a soft hypothesis may be why: of a self-check only for a
    disagreement.
    """
    return claim.outcome is Outcome.REFUTED or (
        claim.outcome is Outcome.INCONCLUSIVE and not claim.self_check
    )


def check_setting(
    setting: Setting,
    progress: Progress = _QUIET,
    memory: Memory = FORGETFUL,
    told: Callable[[Claim], None] = _DEAF,
) -> Report:
    """Judge a resolved setting. What `memory` recalls of it is not done again; `told` hears of
    every claim once, as soon as it is judged.
    """
    theorem = find_theorem(setting.theorem)
    failed = [h for h in theorem.hypotheses(setting) if not h.holds]
    hard = [h for h in failed if not h.soft]
    if hard and setting.assume == "check":
        reason = "; ".join(f"{h.name} fails: {h.reason}" for h in hard)
        return Report(theorem, setting, Outcome.NOT_APPLICABLE, reason, (), (), {}, {})
    soft = "; ".join(f"{h.name}: {h.reason}" for h in failed if h.soft)

    def amended(claim: Claim) -> Claim:
        excused = soft and setting.assume == "check" and _excused(claim)
        return not_applicable(claim, f"{soft}; {claim.reason}") if excused else claim

    ids = [id + suffix for suffix in theorem.judged_for(setting) for id in theorem.sampled]
    verdicts = Verdicts(setting.false_alarm, ids, told, amended)
    findings, excuses, broken = Findings(), {}, ""
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # numbers of a descent that breaks off
            for e in examine(theorem, setting, findings, progress, memory):
                excuses |= {} if e.self_check else {e.excuse: None}
                verdicts.hear(e)
        verdicts.close()
    except Unresolved as error:
        broken = (
            f"the exact engine cannot resolve this curve ({error}): a less extreme spectrum, "
            "n or L is needed"
        )
        findings = Findings()
    ignored = "; ".join(f"{h.name} fails and is ignored: {h.reason}" for h in hard)
    reason = "; ".join(part for part in (ignored, soft, *excuses) if part)
    claims, checks = (
        tuple(c for c in verdicts.claims if bool(c.self_check) is own) for own in (False, True)
    )
    outcome = overall(verdicts.claims)
    if broken and outcome not in (Outcome.REFUTED, Outcome.NOT_TRUSTED):
        outcome = Outcome.INCONCLUSIVE
    return Report(
        theorem,
        setting,
        outcome,
        broken or reason,
        claims,
        checks,
        findings.quantities,
        findings.studies,
        tuple(memory.budget.cut),
    )
