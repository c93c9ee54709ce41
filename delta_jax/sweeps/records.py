"""What the runs of a sweep left, one JSON object per run: results.jsonl."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from delta_jax import page, processes
from delta_jax.data import listed
from delta_jax.sweeps.grid import Run
from delta_jax.training import config as configs
from delta_jax.training import run_split, stored_config
from delta_jax.workdir import json_files

RESULTS = "results.jsonl"
FAILED = "failed.json"  # in the workdir of a run that diverged: the same would come out again


def of_run(folder: Path, run: Run, config: ConfigDict) -> dict[str, Any] | None:
    """The record of a run, on every process; None if it is not done, or was done with another config.

    Args:
      folder: of the sweep.
      run: of the sweep.
      config: that the run is given, not yet resolved; where the images lie (data.root) may have changed.

    Returns:
      kind, data, network, variant, method, seed, fold, strength {field: value}, workdir (below `folder`), test and
      validation (measures of `evaluation.score`, {} for none), convergence (whether more steps would have paid, see
      `training.convergence`; "" where that was not looked at), alpha, seconds, images (a hash of them, "" if not known)
      and error: "" or why there are none.
    """
    workdir = folder / run.path
    summary = json_files.read(workdir / "summary.json")
    failed = {} if summary else json_files.read(workdir / FAILED)
    if not summary and not failed:
        return None
    # Measured and not yet shown, as where a machine was taken away in between: the same command shows it.
    if summary and run.kind == "final" and not json_files.exists(workdir / page.PAGE):
        return None
    # A sweep whose grid, steps or choice changed must not take the numbers of the runs before for its own.
    wanted, stored = configs.resolve(config).to_dict(), json_files.read(workdir / "config.json")
    if stored_config.differences(wanted, stored):
        return None
    cell = run.cell
    return {
        "kind": run.kind,
        "data": cell.data,
        "network": cell.network,
        "variant": cell.variant,
        "method": cell.method,
        "seed": run.seed,
        "fold": run.fold,
        "strength": dict(run.strength),
        "workdir": run.path,
        "test": summary.get("test", {}),
        "validation": summary.get("validation", {}),
        "convergence": summary.get("convergence", {}).get("verdict", ""),
        "alpha": summary.get("alpha"),
        "seconds": sum(summary.get("seconds", {}).values()),
        "images": run_split.images_of(workdir),
        "error": failed.get("error", ""),
    }


def describe_other_images(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """A warning for each data set of which some runs saw other images than most did: files changed meanwhile."""
    seen: dict[str, dict[str, list[str]]] = {}
    for record in records:
        if record["images"]:
            seen.setdefault(record["data"], {}).setdefault(record["images"], []).append(record["workdir"])
    lines = []
    for name, runs in seen.items():
        others = sorted(runs.values(), key=len)[:-1]
        if others:
            few = sorted(workdir for some in others for workdir in some)
            lines.append(
                f"warning: the runs on {name} did not all see the same images, so they cannot be compared; those of "
                f"the fewer: {listed(few)}; remove these workdirs to have them done again, or take another --workdir"
            )
    return lines


def write(folder: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """results.jsonl, there whole or not at all; the first process alone writes."""
    if not processes.is_first():
        return
    # A name of its own: shards of a sweep write the same file.
    unfinished = folder / f".{RESULTS}.{os.getpid()}.tmp"
    unfinished.write_text("".join(json.dumps(record) + "\n" for record in records))
    unfinished.replace(folder / RESULTS)


def read(folder: Path) -> list[dict[str, Any]]:
    """The records of results.jsonl; none if there is no such file."""
    path = Path(folder) / RESULTS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
