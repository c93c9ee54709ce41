import contextlib
import io
import json
import math
import struct

import numpy as np
import pytest
from rich.console import Console
from tensorboardX.proto import event_pb2

from delta_jax.workdir import logs
from delta_jax.workdir.logs import MetricsLog, progress, read, say, table


def events(workdir):
    """{(tag, step): value} of TensorBoard's files: records of length, its checksum, an event, its checksum."""
    found = {}
    for path in sorted((workdir / "tensorboard").iterdir()):
        stream = io.BytesIO(path.read_bytes())
        while header := stream.read(12):
            event = event_pb2.Event.FromString(stream.read(struct.unpack("<Q", header[:8])[0]))
            stream.read(4)
            for value in event.summary.value:
                assert (value.tag, event.step) not in found
                found[value.tag, event.step] = value.simple_value
    return found


def without_time(records):
    return [{name: value for name, value in record.items() if name != "time"} for record in records]


def test_every_record_is_on_disk_as_json_and_for_tensorboard(tmp_path):
    with MetricsLog(tmp_path / "run") as log:
        log.write("fine_tune", 1, {"loss": np.float32(0.5), "penalty": math.nan})
        log.write("validation", np.int64(1), {"top1": np.array([75.0]).reshape(())})
        log.write("fine_tune", 2, {"loss": math.inf})
        # a record is on the disk before the log is closed
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    parsed = [json.loads(line, parse_constant=pytest.fail) for line in lines]  # NaN and Infinity are no JSON
    assert without_time(parsed) == [
        {"phase": "fine_tune", "step": 1, "loss": 0.5, "penalty": None},
        {"phase": "validation", "step": 1, "top1": 75.0},
        {"phase": "fine_tune", "step": 2, "loss": None},
    ]
    records = read(tmp_path / "run")
    assert records[1] == parsed[1]
    assert math.isnan(records[0]["penalty"])
    assert events(tmp_path / "run") == {("fine_tune/loss", 1): 0.5, ("validation/top1", 1): 75.0}
    with MetricsLog(tmp_path / "run") as log, pytest.raises(ValueError, match="its own step"):
        log.write("fine_tune", 3, {"step": 3.0})


@pytest.mark.parametrize("torn", ["", '{"phase": "fine_tune", "st', '{"phase": "fine_tune", "step": 5, "time": 1.0}'])
def test_a_resumed_run_leaves_the_records_of_an_undisturbed_one(tmp_path, torn):
    def head(log):
        for step in range(1, 8):
            log.write("head", step, {"loss": 1 / step})

    def fine_tune(log, steps):
        for step in steps:
            log.write("fine_tune", step, {"loss": 2 / step})

    with MetricsLog(tmp_path / "undisturbed") as log:
        head(log)
        fine_tune(log, range(1, 7))
    with MetricsLog(tmp_path / "crashed") as log:
        head(log)
        fine_tune(log, range(1, 5))
    with (tmp_path / "crashed" / "metrics.jsonl").open("a") as file:
        file.write(torn)
    with MetricsLog(tmp_path / "crashed") as log:  # the checkpoint is of step 2
        log.rewind("fine_tune", 2)
        fine_tune(log, range(3, 7))
    assert without_time(read(tmp_path / "crashed")) == without_time(read(tmp_path / "undisturbed"))
    assert events(tmp_path / "crashed") == events(tmp_path / "undisturbed")


def test_a_last_line_that_lacks_only_its_end_is_kept(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"phase": "head", "step": 1, "time": 1.0}')
    assert read(tmp_path) == []  # it may still be being written
    with MetricsLog(tmp_path) as log:
        log.write("head", 2, {})
    assert [record["step"] for record in read(tmp_path)] == [1, 2]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "head", "st')
    with MetricsLog(tmp_path) as log:
        log.write("head", 3, {})
    assert [record["step"] for record in read(tmp_path)] == [1, 2, 3]


