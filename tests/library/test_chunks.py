"""How many filters run together: by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delta_jax import chunks, features
from delta_jax.ablation import Ablation
from delta_jax.chips.target import Target

CPU, TPU, GPU = Target("cpu", None), Target("tpu", 16 * 10**9), Target("cuda", 80 * 10**9)


@pytest.mark.parametrize(
    ("target", "bytes_each", "rows_each", "expected"),
    [
        (CPU, 10**6, 49, 16),
        (TPU, 10**6, 784, 16),  # 640 / 784 is less than one filter
        (TPU, 10**6, 49, 16),  # 640 / 49 = 13.06, and 16 is the next multiple of 8
        (TPU, 10**6, 16, 40),  # 640 / 16
        (TPU, 10**6, 15, 48),  # 42.7
        (TPU, 10**6, 1, 640),
        (GPU, 10**6, 49, 168),  # 8192 / 49 = 167.2
        (GPU, 10**6, 784, 16),  # 10.4
        (TPU, 10**9, 1, 4),  # a quarter of 16 GB
        (TPU, 10**10, 1, 1),  # it may not fit, but less than one there is not
        (Target("tpu", None), 2**27, 1, 8),  # 1 GiB where nothing is told
        (CPU, 2**27, 1, 8),
    ],
)
def test_filters_fill_the_matrix_unit_and_fit(target, bytes_each, rows_each, expected):
    assert chunks.filters_together(bytes_each, rows_each, target) == expected


@pytest.mark.parametrize(
    ("target", "filters", "together", "expected"),
    [
        (TPU, 24, 16, 24),  # one chunk of 24, not two of 16
        (TPU, 40, 16, 16),  # 48 rows in three of 16 or two of 24
        (TPU, 256, 16, 16),
        (TPU, 64, 48, 64),
        (TPU, 12, 16, 12),
        (CPU, 24, 16, 16),
    ],
)
def test_the_last_chunk_is_as_full_as_can_be(target, filters, together, expected):
    assert chunks.equal_parts(filters, together, target) == expected


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), name="tap")(x)
        x = nn.Conv(8, (1, 1))(x)  # takes up the tap's filters: a term of rank one, not run
        x = nn.Conv(16, (3, 3), strides=2)(x)
        x = nn.Dense(2)(nn.relu(x))
        return nn.Dense(3)(jnp.mean(x, (1, 2)))


def test_the_rows_of_a_filter_are_the_positions_where_its_multiplications_are():
    model, x = Net(), np.zeros((1, 8, 8, 3), np.float32)
    found = []

    def look(variables):
        prefix = features.Prefix(model, variables, x)
        found.append(Ablation(lambda maps: prefix.continue_from("tap", maps), prefix.feature_maps("tap")))
        return found[0].output

    jax.eval_shape(look, jax.eval_shape(model.init, jax.random.key(0), x))
    # 16 positions with 9 * 8 * 16 and with 16 * 2 multiplications each, and a head of 2 * 3 on one.
    convolved, dense, head = 16 * 9 * 8 * 16, 16 * 16 * 2, 6
    assert found[0].rows_per_filter == pytest.approx(
        (convolved + dense + head) / (convolved / 16 + dense / 16 + head / 1)
    )
