"""What it takes to repeat the runs: their settings and where these differ, their commands, versions and devices."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from delta_jax.page.naming import label, setting
from delta_jax.page.reading import CONFIG, SUMMARY, Run, Study

_PER_RUN = ("seed", "method")  # differ by intention, and stand in the tables' rows


def settings(runs: Sequence[Run]) -> tuple[list[str], list[tuple[str, list[str]]], list[tuple[str, str]]]:
    """Fields of the runs' configs: those that differ between methods or runs, and those that are the same in all.

    Returns:
      Names of the columns, one per data set, network, variant and method; (field, text per column) of those that
      differ; (field, text) of the rest. Values that differ within a column stand beside each other.
    """
    configs = [(run, _flat(config)) for run in runs if (config := run.file(CONFIG))]
    several = len({(run.data, run.network, run.variant) for run, _ in configs}) > 1
    columns: dict[str, list[dict[str, str]]] = {}
    for run, config in configs:
        place = (run.data, run.network, run.variant) if several else ()
        columns.setdefault(setting(*place, label(run.method)), []).append(config)
    fields = sorted(set().union(*(config for _, config in configs)))
    differing, same = [], []
    for name in fields:
        texts = [_joined(config.get(name, "—") for config in of_column) for of_column in columns.values()]
        if len({config.get(name, "—") for _, config in configs}) == 1:
            same.append((name, texts[0]))
        elif name not in _PER_RUN:
            differing.append((name, texts))
    return list(columns), differing, same


def commands(study: Study) -> list[tuple[str, list[str]]]:
    """(command, names of the runs that it made): the last command of each workdir, the sweep's own first."""
    found: dict[str, list[str]] = {}
    own = _last_line(study.folder)
    if own and study.kind == "sweep":
        found[own] = ["the whole sweep"]
    for run in study.runs():
        if line := _last_line(run.folder):
            place = setting(run.data, run.network, run.variant) if len(study.experiments) > 1 else ""
            name = ", ".join(filter(None, (place, label(run.method), f"seed {run.seed}")))
            found.setdefault(line, []).append(name)
    return list(found.items())


def versions(runs: Iterable[Run]) -> list[tuple[str, str]]:
    """(what, version) of interpreter, packages, platform and devices; several where runs differ."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        content = run.file("versions.json")
        flat = {name: content[name] for name in ("devices", "platform", "python") if name in content}
        packages = content.get("packages")
        for name, value in {**flat, **(packages if isinstance(packages, dict) else {})}.items():
            found.setdefault(str(name), {})[str(value)] = None
    return [(name, "; ".join(values)) for name, values in found.items()]


def when(runs: Iterable[Run]) -> str:
    """The days on which the runs ended, UTC; "" where none has."""
    ends = []
    for run in runs:
        times = [one["time"] for one in run.records() if "time" in one]
        path = run.folder / SUMMARY
        # A head alone writes no records.
        if times or path.is_file():
            ends.append(max(times) if times else path.stat().st_mtime)
    if not ends:
        return ""
    first, last = (datetime.fromtimestamp(end, UTC).strftime("%-d %B %Y") for end in (min(ends), max(ends)))
    return first if first == last else f"{first} to {last}"


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = _text(value)
    return found


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if value is None or value == "":
        return "not set" if value is None else '""'
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _joined(texts: Iterable[str]) -> str:
    return " | ".join(dict.fromkeys(texts))


def _last_line(folder: Any) -> str:
    path = folder / "command.txt"
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    return next((line for line in reversed(lines) if line.strip()), "")
