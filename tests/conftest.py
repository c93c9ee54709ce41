"""How every test runs: on four simulated CPU devices, with strict promotion, and with warnings as errors."""

import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

# Both are read when jax is imported, so they come before it.
os.environ["JAX_PLATFORMS"] = "cpu"
if "--xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4".strip()
# Up to 0.10, XLA can still emit loops as it did for years: the many small ones of a step compile three times as fast.
if version("jaxlib").startswith("0.10.") and "fusion_emitters" not in os.environ["XLA_FLAGS"]:
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"

import jax
import numpy as np
import pytest

from tests import touched

TESTS = Path(__file__).parent

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(TESTS.parent / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


# Half of the suite's time was XLA's, so it compiles without LLVM's optimisations. Most tests compare a program with
# numpy, with a plain one that is compiled in the same way, or with float64; what XLA does before LLVM, fusing too, is
# the same. With them are compiled trained networks on photos, as users run them, and real networks in float64, which
# run for minutes without.
FULLY_OPTIMISED = ("test_real_weights.py", "test_golden_method.py", "test_golden_steps.py")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    jax.config.update("jax_disable_most_optimizations", item.path.name not in FULLY_OPTIMISED)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "error")


_seconds: dict[str, float] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    file = report.nodeid.partition("::")[0]
    _seconds[file] = _seconds.get(file, 0.0) + report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """For `make check`: how long each file took, where it was run whole and not by a worker, which sees a part."""
    option = session.config.option
    partly = option.keyword or option.markexpr or any("::" in argument for argument in session.config.args)
    if not partly and not hasattr(session.config, "workerinput"):
        touched.remember(_seconds)


@pytest.fixture(scope="module", autouse=True)
def without_programs_of_other_files():
    """Compiled programs stay as long as their process: with those of all networks one grew to 6 GB."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """`golden(arch)` reads tests/golden/<arch>.npz: {key: array}, the reference outputs of that network."""

    def load(arch: str) -> dict[str, np.ndarray]:
        with np.load(TESTS / "golden" / f"{arch}.npz") as file:
            return dict(file)

    return load
