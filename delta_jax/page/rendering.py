"""From what was read to the page: everything that the template shows, and nothing that it has to work out."""

import json
import math
import os
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from delta_jax.page import confusions, images, naming, plots, reading, recipes, repeat, results, series, trials
from delta_jax.page.plots import Chart
from delta_jax.page.reading import SUMMARY, Experiment, Run, Study

PAGE = "report.html"
MOST_OPEN = 3  # experiments shown unfolded
MOST_CHARTS = 8  # of stages or taps shown unfolded


def write(folder: Path, path: Path | None = None) -> Path:
    """Writes the page of a sweep's folder, a workdir, or a folder of workdirs.

    Args:
      folder: what delta_jax.sweep or delta_jax.train wrote, finished or not.
      path: of the page; folder/report.html if not given.

    Returns:
      Where the page is.

    Raises:
      PageError: the folder holds no runs.
      OSError: the page cannot be written.
    """
    study = reading.read(folder)
    path = Path(folder) / PAGE if path is None else Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # Names of files and classes need not be UTF-8; the page has to be.
    unfinished.write_text(render(study), encoding="utf-8", errors="replace")
    unfinished.replace(path)
    return path


def render(study: Study) -> str:
    """The page as text."""
    own = files("delta_jax.page")
    columns, differing, same = repeat.settings(study.runs())
    tried = trials.table(study) if study.kind == "search" else []
    return _template().render(
        style=Markup(own.joinpath("style.css").read_text(encoding="utf-8")),
        script=Markup(own.joinpath("script.js").read_text(encoding="utf-8")),
        title=_title(study),
        lead=_lead(study),
        notes=[*study.notes, *_unfinished(study)],
        failures=results.failures(study),
        study=study,
        small=bool(study.settings.get("small")),
        facts=_facts(study),
        experiments=[_content(study, one, f"e{i}") for i, one in enumerate(study.experiments)],
        unfolded=len(study.experiments) <= MOST_OPEN,
        methods=list(dict.fromkeys(m for one in study.experiments for m in (*one.runs, *one.choices))),
        columns=columns,
        differing=differing,
        same=same,
        commands=repeat.commands(study),
        # That of a sweep makes all its runs.
        shown_commands=1 if study.kind == "sweep" else 3,
        finals=len(study.runs()),
        versions=repeat.versions(study.runs()),
        words=study.settings.get("words", ""),
        recipes=recipes.of(study),
        trials=tried,
        trial_charts=trials.charts(tried),
    )


def _content(study: Study, experiment: Experiment, prefix: str) -> dict[str, Any]:
    """All about one data set, network and variant."""
    rows, scale = results.table(study, experiment)
    confused = confusions.of(experiment)
    curves = series.learning_curves(experiment, prefix)
    return {
        "id": prefix,
        "name": naming.setting(experiment.data, experiment.network, experiment.variant),
        "experiment": experiment,
        "methods": list(dict.fromkeys([*experiment.runs, *experiment.choices])),
        "rows": rows,
        "by_method": {row.method: row for row in rows},
        "seeds": max((row.top1.n for row in rows if row.top1), default=0),
        "with_paper": any(row.paper for row in rows),
        "with_alpha": any(row.alpha is not None for row in rows),
        "with_validation": any(row.validation for row in rows),
        "scale": scale,
        "comparisons": results.comparisons(study, experiment),
        "variants": results.variants(study, experiment),
        "better": results.superior(study, experiment),
        "gains": results.gains(study, experiment),
        "test_images": max((run.test.get("n") or 0 for run in experiment.finished()), default=0),
        "curves": curves,
        "convergences": results.convergences(experiment),
        "with_validation_curve": any(chart.id.endswith("validation-top1") for chart in curves),
        "drift": series.drift(experiment, prefix),
        "farther": series.farther(experiment, "delta", "l2_sp"),
        "attention": series.attention(experiment, prefix),
        "strengths": [
            (method, chart, series.chosen(experiment, method)) for method, chart in series.strengths(experiment, prefix)
        ],
        "gallery": images.gallery(experiment),
        "mistakes": images.mistakes(experiment),
        "confusions": confused,
        "as_matrix": all(len(one.classes) <= confusions.MOST_CLASSES for one in confused.values()),
    }


def _title(study: Study) -> str:
    if study.kind == "sweep":
        return str(study.settings.get("title") or study.settings.get("name") or "A sweep of delta_jax")
    experiment = study.experiments[0]
    if study.kind in ("run", "search"):
        return f"{naming.label(next(iter(experiment.runs)))} on {naming.setting(experiment.data)}"
    return f"Runs on {', '.join(dict.fromkeys(naming.setting(one.data) for one in study.experiments))}"


