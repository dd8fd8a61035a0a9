"""A trained transformer finds the leading principal component of real data: scikit-learn's
handwritten digits.

    pip install -e ".[examples]" && python experiments/digits.py

Each of the 1,797 images (8 x 8 pixels) is divided by its norm and becomes a column of X, 64 x 1797.
One layer with LN, trained as in Theorem 4.3 on synthetic data alone, is looped on X;
numpy.linalg.eigh of X X^T is beside it.
"""

from typing import Any

import common
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from popgd.papers.power_method import model
from popgd.papers.power_method.looping import inference
from popgd.papers.power_method.looping.trained import spiked_spectrum
from popgd.theorem.plot import BLACK, BLUE
from popgd.theorem.report import resolve

LOOPS, STEPS = 12, 10**6


def columns() -> np.ndarray:
    """The digits as unit columns (64, 1797)."""
    from sklearn.datasets import load_digits  # pyright: ignore

    X = np.asarray(load_digits(return_X_y=True)[0]).T
    return X / np.linalg.norm(X, axis=0)


def main() -> None:
    X = columns()
    d = X.shape[0]
    trained = common.descend(
        resolve({"theorem": "4.3", "spectrum": spiked_spectrum(d), "steps": STEPS})
    )
    a, b = (float(x[-1]) for x in trained.records.weights)
    q = np.full(d, 1 / np.sqrt(d))
    weights = model.embed(jnp.asarray(a), jnp.asarray(b), d)
    found = np.asarray(inference.outputs(weights, jnp.asarray(X), jnp.asarray(q), LOOPS, True))
    top = np.linalg.eigh(X @ X.T)[1][:, -1]
    S = inference.split(X)
    sines, exact = (
        np.exp(inference.measured(S, found).sin),
        inference.angles(S, inference.query(S, q), a * b, np.arange(1, LOOPS + 1)),
    )
    closest = found[-1] * np.sign(found[-1] @ top) - top
    gamma = np.exp(inference.log_factor(S, a * b))
    print(
        f"c = {a * b:.6g} after {STEPS:,} exact steps; lam_2/lam_1 = {S.ratio:.4f}, gamma(c) = "
        f"{gamma:.4f}"
    )
    for k in range(LOOPS):
        print(
            f"loop {k + 1:2d}: sin of the angle {sines[k]:.3e}, exact formula "
            f"{np.exp(exact.sin[k]):.3e}"
        )
    print(f"largest difference from numpy.linalg.eigh's eigenvector: {np.max(abs(closest)):.1e}")
    draw(
        found[-1],
        top,
        sines,
        np.exp(exact.sin),
        {"c": a * b, "lambda_ratio": S.ratio, "difference": float(np.max(abs(closest)))},
    )


def draw(
    found: np.ndarray,
    top: np.ndarray,
    sines: np.ndarray,
    exact: np.ndarray,
    numbers: dict[str, Any],
) -> None:
    """Both components as images, and the angle against loops."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, vector, title in (
        (left, found, "trained transformer"),
        (middle, top, "numpy.linalg.eigh"),
    ):
        axes.imshow(vector.reshape(8, 8) * np.sign(vector.sum()), cmap="Greys")
        axes.set(xticks=[], yticks=[], title=title)
    loops = np.arange(1, sines.size + 1)
    right.semilogy(loops, sines, "o", color=BLUE, label="transformer")
    right.semilogy(loops, exact, "-", color=BLACK, lw=1, label="exact formula")
    right.set(xlabel="loops", xticks=loops, title="sin of the angle")
    right.legend(fontsize=8)
    common.save(
        figure,
        "digits",
        numbers | {"loops": loops.tolist(), "sin": sines.tolist(), "sin_exact": exact.tolist()},
    )


if __name__ == "__main__":
    main()
