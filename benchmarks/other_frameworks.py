"""Published networks of other frameworks: taps, gaps beside a plain loop over filters, ten steps of DELTA.

    python -m benchmarks.other_frameworks keras/MobileNetV2 keras/ResNet50 haiku/ResNet50 equinox/resnet50
    PYTHONPATH=.:path/to/bonsai python -m benchmarks.other_frameworks bonsai/ResNet50 bonsai/ConvNeXt

Random weights, images of noise, float64. What each needs: docs/other_frameworks.md.
"""

import os
import sys
import time
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

os.environ.setdefault("KERAS_BACKEND", "jax")
import jax
import jax.numpy as jnp
import numpy as np
import optax

import delta_jax as dj

CLASSES, SIZE, FILTERS = 10, 32, (0, 1, 5)


class Case(NamedTuple):
    """A network and how its framework runs it.

    Attributes:
      model, variables: what the adapter makes of it.
      native: (variables, images) -> logits of the framework's own object.
      tap: a convolution, of which filters are silenced.
      keys: of its parameters in "params".
      state: the collection that training updates; "" for none.
    """

    model: Any
    variables: Any
    native: Callable[[Any, Any], Any]
    tap: str
    keys: tuple[str, ...]
    state: str = "batch_stats"


def keras_case(name: str) -> Case:
    import keras

    from delta_jax.frameworks.keras import adapt

    keras.config.set_floatx("float64")
    make = getattr(keras.applications, name)
    net = make(weights=None, classes=CLASSES, input_shape=(SIZE, SIZE, 3), classifier_activation=None)
    model, variables = adapt(net)
    # With variances of 1, nothing is left of an image behind so many layers: statistics of noise instead.
    norms = [layer for layer in net.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    images = jax.random.normal(jax.random.key(2), (8, SIZE, SIZE, 3))
    options = {"train": True, "mutable": ("batch_stats",)}
    variables |= jax.jit(lambda v: model.apply(v, images, **options)[1])(variables)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum

    def native(variables, images):
        return model.assign(variables)(images, training=False)

    tap = {"MobileNetV2": "block_6_project", "ResNet50": "conv3_block1_2_conv"}[name]
    return Case(model, variables, native, tap, (tap,))


def haiku_case(name: str) -> Case:
    import haiku as hk

    from delta_jax.frameworks.haiku import adapt

    transformed = hk.transform_with_state(lambda x, is_training: getattr(hk.nets, name)(CLASSES)(x, is_training))
    model = adapt(transformed)
    images = jax.random.normal(jax.random.key(2), (8, SIZE, SIZE, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    # Haiku begins with blocks that add nothing and a head of zeros, so that every gap is 0, and with variances of 0.
    params = {module: dict(leaves) for module, leaves in variables["params"].items()}
    for leaves in params.values():
        if "scale" in leaves:
            leaves["scale"] = jnp.ones_like(leaves["scale"])
    shape = params["res_net50/~/logits"]["w"].shape
    params["res_net50/~/logits"]["w"] = 0.02 * jax.random.normal(jax.random.key(1), shape)
    variables = {"params": params, "state": variables["state"]}
    options = {"train": True, "mutable": ("state",)}
    variables |= jax.jit(lambda v: model.apply(v, images, **options)[1])(variables)
    run = jax.jit(lambda v, x: transformed.apply(v["params"], v["state"], None, x, False)[0])
    tap = "res_net50/~/block_group_1/~/block_0/~/conv_1"
    return Case(model, variables, run, tap, (tap,), "state")


def equinox_case(name: str) -> Case:
    import equinox as eqx

    # It imports torch, for the files of weights alone.
    sys.modules.setdefault("torch", types.SimpleNamespace(Tensor=object))  # type: ignore
    from jaxonmodels.models import resnet

    from delta_jax.frameworks.equinox import adapt

    depths = {"resnet18": (resnet.BasicBlock, [2, 2, 2, 2]), "resnet50": (resnet.Bottleneck, [3, 4, 6, 3])}[name]
    make = eqx.nn.make_with_state(resnet.ResNet)
    model, variables = adapt(*make(*depths, CLASSES, False, 1, 64, None, jax.random.key(0)))

    @jax.jit
    def native(variables, images):
        net, state = model.module(variables)
        run = jax.vmap(eqx.nn.inference_mode(net), (0, None), (0, None), axis_name="batch")
        return run(jnp.moveaxis(images, -1, 1), state)[0]

    tap = "layer2/blocks/0/conv2"
    return Case(model, variables, native, tap, tuple(tap.split("/")), "state")


def bonsai_case(name: str) -> Case:
    from flax import nnx

    from delta_jax.frameworks.nnx import adapt

    if name == "ResNet50":
        from bonsai.models.resnet import modeling

        net: Any = modeling.ResNet(modeling.ModelConfig.resnet50(CLASSES), rngs=nnx.Rngs(0))
        model, variables = adapt(net)
        tap, options = "layer1/blocks/0/conv1", {}
    else:
        from bonsai.models.convnext import modeling

        config = modeling.ModelConfig.convnext_tiny_224(num_classes=CLASSES)
        config.layer_scale_init_value = 1.0  # with 1e-6 a block hardly does a thing
        net = modeling.ConvNeXt(config, rngs=nnx.Rngs(0))
        # Its call wants a key of jax, for stochastic depth, and says `train`.
        options = {"rngs": jax.random.key(0)}
        model, variables = adapt(net, call=lambda net, x, train, rngs: net(x, train=train, **options))
        tap = "stages/1/layers/0/dwconv"
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)

    @jax.jit
    def native(variables, images):
        net = model.module(variables)
        net.eval()
        return net(images, **options)

    return Case(model, variables, native, tap, tuple(tap.split("/")), "batch_stats" if name == "ResNet50" else "")


def without(tree: Mapping[str, Any], keys: tuple[str, ...], filter: int) -> dict[str, Any]:
    """The parameters, with zeros for one filter of the convolution at `keys`."""
    if keys:
        return {**tree, keys[0]: without(tree[keys[0]], keys[1:], filter)}
    # Equinox has the filters first.
    return {
        name: leaf.at[filter].set(0) if name == "weight" else leaf.at[..., filter].set(0) for name, leaf in tree.items()
    }


def main(names: list[str]) -> None:
    cases = {"keras": keras_case, "haiku": haiku_case, "equinox": equinox_case, "bonsai": bonsai_case}
    rng = np.random.default_rng(0)
    images, labels = jnp.asarray(rng.standard_normal((8, SIZE, SIZE, 3))), jnp.arange(8, dtype=jnp.int32) % CLASSES
    for framework, _, name in (name.partition("/") for name in names):
        start = time.monotonic()
        case = cases[framework](name)
        taps = dj.features.list_taps(case.model, case.variables, images)
        print(f"{framework}/{name}: {len(taps)} taps, such as {case.tap} {taps[case.tap]}", flush=True)

        x, y = images[:2], labels[:2]
        chosen = {case.tap: list(FILTERS)}
        gaps = dj.attention.filter_gaps(case.model, case.variables, x, y, taps=(case.tap,), filters=chosen)[case.tap]
        losses = [
            optax.losses.softmax_cross_entropy_with_integer_labels(jnp.asarray(case.native(v, x)), y)
            for v in (
                case.variables,
                *({**case.variables, "params": without(case.variables["params"], case.keys, j)} for j in FILTERS),
            )
        ]
        expected = jnp.stack(losses[1:], -1) - losses[0][:, None]
        largest, off = jnp.abs(expected).max(), jnp.abs(gaps - expected).max()
        print(f"  {expected.size} gaps of up to {largest:.1e} by the loop; largest difference {off:.1e}", flush=True)
        entropies = [f"{entropy:.3f}" for entropy in fine_tune(case, images, labels)]
        print("  cross-entropies", *entropies, f"({time.monotonic() - start:.0f} s)", flush=True)


def fine_tune(case: Case, images: jax.Array, labels: jax.Array, steps: int = 10) -> list[float]:
    """Cross-entropy of each step with DELTA's penalty at the tap, which starts at 0."""
    source = jax.jit(lambda v: dj.features.apply_with_taps(case.model, v, images, (case.tap,))[1])(case.variables)
    scale = 0.01 / jnp.mean(dj.regularizers.feature_distance(jax.tree.map(jnp.zeros_like, source), source, None))
    tx = optax.adam(1e-3)

    @jax.jit
    def step(variables, opt_state):
        def loss(params):
            options = {
                "train": True,
                "mutable": (case.state,) if case.state else (),
                "rngs": {"dropout": jax.random.key(0)},
            }
            now = {**variables, "params": params}
            logits, maps, *updated = dj.features.apply_with_taps(case.model, now, images, (case.tap,), **options)
            entropy = jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels))
            distance = scale * jnp.mean(dj.regularizers.feature_distance(maps, source, None))
            return entropy + distance, (entropy, updated)

        gradients, (entropy, updated) = jax.grad(loss, has_aux=True)(variables["params"])
        changes, opt_state = tx.update(gradients, opt_state)
        now = {
            **variables,
            "params": optax.apply_updates(variables["params"], changes),
            **(updated[0] if updated else {}),
        }
        return now, opt_state, entropy

    variables, opt_state, found = case.variables, tx.init(case.variables["params"]), []
    for _ in range(steps):
        variables, opt_state, entropy = step(variables, opt_state)
        found.append(float(entropy))
    return found


if __name__ == "__main__":
    with jax.enable_x64(True):
        main(sys.argv[1:])
