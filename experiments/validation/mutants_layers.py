"""Mistakes planted in what the theorems of arXiv 2605.25619 stand on: layer, attention, bounds,
rates, matrices. `LAYERS` is the list.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from mutant import Mutant, quiet

from popgd.descent.memory import FORGETFUL
from popgd.papers.layers import contraction, dynamics, matrices, rate, real, steering, tilt
from popgd.theorem.report import find_theorem


def again(study: Any) -> Any:
    """Everything once more."""
    return find_theorem(study.setting.theorem).study(study.setting, None, quiet, FORGETFUL)


LAYER, MODULI = dynamics.layer, rate.moduli


def half_as_much(X: Any, F: Any, P: Any, *rest: Any, **named: Any) -> Any:
    """Attention adds half of what it should."""
    return LAYER(X, F / 2, P, *rest, **named)


def another_matrix(X: Any, F: Any, P: Any, *rest: Any, **named: Any) -> Any:
    return LAYER(X, F + 3 * jnp.eye(len(F))[:1].T @ jnp.eye(len(F))[:1], P, *rest, **named)


def to_oneself_too(X: Any, F: Any, P: Any, *rest: Any, **named: Any) -> Any:
    """A token also adds half of itself, as F + I/2 would."""
    return LAYER(X, F + jnp.eye(len(F)) / 2, P, *rest, **named)


def without_residual(found: Any, attention: str, n: int, residual: str) -> Any:
    return MODULI(found, attention, n, "none")


def away(model: Any, layer: Any, X: Any, biases: bool) -> Any:
    """Attention pushes tokens away from where it should pull them."""
    return -ATTENTION(model, layer, X, biases)


def weaker_attention(model: Any, layer: Any, X: Any, biases: bool) -> Any:
    return 0.7 * ATTENTION(model, layer, X, biases)


def of_another(F: np.ndarray, residual: str, norm: str = "l2") -> Any:
    return DOMINANT(F * np.linspace(0.8, 1, len(F)), residual, norm)


def smaller_rho(T: Any, lam: Any, rho: Any, residual: str) -> Any:
    return BOUND(T, lam, 0.98 * rho, residual)


def cross_term_halved(F: np.ndarray, v: np.ndarray, P: np.ndarray) -> float:
    """With p/2 for p."""
    own = np.diag(P) / 2
    off = np.sqrt((P**2).sum(axis=1) - own**2)
    return PREDICTED(F, v, np.diag(own) + np.diag(off[:-1], 1) + np.diag(off[-1:], 1 - len(P)))


def smaller_matrix(F: np.ndarray, v: np.ndarray) -> float:
    return EXACTLY(0.9 * F, v)


def weaker(lam: np.ndarray, shares: np.ndarray, kappa: float) -> tuple[float, float]:
    return SECULAR(lam, shares, 0.99 * kappa)


def no_level_repulsion(kappa: float, sigma: float) -> tuple[float, float]:
    """As if F did not push the new eigenvalue away."""
    return kappa, 1 - sigma / kappa


ATTENTION, DOMINANT = real.attention, matrices.dominant
BOUND, PREDICTED, EXACTLY, SECULAR = (
    contraction.bound,
    tilt.predicted,
    tilt.exactly,
    steering.secular,
)
TILTS = ("tilt-identity", "tilt-uniform", "tilt-causal")


def mutant(name: str, part: str, theorem: str, claims: tuple[str, ...], *patch: Any) -> Mutant:
    slow = theorem == "tilt"
    named = f"layers.{theorem}"
    return Mutant(name, part, named, claims, (patch,), again, compiled=True, slow=slow)


LAYERS = (
    mutant(
        "rho is 2 % smaller",
        "prediction",
        "contraction",
        ("contraction-shared", "contraction-varying"),
        contraction,
        "bound",
        smaller_rho,
    ),
    mutant(
        "attention adds half",
        "model",
        "contraction",
        ("contraction-shared", "contraction-varying"),
        dynamics,
        "layer",
        half_as_much,
    ),
    mutant(
        "the residual is forgotten",
        "prediction",
        "rate",
        tuple(f"{kind}-{name}" for kind in ("rate", "linear") for name in rate.ATTENTIONS),
        rate,
        "moduli",
        without_residual,
    ),
    mutant(
        "attention adds half",
        "model",
        "rate",
        tuple(f"{kind}-{name}" for kind in ("rate", "linear") for name in rate.ATTENTIONS),
        dynamics,
        "layer",
        half_as_much,
    ),
    mutant(
        "a token also adds half of itself",
        "model",
        "prenorm",
        ("prenorm-exponent",),
        dynamics,
        "layer",
        to_oneself_too,
    ),
    mutant(
        "the cross term is halved",
        "prediction",
        "tilt",
        TILTS,
        tilt,
        "predicted",
        cross_term_halved,
    ),
    mutant(
        "F is 10 % smaller",
        "prediction",
        "tilt",
        ("tilt-finite",),
        tilt,
        "exactly",
        smaller_matrix,
    ),
    mutant(
        "kappa is 1 % smaller",
        "prediction",
        "steering",
        ("secular-value", "secular-vector"),
        steering,
        "secular",
        weaker,
    ),
    mutant(
        "no level repulsion",
        "prediction",
        "steering",
        ("limit-value", "limit-vector"),
        steering,
        "limits",
        no_level_repulsion,
    ),
    mutant(
        "tokens see another F",
        "model",
        "steering",
        ("tokens-follow",),
        dynamics,
        "layer",
        another_matrix,
    ),
    mutant(
        "tokens see another F",
        "model",
        "sign",
        ("line", "principal"),
        dynamics,
        "layer",
        another_matrix,
    ),
    mutant(
        "attention does not mix",
        "model",
        "sign",
        ("side",),
        dynamics,
        "FIXED",
        {**dynamics.FIXED, "uniform": dynamics.identity},
    ),
    mutant(
        "attention pushes away",
        "model",
        "real",
        ("tilt-ideal", "tilt-real"),
        real,
        "attention",
        away,
    ),
    mutant(
        "attention is weaker", "model", "real", ("loop-rate",), real, "attention", weaker_attention
    ),
    mutant(
        "the eigenvector is that of another F'",
        "prediction",
        "steered",
        ("steered-value", "steered-vector"),
        matrices,
        "dominant",
        of_another,
    ),
    mutant(
        "attention is weaker",
        "model",
        "steered",
        ("tokens-follow-u",),
        real,
        "attention",
        weaker_attention,
    ),
)
