"""Steps of fine-tuning on real networks against a PyTorch implementation (tests/golden)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delta_jax import methods, models, weights
from delta_jax.training import optim, state, steps
from delta_jax.training.config import PRESETS
from tests.golden import recipe
from tests.reference import state_dict

# The name of each method in the golden files. What a method pays does not depend on the network: the smallest runs all
# of them, MobileNetV2, whose layers are others, one; and ResNet-50 has no layer that neither of the two has.
TRAJECTORIES = {"l2": "l2", "l2_sp": "l2_sp", "delta_without_attention": "feature_map", "delta": "attention"}
# How many of the six steps are compared: gradients show in the second, momentum in the third.
COMPARED_STEPS = {"l2": 3, "l2_sp": 2, "delta_without_attention": 2, "delta": 3}


def _trajectory(arch, name, alpha, count, dtype=np.float64, rate=1e-3, **options):
    """[count, 4]: total loss, cross-entropy, penalty and head penalty of the first SGD steps."""
    spec, model = models.spec(arch), models.create(arch, num_classes=5)
    start = weights.from_torch({n: a.astype(dtype) for n, a in state_dict(arch, 5).items()}, arch, 5)
    method = methods.create(name, scale="reference", rectify=False)
    # The reference sums its penalty over the batch of 8; here it is averaged.
    batch_size = 8 if method.uses_source_maps else 1
    weight_decay = 1e-4 if method.decays_weights else 0.0
    schedule = optim.learning_rate_schedule("constant", rate, 6)
    tx = optim.make_optimizer(start["params"], schedule, head=spec.head, weight_decay=weight_decay, **options)
    loss = steps.make_loss(model, model, method, taps=spec.taps, head=spec.head, alpha=alpha * batch_size, beta=0.01)
    step = jax.jit(
        steps.make_train_step(loss, tx, lambda key, images: images),
        donate_argnums=0,
        compiler_options={"xla_llvm_disable_expensive_passes": True},  # half of the compiler's time
    )
    channels = {tap: _channels(start, tap) for tap in spec.taps}
    weight = {
        tap: jnp.asarray(recipe.softmax_attention("delta", arch, name, channels[tap]).astype(dtype))
        for name, tap in spec.torch_taps.items()
    }
    train_state, rows = state.init_state(start, tx), []
    for i in range(count):
        images = jnp.asarray(recipe.images("delta", arch, f"traj{i}", 8, 64, 64).astype(dtype))
        labels = jnp.asarray(recipe.labels("delta", arch, f"traj{i}-labels", 8, 5))
        batch = {"image": images, "label": labels, "index": jnp.arange(8)}
        train_state, metrics = step(train_state, start, batch, weight, jax.random.key(0))
        rows.append([float(metrics[key]) for key in ("loss", "cross_entropy", "penalty", "head_penalty")])
    return np.array(rows) * np.array([1, 1, batch_size, 1])


def _channels(variables, tap):
    node = variables["params"]
    for name in tap.split("/"):
        node = node[name]
    return node["kernel"].shape[-1]


@pytest.mark.parametrize("method", COMPARED_STEPS)
def test_losses_and_penalties_of_sgd_steps_are_pytorchs(method, golden):
    expected = golden("resnet18")[f"traj/{TRAJECTORIES[method]}/loss_ce_reg_head"]
    alpha = dict(zip(TRAJECTORIES, golden("resnet18")["traj/alphas"], strict=True))[method]
    with jax.enable_x64(True):
        found = _trajectory("resnet18", method, float(alpha), COMPARED_STEPS[method])
    reported = 2 if method == "l2" else 4  # l2 has no penalties
    np.testing.assert_allclose(found[:, :reported], expected[: len(found), :reported], rtol=1e-5, atol=1e-12)


# The backbone's rate of TLLib's examples is 0.1 * 0.01, and both trade-offs are 0.01; the preset has the rest.
@pytest.mark.parametrize("method", ["delta", "l2_sp"])
def test_three_steps_of_the_preset_tllib_are_tllibs(method, golden):
    preset = PRESETS["tllib"]
    factor = preset.head_learning_rate_factor
    with jax.enable_x64(True):
        found = _trajectory(
            "resnet18",
            method,
            0.01,
            3,
            rate=0.01 / factor,
            kind=preset.optimizer,
            head_learning_rate_factor=factor,
        )
    np.testing.assert_allclose(found, golden("tllib")[method], rtol=1e-6, atol=1e-12)


def test_a_step_of_mobilenet_in_float32_is_pytorchs(golden):
    # The losses in front of and behind one update; compiling is most of it, so without LLVM's work. The largest
    # difference is 3e-6 with jax 0.10.2, of the second cross-entropy.
    jax.config.update("jax_disable_most_optimizations", True)
    expected = golden("mobilenet_v2")["traj/attention/loss_ce_reg_head"][:2]
    alpha = dict(zip(TRAJECTORIES, golden("mobilenet_v2")["traj/alphas"], strict=True))["delta"]
    found = _trajectory("mobilenet_v2", "delta", float(alpha), 2, np.float32)
    np.testing.assert_allclose(found, expected, rtol=3e-5)
