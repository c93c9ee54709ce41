"""Many runs in one table: mean and standard deviation over the seeds of each method.

python -m delta_jax.analysis.tables WORKDIR...
"""

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from delta_jax import methods


def read_summaries(workdirs: Iterable[Path]) -> list[dict[str, Any]]:
    """The summary.json of every finished run."""
    return [json.loads(path.read_text()) for path in (Path(w) / "summary.json" for w in workdirs) if path.exists()]


def method_table(summaries: Iterable[Mapping[str, Any]]) -> str:
    """A Markdown table: one row per method, accuracies in %, mean and standard deviation over its runs.

    Raises:
      ValueError: there are no summaries, or they are not of one data set and network.
    """
    by_method: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for summary in summaries:
        by_method[summary["method"]].append(summary)
    kinds = {(s["data"], s["arch"], s["test"]["n"]) for runs in by_method.values() for s in runs}
    if len(kinds) != 1:
        raise ValueError(f"expected runs of one data set and network, got {sorted(kinds) or 'none'}")
    lines = [
        "| method | alpha | runs | validation top-1 | test top-1 | test balanced |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for method in (name for name in methods.names() if name in by_method):
        runs = by_method[method]
        alphas = ", ".join(f"{alpha:.3g}" for alpha in sorted({run["alpha"] for run in runs}))
        cells = [
            _spread([run[split][measure] for run in runs if run[split]])
            for split, measure in (("validation", "top1"), ("test", "top1"), ("test", "balanced_accuracy"))
        ]
        lines.append(f"| {method} | {alphas} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{spread}"


if __name__ == "__main__":
    print(method_table(read_summaries(map(Path, sys.argv[1:]))))
