"""The largest batch that fits, and changes that make one fit, with memory that is known beforehand."""

from types import SimpleNamespace

import flax.linen as nn
import pytest
from ml_collections import ConfigDict, FrozenConfigDict

from delta_jax.planning import fitting
from delta_jax.planning.costs import Cost


def cost(memory, *, held=0, needed=None):
    nothing = {"flops": 0.0, "bytes_accessed": None, "cycles": None, "bounded_loops": 0, "unknown_loops": 0}
    sizes = {"arguments": held, "outputs": 0, "aliased": 0, "temporary": memory - held}
    return Cost(**sizes, needed=needed, **nothing, collectives={}, compile_seconds=0.0)


def search(memory_of, *, first, least=4, most=10**6, memory=1000):
    asked = []

    def cost_of(size):
        asked.append(size)
        return cost(memory_of(size), held=100, needed=memory_of(size) if memory_of(size) > memory else None)

    return fitting.largest_batch(cost_of, first, least, most, memory), asked


@pytest.mark.parametrize("first", [4, 32, 64, 400, 4000])
def test_by_a_line_few_compilations_find_it(first):
    # 100 + 2 b <= 1000 up to b = 450; eights of images on 4 devices: 448, and 480 does not.
    found, asked = search(lambda size: 100 + 2 * size, first=first)
    assert (found.batch_size, found.next_size, found.why) == (448, 480, "")
    assert len(asked) <= 5
    assert found.cost.memory == 996


def test_few_images_a_device_are_counted_one_by_one():
    # 100 + 20 b <= 1000 up to b = 45: 44 are 11 on each of 4 devices.
    found, _ = search(lambda size: 100 + 20 * size, first=16)
    assert (found.batch_size, found.next_size) == (44, 48)


def test_memory_that_jumps_is_still_bracketed():
    # As a compiler that lays out batches in steps of 128: up to 384 there are 900, then more than there is.
    found, asked = search(lambda size: 300 * -(-size // 128), first=64)
    assert found.batch_size <= 384 < (found.next_size or 10**6)
    assert len(asked) <= fitting.TRIES


def test_there_are_only_so_many_images():
    found, asked = search(lambda size: 100, first=64, most=1001)
    assert (found.batch_size, found.next_size, found.why) == (1000, None, "all training images")
    assert asked == [64, 1000]


def test_where_not_even_the_smallest_fits():
    found, _ = search(lambda size: 2000 + size, first=64)
    assert (found.batch_size, found.cost) == (0, None)


def programs(**fields):
    config = {"batch_size": 32, "eval_batch_size": 4, "attention_batch": 4, "accumulate": 1, "remat": False}
    config |= {"compute_dtype": "float32", "auxiliary_weight": 0.0, "arch": "net"} | fields
    params = {"params": {"block": {"a": {"kernel": 1}, "b": {"kernel": 1}}}}
    return SimpleNamespace(
        config=FrozenConfigDict(ConfigDict(config)),
        mesh=SimpleNamespace(size=4),
        source=params,
        trained_network=lambda: nn.Dense(1),
    )


def test_each_change_alone_then_all_of_them_in_parts():
    def cost_of(run):
        memory = 4000 / (2 if run.config.compute_dtype == "bfloat16" else 1) / (2 if run.config.remat else 1)
        return cost(int(memory / run.config.accumulate) + 600)

    found = [(change.fields, change.fits) for change in fitting.changes(programs(), cost_of, 1000)]
    # 32 images on 4 devices go in at most 8 parts: 4000 / 8 + 600 is still too much. With both others half a batch at a
    # time is 500 + 600, a quarter 250 + 600.
    both = {"compute_dtype": "bfloat16", "remat": True}
    assert found == [
        ({"compute_dtype": "bfloat16"}, False),
        ({"remat": True}, False),
        ({"accumulate": 2}, False),
        ({"accumulate": 4}, False),
        ({"accumulate": 8}, False),
        ({**both, "accumulate": 1}, False),
        ({**both, "accumulate": 2}, False),
        ({**both, "accumulate": 4}, True),
    ]


def test_what_is_on_already_or_cannot_be_is_not_tried():
    flat = programs(compute_dtype="bfloat16")
    flat.source = {"params": {"a": {"kernel": 1}, "b": {"kernel": 1}}}  # no blocks to compute again
    found = [change.fields for change in fitting.changes(flat, lambda run: cost(10), 1000)]
    assert found == [{"accumulate": 2}]
