"""`check`: one theorem, one setting, one report. The Python interface and the command line both go through here."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jaxlib.version
import numpy as np

from popgd import config
from popgd.config import SettingError
from popgd.data import Law, Rotated, UniformSphere
from popgd.interpolant import Unresolved
from popgd.memory import FORGETFUL, Memory
from popgd.store import FORMAT
from popgd.theory import THEOREMS, Setting, Study, Theorem
from popgd.theory.base import WIDER, Findings, Progress, examine
from popgd.verdict import Claim, Outcome, judge, not_applicable, overall

DEFAULT_SPECTRUM = (8.0, 5.0, 4.0, 2.0, 1.0)
DEFAULT_L = 3
#: Arrays of the size of the token matrix, and of P, that one sample's gradient keeps alive at least: a layer's input,
#: output, their gradients and LN's factors; P, Q, Z Z^T, their products, gradients, running means and squares.
LIVE_TOKENS, LIVE_WEIGHTS = 8, 12
_QUIET: Progress = lambda name, done, total: None


@dataclass(frozen=True)
class Report:
    """What `check` found: the outcome, the judged claims, named quantities (value, error), and the studies behind them."""

    theorem: Theorem
    setting: Setting
    outcome: Outcome
    reason: str
    claims: tuple[Claim, ...]
    quantities: Mapping[str, tuple[float, float]]
    studies: Mapping[str, Study]

    def to_json(self) -> dict[str, Any]:
        """The report as plain data: no NaN or Infinity, None in their place."""
        return {
            "format": FORMAT,
            "theorem": self.theorem.name,
            "outcome": str(self.outcome),
            "reason": self.reason,
            "statement": self.theorem.statement,
            "source": self.theorem.source,
            "settings": self.setting.describe(),
            "environment": environment(self.setting),
            "claims": [{**claim.__dict__, "outcome": str(claim.outcome)} for claim in self.claims],
            "quantities": {
                name: {"value": _plain(value), "error": _plain(error)} for name, (value, error) in self.quantities.items()
            },
        }

    def figures(self) -> dict[str, Any]:
        """matplotlib figures by file name: weights, growth, increments, loss."""
        from popgd import plot

        return plot.figures(self)


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
    if name not in THEOREMS:
        known = ", ".join(THEOREMS)
        raise SettingError(f"unknown theorem {name}{config.nearest(name, THEOREMS)}; known: {known}")
    return THEOREMS[name]


def make_law(values: Mapping[str, Any]) -> Law:
    """The data law that law, d, n and spectrum describe; a `Law` object is taken as it is.

    Raises SettingError if they contradict each other.
    """
    law, d, n, spectrum = (values[name] for name in ("law", "d", "n", "spectrum"))
    if law == "uniform" and spectrum is not None:
        raise SettingError("law=uniform has a random spectrum: leave out spectrum, or use law=rotated")
    if spectrum is None and (law == "uniform" or (law is None and (d is not None or n is not None))):
        d = d if d is not None else 5
        n = n if n is not None else 4 * d
        fits(d, n, values["spectra"])
        return UniformSphere(d, n)
    if spectrum is None and law == "rotated" and (d, n) != (None, None):
        raise SettingError("law=rotated needs its spectrum, as in spectrum=[8,5,4,2,1]; d and n follow from it")
    spectrum = DEFAULT_SPECTRUM if spectrum is None else spectrum
    fits(len(spectrum), int(sum(spectrum)))
    try:
        rotated = Rotated.with_spectrum(spectrum)
    except ValueError as error:
        raise SettingError(str(error)) from None
    for name, given, own in (("d", d, rotated.d), ("n", n, rotated.n)):
        if given is not None and given != own:
            raise SettingError(f"{name}={given} contradicts spectrum, which has {name}={own}: leave out {name}")
    return rotated


def fits(d: int, n: int, spectra: int = 0) -> None:
    """Raises SettingError if one sample's forward and backward pass, or the sampled spectra, exceed half the memory here.

    Everything else is done in chunks, so that memory does not grow with batch, samples or steps.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else np.inf
    D, N = 2 * d, n + 1
    one = 8 * (LIVE_TOKENS * D * N + LIVE_WEIGHTS * D * D) * jax.device_count()
    for name, size in ((f"d={d}, n={n:.15g}", one), (f"spectra={spectra}", 16 * WIDER * spectra * d)):
        if size > memory / 2:
            raise SettingError(f"{name} needs about {size / 1e9:.3g} GB, half of {memory / 1e9:.3g} is there: use less")


