"""From published files to records: by a server with faults, through interruptions, and as a command."""

import contextlib
import errno
import hashlib
import os
import shutil
import signal
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from delta_jax import prepare as command
from delta_jax.data import DataError, builders, find, prepare
from delta_jax.downloads import fetching
from tests import killed_prepare, published_sets
from tests.file_server import Answer, serving
from tests.process_run import together


@pytest.fixture
def server(monkeypatch):
    """Serves the files of a data set, once `publish` was called on it."""
    for variable in ("DELTA_JAX_OFFLINE", "HF_HUB_OFFLINE", "TFDS_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetching, "_pause", lambda failures: 0.0)
    with serving() as running:
        running.publish = lambda name: running.files.update(
            published_sets.publish(name, running.url, monkeypatch.setattr)
        )
        yield running


def contents(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_fetched_once_and_prepared_once(server, tmp_path):
    server.publish("mit_indoor67")
    fetched, seen = [], []
    made = prepare(
        "mit_indoor67",
        data_dir=str(tmp_path),
        on_fetch=lambda done, total: fetched.append(done == total),
        on_image=lambda *count: seen.append(count),
    )
    assert (made.name, made.classes, made.counts) == ("mit_indoor67/1.0.0", 2, {"train": 3, "test": 3})
    assert made.folder == tmp_path / "mit_indoor67" / "1.0.0"
    assert seen == [(k, 6) for k in range(1, 7)]
    assert fetched.count(True) == 3
    assert sorted(made.remarks) == [
        "Images/airport_inside/airport_inside_0002.jpg: a GIF; stored as PNG",
        "Images/kitchen/last.jpg: a PNG; stored as it is",
    ]
    assert sorted(file.name for file in made.fetched.iterdir()) == sorted(server.files)
    before, requests = contents(tmp_path), len(server.requests)
    again = prepare("tfds/mit_indoor67", data_dir=str(tmp_path))
    assert (again.folder, again.counts, again.citation) == (made.folder, made.counts, made.citation)
    assert contents(tmp_path) == before
    assert len(server.requests) == requests == 3


def test_another_config_fetches_nothing_again(server, tmp_path):
    server.publish("caltech256")
    first = prepare("caltech256", data_dir=str(tmp_path))
    assert first.name == "caltech256/l2sp-30/1.0.0"
    assert prepare("caltech256/random-30-seed1", data_dir=str(tmp_path)).counts == {"train": 60, "test": 4}
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", ["stanford_dogs", "food101"])
def test_the_same_bytes_come_out_each_time(server, tmp_path, name):
    server.publish(name)
    prepare(name, data_dir=str(tmp_path / "a"))
    # Through faults: cut, busy, cut again.
    server.answers = [Answer(cut=100), Answer(503), Answer(cut=50)]
    server.pause, server.piece = 0.001, 1000
    prepare(name, data_dir=str(tmp_path / "b"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("stage", ["fetching", "preparing"])
def test_killed_and_started_again(server, tmp_path, stage):
    server.publish("cub200_2011")
    prepare("cub200_2011", data_dir=str(tmp_path / "whole"))
    server.piece, server.pause = 500, 0.001
    arguments = [str(server.server_port), "cub200_2011", str(tmp_path / "killed"), stage]
    (child,) = together([("-m", killed_prepare.__name__, *arguments)], devices=1, timeout=120)
    assert child.returncode == -signal.SIGKILL, child.stderr
    if stage == "fetching":
        (part,) = (tmp_path / "killed" / "downloads" / "cub200_2011").glob("*.part")
        assert 10_000 < part.stat().st_size < 40_000
    else:
        assert len(list((tmp_path / "killed" / "cub200_2011").glob("incomplete.*"))) == 1
    assert not (tmp_path / "killed" / "cub200_2011" / "1.0.0").exists()
    asked = len(server.requests)
    prepare("cub200_2011", data_dir=str(tmp_path / "killed"))
    assert [bool(asked) for asked in server.ranges_asked()[asked:]] == ([True] if stage == "fetching" else [])
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert [path.name for path in (tmp_path / "killed" / "cub200_2011").iterdir()] == ["1.0.0"]


def test_an_interruption_leaves_nothing_half_written(server, tmp_path):
    server.publish("food101")

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("food101", data_dir=str(tmp_path), on_image=interrupt)
    assert list((tmp_path / "food101").iterdir()) == []


def test_a_dead_link_ends_in_one_message_with_the_steps(server, tmp_path):
    server.publish("mit_indoor67")
    del server.files["TestImages.txt"]
    with pytest.raises(DataError) as raised:
        prepare("mit_indoor67", data_dir=str(tmp_path))
    message = str(raised.value)
    for part in (
        "TestImages.txt: the server answered 404 Not Found; the link is dead",
        f"save the file as {tmp_path / 'downloads' / 'mit_indoor67' / 'TestImages.txt'}",
        "indoorCVPR_09.tar, TrainImages.txt, TestImages.txt",
        "--manual_dir=FOLDER",
    ):
        assert part in message
    assert not (tmp_path / "mit_indoor67" / "1.0.0").exists()
    # As told: saved by hand, it goes on.
    content = published_sets.mit_indoor67()["TestImages.txt"]
    (tmp_path / "downloads" / "mit_indoor67" / "TestImages.txt").write_bytes(content)
    assert prepare("mit_indoor67", data_dir=str(tmp_path)).counts == {"train": 3, "test": 3}


def test_a_second_address_is_asked_where_the_first_has_nothing(server, tmp_path):
    server.publish("food101")  # whose two addresses here are of the same file
    server.answers = [Answer(404)]
    prepare("food101", data_dir=str(tmp_path))
    assert len(server.requests) == 2


def test_a_wrong_content_is_refused(server, tmp_path):
    server.publish("stanford_dogs")
    server.files["lists.tar"] = published_sets.archive({"train_list.mat": b"other"})
    with pytest.raises(DataError, match=r"lists.tar: the file there has sha256 .*, expected .*; it was changed"):
        prepare("stanford_dogs", data_dir=str(tmp_path))


def test_a_disk_that_is_too_small_is_told_before_anything_starts(server, tmp_path, monkeypatch):
    server.publish("caltech256")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**12, 10**12, 1_000))
    with pytest.raises(DataError, match=r"caltech256/l2sp-30/1.0.0 needs \d MB in .* to fetch, .* and 0 MB are free"):
        prepare("caltech256", data_dir=str(tmp_path))
    assert server.requests == []


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "is full; make room, or choose another folder .*nothing half-written is left"),
        (errno.EROFS, r"cannot be written \(Read-only file system\); choose another folder with --data_dir"),
    ],
)
def test_a_disk_that_fails_on_the_way(server, tmp_path, number, says):
    server.publish("food101")

    def fail(done, total):
        raise OSError(number, os.strerror(number))

    with pytest.raises(DataError, match=says):
        prepare("food101", data_dir=str(tmp_path), on_image=fail)
    assert list((tmp_path / "food101").iterdir()) == []


