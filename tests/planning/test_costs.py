"""Costs of programs: what a refusal says, and what is kept so that nothing is compiled twice."""

import json
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from delta_jax import chips
from delta_jax.planning import costs
from delta_jax.planning.works import Work


# As libtpu 0.0.42 writes it, and as it did for years before.
@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (16.50G) "
            "exceeds available HBM (15.75G).",
            16.5 * 2**30,
        ),
        ("Ran out of memory in memory space hbm. Used 20.25G of 15.48G hbm. Exceeded hbm capacity by", 20.25 * 2**30),
        ("Ran out of memory in memory space hbm. Used 512.00M of 256.00M hbm.", 2**29),
    ],
)
def test_what_a_refused_program_needs(message, expected):
    assert costs.needed(message) == expected


def test_a_refusal_that_does_not_say_is_shown():
    with pytest.raises(ValueError, match="not to be read: RESOURCE_EXHAUSTED: no room"):
        costs.needed("RESOURCE_EXHAUSTED: no room")


def work(width=8):
    topology = chips.find("cpu:4")
    sharding = jax.sharding.SingleDeviceSharding(topology.devices[0])
    shape: Any = jax.ShapeDtypeStruct((width, width), jnp.float32, sharding=sharding)
    function = jax.jit(lambda x: jnp.sin(x @ x))
    return Work("step", 4, {"fine-tuning": 1}, 0, lambda: (function, (shape,))), topology


def test_a_product_by_hand(tmp_path):
    found = costs.cost(*work(), tmp_path)
    # 8 x 8 float32 in and out; 8^3 multiplications with their additions, of which each of 4 devices has its part.
    assert (found.arguments, found.outputs, found.aliased, found.flops) == (256, 256, 0, 256)
    assert (found.held, found.memory) == (512, 512 + found.temporary)
    assert (found.needed, found.cycles, found.collectives) == (None, None, {})


def test_what_was_compiled_is_read_again(tmp_path, monkeypatch, capsys):
    first = costs.cost(*work(), tmp_path)
    assert "step, 4 images: compiling for cpu:4" in capsys.readouterr().out
    (file,) = tmp_path.glob("*.json")
    monkeypatch.setattr(costs.programs, "read", lambda compiled: pytest.fail("compiled again"))
    assert costs.cost(*work(), tmp_path) == first
    assert capsys.readouterr().out == ""
    # Kept by content: it is read, not guessed.
    file.write_text(json.dumps(json.loads(file.read_text()) | {"temporary": 77}))
    assert costs.cost(*work(), tmp_path).temporary == 77


def test_another_program_flag_or_topology_is_another(tmp_path, monkeypatch):
    one, topology = work()
    costs.cost(one, topology, tmp_path)
    costs.cost(work(16)[0], topology, tmp_path)
    assert len([*tmp_path.glob("*.json")]) == 2
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--something")
    costs.cost(one, topology, tmp_path)
    assert len([*tmp_path.glob("*.json")]) == 3
    costs.cost(one, chips.find("cpu:2"), tmp_path)
    assert len([*tmp_path.glob("*.json")]) == 4


def test_a_refused_program_has_a_cost_too(tmp_path):
    def refuse():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: ... temporaries (16.00G) exceeds available HBM (15.75G).")

    one, topology = work()
    lowered = SimpleNamespace(as_text=lambda: "text", compile=refuse)
    stand_in: Any = SimpleNamespace(
        lower=lambda *_: lowered, compiling=topology.compiling, name="v5e:1x1", platform="tpu", devices=[None]
    )
    found = costs.cost(one, stand_in, tmp_path)
    assert (found.memory, found.held, found.cycles, found.flops) == (2**34, 0, None, 1024)
    assert costs.cost(one, stand_in, tmp_path) == found
