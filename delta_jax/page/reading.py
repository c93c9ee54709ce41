"""What the folder of a sweep, a run or several runs holds, as plain data; what is damaged is noted, not fatal."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delta_jax import methods
from delta_jax.workdir import logs

SWEEP, RESULTS, COMPARISONS = "sweep.json", "results.jsonl", "comparisons.json"
SEARCH, FINAL = "tune.json", "final"
_OWN = ("folder", "manifest", "parquet")
SUMMARY, CONFIG = "summary.json", "config.json"


class PageError(ValueError):
    """There is nothing in the folder that a page could be made of."""


@dataclass(frozen=True)
class Run:
    """A finished, failed or unfinished run: a record of results.jsonl, or what a workdir says of itself.

    Attributes:
      kind: "final", or "choice" for a run that helped to choose the strength of its method.
      data: name of the data set.
      network: name of the architecture.
      variant: on a further axis of a sweep, such as the schedule; "" without one.
      method: as in `methods.names`.
      seed: of the run.
      fold: of the validation images.
      strength: the field that was searched and its value; {} where none was.
      folder: the workdir.
      test: measures of the test images: top1, balanced_accuracy, cross_entropy, n; {} where there are none.
      validation: the same of the validation images.
      alpha: the weight of the penalty; None where it is not known.
      seconds: it took.
      error: why it has no numbers; "" where it has.
    """

    kind: str
    data: str
    network: str
    variant: str
    method: str
    seed: int
    fold: int
    strength: Mapping[str, Any]
    folder: Path
    test: Mapping[str, Any]
    validation: Mapping[str, Any]
    alpha: float | None
    seconds: float
    error: str

    def file(self, name: str) -> dict[str, Any]:
        """The content of a JSON file of the workdir; {} where it is not there or not readable."""
        return read_json(self.folder / name)

    def records(self) -> list[dict[str, Any]]:
        """What metrics.jsonl holds; [] where it is not there or damaged."""
        try:
            return logs.read(self.folder)
        except (OSError, ValueError):
            return []


@dataclass(frozen=True)
class Experiment:
    """The runs of one data set, network and variant; methods in the order of the paper's tables, seeds ascending."""

    data: str
    network: str
    variant: str
    runs: Mapping[str, list[Run]]
    choices: Mapping[str, list[Run]]

    def finished(self) -> list[Run]:
        """The final runs with numbers of the test images."""
        return [run for runs in self.runs.values() for run in runs if run.test]


@dataclass(frozen=True)
class Study:
    """All that a page tells about.

    Attributes:
      folder: that was read.
      kind: "sweep", "search", "run" or "runs".
      settings: content of sweep.json, of a search of its summary.json; {} for runs.
      experiments: at least one, unless a sweep has no results yet.
      comparisons: content of comparisons.json; {} without it.
      notes: what could not be read, a sentence each.
    """

    folder: Path
    kind: str
    settings: Mapping[str, Any]
    experiments: tuple[Experiment, ...]
    comparisons: Any
    notes: list[str] = field(default_factory=list)

    def runs(self) -> list[Run]:
        """The final runs of all experiments."""
        return [run for one in self.experiments for runs in one.runs.values() for run in runs]


