"""What the theorems of this paper share: their law, step size, checks of settings, study and
reported numbers.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from popgd.papers.in_context import wishart
from popgd.papers.in_context.model import InContext, SquaredError
from popgd.papers.in_context.options import LAW
from popgd.problem.errors import SettingError
from popgd.problem.law import Hypothesis
from popgd.problem.number import Number
from popgd.problem.numeric import UNIT
from popgd.theorem.base import Setting, Unfolding, fits

NUMBER = "arXiv 2410.08292"
#: The covariance where nothing is given: d = 5, condition number 4.
COVARIANCE = (2.0, 1.5, 1.0, 0.75, 0.5)
#: n at which "n = infinity" is evaluated.
INFINITE = 10**14
#: Matrices of A's size that an exact study keeps.
MATRICES = 2**14
#: Exact descents take at most this many steps; they stop as soon as nothing moves any more.
LONGEST = 10**6
#: Numbers in one sampled X at most: Monte Carlo takes fewer examples than the statement where there
#: would be more.
SAMPLED_ENTRIES = 2**13
#: A sampled second moment whose relative standard error exceeds this is not known.
HEAVY = 0.25
#: Nor is a loss whose exact relative standard error does. Sampled ones are 0.014 where this is 1.3;
#: 0.02 by default.
RARE = 0.125
#: What would settle a claim is told with two digits, rounded up.
ROOM = 1.05
#: Eigenvalues of Sigma whose squares float64 holds, with room for their sums and inverses.
SMALLEST, BIGGEST = 1e-100, 1e100
#: The relative error of a rational number that was rounded once, and of what was made of it.
ROUNDED = 2 * UNIT


def make_law(values: Mapping[str, Any]) -> InContext:
    """The law that d, n and covariance (eigenvalues or matrix of Sigma) describe; an `InContext` in
    `law` is taken as it is.

    Raises SettingError for a covariance that is not one, or has not d rows, or what does not fit
    into memory.
    """
    law, d, n, covariance = (values[name] for name in ("law", *LAW))
    if law is not None:
        clash = [name for name in LAW if name != "n" and values[name] is not None]
        if clash or not isinstance(law, InContext):
            raise SettingError(
                f"law={type(law).__name__}: an InContext object was wanted, and no "
                f"{clash[0] if clash else 'other'}"
            )
        return law
    if d is None:
        covariance = COVARIANCE if covariance is None else covariance
        d = len(covariance)
    fits(f"d={d}", MATRICES * 8 * d * d)
    try:
        law = InContext.gaussian(d, n, covariance)
    except ValueError as error:
        raise SettingError(str(error)) from None
    lam = np.linalg.eigvalsh(law.Sigma)
    if not (lam[0] >= SMALLEST and lam[-1] <= BIGGEST):
        raise SettingError(
            f"covariance with eigenvalues {lam[0]:.3g} to {lam[-1]:.3g}: {SMALLEST} to {BIGGEST} "
            "was wanted; rescale it"
        )
    return law


def step_size(law: InContext, L: int) -> float:
    """Half of 1/h, h the larger of two curvatures: of A at 0 along the identity, 2L(2L-1) m_2
    lambda_max(Sigma)^2, and of u where I - G = I, 2 lambda_max(Sigma).
    """
    m_2, largest = (
        float(wishart.moments(law.n, law.d, 2)[2]),
        float(np.linalg.eigvalsh(law.Sigma)[-1]),
    )
    return 0.5 / max(2 * L * (2 * L - 1) * m_2 * largest**2, 2 * largest)


def objective(largest: int, what: str) -> Callable[[Setting, str], SquaredError]:
    """The function that makes the objective of a setting with at most `largest` loops.

    It raises SettingError for more, and where the loss is outside the range of float64: then it
    says so.
    """

    def make(setting: Setting, target: str) -> SquaredError:
        law, L = setting.law, setting.L
        if setting.steps > LONGEST:
            raise SettingError(
                f"steps={setting.steps}: every step is taken, so at most {LONGEST:,} were wanted; "
                "take fewer"
            )
        if largest < L:
            raise SettingError(
                f"L={L}: {what} is exact for at most {largest} loops (time and memory); take L <= "
                f"{largest}"
            )
        try:
            wishart.least_loss(law.n, law.d, L)
        except ValueError as error:
            raise SettingError(f"L={L}, n={law.n}, d={law.d}: {error}") from None
        return SquaredError(L)

    return make


def hypotheses(setting: Setting) -> list[Hypothesis]:
    """The data law of Section 2 and plain gradient descent."""
    reason = f"the optimiser is {setting.optimiser}, not plain sgd"
    return [
        *setting.law.hypotheses(),
        Hypothesis("gradient descent", setting.optimiser == "sgd", reason),
    ]


class Parts(Mapping[str, np.ndarray]):
    """Arrays by name; those called "part/name" are measured when one of them is first read, and so
    are all that belong to no such part, the part "".
    """

    def __init__(self, measure: Mapping[str, Callable[[], Mapping[str, Any]]]) -> None:
        self._measure = measure
        self._known: dict[str, Mapping[str, Any]] = {}

    def _part(self, name: str) -> Mapping[str, Any]:
        if name not in self._known:
            found, before = self._measure[name](), f"{name}/" if name else ""
            if not isinstance(found, Parts):
                found = {before + key: np.asarray(value) for key, value in found.items()}
            self._known[name] = found
        return self._known[name]

    def __getitem__(self, name: str) -> np.ndarray:
        part = name.partition("/")[0]
        return self._part(part if part in self._measure else "")[name]

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(map(self._part, self._measure))

    def __len__(self) -> int:
        return sum(len(self._part(name)) for name in self._measure)


@dataclass(frozen=True)
class Study(Unfolding):
    """What was measured, as named arrays, and how to draw it."""

    setting: Setting
    objective: SquaredError
    values: Parts | dict[str, np.ndarray]
    draw: Callable[["Study", str], dict[str, Any]]

    @property
    def law(self) -> InContext:
        return self.setting.law

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(n, d, L), in the order that `wishart` takes them."""
        return self.law.n, self.law.d, self.setting.L

    def arrays(self) -> Mapping[str, np.ndarray]:
        return dict(self.values)

    def whole(self) -> None:
        self.arrays()

    def figures(self, title: str) -> dict[str, Any]:
        return self.draw(self, title)


