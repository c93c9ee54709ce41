"""How far fine-tuning moved every convolution filter from the source (section 4.4 of the paper, Fig. 3).

    python -m delta_jax.analysis.drift --out=drift.png WORKDIR...

Runs of one method (several seeds) are one line: the mean distance of each filter over them. The table gives, per stage,
the median distance of each method and the share of its filters that moved farther than the first method's.
"""

import argparse
import itertools
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from delta_jax.analysis import pictures
from delta_jax.workdir import logs

FILE = "drift.json"
COLUMNS = 4  # stages beside each other in the figure
Drift = Mapping[str, np.ndarray]


def filter_drift(source: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Euclidean distance of the parameter vector of every output filter of every convolution from its start.

    Args:
      source: nested parameters of the network before fine-tuning; of a kernel [h, w, c_in, C] the vector of filter j is
        all of [..., j], h * w numbers in a depthwise convolution. What is no such kernel is passed over.
      trained: the same network's after it.

    Returns:
      {module path: float64 [C]}, numbers in the paths in rising order.

    Raises:
      ValueError: the networks have different convolutions, or none.
    """
    before, after = _kernels(source), _kernels(trained)
    shapes = [{name: kernel.shape for name, kernel in kernels.items()} for kernels in (before, after)]
    if shapes[0] != shapes[1] or not before:
        different = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))
        raise ValueError(
            f"source and trained network have different convolutions, such as {different[0]}; give two of one network"
            if different
            else "the networks have no convolutions (kernels of 4 dimensions); expected one at least"
        )
    return {name: _distances(before[name], after[name]) for name in sorted(before, key=_natural)}


def stages(names: Iterable[str]) -> dict[str, str]:
    """{module path: stage} of a network's convolutions.

    The stage is the first part of the path by which convolutions differ, up to its first number: "layer3_22/conv2" is
    of "layer3" (conv4_x of the paper: layer1 to layer4 are conv2_x to conv5_x), "Mixed_6e/branch/conv" of "Mixed_6",
    "block_12/project_conv" of "block_12", "stem_conv" of "stem_conv".
    """
    names = list(names)
    folders = [name.split("/")[:-1] for name in names]
    shared = len(list(itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))))
    return {name: re.split(r"(?<=\d)(?!\d)", name.split("/")[shared])[0] for name in names}


def by_stage(drift: Drift) -> dict[str, np.ndarray]:
    """{stage: the distances of all its filters, the largest first}."""
    stage_of, found = stages(drift), defaultdict(list)
    for name, distances in drift.items():
        found[stage_of[name]].append(distances)
    return {stage: np.sort(np.concatenate(parts))[::-1] for stage, parts in found.items()}


def share_farther(drift: Drift, other: Drift) -> dict[str, float]:
    """Which share of the filters moved farther in `drift` than the same filter did in `other`; by stage, and "all".

    The paper finds about 90 % for DELTA and L2-SP.

    Raises:
      ValueError: they are not of one network.
    """
    shapes = [{name: distances.shape for name, distances in one.items()} for one in (drift, other)]
    if shapes[0] != shapes[1]:
        different = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))
        raise ValueError(f"the distances are of two networks, which differ in {different[0]}; expected one network")
    stage_of, farther = stages(drift), defaultdict(list)
    for name, distances in drift.items():
        for group in ("all", stage_of[name]):
            farther[group].append(distances > other[name])
    return {group: float(np.concatenate(parts).mean()) for group, parts in farther.items()}


def mean(drifts: Sequence[Drift]) -> dict[str, np.ndarray]:
    """Of each filter over several runs of one network."""
    return {name: np.mean([one[name] for one in drifts], axis=0) for name in drifts[0]}


def record(drift: Drift) -> dict[str, Any]:
    """The content of drift.json: {"layers": [{"name", "stage", "distance"}, ...]}, distances with 4 digits."""
    stage_of = stages(drift)
    return {
        "layers": [
            {"name": name, "stage": stage_of[name], "distance": [float(f"{one:.4g}") for one in distances]}
            for name, distances in drift.items()
        ]
    }


def read(workdir: Path) -> dict[str, np.ndarray]:
    """What `record` wrote into a run's workdir.

    Raises:
      ValueError: there is none.
    """
    path = Path(workdir) / FILE
    if not path.exists():
        raise ValueError(
            f"{path} is not there: a run of delta_jax.train writes it at its end, but not for l2_fe, whose "
            "convolutions stay where they are; leave this workdir out, or finish the run"
        )
    return {one["name"]: np.array(one["distance"], np.float64) for one in json.loads(path.read_text())["layers"]}


def plot(drifts: Mapping[str, Drift], path: str | Path) -> None:
    """Draws Fig. 3 as a PNG: one panel per stage, distances in falling order, one line per method.

    A stage of a single convolution, such as the stem, has no panel unless there are no others.

    Args:
      drifts: {method: {module path: [C]}}, all of one network.
      path: of the picture; its folder exists.
    """
    layers = list(stages(next(iter(drifts.values()))).values())
    shown = [stage for stage in dict.fromkeys(layers) if layers.count(stage) > 1] or list(dict.fromkeys(layers))
    sorted_distances = {method: by_stage(drift) for method, drift in drifts.items()}
    rows, columns = -(-len(shown) // COLUMNS), min(len(shown), COLUMNS)
    figure = Figure(figsize=(3.2 * columns + 0.6, 2.7 * rows + 0.4), layout=ConstrainedLayoutEngine())
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, stage in zip(grid.flat, shown, strict=False):
        for method, distances in sorted_distances.items():
            axes.plot(np.arange(1, len(distances[stage]) + 1), distances[stage], label=method, lw=1.4)
        axes.set_title(stage, fontsize=9, parse_math=False)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    for axes in grid[-1]:
        axes.set_xlabel("filters, the farthest first", fontsize=8)
    for row in grid:
        row[0].set_ylabel("distance from the start", fontsize=8)
    grid[0, 0].legend(fontsize=8)
    pictures.save(figure, path)


def main(arguments: Sequence[str]) -> None:
    """Draws the figure and prints the table of some workdirs."""
    parser = argparse.ArgumentParser(prog="delta_jax.analysis.drift", description="How far filters moved (Fig. 3).")
    parser.add_argument("workdirs", nargs="+", type=Path, help="of finished runs on one network")
    parser.add_argument("--out", type=Path, default=Path("drift.png"), help="picture to write")
    given = parser.parse_args(arguments)
    runs = defaultdict(list)
    try:
        for workdir in given.workdirs:
            runs[json.loads((workdir / "summary.json").read_text())["method"]].append(read(workdir))
        drifts = {method: mean(of_method) for method, of_method in runs.items()}
        first = next(iter(drifts))
        shares = {method: share_farther(drift, drifts[first]) for method, drift in drifts.items()}
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    medians = {
        method: {"all": np.concatenate(list(drift.values())), **by_stage(drift)} for method, drift in drifts.items()
    }
    rows = [
        [group, *(f"{np.median(medians[method][group]):.3g}, {shares[method][group]:.1%}" for method in drifts)]
        for group in shares[first]
    ]
    logs.table(f"median distance of filters, and share farther than {first}", ["stage", *drifts], rows)
    plot(drifts, given.out)
    logs.say(f"  {given.out}")


def _kernels(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    leaves = flatten_dict(params, sep="/")
    return {
        name.rpartition("/")[0]: leaf
        for name, leaf in leaves.items()
        if name.rpartition("/")[2] == "kernel" and np.ndim(leaf) == 4
    }


def _distances(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    change = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    return np.sqrt(np.square(change).sum((0, 1, 2)))


def _natural(name: str) -> list[tuple[int, str]]:
    """A key by which layer1_2 comes before layer1_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


if __name__ == "__main__":
    main(sys.argv[1:])
