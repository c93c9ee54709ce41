"""The step of a run: one compilation, no transfers, memory that is told; runs with and without savings of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from delta_jax.processes import sharding
from delta_jax.training import checks, fine_tune, fine_tune_phase, step_program, steps, trainer
from delta_jax.training import config as configs
from delta_jax.training.compiled_step import CompiledStep
from delta_jax.training.setup import Setup
from delta_jax.training.state import TrainState
from delta_jax.workdir import logs
from tests.small_run import make_photos, small_config, unwatched


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("engine") / "photos", per_class=12)


def config_of(photos, **changed):
    fields = {
        "head_l2": (0.01,),
        "method": "delta_without_attention",
        "steps": 12,
        "log_every": 2,
        "eval_every": 6,
        "checkpoint_every": 4,
    }
    return small_config(photos, **(fields | changed))


def lowered(photos, **changed):
    setup = Setup(configs.resolve(config_of(photos, **changed)))
    step = CompiledStep(setup)
    return step._function.lower(*step_program.expected_arguments(setup)).as_text()


def test_runs_of_other_alphas_rates_and_seeds_share_one_program(photos):
    # The same text is the same program to jax's persistent cache.
    one = lowered(photos, alpha=0.1, beta=0.1, learning_rate=0.1, seed=0, schedule="cosine", steps=12, warmup_steps=3)
    other = lowered(photos, alpha=None, beta=0.2, learning_rate=0.2, seed=5, schedule="step", steps=900)
    assert one == other
    assert one != lowered(photos, momentum=0.8)


def test_the_loop_traces_once_and_copies_nothing_unasked(photos, tmp_path, monkeypatch, capsys):
    traced, stop_at = [], [8]
    make_train_step, loop = steps.make_train_step, fine_tune_phase.fine_tune

    def counted(*args, **kwargs):
        traced.append(1)
        return make_train_step(*args, **kwargs)

    def guarded(chosen, state, train_step, *args):
        done = []

        def stopped(state, batch):
            if len(done) == stop_at[0]:
                raise KeyboardInterrupt
            done.append(1)
            return train_step(state, batch)

        with jax.transfer_guard("disallow"):
            return loop(chosen, state, stopped, *args)

    monkeypatch.setattr(steps, "make_train_step", counted)
    monkeypatch.setattr(fine_tune_phase, "fine_tune", guarded)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(config_of(photos), tmp_path)
    assert traced == [1]
    stop_at[0] = 99
    summary = trainer.fit(config_of(photos), tmp_path).summary
    assert traced == [1, 1]  # once more, in what would be another process
    assert summary["steps"] == 12
    records = [record["step"] for record in logs.read(tmp_path) if record["phase"] == "fine_tune"]
    assert records == [2, 4, 6, 8, 10, 12]
    output = capsys.readouterr().out
    assert "going on after step 8 of 12" in output
    assert output.count("a training step takes 0.0") == 2
    assert "of memory on each device" in output


def test_a_run_with_all_savings_of_memory_ends_like_one_without(photos, tmp_path):
    # Of microbatches the statistics of a batch are others.
    fields = {"freeze_until": "block_0", "batch_norm": "frozen_stats", "learning_rate": 1e-3, "steps": 4}
    plain = trainer.fit(config_of(photos, **fields), tmp_path / "plain").summary
    saved = trainer.fit(config_of(photos, **fields, accumulate=2, remat=True), tmp_path / "saved").summary
    assert saved["test"]["cross_entropy"] == pytest.approx(plain["test"]["cross_entropy"], rel=1e-4)


def test_a_device_that_is_too_small_ends_in_one_error(photos, monkeypatch):
    setup = Setup(configs.resolve(config_of(photos)))
    monkeypatch.setattr(sharding, "device_memory_bytes", lambda: 1000)
    compiled = CompiledStep(setup)
    compiled.start()
    ways = "try a smaller --config.batch_size, --config.accumulate=2, --config.remat=True or --config.compute_dtype="
    with pytest.raises(configs.ConfigError, match=f"takes 0.0. GB of memory on each device, which has 0.00 GB; {ways}"):
        compiled.check()


def test_what_a_step_takes_is_said_by_the_run_and_not_by_the_thread_that_compiles(photos, capsys):
    compiled = CompiledStep(Setup(configs.resolve(config_of(photos))))
    compiled.start()
    compiled._future.result()
    assert "a training step takes" not in capsys.readouterr().out  # an error may have come in between
    compiled.check()
    compiled.check()
    assert capsys.readouterr().out.count("a training step takes") == 1


def test_remat_without_blocks_is_refused():
    config: Any = FrozenConfigDict({"remat": True, "arch": "flat"})
    with pytest.raises(configs.ConfigError, match="flat has no modules of two or more layers"):
        checks.blocks_to_recompute(config, {"params": {"conv": {"kernel": 0}, "head": {"kernel": 0}}})


def test_metrics_are_asked_for_when_the_device_has_other_work(tmp_path):
    events = []

    class Metrics:
        def __init__(self, step):
            self.step = step

        def copy_to_host_async(self):
            events.append(("step", self.step))

        def __array__(self, dtype=None, copy=None):
            events.append(("fetched", self.step))
            return np.ones(5, np.float32)

    class Images:
        resident = True

        def __len__(self):
            return 4

        def stream(self, table):
            yield from table

    def train_step(state, batch):
        step = int(state.step) + 1
        return TrainState(jnp.int32(step), state.params, {}, {}), Metrics(step)

    loop = fine_tune.Loop(steps=10, batch_size=4, seed=0, log_every=2, checkpoint_every=8, eval_every=0, select="last")
    start = TrainState(jnp.int32(0), {"w": jnp.float32(0)}, {}, {})
    images: Any = Images()
    step: Any = train_step
    with logs.MetricsLog(tmp_path) as log:
        fine_tune.fine_tune(loop, start, step, images, None, unwatched(10, tmp_path), tmp_path, log)
    when = {step: events[: events.index(("fetched", step))] for step in (2, 4, 6, 8, 10)}
    newest = {step: max(n for kind, n in before if kind == "step") for step, before in when.items()}
    assert newest == {2: 4, 4: 6, 6: 8, 8: 8, 10: 10}  # a checkpoint at 8 and 10: everything is looked at before
