"""Expectations over a query uniform on the unit sphere of R^d, for a fixed spectrum of S, each with
an error bound.

In the eigenbasis of S a function homogeneous of degree 0 has the same expectation for a standard
Gaussian w, and the groups X_g = sum of w_i^2 over the k_g equal eigenvalues are independent
chi-squares. With a Laplace parameter e^s/2,

    E[ prod_g X_g^{n_g} / (sum_g beta_g X_g)^p ] = 1/Gamma(p) int e^{ps} prod_g (k_g/2)_{n_g}
    y_g^{n_g} Phi
    ds, y_g = 1/(1 + beta_g e^s),    Phi = prod_g y_g^{k_g/2},    p = sum of n_g,    (x)_n = x (x+1)
                                     ...
    (x+n-1).

`cond` (static) is the largest condition number for which the number of nodes is laid out; beyond it
the value loses accuracy and the bound says so: for `layer_*` it is infinite.

Valid for eigenvalues between 1e-70 and 1e70 (`Spectrum.of` refuses others), cond <= 1e12, 1 <= L <=
50, d to 1000 (tested; more cost nodes and time) and c from 0 to 1e90; `looped_*` also for -1/lam_1
< c < 0. Outside of these ranges, and at c = NaN, the value is NaN or the bound infinite or NaN.
"""

from popgd.papers.power_method.quadrature.layer import (
    layer_C1,
    layer_correction,
    layer_loss,
    layer_slope,
)
from popgd.papers.power_method.quadrature.looped import (
    looped_correction,
    looped_kappa,
    looped_limit,
    looped_loss,
    looped_slope,
)
from popgd.papers.power_method.quadrature.moments import (
    c_star,
    check_target,
    loss_min,
    mean_cosine,
    mean_inverse_square_norm,
    mean_norm,
    moments,
    norm_excess,
)
from popgd.papers.power_method.quadrature.spectrum import COND, Spectrum
from popgd.papers.power_method.quadrature.trapezoid import Bounded

__all__ = [
    "COND",
    "Bounded",
    "Spectrum",
    "c_star",
    "check_target",
    "layer_C1",
    "layer_correction",
    "layer_loss",
    "layer_slope",
    "looped_correction",
    "looped_kappa",
    "looped_limit",
    "looped_loss",
    "looped_slope",
    "loss_min",
    "mean_cosine",
    "mean_inverse_square_norm",
    "mean_norm",
    "moments",
    "norm_excess",
]
