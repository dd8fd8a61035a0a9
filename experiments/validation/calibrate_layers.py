"""The theorems about no descent, all of them for every seed: nothing is measured side by side."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from calibrate import Case, whole

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


CASES = tuple(Case(name, name, sizes, whole, many) for name, sizes in SIZES.items())
