"""JSON files of a workdir that more than one process writes."""

import json
import os
from pathlib import Path

from delta_jax.workdir import json_files


def test_two_processes_that_write_the_same_file_do_not_disturb_each_other(tmp_path, monkeypatch):
    path, replace = tmp_path / "head.json", Path.replace

    def after_another_process(self, target):
        monkeypatch.setattr(Path, "replace", replace)
        monkeypatch.setattr(os, "getpid", lambda: 1)
        json_files.write(path, {"written by": "another process"})
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", after_another_process)
    json_files.write(path, {"written by": "this one"})
    assert json.loads(path.read_text()) == {"written by": "this one"}
    assert list(tmp_path.iterdir()) == [path]
