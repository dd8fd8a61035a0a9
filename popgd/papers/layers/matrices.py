"""The matrix F of a layer: drawn with a given spectrum, or a user's own; and what dominates it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from popgd.papers.layers import dynamics
from popgd.problem.errors import SettingError
from popgd.problem.law import Hypothesis
from popgd.theorem import readers
from popgd.theorem.base import Setting
from popgd.theorem.settings import Option

#: Entries of F and F^T that differ by less than this share of the largest are rounding.
SYMMETRIC = 1e-12
#: Relative gaps of moduli below this are none.
TIED = 1e-9
LARGEST = 4096


MATRIX = {
    "spectrum": Option(
        None,
        readers.signed,
        "leading eigenvalues of F, by default [1,.6]; the others are evenly within half the least",
    ),
    "D": Option(None, readers.whole(2, LARGEST), "width: the dimension of a token"),
    "shear": Option(
        None, readers.not_negative, "how far the eigenvectors of F are from orthogonal; 0: F = F^T"
    ),
    "F": Option(
        None, readers.file, "F of one's own instead: a .npy file (D, D), acting on column vectors"
    ),
}
TOKENS = {"n": Option(16, readers.whole(2, LARGEST), "tokens")}
NORM = {
    "norm": Option(
        "l2", readers.one_of(*dynamics.NORMS), "x/|x|, or layernorm or rms without affine part"
    )
}


def eigenvalues(spectrum: tuple[float, ...], D: int) -> np.ndarray:
    """The given ones and D less their number more, evenly over +- half the smallest given modulus.

    Raises SettingError for more than D.
    """
    if len(spectrum) > D:
        raise SettingError(f"spectrum of {len(spectrum)} numbers: D = {D} at most were wanted")
    rest = np.linspace(-1, 1, D - len(spectrum)) * min(map(abs, spectrum)) / 2
    return np.concatenate([spectrum, rest])


def orthogonal(rng: np.random.Generator, D: int) -> np.ndarray:
    """A Haar-distributed orthogonal matrix."""
    Q, R = np.linalg.qr(rng.normal(size=(D, D)))
    return Q * np.sign(np.diag(R))


def rng_of(setting: Setting, purpose: int) -> np.random.Generator:
    """Random numbers of one purpose."""
    return np.random.default_rng([setting.seed, 100 + purpose])


def matrix(setting: Setting, D: int | None = None) -> np.ndarray:
    """F, of width D instead of the setting's if given. Raises SettingError for a file that holds no
    square matrix of finite numbers.
    """
    if setting["F"] is not None:
        return own(setting["F"])
    lam = eigenvalues(setting["spectrum"], D or setting["D"])
    rng = rng_of(setting, 0)
    Q = orthogonal(rng, len(lam))
    if not setting["shear"]:
        return (F := (Q * lam) @ Q.T) / 2 + F.T / 2
    V = Q @ (
        np.eye(len(lam)) + setting["shear"] * rng.normal(size=(len(lam),) * 2) / len(lam) ** 0.5
    )
    return np.linalg.solve(V.T, (V * lam).T).T


def own(named: str) -> np.ndarray:
    """F of a .npy file."""
    name = readers.named(named)[0]
    try:
        F = np.load(name, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SettingError(f"F={name}: no .npy file ({error}); write it by np.save") from None
    if not isinstance(F, np.ndarray) or F.ndim != 2 or F.shape[0] != F.shape[1] or len(F) < 2:
        shape = getattr(F, "shape", "no array")
        raise SettingError(f"F={name}: {shape} is there, a square matrix (D, D) was wanted")
    if F.dtype.kind not in "fiu" or len(F) > LARGEST:
        raise SettingError(f"F={name}: real numbers were wanted, D = {LARGEST} at most; {F.dtype}, "
                           f"D = {len(F)} is there")  # fmt: skip
    if not np.all(np.isfinite(F)):
        raise SettingError(f"F={name}: not all of it is finite; mend it")
    return F.astype(float)


def seen(F: np.ndarray, norm: str) -> np.ndarray:
    """What acts on the direction of a token: F, in the hyperplane 1.x = 0 if tokens are centred."""
    if norm != "layernorm":
        return F
    Pi = np.eye(len(F)) - 1 / len(F)
    return Pi @ F @ Pi


def fill(settings: Mapping[str, Any], D: int = 64) -> dict[str, Any]:
    """The matrix where nothing is said of it. Raises SettingError for one that is given twice."""
    drawn = {"spectrum": (1.0, 0.6), "D": D, "shear": 0.0}
    given = [name for name in drawn if settings[name] is not None]
    if settings["F"] is not None and given:
        raise SettingError(f"F and {given[0]} both say what F is: leave one out")
    return {} if settings["F"] else {n: x for n, x in drawn.items() if settings[n] is None}


class Dominant(NamedTuple):
    """The eigenvalue that wins, and what it wins against.

    lam     the eigenvalue of F with the largest |1 + lam| (of `none` |lam|, of `pre` Re lam)
    v       its right eigenvector, of length 1 and real where lam is
    others  the other eigenvalues of F, those of the hyperplane alone if tokens are centred
    size    of every eigenvalue what is compared, that of lam first
    plane   an orthonormal basis (D, 1 or 2) of the space that it spans
    right   the right eigenvectors in that order, as columns
    """

    lam: complex
    v: np.ndarray
    others: np.ndarray
    size: np.ndarray
    plane: np.ndarray
    right: np.ndarray

    @property
    def real(self) -> bool:
        return self.plane.shape[1] == 1

    @property
    def simple(self) -> bool:
        """Nothing is as large, but a conjugate."""
        k = self.plane.shape[1]
        return len(self.size) <= k or bool(self.size[k] < self.size[0] * (1 - TIED))


def factor(lam: Any, residual: str) -> Any:
    """By what a layer multiplies the component of a consensus along an eigenvector of F."""
    return lam if residual == "none" else 1 + lam


def dominant(F: np.ndarray, residual: str, norm: str = "l2") -> Dominant:
    """What dominates the iteration of a layer."""
    lam, V = (np.asarray(x, dtype=complex) for x in np.linalg.eig(seen(F, norm)))
    if norm == "layernorm":  # the vector 1 is no direction of a token
        away = np.argmax(abs(np.ones(len(F)) @ V))
        lam, V = np.delete(lam, away), np.delete(V, away, axis=1)
    size = np.real(lam) if residual == "pre" else abs(factor(lam, residual))
    order = np.argsort(-size, kind="stable")
    lam, V, size = lam[order], V[:, order], size[order]
    first = V[:, 0]
    if abs(lam[0].imag) <= TIED * abs(lam[0]):
        v = np.real(first) if np.linalg.norm(np.real(first)) > 0.5 else np.imag(first)
        v = v / np.linalg.norm(v)
        return Dominant(complex(lam[0].real), v, lam[1:], size, v[:, None], V)
    plane = np.linalg.qr(np.stack([np.real(first), np.imag(first)], axis=1))[0]
    return Dominant(complex(lam[0]), first, lam[1:], size, plane, V)


def symmetric(F: np.ndarray) -> bool:
    return bool(np.max(abs(F - F.T)) <= SYMMETRIC * np.max(abs(F)))


def dominance(F: np.ndarray, residual: str, norm: str = "l2") -> list[Hypothesis]:
    """One real eigenvalue that wins over all others."""
    found, of = (
        dominant(F, residual, norm),
        {"none": "|lam|", "pre": "Re lam"}.get(residual, "|1 + lam|"),
    )
    pair = f"lam = {found.lam.real:.4g} +- {abs(found.lam.imag):.4g}i has the largest {of}"
    tie = f"{of} = {found.size[0]:.6g} is there more than once"
    return [
        Hypothesis("a real dominant eigenvalue", found.real, f"{pair}: its plane is rotated"),
        Hypothesis("a simple dominant eigenvalue", found.simple, tie),
    ]