def sampled_law(law: InContext) -> InContext:
    """The law with few enough examples to be sampled; the exact engine takes as many when the two
    are compared.
    """
    return law.with_examples(max(1, min(law.n, SAMPLED_ENTRIES // law.d)))


def heavy_tails(study: Study, worst: float, a: float) -> str:
    """Why sampled losses and gradients at A with whitened eigenvalues up to a say nothing, or
    empty.

    worst is the relative standard error of the second moment behind their standard errors: too
    small where the prompts that carry the mean are too rare to be sampled. The exact standard error
    of the loss at a I tells those.
    """
    samples = study.setting.samples
    if worst > HEAVY:
        return (
            f"heavy tails: the second moment of the gradient is known to {worst:.0%} only; "
            f"take samples={ROOM * samples * (worst / HEAVY) ** 2:.2g} at least"
        )
    rare = (
        wishart.deviation(sampled_law(study.law).n, study.law.d, study.setting.L, a) / samples**0.5
    )
    if rare > RARE:
        return (
            "heavy tails: prompts too rare to be sampled carry the loss, its exact standard "
            f"error is {rare:.0%}; take samples={ROOM * samples * (rare / RARE) ** 2:.2g}, "
            "or more n"
        )
    return ""


def quantities(study: Study) -> dict[str, Number]:
    """a*, the least loss and the Hessian at a* I: rational numbers, rounded once."""
    n, d, L = study.sizes
    a = wishart.minimiser(n, d, L)
    found = {"a_star": wishart.a_star(n, d, L), "loss_min": wishart.least_loss(n, d, L)}
    if d > 1:
        found |= wishart.hessian(n, d, L, a)._asdict()
    return {name: Number(value, abs(value) * ROUNDED) for name, value in found.items()}
