"""Shows a network before it is run: parameters, taps, FLOPs, memory of a training step. Without a name, lists all.

    python -m delta_jax.describe [NAME] [--size=224] [--batch=64] [--classes=1000] [--json]

NAME may be package.module:function, too. Nothing is computed or downloaded.
"""

import dataclasses
import json
import sys
from functools import partial

from absl import app, flags

from delta_jax import command_line, models, processes
from delta_jax.analysis.overview import Overview, overview
from delta_jax.workdir import logs

_SIZE = flags.DEFINE_integer(
    "size", None, "Height and width of the images, pixels; as the network was trained if not given.", lower_bound=1
)
_BATCH = flags.DEFINE_integer("batch", 64, "Images per training step.", lower_bound=1)
_CLASSES = flags.DEFINE_integer("classes", 1000, "Outputs of the head.", lower_bound=1)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object instead of tables.")


def main(argv: list[str]) -> None:
    """Prints what shapes tell of the network, or the networks there are."""
    processes.set_up_process()
    if len(argv) > 2:
        sys.exit(f"error: expected one network, got {' '.join(argv[1:])}")
    if len(argv) == 1:
        _list()
        return
    try:
        found = overview(argv[1], size=_SIZE.value, num_classes=_CLASSES.value, batch=_BATCH.value)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if _JSON.value:
        print(json.dumps(dataclasses.asdict(found)))
    else:
        _show(found)


def _list() -> None:
    specs = [models.spec(name) for name in models.names()]
    if _JSON.value:
        print(
            json.dumps({spec.name: {"size": spec.input_size, "head": spec.head, "taps": spec.taps} for spec in specs})
        )
        return
    rows = [[spec.name, spec.input_size, spec.head, ", ".join(spec.taps)] for spec in specs]
    logs.table("networks; your own: package.module:function", ["name", "pixels", "head", "default taps"], rows)


def _show(found: Overview) -> None:
    parameters, memory = sum(found.parameters.values()), found.memory
    rows = [
        ["parameters", f"{parameters:,}"],
        ["running statistics", f"{found.statistics:,}"],
        ["head", f"{found.head}, {found.features:,} features to {found.num_classes:,} classes"],
        ["forward pass of an image", f"{found.flops / 1e9:.3g} GFLOP ({found.flops / 2e9:.3g} G multiply-adds)"],
    ]
    logs.table(f"{found.arch} at {found.size} px", ["of the network", "value"], rows)
    rows = [[what, f"{size / 1e6:,.1f}"] for what, size in [*memory.items(), ("in all", sum(memory.values()))]]
    logs.table(
        f"\nmemory of a training step of {found.batch} images; estimated before XLA reuses some of it",
        ["of", "MB"],
        rows,
    )
    rows = [[name, f"{number:,}"] for name, number in found.parameters.items()]
    logs.table("\nparameters", ["module", "number"], rows)
    rows = [
        [tap, " x ".join(map(str, shape)), "default" if tap in found.default_taps else ""]
        for tap, shape in found.taps.items()
    ]
    logs.table("\ntaps", ["path", "shape for an image", ""], rows)


if __name__ == "__main__":
    app.run(main, flags_parser=partial(command_line.parse, positional=True))
