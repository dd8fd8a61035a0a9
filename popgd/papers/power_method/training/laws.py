"""From settings to the data laws of arXiv 2606.00605: uniform columns (Task 1) or a rotated
spectrum (Task 2).
"""

from collections.abc import Mapping
from typing import Any

import jax

from popgd.descent.chunks import working_set
from popgd.papers.power_method.data import MANY, Rotated, UniformSphere, UnitColumns
from popgd.papers.power_method.model import shapes
from popgd.papers.power_method.options import LAW
from popgd.papers.power_method.training.study import wider
from popgd.problem.errors import SettingError
from popgd.theorem.base import fits

DEFAULT_SPECTRUM = (8.0, 5.0, 4.0, 2.0, 1.0)


def make_law(values: Mapping[str, Any]) -> UnitColumns:
    """The law that law, d, n and spectrum describe; a law object in `law` is taken as it is.

    Raises SettingError if they contradict each other, do not fit into memory, or d = 1, r = d or n
    < d, for which there is no slope or S has no full rank, though the hypotheses are to be ignored.
    """
    made = _made(values)
    if made.d == 1 and values["assume"] == "ignore":
        raise SettingError(
            "d=1: every vector is an eigenvector, no slope is left to judge; use d >= 2"
        )
    if made.r == made.d and values["assume"] == "ignore":
        raise SettingError(
            f"all {made.d} eigenvalues are equal: every direction is leading, no slope is left to "
            "judge; change spectrum"
        )
    if made.n < made.d and values["assume"] == "ignore":
        raise SettingError(
            f"n={made.n} < d={made.d}: S has no full rank, which the exact engine needs; use n >= d"
        )
    return made


def _made(values: Mapping[str, Any]) -> UnitColumns:
    law, d, n, spectrum = (values[name] for name in LAW)
    if not isinstance(law, str | None):
        clash = [name for name in ("d", "n", "spectrum") if values[name] is not None]
        if clash:
            raise SettingError(
                f"{clash[0]} was given beside a law object, which has its own: leave it out"
            )
        if not isinstance(law, UnitColumns):
            raise SettingError(
                f"law={type(law).__name__}: a law of unit columns was wanted, UniformSphere or "
                "Rotated"
            )
        return law
    if law == "uniform" and spectrum is not None:
        raise SettingError(
            "law=uniform has a random spectrum: leave out spectrum, or use law=rotated"
        )
    if spectrum is None and (
        law == "uniform" or (law is None and (d is not None or n is not None))
    ):
        d = d if d is not None else 5
        n = n if n is not None else 4 * d
        _fits(d, n)
        fits(f"spectra={values['spectra']}", 16 * wider(values["spectra"]) * d)
        return UniformSphere(d, n)
    if spectrum is None and law == "rotated" and (d, n) != (None, None):
        raise SettingError(
            "law=rotated needs its spectrum, as in spectrum=[8,5,4,2,1]; d and n follow from it"
        )
    spectrum = DEFAULT_SPECTRUM if spectrum is None else spectrum
    _fits(len(spectrum), int(min(sum(spectrum), MANY * len(spectrum))))
    try:
        rotated = Rotated.with_spectrum(spectrum)
    except ValueError as error:
        raise SettingError(str(error)) from None
    for name, given, own in (("d", d, rotated.d), ("n", n, rotated.n)):
        if given is not None and given != own:
            raise SettingError(
                f"{name}={given} contradicts spectrum, which has {name}={own}: leave out {name}"
            )
    return rotated


def _fits(d: int, n: int) -> None:
    """One sample on each device; all else is done in chunks, so that memory does not grow with
    batch, samples or steps.
    """
    fits(f"d={d}, n={n:.15g}", working_set(*shapes(d, n)) * jax.local_device_count())
