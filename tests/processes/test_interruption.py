"""What a signal does: at once, or when the run asks; and what the loop of fine-tuning saves on one."""

import os
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from delta_jax.processes import interruption
from delta_jax.processes.interruption import SIGNALS, Interrupted
from delta_jax.training import steps
from delta_jax.training.evaluation import Look
from delta_jax.training.fine_tune import Loop, fine_tune
from delta_jax.training.state import init_state
from delta_jax.workdir import logs
from delta_jax.workdir.checkpoints import Checkpoints
from tests.small_run import ROOT, unwatched


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def held_block(*actions):
    with interruption.held():
        for action in actions:
            action()


def test_a_signal_that_is_held_waits_until_somebody_asks(capfd):
    def terminate():
        interruption.check("before breakfast")
        send(signal.SIGTERM)
        send(signal.SIGTERM)  # one, sent to the process and to its group
        assert capfd.readouterr().err == "SIGTERM: the run saves and ends; a second signal ends it at once\n"
        assert interruption.asked() == signal.SIGTERM

    with pytest.raises(SystemExit, match="143"), interruption.caught():
        held_block(terminate, lambda: interruption.check("after lunch"), lambda: pytest.fail("goes on"))
    assert capfd.readouterr().err == "stopped by SIGTERM after lunch; the same command goes on from there\n"
    assert interruption.asked() == 0  # a run that comes after is not stopped, too


def test_handlers_are_given_back_and_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        others = [signal.getsignal(number) for number in SIGNALS]
        with interruption.caught():
            send(signal.SIGINT)
            assert signal.getsignal(signal.SIGTERM) not in others
        assert [signal.getsignal(number) for number in SIGNALS] == others
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_nobody_asked_for_counts_at_the_end_unless_there_is_an_error():
    with interruption.caught():
        with pytest.raises(Interrupted, match="stopped by SIGINT;"):
            held_block(lambda: send(signal.SIGINT))
        with pytest.raises(ZeroDivisionError):
            held_block(lambda: 1 / 0)


def start(block: str) -> subprocess.Popen:
    """A process that waits in `block`, in the middle of a callback that lets no exception out."""
    code = f"""
import gc, signal, time
from delta_jax.processes import interruption
interruption.SAME_SECONDS = 0.2
def wait(phase, _):
    gc.callbacks.clear()
    print("ready", flush=True)
    time.sleep(60)
with {block}:
    gc.callbacks.append(wait)
    gc.collect()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_where_there_is_nothing_to_save_a_signal_ends_the_process_at_once():
    for number, status in ((signal.SIGTERM, 143), (signal.SIGUSR1, 138)):
        process = start("interruption.caught()")
        process.send_signal(number)
        _, said = process.communicate(timeout=10)
        assert process.returncode == status
        assert said == f"stopped by {number.name}; the same command goes on from there\n"


def test_a_signal_in_the_middle_of_a_progress_bar_leaves_the_terminal_with_a_cursor():
    tidy = 'interruption.tidied(lambda: print("cursor", flush=True))'
    for block, tidied in ((f"interruption.caught(), {tidy}", "cursor\n"), ("interruption.caught()", "")):
        process = start(block)
        process.send_signal(signal.SIGTERM)
        told, _ = process.communicate(timeout=10)
        assert process.returncode == 143
        assert told == tidied


def test_a_second_signal_ends_the_process_at_once():
    process = start("interruption.caught(), interruption.held()")
    process.send_signal(signal.SIGTERM)
    assert process.stderr.readline().startswith("SIGTERM: ")
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGUSR1


def test_a_program_of_ones_own_keeps_its_handlers_whatever_the_thread():
    found, theirs = [], []
    before = signal.signal(signal.SIGTERM, lambda *_: theirs.append(1))

    def work():
        with interruption.held():
            send(signal.SIGTERM)
            interruption.check()
        found.append(interruption.asked())

    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (found, theirs) == ([0], [1])


class Numbers:
    """In the place of an ImageSet: batches of numbers."""

    labels = np.zeros(6, np.int32)

    def __len__(self):
        return 6

    def stream(self, table):
        for picked in table:
            yield {"x": jnp.asarray(picked, jnp.float32)}


def test_a_signal_between_two_records_changes_neither_the_parameters_nor_the_records(tmp_path):
    loop = Loop(steps=20, batch_size=3, seed=0, log_every=5, checkpoint_every=10, eval_every=10, select="best")
    tx = optax.sgd(0.1, momentum=0.9)

    @jax.jit
    def update(state, batch):
        loss, grads = jax.value_and_grad(lambda p: jnp.mean((p["w"] - batch["x"]) ** 2))(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {name: jnp.float32(0) for name in steps.METRICS} | {"loss": loss, "top1": params["w"] / 3}
        metrics = jnp.stack(list(metrics.values()))
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

    def run(workdir, signal_at=()):
        taken = []

        def train_step(state, batch):
            taken.append(int(state.step) + 1)
            if taken[-1] in signal_at:
                send(signal.SIGTERM)
            return update(state, batch)

        def validate(state):
            return Look({"top1": float(state.params["w"])}, np.zeros(2), np.zeros(2, bool))

        state = init_state({"params": {"w": jnp.float32(1 / 3)}, "batch_stats": {}}, tx)
        with interruption.caught(), logs.MetricsLog(workdir) as log:
            try:
                watch = unwatched(20, workdir)
                state, facts = fine_tune(loop, state, train_step, Numbers(), validate, watch, workdir, log)
            except Interrupted as stopped:
                return taken, stopped
        return taken, (state.params["w"].tobytes(), facts["selected_step"])

    def records(workdir):
        return [{name: value for name, value in one.items() if name != "time"} for one in logs.read(workdir)]

    _, undisturbed = run(tmp_path / "undisturbed")
    seen = []
    for at in (3, 10, 18):  # in the middle, with a look at the validation images, and after the last checkpoint
        taken, stopped = run(tmp_path / "stopped", signal_at=(at,))
        assert str(stopped).startswith(f"stopped by SIGTERM after step {at} of 20;")
        with Checkpoints(tmp_path / "stopped" / "checkpoints") as checkpoints:
            assert checkpoints.latest_step() == at
        seen += taken
    taken, end = run(tmp_path / "stopped")
    assert end == undisturbed
    assert seen + taken == list(range(1, 21))  # none was run twice
    assert records(tmp_path / "stopped") == records(tmp_path / "undisturbed")
