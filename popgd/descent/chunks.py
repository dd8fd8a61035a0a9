"""How many samples go through the model at once: by the shapes of the weights and of a sample.

Only the speed depends on it, and the rounding of the sums.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from popgd.problem.given import number_format

#: A chunk's working set should stay near a core's second-level cache; twice or half of it costs a
#: few per cent.
CHUNK_BYTES, LARGEST_CHUNK = 2**19, 64
#: Arrays of the size of the token matrix, and of the weights, that one sample's gradient keeps
#: alive at least: a layer's input, output, their gradients and norms; the weights, Z Z^T, their
#: products, gradients, running means and squares.
LIVE_TOKENS, LIVE_WEIGHTS = 8, 6


def tokens(weights: PyTree, sample: PyTree) -> int:
    """Entries of the widest array inside the model: a row for each of the weights' longest side, a
    column for each of the sample's widest array, and one more.
    """
    rows = max(max(jnp.shape(leaf), default=1) for leaf in jax.tree.leaves(weights))
    matrices = [x for x in jax.tree.leaves(sample) if len(x.shape) > 1]
    return rows * (max((x.shape[-1] for x in matrices), default=0) + 1)


def working_set(weights: PyTree, sample: PyTree) -> int:
    """Bytes that one sample's forward and backward pass keep alive."""
    entries = sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(weights))
    both = LIVE_TOKENS * tokens(weights, sample) + LIVE_WEIGHTS * entries
    return number_format(weights).itemsize * both


def chunk_size(weights: PyTree, sample: PyTree) -> int:
    """How many samples to put through the model at once: measured best where the token matrices
    about fill a core's cache.
    """
    per_sample = LIVE_TOKENS * tokens(weights, sample) * number_format(weights).itemsize
    return int(np.clip(2 ** np.floor(np.log2(CHUNK_BYTES / per_sample)), 1, LARGEST_CHUNK))