def resolve(values: Mapping[str, Any]) -> Setting:
    """All settings, ranges checked and defaults filled in; `law` may be a `Law` object.

    Raises SettingError: unknown names, values out of range, contradictions.
    """
    values = dict(values)
    own_law = values.pop("law") if "law" in values and not isinstance(values["law"], str | None) else None
    read = config.read(values)
    theorem = find_theorem(read["theorem"])
    if own_law is not None:
        clash = [name for name in ("d", "n", "spectrum") if read[name] is not None]
        if clash:
            raise SettingError(f"{clash[0]} was given beside a law object, which has its own: leave it out")
    law = make_law(read) if own_law is None else own_law
    if read["target"] is not None and not theorem.targets:
        raise SettingError(f"target={read['target']}: Theorem {theorem.name} has no choice of target; leave it out")
    if read["L"] not in (None, 1) and not theorem.looped:
        raise SettingError(f"L={read['L']}: Theorem {theorem.name} is about one layer; leave out L")
    if read["claim.exponent"] is not None and theorem.exponent is None:
        raise SettingError(f"claim.exponent: Theorem {theorem.name} claims no growth exponent; leave it out")
    if law.n < law.d and read["assume"] == "ignore":
        raise SettingError(f"n={law.n} < d={law.d}: S has no full rank, which the exact engine needs; use n >= d")
    if not jax.config.read("jax_enable_x64"):
        raise SettingError('JAX has float64 off, the exact engine needs it: jax.config.update("jax_enable_x64", True)')
    return Setting(
        theorem=theorem.name,
        law=law,
        L=(read["L"] or DEFAULT_L) if theorem.looped else 1,
        eta=theorem.step_size(law) if read["eta"] is None else read["eta"],
        targets=(read["target"],) if read["target"] else theorem.targets,
        exponent=read["claim.exponent"],
        **{name: read[name] for name in _SAME},
    )


def restore(stored: Mapping[str, Any]) -> Setting:
    """The setting that describes itself like this. Raises SettingError if none does."""
    try:
        names = [name for name in (*_SAME, "theorem", "L", "eta", "law", "d", "n", "spectrum") if name in stored]
        targets = find_theorem(stored["theorem"]).targets
        target = stored["targets"][0] if len(targets) > len(stored["targets"]) == 1 else None
        setting = resolve({**{name: stored[name] for name in names}, "target": target, "claim.exponent": stored["exponent"]})
    except (KeyError, TypeError) as error:
        raise SettingError(f"the stored settings are damaged ({error!r}): start the run afresh elsewhere") from None
    if setting.describe() != stored:
        changed = [name for name, value in setting.describe().items() if stored.get(name, ...) != value] or ["unknown names"]
        raise SettingError(f"the stored settings are not those of a run ({', '.join(changed)}): start the run afresh elsewhere")
    return setting


_SAME = ("init", "steps", "sampled_steps", "batch", "samples", "spectra", "bank", "optimiser", "dtype", "seed",
         "false_alarm", "assume")  # fmt: skip


def check(theorem: str, *, progress: Progress = _QUIET, **values: Any) -> Report:
    """Judge one theorem: `check("4.1", spectrum=[8, 5, 4, 2, 1], L=3)`. Settings are those of the command line.

    `claim.exponent` is spelt claim_exponent here, and `law` may be a `Law` object. Nothing is written.
    Raises SettingError (a ValueError) on bad settings.
    """
    if "claim_exponent" in values:
        values["claim.exponent"] = values.pop("claim_exponent")
    return check_setting(resolve({"theorem": theorem, **values}), progress)


def check_setting(setting: Setting, progress: Progress = _QUIET, memory: Memory = FORGETFUL) -> Report:
    """Judge a resolved setting. What `memory` recalls of it is not done again."""
    theorem = THEOREMS[setting.theorem]
    failed = [h for h in theorem.hypotheses(setting) if not h.holds]
    hard = [h for h in failed if not h.soft]
    if hard and setting.assume == "check":
        reason = "; ".join(f"{h.name} fails: {h.reason}" for h in hard)
        return Report(theorem, setting, Outcome.NOT_APPLICABLE, reason, (), {}, {})
    try:
        findings: Findings = examine(theorem, setting, progress, memory)
    except Unresolved as error:
        reason = f"the exact engine cannot resolve this curve ({error}): a less extreme spectrum, n or L is needed"
        return Report(theorem, setting, Outcome.INCONCLUSIVE, reason, (), {}, {})
    claims = judge(findings.evidence, setting.false_alarm)
    soft = "; ".join(f"{h.name}: {h.reason}" for h in failed if h.soft)
    if soft and setting.assume == "check":
        claims = [c if c.outcome is Outcome.SUPPORTED else not_applicable(c, f"{soft}; {c.reason}") for c in claims]
    outcome = overall([c.outcome for c in claims], applicable=True)
    ignored = "; ".join(f"{h.name} fails and is ignored: {h.reason}" for h in hard)
    excuses = dict.fromkeys(e.excuse for e in findings.evidence)
    reason = "; ".join(part for part in (ignored, soft, *excuses) if part)
    return Report(theorem, setting, outcome, reason, tuple(claims), findings.quantities, findings.studies)
