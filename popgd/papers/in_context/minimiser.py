"""Claims about the minimiser among symmetric A: forward pass, u = 0, a*, where descent ends."""

from collections.abc import Iterator
from math import comb

import numpy as np

from popgd.claims.evidence import Evidence, estimated, known
from popgd.papers.in_context import wishart
from popgd.papers.in_context.common import ROUNDED, Study, heavy_tails, sampled_law
from popgd.papers.in_context.descents import REPLICAS, WIDTH, sampled_steps

#: Of the forward pass, relative to the sizes of its terms; measured 3e-15.
FORWARD = 1e-12
#: The limits of descent, as the statement is tested.
ARRIVED = 1e-8
#: With fewer steps than this over the slowest rate, a descent that seems to stand still need not
#: have ended: tiny steps.
SETTLED = 1.0
#: A gradient or a loss must agree this closely: half of what a forgotten factor 2 does.
ENGINES = 0.25


def forward(study: Study) -> Iterator[Evidence]:
    """Row 1: the transformer is gradient descent in context; which gradients vanish, and which do
    not.
    """
    L, values = study.setting.L, study.values
    common = {"resolution": 1e-10}
    yield known(
        "forward-descent",
        "TF_L = (w + u)^T (I - (I - SA)^L) x_q for every prompt, A not symmetric, u not 0, L = "
        f"{L}",
        "Section 2",
        origin="derived",
        measured=float(values["sampled/identity"]),
        allowance=FORWARD,
        reason="rounding of the forward pass",
        **common,
    )
    yield known(
        "odd-gradient-zero",
        "At u = 0 the gradients of P12, P21 (that is u), Q12 and Q21 of the prompts (X, w) and "
        "(X, -w) cancel: their population "
        "gradient is 0",
        "derived: Z -> diag(1, ..., 1, -1) Z is a symmetry",
        measured=float(values["sampled/odd"]),
        allowance=FORWARD,
        reason="rounding of the backward pass",
        **common,
    )
    yield known(
        "scale-gradient",
        "At u = 0 the gradient of P22 is <A, grad_A> for every prompt: P22 = 1 is frozen, not "
        "invariant",
        "derived: the output depends on the product P22 A",
        measured=float(values["sampled/scaling"]),
        allowance=FORWARD,
        reason="rounding of the backward pass",
        **common,
    )


def engines(study: Study) -> Iterator[Evidence]:
    """Monte Carlo on the full (P, Q) against the exact polynomial: loss, gradient, descent on (A,
    u).
    """
    values, n = study.values, sampled_law(study.law).n
    loss, grad = values["sampled/loss"], values["sampled/grad_A"]
    few = sampled_law(study.law)
    heavy = heavy_tails(
        study,
        float(values["sampled/heavy"].max()),
        WIDTH * wishart.a_star(few.n, few.d, study.setting.L),
    )
    common = {"excuse": heavy, "self_check": "engines"}
    yield estimated(
        "engines-agree-loss",
        "The sampled loss of the transformer is the polynomial of Wishart moments, at three A "
        f"with n = {n}: relative gap",
        "derived: exact moments",
        measured=(loss[:, 0] - loss[:, 2]) / loss[:, 2],
        error=loss[:, 1] / loss[:, 2],
        skewness=np.abs(values["sampled/skewness"][:, -1]),
        resolution=ENGINES,
        drawn=("samples", study.setting.samples),
        reason="sampling error",
        **common,
    )
    scale = np.abs(grad[:, 2]).max(axis=(1, 2))[:, None, None]
    yield estimated(
        "engines-agree-gradient-A",
        "The sampled gradient of A is that of the polynomial, entry by entry, at three A with n "
        f"= {n}: relative gap",
        "derived: exact moments",
        measured=(grad[:, 0] - grad[:, 2]) / scale,
        error=grad[:, 1] / scale,
        skewness=np.abs(values["sampled/skewness"][:, : few.d**2]).reshape(grad[:, 1].shape),
        resolution=ENGINES,
        drawn=("samples", study.setting.samples),
        reason="sampling error",
        **common,
    )
    once, twice = values["sampled/ends"].mean(axis=1)
    scatter = values["sampled/ends"].std(axis=1, ddof=1) / REPLICAS**0.5
    bias = 2 * (once - twice)
    wanted = values["sampled/exact_end"]
    excuse = (
        ""
        if np.isfinite(once + twice).all()
        else "a Monte Carlo descent left the finite numbers: take a smaller eta"
    )
    excuse = excuse or (
        ""
        if scatter.all()
        else "the Monte Carlo descents differ by less than rounding: take a larger eta"
    )
    yield estimated(
        "engines-agree-descent-A",
        f"Monte Carlo descent on (A, u), n = {n}, follows the exact one: tr A/d and u after "
        f"{sampled_steps(study.setting)} "
        "steps, less the bias of noise, from two batch sizes",
        "derived: exact moments",
        measured=(2 * twice - once - wanted) / np.abs(wanted),
        error=np.hypot(scatter[0], 2 * scatter[1]) / np.abs(wanted),
        resolution=ENGINES,
        drawn=("batch", study.setting.batch),
        reason="scatter of the descents, by Student's t; half the measured bias, for its next "
        "order",
        degrees=REPLICAS - 1,
        excuse=excuse,
        allowance=np.abs(bias / wanted) / 2,
        self_check="engines",
    )


