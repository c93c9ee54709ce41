"""A workdir in a storage: what arrives there, in which order, and what a host that lost its disk makes of it."""

import json
import os
import sys

import fsspec
import pytest

from delta_jax.workdir import storage
from delta_jax.workdir.storage import Mirror, StorageError
from tests.process_run import together


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """fsspec's storage in memory, in place of gs://."""
    monkeypatch.setenv("DELTA_JAX_CACHE", str(tmp_path / "cache"))
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def another_host(monkeypatch, tmp_path, name="other"):
    monkeypatch.setenv("DELTA_JAX_CACHE", str(tmp_path / name))


def write_checkpoint(folder, step, *, sealed=True):
    state = folder / "checkpoints" / str(step) / "state"
    state.mkdir(parents=True)
    (state / "arrays").write_text(f"arrays of {step}")
    if sealed:
        (state.parent / "files.json").write_text(json.dumps({"state/arrays": "digest"}))


def names(bucket, url="/runs/one"):
    return {path.removeprefix(f"{url}/") for path in bucket.find(url)} - {".mirror"}


def test_a_path_is_used_as_it_is(tmp_path):
    with storage.opened(str(tmp_path / "run")) as workdir:
        assert workdir == tmp_path / "run"
    assert storage.fetched(str(tmp_path / "run")) == tmp_path / "run"
    assert not storage.is_mirrored(tmp_path)


