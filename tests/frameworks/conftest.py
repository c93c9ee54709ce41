"""In float64, and with the promotion of types and ranks that these frameworks count on."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def as_the_frameworks_run():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
