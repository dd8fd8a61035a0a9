"""The numerics underneath: jit of a vmapped matrix-vector product, then a reduction, must agree with NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

AGREE = 1e-9  # worst seen 2e-15; where the compiler is wrong (jax 0.10.2, jax-ml/jax#39103) whole rows are off by O(1)
BATCHES = (2**14 + 1, 50_001)  # the wrong code was chosen above 2^14 rows


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("rows", "d"), [(2, 3), (5, 5)])
def test_product_then_reduction_is_right_in_large_batches(rows, d, batch):
    rng = np.random.default_rng(0)
    M, X = rng.normal(size=(rows, d)), rng.normal(size=(batch, d))
    found = np.asarray(jax.jit(jax.vmap(lambda x: jnp.sum((M @ x) ** 2)))(jnp.asarray(X)))
    wanted = ((X @ M.T) ** 2).sum(1)
    wrong = int(np.sum(np.abs(found - wanted) > AGREE * wanted))
    assert wrong == 0, f"jax {jax.__version__} gets {wrong} of {batch} rows wrong: install another version"


def test_float64_is_on():
    assert jnp.zeros(()).dtype == jnp.float64