def test_a_log_opened_again_keeps_its_scalars(tmp_path):
    for step in (1, 2):
        with MetricsLog(tmp_path) as log:
            log.write("head", step, {"loss": step})
    assert events(tmp_path) == {("head/loss", 1): 1.0, ("head/loss", 2): 2.0}
    for path in (tmp_path / "tensorboard").iterdir():
        path.unlink()  # a crash takes what TensorBoard's writer had not yet flushed
    with MetricsLog(tmp_path) as log:
        log.rewind("head", 2)
    assert events(tmp_path) == {("head/loss", 1): 1.0, ("head/loss", 2): 2.0}


def test_reading_what_is_no_log(tmp_path):
    with pytest.raises(FileNotFoundError, match="workdir of a run"):
        read(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"phase": "head"}\n{"phase"\n{"phase": "head"}\n')
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        read(tmp_path)


def test_plain_lines_without_a_terminal(monkeypatch, capsys):
    # A clock by hand: 10 images take 6 seconds at first and 3 from the third batch on; a line after 10 seconds or more.
    now = [100.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    with progress(130, "head [1/2]", initial=20) as bar:
        for batch in range(11):
            now[0] += 6.0 if batch < 2 else 3.0
            bar.advance(10, loss=1 / (batch + 1))
    assert capsys.readouterr().out.splitlines() == [
        # 20 images in 12 s are 1.67/s: the other 90 would take 54 s; then 40 in 12 s are 3.33/s: the other 50
        # take 15 s, the other 10 then 3 s; in all 110 in 39 s, 2.82/s; losses 1/2, 1/6, 1/10, 1/11
        "head [1/2]: 40/130 images (30 %), 1.67 images/s, 0:54 left, loss 0.5",
        "head [1/2]: 80/130 images (61 %), 3.33 images/s, 0:15 left, loss 0.1667",
        "head [1/2]: 120/130 images (92 %), 3.33 images/s, 0:03 left, loss 0.1",
        "head [1/2]: 130/130 images (100 %), 2.82 images/s, 0:39 in all, loss 0.09091",
    ]


def test_a_loop_that_fails_says_how_far_it_came(capsys):
    with contextlib.suppress(RuntimeError), progress(10, "test", unit="steps") as bar:
        bar.advance(4)
        raise RuntimeError
    assert capsys.readouterr().out.startswith("test: 4/10 steps (40 %)")


def test_a_bar_on_a_terminal(monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=150, highlight=False, markup=False, _environ={})
    monkeypatch.setattr(logs, "_console", console)
    monkeypatch.delenv("CI", raising=False)
    with progress(1200, "fine-tune", unit="steps", initial=200) as bar:
        bar.advance(400, loss=0.5)
        say("validation [top1] 75.0")
        bar.advance(600)
    assert "1,200/1,200 steps" in screen.getvalue()
    assert "loss 0.5" in screen.getvalue()
    assert "validation [top1] 75.0\n" in screen.getvalue()
    screen.truncate(0)
    monkeypatch.setenv("CI", "true")
    with progress(3, "fine-tune", unit="steps") as bar:
        bar.advance(3)
    assert screen.getvalue().strip("\0").startswith("fine-tune: 3/3 steps (100 %)")


def test_tables_fit_the_terminal_and_show_brackets(monkeypatch, capsys):
    rows = [("delta", "86.6 ± 0.2"), ("[l2]", 84.7)]
    table("top-1, %", ("method", "caltech"), rows)
    expected = ["top-1, %", "method  caltech", "delta   86.6 ± 0.2", "[l2]    84.7"]
    assert capsys.readouterr().out.splitlines() == expected
    screen = io.StringIO()
    monkeypatch.setattr(logs, "_console", Console(file=screen, force_terminal=True, width=60, _environ={}))
    monkeypatch.delenv("CI", raising=False)
    table("top-1, %", ("method", "caltech"), rows)
    assert all(text in screen.getvalue() for text in ("method", "86.6 ± 0.2", "[l2]"))


def test_what_is_kept_in_a_file_is_not_printed_and_afterwards_is_again(tmp_path, capsys):
    file = tmp_path / "run" / "said.txt"
    for text in ("one", "two \udcff"):
        with logs.kept_in(file):
            logs.say(text)
    logs.say("three")
    assert capsys.readouterr().out == "three\n"
    assert file.read_text(encoding="utf-8") == "one\ntwo \\udcff\n"
