"""How every test runs: on four simulated CPU devices, with strict promotion, and with warnings as errors."""

import os
from collections.abc import Callable
from pathlib import Path

# Both are read when jax is imported, so they come before it.
os.environ["JAX_PLATFORMS"] = "cpu"
if "--xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4".strip()

import jax
import numpy as np
import pytest

TESTS = Path(__file__).parent

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(TESTS.parent / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "error")


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """`golden(arch)` reads tests/golden/<arch>.npz: {key: array}, the reference outputs of that network."""

    def load(arch: str) -> dict[str, np.ndarray]:
        with np.load(TESTS / "golden" / f"{arch}.npz") as file:
            return dict(file)

    return load
