"""The methods that DELTA is compared with in a training step of a tiny model, and through the trainer."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from delta_jax import methods, models, weights
from delta_jax.methods import Shapes
from delta_jax.models.layers.normalization import BatchNorm
from delta_jax.processes import sharding
from delta_jax.sweeps import grid
from delta_jax.training import config as configs
from delta_jax.training import fine_tune_phase, measured_phase, step_program, steps, trainer
from delta_jax.training.optim import make_optimizer
from delta_jax.training.programs import Programs
from delta_jax.training.setup import Setup
from delta_jax.training.state import init_state
from delta_jax.workdir import logs
from tests.golden import public_methods as public
from tests.small_run import make_photos, small_config, weights_of
from tests.small_sweep import small_sweep

RNG = np.random.default_rng(0)
TAPS = ("conv",)
BATCH = {
    "image": jnp.asarray(RNG.standard_normal((8, 5, 6, 3)), jnp.float32),
    "label": jnp.asarray(RNG.integers(0, 3, 8)),
    "index": jnp.arange(8)[::-1],
}
ATTENTION = {"conv": jnp.asarray(RNG.uniform(0, 1, 4), jnp.float32)}
ALPHA, RATE = 0.3, 0.1


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3), name="conv")(x)
        x = BatchNorm(name="bn")(x, train)
        return nn.Dense(3, name="head")(jnp.mean(nn.tanh(x), (1, 2)))


@pytest.fixture(scope="module")
def start():
    """(variables at the start, those of the source)."""
    made = [jax.jit(Net().init)(jax.random.key(seed), BATCH["image"]) for seed in (0, 1)]
    return made[0], {**made[1], "batch_stats": jax.tree.map(lambda leaf: leaf + 0.3, made[1]["batch_stats"])}


HEAD = {"kernel": RNG.standard_normal((4, 6)).astype(np.float32), "bias": np.ones(6, np.float32)}
MEASURED = {
    "source_logits": RNG.standard_normal((8, 6)).astype(np.float32),
    "relationship": np.full((3, 6), 1 / 6, np.float32),
    "fisher": {"conv": {"kernel": RNG.uniform(0, 2, (3, 3, 3, 4)).astype(np.float32)}},
}


def made(start, method, **options):
    """(step, state, source)."""
    variables, source = start
    source = {**source, "measured": {name: MEASURED[name] for name in method.measures}}
    tx = make_optimizer(variables["params"], optax.constant_schedule(RATE), head="head")
    shapes = Shapes({"conv": (5, 6, 4)}, features=4, source_head=HEAD)
    own = method.own_parameters(jax.random.key(3), shapes)
    own_tx = own and make_optimizer(own, optax.constant_schedule(RATE), head=tuple(own))
    carried = None
    if method.carries:
        carried = method.first_buffers(jax.random.key(4), shapes, variables["params"], own, num_classes=3)
    loss = steps.make_loss(Net(), Net(), method, taps=TAPS, head="head", alpha=ALPHA, beta=0.0, **options)
    project = partial(method.project, head="head") if method.projects else None
    step = steps.make_train_step(loss, tx, lambda key, images: images, own_tx=own_tx, project=project)
    return jax.jit(step), init_state(variables, tx, own=own, own_tx=own_tx, carried=carried), source


def stepped(start, method, **options):
    """(state, metrics) after a step on one device."""
    step, state, source = made(start, method, **options)
    return step(state, source, BATCH, ATTENTION if method.uses_attention else None, jax.random.key(7))


def close(found, expected, rtol=1e-4, atol=1e-6):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=atol), found, expected)


def parts(params, start):
    """(cross-entropy, maps, features) of the tiny model, its layers called one by one."""
    images: Any = BATCH["image"]
    maps: Any = nn.Conv(4, (3, 3)).apply({"params": params["conv"]}, images)
    normed: Any = BatchNorm().apply(
        {"params": params["bn"], "batch_stats": start[0]["batch_stats"]["bn"]}, maps, True, mutable=["batch_stats"]
    )[0]
    seen = jnp.mean(jnp.tanh(normed), (1, 2))
    logits = seen @ params["head"]["kernel"] + params["head"]["bias"][None]
    return jnp.mean(jax.nn.logsumexp(logits, 1) - logits[jnp.arange(8), BATCH["label"]]), maps, seen


def test_bss_shrinks_what_the_head_sees(start):
    # With jax's singular values, which are far apart here.
    def written_out(params):
        cross_entropy, _, seen = parts(params, start)
        return cross_entropy + ALPHA * jnp.sum(jnp.linalg.svd(seen, compute_uv=False)[-2:] ** 2)

    state, metrics = stepped(start, methods.create("bss", singular_values=2))
    value, gradient = jax.jit(jax.value_and_grad(written_out))(start[0]["params"])
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    close(state.params, jax.tree.map(lambda p, g: p - RATE * g, start[0]["params"], gradient))
    assert state.own is None


@pytest.mark.parametrize(
    "options", [{"keep": models.keep_products_and_sums}, {"freeze_until": "conv"}], ids=["recomputed", "frozen"]
)
def test_features_can_be_seen_of_a_pass_that_is_partly_recomputed_or_frozen(start, options):
    # The source's convolution is the one in training: what is frozen is then the same.
    variables, source = start
    alike = variables, {**source, "params": {**source["params"], "conv": variables["params"]["conv"]}}
    method = methods.create("bss", singular_values=2)
    close(stepped(alike, method, **options)[1], stepped(alike, method)[1])


def test_a_learned_attention_is_trained_along(start):
    method = methods.create("afd", rectify=False)
    own = method.own_parameters(jax.random.key(3), Shapes({"conv": (5, 6, 4)}, 4))["attention"]["conv"]
    _, source_maps, _ = parts(start[1]["params"], start)

    def written_out(params, own):
        cross_entropy, maps, _ = parts(params, start)
        flat = jnp.swapaxes(source_maps.reshape(8, 30, 4), 1, 2)
        weights = jax.nn.softmax(jnp.maximum(flat @ own["hidden"], 0) @ own["out"])
        distances = jnp.sum((maps - source_maps) ** 2, (1, 2))
        return cross_entropy + ALPHA * jnp.mean(jnp.sum(weights * distances, 1))

    state, metrics = stepped(start, method)
    value, (gradient, own_gradient) = jax.value_and_grad(written_out, (0, 1))(start[0]["params"], own)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    close(state.params, jax.tree.map(lambda p, g: p - RATE * g, start[0]["params"], gradient))
    moved = jax.tree.map(lambda p, g: p - RATE * g, own, own_gradient)
    close(state.own["params"]["attention"]["conv"], moved)
    assert np.abs(own_gradient["out"]).max() > 1e-3


def test_the_sources_classifier_is_trained_along(start):
    # KL from what was recorded, at temperature 2; rows of the batch's index.
    def written_out(params, head):
        cross_entropy, _, seen = parts(params, start)
        ours = jax.nn.log_softmax((seen @ head["kernel"] + head["bias"][None]) / 2)
        theirs = jax.nn.softmax(jnp.asarray(MEASURED["source_logits"])[::-1] / 2)
        return cross_entropy + ALPHA * jnp.mean(jnp.sum(theirs * (jnp.log(theirs) - ours), 1))

    state, metrics = stepped(start, methods.create("lwf"))
    value, (gradient, own) = jax.value_and_grad(written_out, (0, 1))(
        start[0]["params"], jax.tree.map(jnp.asarray, HEAD)
    )
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    close(state.params, jax.tree.map(lambda p, g: p - RATE * g, start[0]["params"], gradient))
    close(state.own["params"]["source_head"], jax.tree.map(lambda p, g: p - RATE * g, HEAD, own))


def test_bi_tuning_carries_queues_and_a_network_that_follows(start):
    state, metrics = stepped(start, methods.create("bi_tuning"))
    buffers = state.own["buffers"]
    # At first the network of keys is the one in training, and the view here is the same: a key is its own feature.
    _, _, seen = parts(start[0]["params"], start)
    with_one = np.concatenate([seen, np.ones((8, 1))], 1)
    with_one /= np.linalg.norm(with_one, axis=1, keepdims=True)
    counts = np.bincount(BATCH["label"], minlength=3)
    for label in range(3):
        own = with_one[np.asarray(BATCH["label"]) == label]
        np.testing.assert_allclose(buffers["queues"]["features"][label, : counts[label]], own, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(buffers["pointer"], counts)
    close(buffers["keys"]["network"], start[0]["params"])
    # The next step's keys follow: 0.999 of those before, 0.001 of those in training.
    method = methods.create("bi_tuning")
    after = method.key_parameters(state.params, state.own["params"], buffers)["network"]["conv"]["kernel"]
    expected = 0.999 * start[0]["params"]["conv"]["kernel"] + 0.001 * state.params["conv"]["kernel"]
    np.testing.assert_allclose(after, expected, rtol=1e-6)
    assert metrics["penalty"] > 0


def test_mars_sp_ends_every_step_within_its_radius(start):
    state, _ = stepped(start, methods.create("mars_sp", radius=0.05, head_radius=0.2))
    kernel, head = np.asarray(state.params["conv"]["kernel"]), np.asarray(state.params["head"]["kernel"])
    rows = np.abs(kernel - start[1]["params"]["conv"]["kernel"]).sum((0, 1, 2))
    np.testing.assert_allclose(rows, 0.05, rtol=1e-4)
    np.testing.assert_allclose(np.abs(head).sum(0), 0.2, rtol=1e-4)


RIVALS = sorted(set(methods.names()) - {"l2", "l2_fe", "l2_sp", "delta", "delta_without_attention"})


@pytest.mark.parametrize("name", RIVALS)
def test_a_batch_on_four_devices_is_the_batch_on_one(start, name):
    method = methods.create(name, **({"radius": 0.05} if name == "mars_sp" else {}))
    alone = stepped(start, method)
    mesh = sharding.make_mesh()
    assert mesh.size == 4
    step, state, source = made(start, method)
    attention = ATTENTION if method.uses_attention else None
    state, source, attention = sharding.replicate((state, source, attention), mesh)
    together = step(state, source, sharding.split(BATCH, mesh), attention, jax.random.key(7))
    close(together[1], alone[1])
    close((together[0].params, together[0].own), (alone[0].params, alone[0].own))


# Through the trainer.


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("rivals") / "photos", per_class=12)


def config_of(photos, method, **changed):
    fields = {"method": method, "head_l2": (0.01,), "alpha": None, "steps": 4, "eval_every": 0, "checkpoint_every": 2}
    return small_config(photos, **(fields | changed))


def interrupted(config, workdir, after, monkeypatch):
    """Runs it until so many steps are done."""
    loop = fine_tune_phase.fine_tune

    def stopping(chosen, state, train_step, *rest):
        done = []

        def step(*arguments):
            if len(done) == after:
                raise KeyboardInterrupt
            done.append(1)
            return train_step(*arguments)

        return loop(chosen, state, step, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(fine_tune_phase, "fine_tune", stopping)
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(config, workdir, test=False)


def test_the_fisher_information_is_the_mean_of_squared_gradients_of_drawn_classes(photos):
    setup = Setup(configs.resolve(config_of(photos, "l2_sp_fisher")))
    found = flatten_dict(measured_phase._MEASURES["fisher"](setup))
    # Image by image, through the network with its own ten classes, and classes drawn as the phase draws them.
    head = weights.load_head(setup.config.weights, setup.config.arch)
    model = models.create(setup.config.arch, num_classes=10)
    params = flatten_dict({**setup.source["params"], "classifier": head})
    kernels = {path: leaf for path, leaf in params.items() if path in found}

    @jax.jit
    def squares(kernels, image, number):
        def log_p(kernels):
            variables = {**setup.source, "params": unflatten_dict({**params, **kernels})}
            answers = jax.nn.log_softmax(model.apply(variables, image[None])[0])
            return answers[jax.random.categorical(jax.random.fold_in(jax.random.key(0), number), answers)]

        return jax.tree.map(jnp.square, jax.grad(log_p)(kernels))

    batch = setup.train.batch(np.arange(20))
    images = setup.centre(batch["image"])
    each = [squares(kernels, image, number) for image, number in zip(images, range(20), strict=True)]
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *each)
    scale = sum(leaf.sum() for leaf in mean.values()) / sum(leaf.size for leaf in mean.values())
    assert len(mean) == 5
    for path, leaf in mean.items():
        np.testing.assert_allclose(found[path], leaf / scale, rtol=2e-3, atol=1e-4 * leaf.max() / scale)


def test_relationships_are_tllibs_and_classes_without_images_have_none():
    with np.load(public.FILE) as file:
        expected = file["co_tuning/relationship"]
    found = measured_phase.relationship(public.SOURCE_LOGITS, public.LABELS, 4)
    np.testing.assert_allclose(found[:3], expected, rtol=1e-6)
    assert not found[3].any()


@pytest.mark.parametrize("name", ["lwf", "co_tuning"])
def test_the_sources_answers_are_measured_once(photos, tmp_path, monkeypatch, name):
    config = config_of(photos, name, steps=2, log_every=1)
    interrupted(config, tmp_path, 1, monkeypatch)
    monkeypatch.setattr(measured_phase, "_MEASURES", {})  # it is on disk
    summary = trainer.fit(config, tmp_path).summary
    assert summary["alpha"] == methods.create(name).default_alpha
    penalties = [record["penalty"] for record in logs.read(tmp_path) if record["phase"] == "fine_tune"]
    assert all(penalty > 0 for penalty in penalties)
    # And for runs that differ in what it does not depend on.
    other = Setup(configs.resolve(config_of(photos, name, seed=1, alpha=0.5)))
    found = measured_phase.measured(other, tmp_path / "other")
    kept = load_file(tmp_path / measured_phase.FILE)
    assert {key: np.asarray(leaf).tobytes() for key, leaf in found.items()} == {
        key: array.tobytes() for key, array in kept.items()
    }


def test_weights_without_a_classifier_are_refused_where_one_is_needed(photos, tmp_path):
    tensors = load_file(weights_of(photos))
    bare = {name: array for name, array in tensors.items() if "classifier" not in name}
    save_file(bare, tmp_path / "bare.safetensors")
    config = config_of(photos, "lwf", weights=str(tmp_path / "bare.safetensors"))
    with pytest.raises(configs.ConfigError, match=r"method=lwf: it needs the classifier .* or another method"):
        Setup(configs.resolve(config))


@pytest.mark.parametrize("name", ["afd", "lwf", "bi_tuning"])
def test_a_run_with_a_state_of_its_own_goes_on_as_if_nothing_had_been(photos, tmp_path, monkeypatch, capsys, name):
    config = config_of(photos, name, alpha=0.01)
    trainer.fit(config, tmp_path / "whole", test=False)
    interrupted(config, tmp_path / "parts", 3, monkeypatch)
    trainer.fit(config, tmp_path / "parts", test=False)
    assert "going on after step 2 of 4" in capsys.readouterr().out
    whole, in_parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    like = {f"params/{name}" for name in flatten_dict(_source(photos)["params"], sep="/")}
    assert {array for array in whole if array.startswith("params")} == like  # the network alone, as others load it
    for array, values in whole.items():
        np.testing.assert_array_equal(values, in_parts[array], err_msg=array)


def test_the_trainer_keeps_mars_sp_within_its_radius(photos, tmp_path):
    trainer.fit(config_of(photos, "mars_sp", radius=0.002, steps=2), tmp_path, test=False)
    found = load_file(tmp_path / "model.safetensors")
    source = {name: np.asarray(leaf) for name, leaf in flatten_dict(_source(photos), sep="/").items()}
    kernels = [name for name in source if name.endswith("/kernel") and "classifier" not in name]
    assert len(kernels) == 5
    rows = [np.abs(found[name] - source[name]).sum((0, 1, 2)).max() for name in kernels]
    np.testing.assert_allclose(max(rows), 0.002, rtol=1e-2)  # the differences of float32 weights


def _source(photos):
    return Setup(configs.resolve(config_of(photos, "mars_sp"))).source


def test_the_trainer_logs_the_spectrum_that_bss_shrinks(photos, tmp_path):
    summary = trainer.fit(config_of(photos, "bss", singular_values=3, steps=2, log_every=1), tmp_path).summary
    assert summary["alpha"] == 0.001
    records = [record for record in logs.read(tmp_path) if record["phase"] == "fine_tune"]
    assert all(record["penalty"] > 0 for record in records)
    assert all(math.isfinite(record["loss"]) for record in records)


@pytest.mark.parametrize("name", RIVALS)
def test_a_step_can_be_planned_by_shapes_alone(photos, name):
    # Without weights: of the source's classifier the classes of ImageNet are expected.
    programs = Programs(configs.resolve(config_of(photos, name)), sharding.make_mesh(), num_classes=3)
    arguments = step_program.arguments(programs, programs.pixels(8), rows=20)
    state, metrics = jax.eval_shape(step_program.function(programs), *arguments)
    assert jax.tree.map(lambda leaf: leaf.shape, state) == jax.tree.map(lambda leaf: leaf.shape, arguments[0])
    assert metrics.shape == (len(steps.METRICS),)
    if name == "lwf":
        assert arguments[1]["measured"]["source_logits"].shape == (20, 1000)


@pytest.mark.parametrize(
    ("method", "changed", "found"),
    [
        ("bss", {"singular_values": 9}, r"singular_values=9: features \[8, 40\] .* take at most 8"),
        ("bss", {"singular_values": 5, "accumulate": 4, "batch_size": 16}, r"features \[4, 40\] .* take at most 4"),
        ("bss", {"singular_values": 0}, "singular_values=0: expected 1 or more"),
        ("bi_tuning", {"accumulate": 2}, "accumulate=2: bi_tuning compares a batch with queues"),
        ("lwf", {"data.mix": (0.2, 0.0)}, "lwf goes by the label or the row of each image"),
        ("bss", {"strength_search": True}, "strength_search=True: expected False: bss has parameters of its own, no"),
        (
            "mars_sp",
            {"strength_search": True},
            "strength_search=True: expected False: mars_sp has",
        ),
        ("mars_sp", {"radius": 0.0}, "radius=0.0: expected more than 0"),
        ("mars_sp", {"head_radius": -1.0}, "head_radius=-1.0: expected more than 0"),
        ("attention_transfer", {"taps": ("block_1/conv",), "data__crop": 8, "data__resize": 8}, "are of one pixel"),
        ("delta_cosine", {"attention_per": "image", "attention_images": 5}, "attention_images=5: expected 0"),
    ],
)
def test_what_cannot_work_is_one_error_before_anything_slow(photos, method, changed, found):
    with pytest.raises(configs.ConfigError, match=found):
        Setup(configs.resolve(config_of(photos, method, **changed)))


def test_a_sweep_takes_them_all_each_with_its_strength(photos):
    strengths = {
        "mars_sp": {"radius": (1.0, 5.0)},
        "bss": {"alpha": (1e-4, 1e-3)},
        "attention_transfer": {"alpha": (100.0, 1000.0)},
        "l2_sp_kernels": {"alpha": (0.01, 0.1)},
        "afd": {"alpha_relative": (0.1, 1.0)},
        "delta_cosine": {"alpha_relative": (0.1, 1.0)},
        **{name: {"alpha": (0.1, 1.0)} for name in ("l2_sp_fisher", "lwf", "co_tuning", "bi_tuning")},
    }
    assert set(strengths) == set(RIVALS)
    sweep = grid.resolve(small_sweep(photos, methods=tuple(strengths), strengths=strengths))
    assert {cell.field for cell in grid.cells(sweep)} == {"radius", "alpha", "alpha_relative"}


def test_strengths_are_the_published_ones_unless_given(photos):
    published = {
        "l2_sp_kernels": 0.1,
        "lwf": 1.0,
        "co_tuning": 2.3,
        "bss": 0.001,
        "attention_transfer": 1000.0,
        "afd": None,
        "delta_cosine": None,
    }
    assert {name: configs.resolve(config_of(photos, name)).alpha for name in published} == published