def test_a_folder_that_is_none(server, tmp_path):
    server.publish("food101")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written \(.*; choose another folder with --data_dir"):
        prepare("food101", data_dir=str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("caltech", r"no data set to prepare is called 'caltech'; did you mean caltech256\? Names: caltech256, cub200"),
        ("caltech256/l2sp-31", r"caltech256 has no config 'l2sp-31'; configs: l2sp-30, l2sp-60, random-30-seed0"),
        ("elpv/x", "elpv has no config 'x'"),
    ],
)
def test_unknown_data_sets_and_configs_are_refused_with_close_names(tmp_path, name, says):
    with pytest.raises(DataError, match=says):
        prepare(name, data_dir=str(tmp_path))


def test_the_command(server, tmp_path, capsys, monkeypatch):
    server.publish("stanford_dogs")
    monkeypatch.setattr(command.processes, "set_up_process", lambda: None)

    def run(**values):
        with flagsaver.flagsaver(**values):
            flags.FLAGS.mark_as_parsed()
            command.main(["prepare"])
        return capsys.readouterr().out.splitlines()

    lines = run(data=["stanford_dogs"], data_dir=str(tmp_path))
    for line in (
        "stanford_dogs/120.0.0",
        f"  folder         {tmp_path}/stanford_dogs/120.0.0",
        "  images         train 3, test 2, of 2 classes",
        f"  use            --config.data.name=tfds/stanford_dogs --config.data.root={tmp_path}",
        f"  may be deleted {tmp_path}/downloads/stanford_dogs",
    ):
        assert line in lines
    assert any(line.startswith("fetching: ") for line in lines)
    assert any(line.startswith("preparing: 5/5 images") for line in lines)
    assert len(find("tfds/stanford_dogs", root=str(tmp_path), validation_fraction=0.0)) == 5
    with pytest.raises(SystemExit) as stop:
        run(data=["food-101"], data_dir=str(tmp_path))
    assert str(stop.value.code).startswith("error: no data set to prepare is called 'food-101'; did you mean food101?")


def test_two_processes_prepare_once(server, tmp_path):
    server.publish("food101")
    builder = builders.Food101(data_dir=tmp_path)
    prepare("food101", data_dir=str(tmp_path))
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(tmp_path / "downloads")
    builder.download_and_prepare()  # was made before the other one had finished
    assert builder.info.splits["train"].num_examples == 3
    assert len(server.requests) == 1
