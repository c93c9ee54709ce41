"""The tables of a sweep in the paper's layout: accuracies, comparisons and the strengths that were chosen."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from delta_jax.analysis import published
from delta_jax.analysis.statistics import Comparison, Paired, Summary
from delta_jax.sweeps import choice, comparisons
from delta_jax.sweeps.comparisons import Cell, Findings, Record, Setting
from delta_jax.sweeps.typesetting import Entry, Table, latex, markdown

_NUMBERS = {"table1": "Table 1", "table2": "Table 2"}


def write(folder: Path, records: Sequence[Record], table: str = "", against: str = "") -> None:
    """Writes tables.md, tables.tex and comparisons.json into the folder of a sweep.

    Args:
      folder: of the sweep; each run's predictions.csv is read from its workdir.
      records: of results.jsonl, of a sweep that may be half done.
      table: of the paper, whose numbers stand beside ours: "table1", "table2" or "" for none.
      against: the method that the others are compared with; "" for every two.
    """
    findings = comparisons.find(folder, records, against)
    found = [
        ("Accuracy", accuracies(findings.cells, table)),
        ("Comparisons", differences(findings)),
        ("Variants", variants(findings)),
        ("Strengths", strengths(records)),
        ("Learning curves", convergences(records)),
    ]
    parts = [(title, one) for title, one in found if one.blocks]
    texts = {
        "tables.md": "\n\n".join(f"## {title}\n\n{markdown(one)}" for title, one in parts),
        "tables.tex": "\n\n".join(["% \\usepackage{booktabs}", *(latex(one) for _, one in parts)]),
        "comparisons.json": json.dumps(comparisons.as_dict(findings, table), indent=2),
    }
    for name, text in texts.items():
        # A name of its own: shards of a sweep write the same files.
        unfinished = folder / f".{name}.{os.getpid()}.tmp"
        unfinished.write_text(text + "\n", encoding="utf-8")
        unfinished.replace(folder / name)


def accuracies(cells: Sequence[Cell], table: str) -> Table:
    """Rows are data sets, columns methods, and a block is a network in a variant."""
    names = sorted({cell.method for cell in cells}, key=lambda name: comparisons.place(name, published.METHODS))
    seeds = max((cell.top1.n for cell in cells), default=0)
    blocks: dict[tuple[str, str], dict[str, dict[str, Cell]]] = {}
    for cell in cells:
        block = blocks.setdefault((cell.setting.network, cell.setting.variant), {})
        block.setdefault(cell.setting.data, {})[cell.method] = cell
    found = []
    for (network, variant), by_data in blocks.items():
        title = ", ".join(filter(None, (published.NETWORKS.get(network, network), variant)))
        rows = []
        for data, by_method in by_data.items():
            entries = (_accuracy(by_method.get(name), seeds) for name in names)
            rows.append((Entry(published.DATA_SETS.get(data, data)), *entries))
            theirs = [published.accuracy(table, data, network, name) for name in names]
            if any(theirs):
                numbers = (
                    Entry(f"{100 * one[0]:.1f} ± {100 * one[1]:.1f}" if one else "-", slanted=True) for one in theirs
                )
                rows.append((Entry("as published", slanted=True), *numbers))
        found.append((_header(title, map(_method, names)), tuple(rows)))
    caption = (
        f"Top-1 accuracy on the test images in %, {_seeds(seeds)}; n is the number of runs where there are fewer. "
        "Bold: better than every other method of the row, by the table of comparisons."
    )
    if table in _NUMBERS:
        caption += f" Published: {_NUMBERS[table]} of the paper, over five runs."
    return Table(caption, tuple(found))


def differences(findings: Findings) -> Table:
    """A block for every setting, with a row for every two methods."""
    caption = (
        "Differences of top-1 in percentage points: mean, t interval and number of pairs, over the seeds that both "
        "have, and over the test images, each averaged over the seeds. p is the larger of both paired t tests', after "
        "Holm's correction over all comparisons of a data set and network; the intervals are of the corrected level, "
        "at least 95 %. Better or worse: both intervals exclude zero, with at least three seeds."
    )
    return _compared(
        caption, [(_name(where), one, (_method(one.first), _method(one.second))) for where, one in findings.comparisons]
    )


def variants(findings: Findings) -> Table:
    """A block for every method of a data set and network, with a row for every two of its variants."""
    caption = (
        "Variants of the same method, as methods are compared above, with Holm's correction over all comparisons of "
        "variants of a data set and network."
    )
    return _compared(
        caption,
        [
            (f"{_name(Setting(where.data, where.network, ''))}, {_method(where.method)}", one, (one.first, one.second))
            for where, one in findings.variants
        ],
    )


def strengths(records: Sequence[Record]) -> Table:
    """A row for every method that chose its strength: validation accuracy of each value, mean over the folds."""
    groups: dict[tuple[Setting, str], list[Record]] = {}
    for record in records:
        if record["kind"] == "choice":
            setting = Setting(record["data"], record["network"], record["variant"])
            groups.setdefault((setting, record["method"]), []).append(record)
    chosen = {
        (Setting(one["data"], one["network"], one["variant"]), one["method"]): one["strength"]
        for one in records
        if one["kind"] == "final"
    }
    blocks: dict[Setting, list[tuple[Entry, ...]]] = {}
    for (setting, method), own in groups.items():
        field = next(iter(own[0]["strength"]))
        values = list({json.dumps(one["strength"][field]): one["strength"][field] for one in own}.values())
        tried = choice.tried(own, field, values)
        listed = ", ".join(f"{_value(one.value)}: {_percent(one.top1)}" for one in tried)
        value = chosen.get((setting, method), {}).get(field)
        row = (_method(method), field, "not yet" if value is None else _value(value), listed)
        blocks.setdefault(setting, []).append(tuple(map(Entry, row)))
    folds = max((len({one["fold"] for one in own}) for own in groups.values()), default=0)
    caption = (
        "The strength of each method, chosen on validation images: top-1 of every value in %, mean over the folds "
        f"({folds}). A value with a fold that diverged is not chosen."
    )
    columns = ("field", "chosen", "validation accuracies")
    return Table(caption, tuple((_header(_name(setting), columns), tuple(rows)) for setting, rows in blocks.items()))


def convergences(records: Sequence[Record]) -> Table:
    """A row for every method with runs that looked at validation images while they trained: whether more steps pay.

    Those that served a choice count, too: often they alone have validation images.
    """
    kinds = {"improving": "still improving", "converged": "converged", "worse": "getting worse"}
    kinds["unknown"] = "cannot be told"
    counts: dict[Setting, dict[str, Counter[str]]] = {}
    for record in records:
        if verdict := record.get("convergence"):
            setting = Setting(record["data"], record["network"], record["variant"])
            counts.setdefault(setting, {}).setdefault(record["method"], Counter())[verdict] += 1
    blocks = []
    for setting, by_method in counts.items():
        rows = [
            tuple(map(Entry, (_method(method), *(str(found[kind]) for kind in kinds), str(found.total()))))
            for method, found in by_method.items()
        ]
        blocks.append((_header(_name(setting), (*kinds.values(), "runs")), tuple(rows)))
    caption = (
        "Whether more steps would have paid, by the cross-entropy of the validation images over the steps: runs that "
        "still improved at their end, had converged, or got worse; those that served to choose a strength count, too."
    )
    return Table(caption, tuple(blocks))


def _compared(caption: str, found: Iterable[tuple[str, Comparison, tuple[str, str]]]) -> Table:
    """Of (title of the block, comparison, what its two are called)."""
    blocks: dict[str, list[tuple[Entry, ...]]] = {}
    for title, one, (first, second) in found:
        p = "< 0.001" if one.adjusted_p < 0.001 else f"{one.adjusted_p:.3f}"
        row = (f"{first} against {second}", _interval(one.seeds), _interval(one.images), p, one.verdict)
        blocks.setdefault(title, []).append(tuple(map(Entry, row)))
    columns = ("over seeds", "over images", "p", "verdict")
    return Table(caption, tuple((_header(title, columns), tuple(rows)) for title, rows in blocks.items()))


def _header(title: str, columns: Iterable[str]) -> tuple[Entry, ...]:
    return (Entry(title), *map(Entry, columns))


def _accuracy(cell: Cell | None, seeds: int) -> Entry:
    if cell is None:
        return Entry("-")
    if not cell.top1.n:
        return Entry("diverged" if cell.failed else "-")
    text = _spread(cell.top1) + (f" (n = {cell.top1.n})" if cell.top1.n < seeds else "")
    return Entry(text, bold=cell.best)


def _seeds(count: int) -> str:
    return f"mean ± standard deviation over {count} seeds" if count > 1 else "of one seed"


def _spread(summary: Summary) -> str:
    mean = f"{100 * summary.mean:.1f}"
    return mean if math.isnan(summary.std) else f"{mean} ± {100 * summary.std:.1f}"


def _interval(pair: Paired) -> str:
    if not pair.n:
        return "-"
    text = f"{100 * pair.difference:+.2f}"
    if pair.n > 1:
        text += f" [{100 * pair.low:+.2f}, {100 * pair.high:+.2f}]"
    return f"{text}, {pair.n}"


def _name(setting: Setting) -> str:
    network = published.NETWORKS.get(setting.network, setting.network)
    return ", ".join(filter(None, (published.DATA_SETS.get(setting.data, setting.data), network, setting.variant)))


def _method(name: str) -> str:
    return published.METHODS.get(name, name)


def _percent(value: float) -> str:
    return "diverged" if math.isnan(value) else f"{100 * value:.1f}"


def _value(value: Any) -> str:
    values = value if isinstance(value, (list, tuple)) else [value]
    return " ".join(f"{one:g}" if isinstance(one, (int, float)) else str(one) for one in values)
