"""A training step compiled for TPUs that are not here, by their own compiler: what 4 and 16 chips send and hold."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from delta_jax import chips
from delta_jax.chips import collectives
from tests.chips.test_collectives import NORM_CHANNELS, PARAMETERS, SPEC, Net, script

pytest.importorskip("libtpu", reason="the TPU's compiler is not installed: make aot")
# Images a chip, and pixels: smaller maps stay in the chip's fast memory, and nothing is temporary.
LARGE, SMALL = (128, 128), (8, 16)
VECTORS = 2 * NORM_CHANNELS  # parameters of the BatchNorms, whose gradients are sums of the backward pass


@functools.cache
def compiled(topology, method, images=LARGE, *, frozen=False, bfloat16=False):
    per_chip, size = images
    found = chips.find(topology)
    mesh = Mesh(np.array(found.devices), ("data",))
    model = Net(frozen_norm=frozen, dtype=jnp.bfloat16 if bfloat16 else None)
    sizes = {"batch": per_chip * mesh.size, "size": size, "platform": found.platform}
    with found.compiling():
        return chips.read(script.lower_step(SPEC, model, mesh, method=method, **sizes).compile())


@pytest.mark.parametrize("method", ["l2", "delta"])
def test_chips_sum_gradients_and_statistics_and_nothing_else(method):
    found = compiled("v5e:2x2", method).collectives
    assert {one.kind for one in found} == {"all-reduce"}
    scalars = 3 if method == "delta" else 2  # as on simulated devices: cross-entropy, top-1, the penalty
    assert sum(one.bytes for one in found) == 4 * (PARAMETERS + 2 * NORM_CHANNELS + scalars)
    # Two for each of four layers, and one or two for the kernels.
    assert len(found) in (9, 10)


@pytest.mark.parametrize("method", ["l2", "delta"])
def test_sixteen_chips_send_and_hold_what_four_do(method):
    four, sixteen = (compiled(topology, method) for topology in ("v5e:2x2", "v5e:4x4"))
    assert sorted(one.bytes for one in sixteen.collectives) == sorted(one.bytes for one in four.collectives)
    assert sixteen.temporary == four.temporary > 0
    assert (sixteen.held, sixteen.cycles) == (four.held, four.cycles)


def test_no_chip_holds_more_than_its_own_images():
    # The largest map of one chip, [128, 128, 128, 8] in float32, is 67 MB, of all four 268 MB. Between the passes are
    # kept at most the four convolutions' outputs and what BatchNorm makes of them, of widths 8, 8, 16, 16.
    positions = LARGE[0] * LARGE[1] ** 2
    l2, delta = (compiled("v5e:2x2", method).temporary for method in ("l2", "delta"))
    assert l2 < 4 * positions * 2 * NORM_CHANNELS
    # The source's network has the same maps, and keeps none of them for a backward pass.
    assert delta < 2 * l2


def test_in_bfloat16_gradients_of_kernels_are_summed_in_bfloat16():
    found = compiled("v5e:2x2", "delta", SMALL, bfloat16=True).collectives
    by_type = {"bf16": 0, "f32": 0}
    for one in found:
        for array in one.arrays:
            by_type[array[0]] += collectives.Collective(one.kind, (array,)).bytes
    assert by_type == {"bf16": 2 * (PARAMETERS - VECTORS), "f32": 4 * (VECTORS + 2 * NORM_CHANNELS + 3)}


def test_frozen_statistics_leave_one_sum():
    (found,) = compiled("v5e:2x2", "delta", SMALL, frozen=True).collectives
    assert found.bytes == 4 * (PARAMETERS + 3)
