"""Feature distances and gaps against a PyTorch implementation (tests/golden)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delta_jax import attention, features, models, regularizers
from tests.golden import recipe
from tests.reference import relative, variables

# One network of each kind of block: ResNet-34 and -101 are deeper, and are compared in tests/models.


def _batch(arch):
    size = 139 if arch == "inception_v3" else 96
    return recipe.images("delta", arch, "delta", 4, size, size), recipe.labels("delta", arch, "delta-labels", 4, 7)


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2"])
def test_squared_distances_per_image_and_filter_are_pytorchs(arch, golden):
    expected, spec, model = golden(arch), models.spec(arch), models.create(arch, num_classes=7)
    images, _ = _batch(arch)
    forward = jax.jit(lambda v, x: features.apply_with_taps(model, v, x, spec.taps)[1])
    source_maps = forward(variables(arch, 7), images)
    maps = forward(variables(arch, 7, "delta-target"), images)
    for torch_name, tap in spec.torch_taps.items():
        found = regularizers.filter_distances(maps[tap], source_maps[tap])
        assert relative(found, expected[f"delta/sqdist/{torch_name}"]) < 1e-4


# What is compiled is everything behind a tap: the later two taps have a block, and only a mean, behind them.
@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "mobilenet_v2"])
def test_gaps_per_image_and_filter_are_pytorchs(arch, golden):
    expected, spec, model = golden(arch), models.spec(arch), models.create(arch, num_classes=7)
    images, labels = _batch(arch)
    np.testing.assert_array_equal(labels, expected["delta/labels"])
    named = dict(list(spec.torch_taps.items())[2:])
    filters = {tap: expected[f"delta/channels/{name}"][:6] for name, tap in named.items()}
    found = attention.filter_gaps(
        model, variables(arch, 7), images[:2], labels[:2], taps=tuple(filters), filters=filters, chunk=4
    )
    for name, tap in named.items():
        gaps = expected[f"delta/gaps/{name}"][:2, :6]
        assert np.abs(found[tap] - gaps).max() < 2e-3 * np.abs(gaps).max()


def test_gaps_of_inception_in_float64_are_pytorchs(golden):
    # Zeros would not pass, and nothing is allowed for rounding but the reference's own: its gaps are differences of
    # float32 losses of about 2, whose last bit is 2.4e-7.
    arch, name = "inception_v3", "Mixed_6e"
    expected, spec, model = golden(arch), models.spec(arch), models.create(arch, num_classes=7)
    images, labels = _batch(arch)
    np.testing.assert_array_equal(labels, expected["delta/labels"])
    tap, gaps = spec.torch_taps[name], expected[f"delta/gaps/{name}"][:2]
    filters = {tap: expected[f"delta/channels/{name}"]}
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables(arch, 7))
        images = jnp.asarray(images[:2].astype(np.float64))
        found = attention.filter_gaps(model, wide, images, labels[:2], taps=(tap,), filters=filters, chunk=4)[tap]
    last_bit = np.spacing(expected["delta/source_ce"].max())
    assert np.abs(gaps).max() > 100 * last_bit
    assert np.abs(np.asarray(found) - gaps).max() < max(5e-4 * np.abs(gaps).max(), last_bit)