def _lead(study: Study) -> str:
    """What was run, in a sentence or two."""
    runs = study.runs()
    if not runs:
        return "No final run has finished yet."
    if study.kind in ("run", "search") and runs[0].test:
        return _lead_of_run(runs[0])
    methods = [naming.label(name) for name in dict.fromkeys(run.method for run in runs)]
    finished = sum(bool(run.test) for run in runs)
    seeds = len({run.seed for run in runs})
    data, networks = (
        ", ".join(dict.fromkeys(naming.setting(getattr(run, key)) for run in runs)) for key in ("data", "network")
    )
    counted = naming.plural(finished, "finished run")
    seconds = sum(
        run.seconds for one in study.experiments for g in (one.runs, one.choices) for rs in g.values() for run in rs
    )
    who = f"{methods[0]}" if len(methods) == 1 else f"{', '.join(methods[:-1])} and {methods[-1]}"
    return (
        f"{who} on {data}, with {networks}: {counted}, {naming.plural(seeds, 'seed')}, "
        f"{naming.duration(seconds)} of computing in all."
    )


def _lead_of_run(run: Run) -> str:
    baseline = (run.file(SUMMARY).get("l2_fe") or {}).get("test") or {}
    beside = ""
    if run.method != "l2_fe" and baseline.get("top1") is not None:
        beside = f" A new head on the frozen source network ({naming.label('l2_fe')}) reaches {baseline['top1']:.1%}."
    where = f"{naming.setting(run.data)}, with {naming.setting(run.network)} and seed {run.seed},"
    said = (
        f"{naming.label(run.method)} on {where} classifies {run.test['top1']:.1%} of the test images "
        f"correctly.{beside} It took {naming.duration(run.seconds)}."
    )
    return said.replace("%", "\u202f%")  # a narrow space before it


def _facts(study: Study) -> list[tuple[str, str]]:
    """What a reader wants to know before the numbers."""
    runs = study.runs()
    summaries = [(run, run.file(SUMMARY)) for one in study.experiments for run in one.finished()[:1]]
    sizes = []
    for run, summary in summaries:
        images, classes = run.test.get("n"), len(summary.get("classes") or ())
        counts = [
            naming.plural(images, "test image") if images else "",
            naming.plural(classes, "class") if classes else "",
        ]
        sizes.append([naming.setting(run.data), *counts])
    found = {name: text for name, text in repeat.versions(runs) if name in ("devices", "jax", "delta_jax")}
    facts = [
        (
            "Data",
            "; ".join(dict.fromkeys(", ".join(filter(None, size)) for size in sizes))
            or ", ".join(sorted({r.data for r in runs})),
        ),
        ("Network", ", ".join(dict.fromkeys(naming.setting(run.network) for run in runs))),
        ("Preset", ", ".join(dict.fromkeys(str(s["preset"]) for _, s in summaries if "preset" in s))),
        ("Trained on", found.get("devices", "")),
        ("With", ", ".join(f"{name} {found[name]}" for name in ("delta_jax", "jax") if name in found)),
        ("When", repeat.when(runs)),
    ]
    return [(name, text) for name, text in facts if text]


def _unfinished(study: Study) -> list[str]:
    expected, done = results.expected_runs(study.settings), sum(bool(run.test) for run in study.runs())
    if expected and done < expected:
        return [f"{done} of {expected} final runs have numbers; what follows is made of those."]
    return []


def _spread(charts: list[Chart]) -> tuple[list[Chart], list[Chart]]:
    """Eight of many pictures, from the first to the last, and the rest."""
    count = len(charts)
    shown = (
        {round(i * (count - 1) / (MOST_CHARTS - 1)) for i in range(MOST_CHARTS)}
        if count > MOST_CHARTS
        else set(range(count))
    )
    return [charts[i] for i in sorted(shown)], [chart for i, chart in enumerate(charts) if i not in shown]


def _percent(value: float | None, digits: int = 1) -> str:
    return "" if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f}"


def _json(value: Any) -> Markup:
    """For a script element: JSON in which no text can end the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("delta_jax.page", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "script_json": _json,
        "label": naming.label,
        "colour": naming.colour,
        "slug": naming.slug,
        "plural": naming.plural,
        "duration": naming.duration,
        "number": plots.number,
        "spread": _spread,
        "finite": lambda value: value is not None and math.isfinite(value),
    }
    environment.globals |= {
        "width": plots.WIDTH,
        "height": plots.HEIGHT,
        "left": plots.LEFT,
        "right": plots.WIDTH - plots.RIGHT,
        "top": plots.TOP,
        "bottom": plots.HEIGHT - plots.BOTTOM,
    }
    return environment.get_template("page.html")
