"""The loops of other frameworks in examples/: the cross-entropy falls, and none is longer than a page."""

import importlib
import os
from pathlib import Path

import jax
import pytest

PACKAGES = {"nnx": "flax", "equinox": "equinox", "haiku": "haiku", "keras": "keras"}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_loop_in_another_framework(name):
    os.environ["KERAS_BACKEND"] = "jax"  # read when keras is imported
    pytest.importorskip(PACKAGES[name], reason=f"{name} is no requirement")
    example = importlib.import_module(f"examples.{name}_loop")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        entropies = example.main(steps=12)
    assert min(entropies[-3:]) < entropies[0]
    assert len(Path(example.__file__).read_text().splitlines()) <= 60
