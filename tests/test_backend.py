"""The numerics underneath: jit of a vmapped matrix-vector product, then a reduction, must agree
with NumPy.
"""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

# worst seen 2e-15; where the compiler is wrong (jax 0.10.2, jax-ml/jax#39103) whole rows are off by
# O(1)
AGREE = 1e-9
BATCHES = (2**14 + 1, 50_001)  # the wrong code was chosen above 2^14 rows


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("rows", "d"), [(2, 3), (5, 5)])
def test_product_then_reduction_is_right_in_large_batches(rows, d, batch):
    rng = np.random.default_rng(0)
    M, X = rng.normal(size=(rows, d)), rng.normal(size=(batch, d))
    found = np.asarray(jax.jit(jax.vmap(lambda x: jnp.sum((M @ x) ** 2)))(jnp.asarray(X)))
    wanted = ((X @ M.T) ** 2).sum(1)
    wrong = int(np.sum(np.abs(found - wanted) > AGREE * wanted))
    assert wrong == 0, (
        f"jax {jax.__version__} gets {wrong} of {batch} rows wrong: install another version"
    )


def test_float64_is_on():
    assert jnp.zeros(()).dtype == jnp.float64


# --- a compilation cache that is damaged, that cannot be, or that another kind of CPU has written

PROGRAM = """
import jax, jax.numpy as jnp, popgd
from popgd.papers.power_method import model
from popgd.papers.power_method.data import Rotated
from popgd.papers.power_method.objectives import SubspaceDistance
jax.config.update("jax_enable_x64", True)
at, law = model.embed(jnp.asarray(2.0), jnp.asarray(0.25), 2), Rotated.with_spectrum([3, 1])
found = popgd.population_gradient(SubspaceDistance(1), at, law, jax.random.key(0), 64)
print(float(found.mean.loss).hex(), float(found.stderr.loss).hex())
"""


def printed(cache: Path | None, flags: str = "") -> str:
    """What PROGRAM prints with this cache; it must end well."""
    environment = {
        **{
            name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"
        },
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "XLA_FLAGS": flags,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(cache)} if cache else {}
    command = [sys.executable, "-c", PROGRAM]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.slow
def test_a_damaged_or_foreign_compilation_cache_changes_no_number(tmp_path):
    """Fails with the entries exchanged, each whole but another program's: that no checksum can see.

    Entries for fewer instructions have other names, as the flag is part of them. A CPU of another
    model may share the names: machines of several kinds need a directory each.
    """
    cache, nowhere = tmp_path / "cache", tmp_path / "file"
    nowhere.touch()
    wanted = printed(None)
    printed(cache, "--xla_cpu_max_isa=SSE4_2")
    foreign = set(cache.glob("*-cache"))
    assert printed(cache) == wanted == printed(nowhere)
    own = sorted(set(cache.glob("*-cache")) - foreign)
    assert len(own) > 3
    for i, entry in enumerate(own):
        whole = entry.read_bytes()
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
        entry.write_bytes((whole[:middle], b"", flipped)[i % 3])
    assert printed(cache) == wanted