def test_a_host_without_the_folder_finds_everything_but_unfinished_files(bucket, monkeypatch, tmp_path):
    with storage.opened("memory://runs/one") as workdir:
        assert storage.is_mirrored(workdir)
        (workdir / "gaps" / "key").mkdir(parents=True)
        (workdir / "gaps" / "key" / "gaps.f32").write_bytes(b"1234")
        (workdir / ".lock").touch()
        (workdir / ".head.json.17.tmp").touch()
        (workdir / "attention.tmp.npz").touch()
        (workdir / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir(parents=True)
        (workdir / "checkpoints" / "5.orbax-checkpoint-tmp" / "arrays").touch()
        write_checkpoint(workdir, 4)
    expected = {"gaps/key/gaps.f32", "checkpoints/4/state/arrays", "checkpoints/4/files.json"}
    assert names(bucket) == expected
    another_host(monkeypatch, tmp_path)
    with storage.opened("memory://runs/one") as workdir:
        found = {path.relative_to(workdir).as_posix() for path in workdir.rglob("*") if path.is_file()}
        assert found - {".mirror"} == expected
        assert (workdir / "gaps" / "key" / "gaps.f32").read_bytes() == b"1234"
    another_host(monkeypatch, tmp_path, "reader")
    results = storage.fetched("memory://runs/one")
    assert (results / "gaps" / "key" / "gaps.f32").exists()
    assert not (results / "checkpoints").exists()


def test_a_checkpoint_is_uploaded_after_the_files_before_it_and_its_seal_last(bucket, monkeypatch):
    mirror = Mirror("memory://runs/one")
    mirror.fetch()
    write_checkpoint(mirror.folder, 10)
    write_checkpoint(mirror.folder, 9)
    for age, name in enumerate(("metrics.jsonl", "head.safetensors", "head.json")):
        (mirror.folder / name).write_text(name)
        os.utime(mirror.folder / name, ns=(10**18 - age, 10**18 - age))
    sent = []
    put_file = bucket.put_file
    monkeypatch.setattr(bucket, "put_file", lambda here, there: (sent.append(there), put_file(here, there)))
    mirror.push()
    assert [path.removeprefix("/runs/one/") for path in sent] == [
        "head.json",
        "head.safetensors",
        "metrics.jsonl",
        "checkpoints/9/state/arrays",
        "checkpoints/9/files.json",
        "checkpoints/10/state/arrays",
        "checkpoints/10/files.json",
    ]


def test_half_a_checkpoint_is_not_fetched_and_goes_with_the_next_upload(bucket, monkeypatch, tmp_path):
    mirror = Mirror("memory://runs/one")
    mirror.fetch()
    write_checkpoint(mirror.folder, 4)
    mirror.push()
    write_checkpoint(mirror.folder, 8)
    put_file = bucket.put_file

    def lose_connection(here, there):
        if there.endswith("8/files.json"):
            raise ConnectionError("connection reset")
        put_file(here, there)

    monkeypatch.setattr(bucket, "put_file", lose_connection)
    with pytest.raises(StorageError, match=r"memory://runs/one could not be written: connection reset"):
        mirror.push()
    assert "checkpoints/8/state/arrays" in names(bucket)
    monkeypatch.setattr(bucket, "put_file", put_file)
    another_host(monkeypatch, tmp_path)
    later = Mirror("memory://runs/one")
    later.fetch()
    assert sorted(path.name for path in (later.folder / "checkpoints").iterdir()) == ["4"]
    later.push()
    assert names(bucket) == {"checkpoints/4/state/arrays", "checkpoints/4/files.json"}


def test_a_checkpoint_that_is_removed_under_the_upload_is_not_sealed(bucket, monkeypatch):
    mirror = Mirror("memory://runs/one")
    mirror.fetch()
    write_checkpoint(mirror.folder, 4)
    (mirror.folder / "metrics.jsonl").touch()
    put_file = bucket.put_file

    def remove_meanwhile(here, there):
        put_file(here, there)
        (mirror.folder / "checkpoints" / "4" / "state" / "arrays").unlink(missing_ok=True)

    monkeypatch.setattr(bucket, "put_file", remove_meanwhile)
    mirror.push()
    assert names(bucket) == {"metrics.jsonl"}


def test_what_is_removed_here_is_removed_there_the_seal_first(bucket, monkeypatch):
    mirror = Mirror("memory://runs/one")
    mirror.fetch()
    write_checkpoint(mirror.folder, 4)
    mirror.push()
    removed = []
    rm_file = bucket.rm_file
    monkeypatch.setattr(bucket, "rm_file", lambda path: (removed.append(path), rm_file(path)))
    for path in ("state/arrays", "files.json"):
        (mirror.folder / "checkpoints" / "4" / path).unlink()
    mirror.push()
    assert [path.removeprefix("/runs/one/checkpoints/4/") for path in removed] == ["files.json", "state/arrays"]
    assert names(bucket) == set()


def test_a_folder_that_is_ahead_after_a_crash_is_kept(bucket):
    mirror = Mirror("memory://runs/one")
    mirror.fetch()
    (mirror.folder / "head.json").write_text("{}")
    mirror.push()
    (mirror.folder / "head.json").unlink()
    (mirror.folder / "attention.npz").write_text("hours of work")  # and then the power went
    with storage.opened("memory://runs/one") as workdir:
        assert (workdir / "attention.npz").read_text() == "hours of work"
    assert names(bucket) == {"attention.npz"}


def test_a_folder_of_a_copy_that_went_on_elsewhere_or_is_gone_is_not_used(bucket, monkeypatch, tmp_path):
    with storage.opened("memory://runs/one") as workdir:
        (workdir / "old").touch()
    monkeypatch.setenv("DELTA_JAX_CACHE", str(tmp_path / "other"))
    with storage.opened("memory://runs/one") as workdir:
        (workdir / "old").unlink()
        (workdir / "new").touch()
    monkeypatch.setenv("DELTA_JAX_CACHE", str(tmp_path / "cache"))
    with storage.opened("memory://runs/one") as workdir:
        assert {path.name for path in workdir.iterdir()} == {"new", ".mirror"}
    bucket.rm("/runs/one", recursive=True)
    with storage.opened("memory://runs/one") as workdir:
        assert {path.name for path in workdir.iterdir()} == {".mirror"}


def test_what_an_upload_brought_that_did_not_end_is_used(bucket, monkeypatch, tmp_path):
    mirror = Mirror("memory://runs/one")
    mirror.fetch()
    write_checkpoint(mirror.folder, 4)
    mirror.push()
    bucket.rm_file("/runs/one/.mirror")  # as if this had been the first one, and killed before its last word
    another_host(monkeypatch, tmp_path)
    with storage.opened("memory://runs/one") as workdir:
        assert (workdir / "checkpoints" / "4" / "files.json").exists()


def test_two_runs_in_one_place_are_noticed(bucket, monkeypatch, tmp_path):
    first = Mirror("memory://runs/one")
    first.fetch()
    with first.alone(), pytest.raises(StorageError, match="another run on this machine works in this --workdir"):
        Mirror("memory://runs/one").fetch()
    another_host(monkeypatch, tmp_path)
    second = Mirror("memory://runs/one")
    second.fetch()
    for mirror in (first, second):
        (mirror.folder / "config.json").write_text("{}")
    second.push()
    with pytest.raises(StorageError, match="another run has written to memory://runs/one since this one began"):
        first.push()


def test_a_large_file_goes_again_when_it_has_grown_by_a_quarter_or_at_the_end(bucket, monkeypatch):
    monkeypatch.setattr(storage, "_LARGE_BYTES", 100)
    mirror = Mirror("memory://runs/one")
    mirror.fetch()
    sizes = []
    for size, everything in ((50, False), (60, False), (200, False), (240, False), (251, False), (260, True)):
        (mirror.folder / "gaps.f32").write_bytes(bytes(size))
        mirror.push(everything=everything)
        sizes.append(bucket.size("/runs/one/gaps.f32"))
    assert sizes == [50, 60, 200, 200, 251, 260]


def test_what_is_written_arrives_while_the_run_goes_on(bucket, monkeypatch):
    arrived = storage.threading.Event()
    monkeypatch.setattr(storage, "SECONDS_BETWEEN_UPLOADS", 0.01)
    pipe_file = bucket.pipe_file
    monkeypatch.setattr(bucket, "pipe_file", lambda *args: (pipe_file(*args), arrived.set()))
    with storage.opened("memory://runs/one") as workdir:
        (workdir / "head.json").write_text("{}")
        assert arrived.wait(20)
        assert names(bucket) == {"head.json"}


def test_a_run_that_ends_with_an_error_leaves_everything_there(bucket):
    def run():
        with storage.opened("memory://runs/one") as workdir:
            (workdir / "head.json").write_text("{}")
            sys.exit(143)

    with pytest.raises(SystemExit):
        run()
    assert names(bucket) == {"head.json"}


def test_a_missing_package_is_said_in_one_line(tmp_path):
    # In a process of its own, where gcsfs cannot be imported whether or not it is installed.
    script = (
        "import sys; sys.modules['gcsfs'] = None\n"
        "from delta_jax.workdir import storage\n"
        "try: storage.Mirror('gs://bucket/run')\n"
        "except storage.StorageError as error: print(error)"
    )
    (ended,) = together([("-c", script)], devices=1, timeout=60)
    assert ended.stdout.startswith("gs://bucket/run cannot be used: "), ended.stderr
    assert "install delta_jax[gcs]" in ended.stdout
    with pytest.raises(StorageError, match="nowhere://x cannot be used"):
        Mirror("nowhere://x")