def read(folder: Path) -> Study:
    """Reads the folder of a sweep or a search, a workdir, or a folder of workdirs.

    Raises:
      PageError: it is none of them.
    """
    folder = Path(folder)
    notes: list[str] = []
    if (folder / SWEEP).is_file() or (folder / RESULTS).is_file():
        experiments = _grouped(_sweep_runs(folder, notes))
        comparisons = read_json(folder / COMPARISONS)
        return Study(folder, "sweep", read_json(folder / SWEEP), experiments, comparisons, notes)
    if (folder / SEARCH).is_file():
        if not (folder / SUMMARY).is_file():
            raise PageError(
                f"the search in {folder} has not ended: there is no {SUMMARY} yet; the same command goes on"
            )
        return Study(
            folder, "search", read_json(folder / SUMMARY), _grouped([_from_workdir(folder / FINAL)]), {}, notes
        )
    if (folder / CONFIG).is_file():
        return Study(folder, "run", {}, _grouped([_from_workdir(folder)]), {}, notes)
    workdirs = sorted(path.parent for path in folder.glob(f"*/{CONFIG}")) if folder.is_dir() else []
    if not workdirs:
        raise PageError(
            f"{folder} holds neither a sweep ({SWEEP}) nor a run ({CONFIG}), and no folder in it holds a run; "
            "give the --workdir of delta_jax.sweep or delta_jax.train"
        )
    return Study(folder, "runs", {}, _grouped(map(_from_workdir, workdirs)), {}, notes)


def read_json(path: Path) -> dict[str, Any]:
    """An object; {} where the file is not there, not JSON, or something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def objects(content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The objects in a list of a file, which may be of another version; [] where there is no such list."""
    listed = content.get(key)
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def _sweep_runs(folder: Path, notes: list[str]) -> list[Run]:
    path = folder / RESULTS
    if not path.is_file():
        notes.append(f"No run of this sweep has finished: there is no {RESULTS} yet.")
        return []
    runs: dict[tuple[Any, ...], Run] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            run = _from_record(json.loads(line), folder)
        except (ValueError, KeyError, TypeError, AttributeError):
            notes.append(f"Line {number} of {RESULTS} is no record of a run; it is left out.")
            continue
        # A run that was repeated after a failure: its last record counts.
        runs[(run.kind, run.folder)] = run
    return list(runs.values())


def _from_record(record: Mapping[str, Any], folder: Path) -> Run:
    return Run(
        kind=record["kind"],
        data=str(record["data"]),
        network=str(record["network"]),
        variant=str(record.get("variant") or ""),
        method=str(record["method"]),
        seed=int(record["seed"]),
        fold=int(record.get("fold") or 0),
        strength=dict(record.get("strength") or {}),
        folder=folder / record["workdir"],
        test=dict(record.get("test") or {}),
        validation=dict(record.get("validation") or {}),
        alpha=record.get("alpha"),
        seconds=float(record.get("seconds") or 0.0),
        error=str(record.get("error") or ""),
    )


def _from_workdir(folder: Path) -> Run:
    config, summary = read_json(folder / CONFIG), read_json(folder / SUMMARY)
    data = config.get("data") or {}
    return Run(
        kind="final",
        data=_called(data),
        network=str(config.get("arch", "unknown network")),
        variant="",
        method=str(config.get("method", "unknown method")),
        seed=int(config.get("seed", 0)),
        fold=int(data.get("validation_fold", 0)),
        strength={},
        folder=folder,
        test=summary.get("test") or {},
        validation=summary.get("validation") or {},
        alpha=summary.get("alpha"),
        seconds=float(sum((summary.get("seconds") or {}).values())),
        error="" if summary else f"it has not ended: there is no {SUMMARY}",
    )


def _called(data: Mapping[str, Any]) -> str:
    """The name of a data set; one's own images are called as their folder or list is."""
    name = str(data.get("name", "unknown data"))
    return Path(data["root"]).name or name if name in _OWN and data.get("root") else name


def _grouped(runs: Iterable[Run]) -> tuple[Experiment, ...]:
    found: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.data, run.network, run.variant), []).append(run)
    return tuple(
        Experiment(
            *key, _by_method(r for r in group if r.kind == "final"), _by_method(r for r in group if r.kind != "final")
        )
        for key, group in found.items()
    )


def _by_method(runs: Iterable[Run]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.method, []).append(run)
    order = [*methods.names(), *sorted(found.keys() - set(methods.names()))]
    return {name: sorted(found[name], key=lambda run: (run.seed, run.fold)) for name in order if name in found}