def rates(study: Study) -> tuple[float, float]:
    """The part of its slowest error that descent takes away in a step next to (a* Sigma^-1, 0): of
    A, and of u.
    """
    n, d, L = study.sizes
    lam, a = float(np.linalg.eigvalsh(study.law.Sigma)[0]), wishart.minimiser(n, d, L)
    m = wishart.moments(n, d, 2 * L)
    h = float(
        2
        * L
        * (2 * L - 1)
        * sum(comb(2 * L - 2, j) * (-a) ** j * m[j + 2] for j in range(2 * L - 1))
    )
    if d > 1:
        h = min(h, wishart.hessian(n, d, L, a).h_sym)
    # u^T H u: H = E (I - (I - aS)^L)^2 is a multiple of I
    H = float(
        sum((comb(2 * L, j) - 2 * comb(L, j)) * (-a) ** j * m[j] for j in range(2 * L + 1)) + 1
    )
    return study.setting.eta * lam**2 * h, study.setting.eta * lam * 2 * H


def moving(gaps: np.ndarray, taken: float) -> bool:
    """Whether the last of the recorded gaps is not where descent ends; `taken` is the steps times
    the slowest rate.

    The error that is left falls by the same factor in equal numbers of steps; between records they
    grow by a third each time. A single record, of a descent that broke off at once, is not its end.
    """
    last, before = gaps[-1].max(), gaps[-2].max() if len(gaps) > 1 else np.inf
    return bool(last > ARRIVED and (last < 0.99 * before or taken < SETTLED))


def arrival(study: Study) -> Iterator[Evidence]:
    """Rows 2 and 3: where descent ends."""
    n, d, L = study.sizes
    values, step = study.values, int(study.values["exact/step"][-1])
    diverged = int(values["exact/diverged_at"])
    excuse = (
        f"the exact descent left the finite numbers before step {diverged}: take a smaller eta"
        if diverged >= 0
        else ""
    )
    root = np.asarray(study.law.root)
    A = root @ values["exact/A"] @ root - wishart.a_star(n, d, L) * np.eye(d)
    gaps = np.abs(A).max(axis=(2, 3)) / wishart.a_star(n, d, L)
    rate_A, rate_u = rates(study)
    late = (
        f"still moving after step {step:,}: take more steps" if moving(gaps, step * rate_A) else ""
    )
    yield known(
        "minimiser-symmetric",
        f"Gradient descent on symmetric A from 0 and from random starts ends at a* Sigma^-1, a* = "
        f"{wishart.a_star(n, d, L):.16g}: largest entry of Sigma^1/2 A Sigma^1/2/a* - I at step "
        f"{step}",
        "Theorem 3.2 for symmetric A; that the minimiser is a multiple of I is numerical for L >= "
        "2",
        measured=gaps[-1],
        allowance=ARRIVED,
        resolution=1e-6,
        reason="descent stops where rounding stops it",
        excuse=excuse or late,
    )
    u = values["exact/u"]
    falling = moving(u, step * min(rate_A, rate_u))
    yield known(
        "u-vanishes",
        f"Gradient descent on (A, u) ends with u = 0: |u|, whitened, at step {step} from each axis",
        "Theorem 3.2; for every n derived: the loss is l(A) + u^T H(A) u",
        measured=u[-1],
        allowance=ARRIVED,
        resolution=1e-6,
        reason="descent stops where rounding stops it",
        excuse=excuse
        or ("" if u[0].any() else "u is 0 from the start on")
        or (f"still falling after step {step:,}: take more steps" if falling else ""),
    )


def local(study: Study) -> Iterator[Evidence]:
    """Row 3, at any n: a* I is a strict minimum among symmetric matrices near it."""
    n, d, L = study.sizes
    if d == 1:
        return
    h = wishart.hessian(n, d, L, wishart.minimiser(n, d, L))
    yield known(
        "minimiser-local",
        f"The Hessian at a* I is positive on symmetric matrices: h_tr = {h.h_tr:.10g}, h_sym = "
        f"{h.h_sym:.10g}; over their sum",
        "derived: exact rational numbers",
        predicted=2 * ROUNDED,
        measured=np.array([h.h_tr, h.h_sym]) / (abs(h.h_tr) + abs(h.h_sym)),
        error=ROUNDED,
        resolution=1e-6,
        reason="rounded once; the prediction is twice that, as 0 itself refutes",
        sense="at least",
    )
