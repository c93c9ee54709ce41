"""A strength found within one run: its gradient, its moves, what it costs, what is refused, and a run that goes on."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from delta_jax import methods
from delta_jax.chips import flops
from delta_jax.configs.strength import get_config as get_grid
from delta_jax.configs.strength_search import get_config as get_search
from delta_jax.models.layers.normalization import BatchNorm
from delta_jax.planning import works
from delta_jax.planning.amounts import Amounts
from delta_jax.processes import sharding
from delta_jax.sweeps import grid
from delta_jax.training import config as configs
from delta_jax.training import step_program, steps, strength, strength_search, trainer
from delta_jax.training.optim import make_optimizer
from delta_jax.training.programs import Programs
from delta_jax.training.state import init_state
from delta_jax.tuning.search import Search
from delta_jax.workdir import logs
from tests.small_run import make_photos, small_config

RNG = np.random.default_rng(0)
ALPHA = 0.3
PLANNED = Amounts(classes=3, train=40, validation=14, test=18, origin="told")
METHODS = ("l2", "l2_sp", "delta_without_attention", "delta")


class Net(nn.Module):
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3), param_dtype=self.dtype, name="conv")(x)
        x = nn.tanh(BatchNorm(frozen=True, name="bn")(x, train))
        return nn.Dense(3, param_dtype=self.dtype, name="head")(jnp.mean(x, (1, 2)))


def batch_of(seed):
    rng = np.random.default_rng(seed)
    return {"image": rng.standard_normal((4, 5, 6, 3)), "label": rng.integers(0, 3, 4), "index": np.array([3, 0, 4, 1])}


BATCH, VALIDATION = batch_of(1), batch_of(2)
ATTENTION = {"conv": RNG.uniform(0, 1, (5, 4))}


def variables_of(seed, dtype):
    shapes = jax.eval_shape(Net().init, jax.random.key(0), jnp.zeros((1, 5, 6, 3), jnp.float32))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.1 + abs(0.4 + rng.standard_normal(leaf.shape) / 4), dtype), shapes)


def objectives(name, source, dtype):
    """(objective and penalty, loss of validation images): functions of (params, batch), put together by hand."""

    def loss_of(method, alpha, beta):
        return steps.make_loss(Net(dtype), Net(dtype), method, taps=("conv",), head="head", alpha=alpha, beta=beta)

    method = methods.create(name)
    own, plain = loss_of(method, ALPHA, 0.2), loss_of(methods.create("l2"), 0.0, 0.0)
    key = jax.random.key(0)

    def training(params, batch):
        weights = steps.attention_of({"conv": jnp.asarray(ATTENTION["conv"], dtype)}, batch["index"])
        total, (found, _) = own(
            params, source["batch_stats"], source, jnp.asarray(batch["image"], dtype), batch["label"], weights, key
        )
        decay = 0.5 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
        return (total + ALPHA * decay, decay) if method.decays_weights else (total, found["penalty"])

    def validation(params, batch):
        return plain(
            params, source["batch_stats"], source, jnp.asarray(batch["image"], dtype), batch["label"], None, key
        )[0]

    return training, validation


def slope_of(training, validation, step):
    """`strength.make_slope` of the three."""

    def loss(params, arguments):
        batch, which = arguments
        objective, penalty = training(params, batch)
        return jnp.stack([objective, penalty.astype(objective.dtype), validation(params, batch)])[which]

    batches = jax.tree.map(lambda ours, theirs: jnp.stack([ours, ours, theirs]), BATCH, VALIDATION)
    return lambda params: strength.make_slope(loss, step)(params, (batches, jnp.arange(3)))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("freeze_norm", [False, True])
def test_the_slope_is_that_of_a_step_made_with_a_little_more_and_a_little_less(name, freeze_norm):
    # Finite differences, in float64, of what one step of the optimizer at a small rate leaves: no gradient of a
    # gradient, and no inner product.
    rate, little = 1e-5, 1e-2
    with jax.enable_x64(True):
        start, source = (variables_of(seed, jnp.float64) for seed in (3, 4))
        training, validation = objectives(name, source, jnp.float64)
        options: dict[str, Any] = {"head": "head", "momentum": 0.0, "freeze_norm": freeze_norm}
        options["head_learning_rate_factor"] = 3.0
        one = make_optimizer(start["params"], optax.constant_schedule(1.0), **options)
        found = jax.jit(slope_of(training, validation, one))(start["params"])
        tx = make_optimizer(start["params"], optax.constant_schedule(rate), **options)

        @jax.jit
        def ahead(factor):
            def objective(params):
                whole, penalty = training(params, BATCH)
                return whole + (factor - 1) * ALPHA * penalty

            updates, _ = tx.update(jax.grad(objective)(start["params"]), tx.init(start["params"]), start["params"])
            params = optax.apply_updates(start["params"], updates)
            return validation(params, VALIDATION) - training(params, BATCH)[0]

        expected = float(ahead(np.exp(little)) - ahead(np.exp(-little))) / (2 * little)
        slope, cosine = map(float, found)
    assert abs(expected) > 1e-9
    np.testing.assert_allclose(rate * ALPHA * slope, expected, rtol=2e-3)
    assert -1 <= cosine <= 1
    assert np.sign(cosine) == np.sign(expected)


def test_without_a_penalty_yet_nothing_moves():
    # At the start feature maps are those of the source: the penalty is 0, and so is its gradient.
    start = variables_of(3, jnp.float32)
    training, validation = objectives("delta_without_attention", start, jnp.float32)
    one = optax.sgd(1.0)
    slope, cosine = slope_of(training, validation, one)(start["params"])
    assert slope == cosine == 0
    assert strength.move(strength.begin(), cosine, 1.0).factor == 1


def test_moves_are_those_of_adam_written_out_and_end_at_two_decades():
    search, mean, square, shift = strength.begin(), 0.0, 0.0, 0.0
    cosines, paces = RNG.normal(0.1, 0.2, 20), np.linspace(1, 0, 20)
    move = jax.jit(strength.move)
    for count, (cosine, pace) in enumerate(zip(cosines, paces, strict=True), start=1):
        search = move(search, jnp.float32(cosine), jnp.float32(pace))
        mean, square = 0.9 * mean + 0.1 * cosine, 0.97 * square + 0.03 * cosine**2
        step = mean / (1 - 0.9**count) / np.sqrt(square / (1 - 0.97**count))
        shift -= 0.6 * pace * np.clip(step, -1, 1)
        assert float(search.factor) == pytest.approx(np.exp(shift), rel=1e-4)
    assert shift < -0.5
    for sign, end in ((-1, 100), (1, 0.01)):
        search = strength.begin()
        for _ in range(12):
            search = move(search, jnp.float32(sign * 0.3), jnp.float32(1.0))
        assert float(search.factor) == pytest.approx(end, rel=1e-4)


def fake_programs(name, source, **changed):
    """What a look asks of a run, with the tiny network; images pass as they are."""
    fields = {
        "taps": ("conv",),
        "compute_dtype": "float32",
        "matmul_precision": "default",
        "auxiliary_weight": 0.0,
        "freeze_until": "",
        "remat": False,
        "accumulate": 1,
        "strength_search": True,
        "weight_decay": ALPHA,
        "head_learning_rate_factor": 1.0,
        "batch_norm": "frozen_stats",
        "label_smoothing": 0.0,
    }
    return SimpleNamespace(
        config=SimpleNamespace(**(fields | changed)),
        platform="cpu",
        trained_network=Net,
        network=lambda **_: Net(),
        method=methods.create(name),
        source=source,
        heads=("head",),
        trains_auxiliary=False,
        spec=SimpleNamespace(auxiliary=""),
        frozen=(),
        augment=lambda key, images: images,
    )


@pytest.mark.parametrize(
    ("name", "factor", "accumulate"), [("l2", 1.0, 1), ("l2_sp", 1.0, 2), ("delta", 1.0, 1), ("delta", 2.0, 1)]
)
def test_a_look_of_a_run_is_the_slope_of_its_objective(name, factor, accumulate):
    # Against the losses put together by hand above, whose slope is tested by finite differences.
    start, source = (variables_of(seed, jnp.float32) for seed in (3, 4))
    source = {**source, "batch_stats": start["batch_stats"]}
    search = dataclasses.replace(strength.begin(), shift=jnp.float32(np.log(factor)))
    state = init_state(start, optax.sgd(0.1), search)
    chosen = step_program.Hyperparameters(
        alpha=jnp.float32(ALPHA / factor),
        beta=jnp.float32(0.2),
        learning_rates=jnp.array([0.05, 0.1]),
        label_weights=None,
        key=jax.random.key(1),
    )
    as_jax = [{**batch, "image": jnp.asarray(batch["image"], jnp.float32)} for batch in (BATCH, VALIDATION)]
    attention = {"conv": jnp.asarray(ATTENTION["conv"], jnp.float32)}
    programs = fake_programs(name, source, accumulate=accumulate, weight_decay=ALPHA / factor)
    look = strength_search.function(programs)
    found = look(state, source, *as_jax, attention, chosen)

    training, validation = objectives(name, source, jnp.float32)
    part, other = (jax.tree.map(lambda leaf: leaf[::accumulate], batch) for batch in (BATCH, VALIDATION))
    own, pull = (jax.grad(lambda params, i=i: training(params, part)[i])(start["params"]) for i in (0, 1))
    gradient = optax.tree.sub(jax.grad(validation)(start["params"], other), own)
    cosine = -optax.tree.vdot(gradient, pull) / optax.tree.norm(gradient) / optax.tree.norm(pull)
    assert float(found.moments.mu) == pytest.approx(0.1 * float(cosine), rel=1e-4)
    assert found.looks == 1
    assert abs(cosine) > 1e-3
    assert float(found.shift) == pytest.approx(
        np.log(factor) - 0.6 * 0.5 * np.sign(cosine), rel=1e-4
    )  # at half the largest rate

    if accumulate == 1:  # on four devices, each with an image of either batch
        mesh = sharding.make_mesh()
        state, source, attention, chosen = sharding.replicate((state, source, attention, chosen), mesh)
        four = look(state, source, *sharding.split(as_jax, mesh), attention, chosen)
        assert four.shift.sharding.is_fully_replicated
        assert float(four.moments.mu) == pytest.approx(float(found.moments.mu), rel=1e-4)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("strength") / "photos")


@pytest.mark.parametrize("name", METHODS[1:])
def test_looks_cost_less_than_three_tenths_of_the_steps(photos, name):
    # Three gradients, each as large as a step's.
    config = configs.resolve(small_config(photos, method=name, strength_search=True, steps=600))
    programs = Programs(config, sharding.make_mesh(), 3)
    state, source, batch, attention, chosen = step_program.arguments(programs, programs.pixels(config.batch_size), 40)
    step = flops.count(step_program.function(programs), state, source, batch, attention, chosen)
    look = flops.count(strength_search.function(programs), state, source, batch, batch, attention, chosen)
    assert 49 * look < 0.26 * 600 * step  # before the steps 13, 25, ... 589
    (planned,) = (one for one in works.works(programs, PLANNED, 1e9) if one.name == works.LOOK)
    assert planned.calls == {"fine-tuning": 49}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"method": "l2_fe"}, "strength_search=True: expected False: l2_fe trains the head alone"),
        ({"method": "mars_sp"}, "expected False: mars_sp has no strength but a radius.*; it is for l2, "),
        ({"method": "bi_tuning"}, "expected False: bi_tuning has parameters of its own"),
        ({"method": "bss"}, "expected False: bss has two strengths, alpha and weight_decay"),
        ({"surgical": True}, "surgical=True: expected False: a search"),
        ({"method": "l2", "weight_decay": 0.0}, "weight_decay=0.0: expected more than 0: a search"),
        ({"method": "l2_sp", "alpha": 0.0}, "alpha=0.0: expected more than 0: a search"),
        ({"alpha": None, "alpha_relative": 0.0}, "alpha_relative=0.0: expected more than 0: a search"),
        ({"data__validation_fraction": 0.0}, "there are 0 validation images, expected 8 or more, a batch"),
        ({"batch_size": 16}, "there are 14 validation images, expected 16 or more, a batch"),
    ],
)
def test_what_cannot_be_searched_is_refused(photos, tmp_path, fields, said):
    with pytest.raises(configs.ConfigError, match=said):
        trainer.fit(small_config(photos, strength_search=True, **fields), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(("name", "field"), [("l2", "weight_decay"), ("l2_sp", "alpha")])
def test_steps_have_the_strength_that_the_search_is_at(photos, tmp_path, monkeypatch, name, field):
    at_three = dataclasses.replace(strength.begin(), shift=jnp.float32(np.log(3.0)))
    monkeypatch.setattr(strength, "begin", lambda: at_three)
    monkeypatch.setattr(strength, "EVERY", 100)  # and stays there
    fields = {"method": name, "learning_rate": 0.1, "steps": 3, "checkpoint_every": 3, "eval_every": 0}
    searched = trainer.fit(small_config(photos, strength_search=True, **fields, **{field: 0.1}), tmp_path / "searched")
    given = trainer.fit(small_config(photos, **fields, **{field: 0.3}), tmp_path / "given")
    weaker = trainer.fit(small_config(photos, **fields, **{field: 0.1}), tmp_path / "weaker")
    kernels = [one.after["params"]["block_1"]["conv"]["kernel"] for one in (searched, given, weaker)]
    to_given, to_weaker = (np.abs(np.subtract(kernels[0], other)).max() for other in kernels[1:])
    assert to_given < 0.01 * to_weaker


def test_a_run_that_goes_on_ends_as_one_undisturbed(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(strength, "EVERY", 3)
    config = small_config(photos, method="l2_sp", strength_search=True, learning_rate=0.1, checkpoint_every=4)
    whole = trainer.fit(config, tmp_path / "whole")
    said = capsys.readouterr().out
    assert "note: --config.strength_search=True: 8 steps leave 2 looks at the validation images" in said
    line = [line for line in said.splitlines() if line.startswith("strength: ")]
    assert len(line) == 1
    assert "begun at 0.005, after 2 looks at 16 validation images" in line[0]
    found = whole.summary["strength"]
    assert whole.summary["alpha"] == found["found"] != 0.005
    assert (found["field"], found["start"], found["looks"], found["images"]) == ("alpha", 0.005, 2, 16)

    looks = strength_search.Looks.__call__

    def killed(self, step, *arguments):
        if step == 5:  # after a look, and a checkpoint; before the next of either
            raise KeyboardInterrupt
        return looks(self, step, *arguments)

    monkeypatch.setattr(strength_search.Looks, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(config, tmp_path / "parts")
    config.data.on_device = "no"  # which changes nothing but where images lie
    monkeypatch.setattr(strength_search.Looks, "__call__", looks)
    parts = trainer.fit(config, tmp_path / "parts")
    assert parts.summary["strength"] == found
    jax.tree.map(np.testing.assert_array_equal, parts.after, whole.after)
    courses = [
        [record["strength_factor"] for record in logs.read(tmp_path / name) if record["phase"] == "fine_tune"]
        for name in ("whole", "parts")
    ]
    assert courses[0] == courses[1]
    assert courses[0][0] == 1
    # The mean over the steps 7 and 8, both after the second look.
    assert courses[0][-1] == pytest.approx(found["found"] / 0.005, rel=1e-5)


def test_the_comparison_differs_from_its_grid_in_the_search_and_where_it_begins():
    grids = [grid.resolve(config()) for config in (get_grid, get_search)]
    runs = [
        [grid.config_of(sweep, run) for cell in grid.cells(sweep) for run in grid.choice_runs(sweep, cell)]
        for sweep in grids
    ]
    assert [len(found) for found in runs] == [4 * 4 * 5, 4 * 4 * 2]  # data sets, methods, strengths
    strengths = {"alpha", "alpha_relative", "weight_decay"}
    for searched in runs[1]:
        plain = next(one for one in runs[0] if (one.method, one.data) == (searched.method, searched.data))
        fields = [configs.flat(one.to_dict()) for one in (plain, searched)]
        assert {name for name in fields[0] if fields[0][name] != fields[1][name]} - strengths == {"strength_search"}


def test_sweeps_and_tune_say_at_once_what_they_cannot_search(tmp_path):
    sweep = get_search()
    sweep.methods = ("l2_fe", "l2")
    sweep.seeds = (0,)
    runs = [run for cell in grid.cells(grid.resolve(sweep)) for run in grid.final_runs(sweep, cell, {})]
    assert {(run.cell.method, grid.config_of(sweep, run).strength_search) for run in runs} == {
        ("l2_fe", False),
        ("l2", True),
    }
    sweep.refit = True
    with pytest.raises(configs.ConfigError, match="refit: expected False: a strength is searched"):
        grid.resolve(sweep)
    pytest.importorskip("optuna", reason="delta_jax.tune needs optuna: pip install 'delta_jax[tune]'")
    nothing: Any = None
    with pytest.raises(configs.ConfigError, match="strength_search=True: expected False"):
        Search(sweep.run, (), tmp_path, nothing, nothing)
