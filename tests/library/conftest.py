"""What the files on penalties of methods share."""

import jax
import numpy as np
import pytest

from tests.golden import public_methods


@pytest.fixture
def wide():
    """In float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def published() -> dict[str, np.ndarray]:
    """What the methods' public code makes of the inputs of tests/golden/public_methods.py."""
    with np.load(public_methods.FILE) as file:
        return dict(file)
