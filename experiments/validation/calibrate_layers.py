"""The theorems about no descent, all of them for every seed: nothing is measured side by side."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from calibrate import Case, whole

from popgd.papers.layers import matrices, real

#: Small widths, and few samples, so that allowances for finite D show in no error bar.
SIZES: dict[str, dict[str, Any]] = {
    "layers.tilt": {"D": 64, "n": 2, "samples": 128},
    "layers.steering": {"D": 64, "n": 2, "draws": 24, "L": 50},
}
#: Why a claim may refute the truth less often than its level.
CONSERVATIVE = {
    **dict.fromkeys(
        ("tilt-identity", "tilt-uniform", "tilt-causal"), "next orders in 1/D are allowed for"
    ),
    "limit": "what twice the width changes is allowed for, noise and all",
}


def many(study: Any, seeds: Sequence[int]) -> list[Any]:
    return [whole(dataclasses.replace(study.setting, seed=seed), None) for seed in seeds]


def many_real(study: Any, seeds: Sequence[int]) -> list[Any]:
    """Only what the statistical claims read: all pieces of all seeds at once."""
    settings = [dataclasses.replace(study.setting, seed=seed) for seed in seeds]
    model = real.model_of(study.setting)
    pieces = jnp.concatenate(
        [jnp.asarray(real.tokens(each, model, each["draws"])) for each in settings]
    )
    found = real.through(model, pieces, matrices.rng_of(study.setting, 8))
    parts = {name: np.split(found[name], len(seeds), axis=-1) for name in ("ideal", "real")}
    return [
        dataclasses.replace(
            study, setting=each, values={**study.values, **{k: x[i] for k, x in parts.items()}}
        )
        for i, each in enumerate(settings)
    ]


REAL = {"n": 4, "draws": 24, "L": 1}
CASES = (
    *(Case(name, name, sizes, whole, many) for name, sizes in SIZES.items()),
    Case("layers.real", "layers.real", REAL, whole, many_real),
)
