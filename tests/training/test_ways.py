"""Ways of training: the average of the weights, new heads, stochastic normalisation; alone and in whole runs."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

from delta_jax import data, features, methods, models
from delta_jax.configs.default import get_config
from delta_jax.processes import sharding
from delta_jax.training import checks, head_restarts, steps, trainer
from delta_jax.training import config as configs
from delta_jax.training.optim import make_optimizer
from delta_jax.training.state import averaged, init_state
from delta_jax.workdir import logs
from tests.disturbed import records
from tests.small_network import NormedNet
from tests.small_run import interrupted, make_photos, small_config

RNG = np.random.default_rng(0)
BATCH = {
    "image": jnp.asarray(RNG.standard_normal((4, 5, 6, 3)), jnp.float32),
    "label": jnp.array([0, 2, 1, 2]),
    "index": jnp.arange(4),
}


NET = NormedNet(64)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(NET.init)(jax.random.key(0), BATCH["image"])


def step_of(variables, *, within=None, **options):
    tx = make_optimizer(variables["params"], optax.constant_schedule(0.1), head="head")
    context = {"within": within} if within else {}
    loss = steps.make_loss(NET, NET, methods.create("l2"), taps=(), head="head", alpha=0.0, beta=0.0, **context)
    return tx, jax.jit(steps.make_train_step(loss, tx, lambda key, images: images, **options))


def test_the_average_follows_parameters_and_statistics(variables):
    tx, step = step_of(variables, average=0.15)
    state = init_state(variables, tx, average=True)
    expected = jax.tree.map(np.asarray, state.variables)
    for done in (1, 2, 3):
        state, _ = step(state, variables, BATCH, None, jax.random.key(1))
        d = min(0.15, (1 + done) / (10 + done))  # 2/11 and more: 0.15 from the first step on
        expected = jax.tree.map(lambda old, new, d=d: d * old + (1 - d) * np.asarray(new), expected, state.variables)
    assert d == 0.15
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state.found, expected)
    assert (state.found["batch_stats"]["bn"]["mean"] != state.batch_stats["bn"]["mean"]).any()


def test_a_short_run_is_not_mostly_its_beginning():
    # (1 + 5) / (10 + 5) = 0.4, whatever the decay.
    found = averaged({"w": jnp.zeros(2)}, {"w": jnp.ones(2)}, jnp.array(5), 0.999)
    np.testing.assert_allclose(found["w"], 0.6, rtol=1e-6)


def test_the_network_in_training_does_not_notice_that_it_is_averaged(variables):
    ends = []
    for average in (0.0, 0.9):
        tx, step = step_of(variables, average=average)
        ends.append(step(init_state(variables, tx, average=average > 0), variables, BATCH, None, jax.random.key(1))[0])
    jax.tree.map(np.testing.assert_array_equal, ends[0].variables, ends[1].variables)
    jax.tree.map(np.testing.assert_array_equal, ends[0].found, ends[0].variables)


@pytest.mark.parametrize("frozen", [(), ("bn",)])
def test_a_head_is_made_anew_at_its_steps_and_forgets_its_momentum(variables, frozen):
    tx = make_optimizer(variables["params"], optax.constant_schedule(0.1), head="head", frozen=frozen)
    state = init_state(variables, tx, average=True)
    ones = jax.tree.map(jnp.ones_like, state.params)
    updates, opt_state = tx.update(ones, state.opt_state, state.params)
    state = state.replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)

    @jax.jit
    def at(step):
        return head_restarts.restarted(
            state.replace(step=step), jnp.array([3, 6]), jax.random.key(5), heads=("head",), kind="normal"
        )

    jax.tree.map(np.testing.assert_array_equal, at(jnp.array(4)), state.replace(step=jnp.array(4)))
    new = at(jnp.array(3))
    assert 0.005 < np.std(new.params["head"]["kernel"]) < 0.015
    np.testing.assert_array_equal(new.params["head"]["bias"], 0)
    assert (new.params["head"]["kernel"] != at(jnp.array(6)).params["head"]["kernel"]).all()
    np.testing.assert_array_equal(new.average["params"]["head"]["kernel"], new.params["head"]["kernel"])
    np.testing.assert_array_equal(new.params["conv"]["kernel"], state.params["conv"]["kernel"])
    momenta = {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(new.opt_state)
        if leaf.dtype == jnp.float32
    }
    assert {float(leaf.max()) for name, leaf in momenta.items() if "'head'" in name} == {0.0}
    assert {float(leaf.min()) for name, leaf in momenta.items() if "'head'" not in name} == {1.0}


def normalised(x, mean, var, params):
    wide = np.asarray(x, np.float64)
    found = (wide - np.asarray(mean)) / np.sqrt(np.asarray(var) + 1e-5)
    return found * np.asarray(params["scale"]) + np.asarray(params["bias"])


def test_stochastic_norm_takes_the_running_statistics_for_half_of_the_channels(variables):
    params = {**variables["params"], "bn": {"scale": jnp.full(64, 1.5), "bias": jnp.full(64, 0.2)}}
    stats = {"bn": {"mean": jnp.full(64, 0.7), "var": jnp.full(64, 1.9)}}
    start = {"params": params, "batch_stats": stats}

    def maps(within, key=0):
        with within:
            return features.apply_with_taps(
                NET,
                start,
                BATCH["image"],
                ("bn", "conv"),
                mutable=("batch_stats",),
                train=True,
                rngs={"dropout": jax.random.key(key)},
            )[1:]

    found, updated = maps(models.stochastic_norm())
    x = found["conv"]
    batch = normalised(x, x.mean((0, 1, 2)), x.var((0, 1, 2)), params["bn"])
    running = normalised(x, 0.7, 1.9, params["bn"])
    of_batch = np.isclose(found["bn"], batch, atol=1e-4).all((0, 1, 2))
    of_running = np.isclose(found["bn"], running, atol=1e-4).all((0, 1, 2))
    np.testing.assert_array_equal(of_batch, ~of_running)
    assert 16 < of_running.sum() < 48
    other, _ = maps(models.stochastic_norm(), key=1)
    assert (other["bn"] != found["bn"]).any()
    # The running statistics move as ever.
    _, plain = maps(nn.intercept_methods(lambda call, args, keywords, context: call(*args, **keywords)))
    jax.tree.map(np.testing.assert_array_equal, updated, plain)


def test_stochastic_norm_changes_the_network_in_training_alone(variables):
    changed: list[Any] = []
    _, step = step_of(variables, within=lambda: models.stochastic_norm(lambda: changed.append(1)))
    tx, plain = step_of(variables)
    ends = [one(init_state(variables, tx), variables, BATCH, None, jax.random.key(2))[0] for one in (step, plain)]
    assert changed
    assert (ends[0].params["conv"]["kernel"] != ends[1].params["conv"]["kernel"]).any()
    changed.clear()
    with models.stochastic_norm(lambda: changed.append(1)):
        NET.apply(variables, BATCH["image"])  # evaluation
    assert changed == []


# Whole runs.

EVERYTHING = {
    "method": "delta_without_attention",
    "head_l2": (0.01,),
    "log_every": 1,
    "optimizer": "nesterov",
    "label_smoothing": 0.1,
    "data__mix": (0.4, 1.0),
    "data__erase": 0.5,
    "data__upright": False,
    "layer_decay": 0.7,
    "surgical": True,
    "unfreeze": 0.5,
    "head_restarts": 1,
    "average": 0.9,
    "accumulate": 2,
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("ways") / "photos", per_class=12)


def test_a_run_with_everything_goes_on_where_it_was_stopped(photos, tmp_path, capsys):
    config = small_config(photos, **EVERYTHING, batch_norm="stochastic", checkpoint_every=2)
    whole = trainer.fit(config, tmp_path / "whole").summary
    said = capsys.readouterr().out
    assert "nesterov" in said
    assert "mixup 0.4 and CutMix 1" in said
    interrupted(config, tmp_path / "parts", after=5)  # one step after a checkpoint, one after the head was made anew
    parts = trainer.fit(config, tmp_path / "parts").summary
    assert "going on after step 4 of 8" in capsys.readouterr().out
    assert parts["test"] == whole["test"]
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    ends = [load_file(tmp_path / name / "model.safetensors") for name in ("parts", "whole")]
    for name, array in ends[1].items():
        np.testing.assert_array_equal(ends[0][name], array, err_msg=name)
    # What is kept and was looked at is the average: the last look and the end agree.
    looks = [record for record in logs.read(tmp_path / "whole") if record["phase"] == "validation"]
    assert looks[-1]["cross_entropy"] == pytest.approx(whole["validation"]["cross_entropy"], rel=1e-6)


def test_one_device_and_four_mix_erase_and_turn_alike():
    pixels = RNG.integers(0, 256, (8, 20, 20, 3), np.uint8)
    labels = np.arange(8, dtype=np.int32) % 3

    def images(key, pixels, labels):
        views = data.random_view(key, pixels, 16, upright=False, operations=(1, 9))
        erased = data.random_erasing(key, data.normalize(views, (0.5,) * 3, (0.2,) * 3), 0.5)
        return data.mix_batch(key, erased, labels, 3, mixup=0.4, cutmix=1.0)

    mesh = sharding.make_mesh()
    assert mesh.size == 4
    four = jax.jit(images)(jax.random.key(0), *sharding.split((pixels, labels), mesh))
    assert len(four[0].sharding.device_set) == 4
    one = jax.jit(images)(jax.random.key(0), pixels, labels)
    for a, b in zip(one, four, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-6, atol=1e-6)


def test_the_gaps_of_the_attention_are_of_the_plain_cross_entropy(photos, tmp_path, capsys):
    # Neither smoothing nor mixing nor the optimizer changes them: one measurement serves all runs.
    config = {"method": "delta", "head_l2": (0.01,)}
    trainer.attend(small_config(photos, **config), tmp_path / "plain")
    assert "measured before" not in capsys.readouterr().out
    smoothed = {"label_smoothing": 0.3, "data__mix": (0.2, 0.0), "optimizer": "adamw", "average": 0.9}
    trainer.attend(small_config(photos, **config, **smoothed), tmp_path / "smoothed")
    assert "measured before" in capsys.readouterr().out
    with (
        np.load(tmp_path / "plain" / "attention.npz") as one,
        np.load(tmp_path / "smoothed" / "attention.npz") as other,
    ):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_a_network_without_batch_norm_cannot_be_stochastic():
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return nn.Dense(3, name="head")(jnp.mean(x, (1, 2)))

    config = get_config()
    config.batch_norm = "stochastic"
    config = configs.resolve(config)
    made = jax.eval_shape(Plain().init, jax.random.key(0), BATCH["image"])
    with pytest.raises(configs.ConfigError, match=r"batch_norm=stochastic: .* has none of the library's BatchNorm"):
        checks.stochastic_norm(config, Plain(), made)
