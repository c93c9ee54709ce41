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
def test_squared_distances_per_image_and_filter(arch, golden):
    expected, spec, model = golden(arch), models.spec(arch), models.create(arch, num_classes=7)
    images, _ = _batch(arch)
    forward = jax.jit(lambda v, x: features.apply_with_taps(model, v, x, spec.taps)[1])
    source_maps = forward(variables(arch, 7), images)
    maps = forward(variables(arch, 7, "delta-target"), images)
    for torch_name, tap in spec.torch_taps.items():
        found = regularizers.filter_distances(maps[tap], source_maps[tap])
        assert relative(found, expected[f"delta/sqdist/{torch_name}"]) < 1e-4


# What is compiled is everything behind a tap: three of the four taps of the smallest network, the later half of the
# others'.
@pytest.mark.parametrize(("arch", "first"), [("resnet18", 1), ("resnet50", 2), ("mobilenet_v2", 2)])
def test_gaps_per_image_and_filter(arch, first, golden):
    expected, spec, model = golden(arch), models.spec(arch), models.create(arch, num_classes=7)
    images, labels = _batch(arch)
    np.testing.assert_array_equal(labels, expected["delta/labels"])
    named = dict(list(spec.torch_taps.items())[first:])
    filters = {tap: expected[f"delta/channels/{name}"][:6] for name, tap in named.items()}
    found = attention.filter_gaps(
        model, variables(arch, 7), images[:2], labels[:2], taps=tuple(filters), filters=filters, chunk=4
    )
    for name, tap in named.items():
        gaps = expected[f"delta/gaps/{name}"][:2, :6]
        assert np.abs(found[tap] - gaps).max() < 2e-3 * np.abs(gaps).max()


def test_gaps_of_inception_in_float64(golden):
    # The reference's are differences of float32 losses of about 2, whose last bit is 2.4e-7: allowed is that one bit,
    # and nothing for rounding here. Zeros would not pass. Behind the first tap lies a block of every other kind.
    arch = "inception_v3"
    expected, spec, model = golden(arch), models.spec(arch), models.create(arch, num_classes=7)
    images, labels = _batch(arch)
    np.testing.assert_array_equal(labels, expected["delta/labels"])
    named = {name: spec.torch_taps[name] for name in ("Mixed_5d", "Mixed_6e")}
    filters = {tap: expected[f"delta/channels/{name}"] for name, tap in named.items()}
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables(arch, 7))
        images = jnp.asarray(images[:2].astype(np.float64))
        found = attention.filter_gaps(model, wide, images, labels[:2], taps=tuple(filters), filters=filters, chunk=4)
    last_bit = np.spacing(expected["delta/source_ce"].max())
    for name, tap in named.items():
        gaps = expected[f"delta/gaps/{name}"][:2]
        assert np.abs(gaps).max() > last_bit
        assert np.abs(np.asarray(found[tap]) - gaps).max() < max(5e-4 * np.abs(gaps).max(), last_bit)
