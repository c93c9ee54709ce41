"""The paper's figures 2 to 4 for the runs of a sweep, and its recipes', as PNGs in its folder figures/."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from delta_jax.analysis import case_study, curves, drift, pictures, recipes
from delta_jax.workdir import logs

FOLDER = "figures"
Runs = Mapping[str, Sequence[Path]]  # {method: workdirs of its final runs}


def write(
    folder: Path,
    records: Sequence[Mapping[str, Any]],
    variants: Mapping[str, Mapping[str, Any]],
    against: str,
) -> list[Path]:
    """Draws what the final runs have the files for; a sweep that is not done gets the figures of what there is.

    Args:
      folder: of the sweep.
      records: of results.jsonl.
      variants: of the sweep's config; where they differ in the learning rate, their recipes are drawn.
      against: the method that gains are measured on, see `recipes.Grid.against`.

    Returns:
      The pictures: learning-curves-DATA-NETWORK.png (Fig. 2), drift-... (Fig. 3) and maps-... (Fig. 4) of each setting,
      rates-DATA-NETWORK.png and gains-DATA-NETWORK.png over recipes.
    """
    final = [record for record in records if record["kind"] == "final" and not record["error"]]
    places = dict.fromkeys((record["data"], record["network"]) for record in final)
    written: list[Path] = _recipes(folder / FOLDER, records, variants, against)
    for data, network in places:
        own = [record for record in final if (record["data"], record["network"]) == (data, network)]
        by_variant = {
            variant: _by_method(folder, [record for record in own if record["variant"] == variant])
            for variant in dict.fromkeys(record["variant"] for record in own)
        }
        out = folder / FOLDER
        out.mkdir(exist_ok=True)
        written += _drawn(_learning_curves, by_variant, out / f"learning-curves-{data}-{network}.png")
        for variant, runs in by_variant.items():
            name = "-".join(filter(None, (data, network, variant)))
            written += _drawn(_drift, runs, out / f"drift-{name}.png")
            written += _drawn(_maps, runs, out / f"maps-{name}.png")
    return written


def _recipes(
    out: Path, records: Sequence[Mapping[str, Any]], variants: Mapping[str, Mapping[str, Any]], against: str
) -> list[Path]:
    written = []
    for (data, network), grid in recipes.of_records(variants, records).items():
        out.mkdir(exist_ok=True)
        rates, gains = (out / f"{kind}-{data}-{network}.png" for kind in ("rates", "gains"))
        recipes.plot_rates(grid, rates)
        written.append(rates)
        if len(grid.top1) > 1:
            recipes.plot_gains(grid, grid.against(against), gains)
            written.append(gains)
    return written


def _by_method(folder: Path, records: Sequence[Mapping[str, Any]]) -> dict[str, list[Path]]:
    found = defaultdict(list)
    for record in records:
        found[record["method"]].append(folder / record["workdir"])
    return dict(found)


def _drawn(draw: Callable[[Any, Path], bool], what: Any, path: Path) -> Iterator[Path]:
    try:
        if draw(what, path):
            yield path
    except ValueError as error:  # runs of an older sweep, or of which files were removed
        logs.say(f"no {path.name}: {error}")


def _learning_curves(variants: Mapping[str, Runs], path: Path) -> bool:
    panels = {
        variant: {
            method: curves.over_runs([curves.learning_curve(logs.read(workdir)) for workdir in workdirs])
            for method, workdirs in runs.items()
            if any(record["phase"] == "validation" for record in logs.read(workdirs[0]))
        }
        for variant, runs in variants.items()
    }
    panels = {variant: found for variant, found in panels.items() if found}
    # A single look at the validation images is no curve.
    if not any(len(curve.steps) > 1 for found in panels.values() for curve in found.values()):
        return False
    curves.plot(panels, path)
    return True


def _drift(runs: Runs, path: Path) -> bool:
    drifts = {
        method: drift.mean([drift.read(workdir) for workdir in workdirs])
        for method, workdirs in runs.items()
        if method != "l2_fe"
    }
    if drifts:
        drift.plot(drifts, path)
    return bool(drifts)


def _maps(runs: Runs, path: Path) -> bool:
    # The baseline's maps are the source's; one seed of each other method is what the paper shows.
    firsts = [workdirs[0] for method, workdirs in runs.items() if method != "l2_fe"]
    if firsts:
        found = case_study.read(firsts)
        pictures.beside(found.photos, found.columns, path, found.titles)
    return bool(firsts)
