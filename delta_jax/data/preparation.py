"""One of the paper's data sets, from its published files to records on this machine."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from delta_jax import downloads
from delta_jax.data import originals
from delta_jax.data.errors import DataError

_SHOWN_CONFIGS = 8


@dataclass(frozen=True)
class Prepared:
    """What is there now.

    Attributes:
      name: with config and version, as --config.data.name takes it after "tfds/".
      folder: of the records.
      fetched: folder of the published files; once all configs wanted are prepared it may be deleted.
      classes: how many.
      counts: {split: images}.
      licence: of the images.
      homepage: address.
      citation: what to cite.
      remarks: images that are not what their names say, and what was done; only from the call that prepared them.
    """

    name: str
    folder: Path
    fetched: Path
    classes: int
    counts: dict[str, int]
    licence: str
    homepage: str
    citation: str
    remarks: tuple[str, ...] = ()


def prepare(
    name: str,
    *,
    data_dir: str = "",
    manual_dir: str = "",
    on_fetch: downloads.Progress | None = None,
    on_image: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Fetches, verifies and prepares a data set, unless that was done before.

    Interrupted at any moment and called again, it goes on fetching where it stopped, prepares from the start, and ends
    with the same files.

    Args:
      name: "caltech256/l2sp-30", "mit_indoor67", ...; without a config the first one.
      data_dir: where to; "" for tfds' own default, $TFDS_DATA_DIR or ~/tensorflow_datasets.
      manual_dir: a folder that holds all of the published files; then none is fetched.
      on_fetch: called with the bytes so far and in all of each file.
      on_image: called with the images so far and in all.

    Raises:
      DataError: unknown name, files that cannot be had or are not the published ones, no room; with a way out.
    """
    import tensorflow_datasets as tfds

    from delta_jax.data import builders

    base, _, config = name.removeprefix("tfds/").partition("/")
    if base not in builders.BUILDERS:
        near = difflib.get_close_matches(base, builders.BUILDERS, n=1)
        raise DataError(
            f"no data set to prepare is called {base!r}; {f'did you mean {near[0]}? ' if near else ''}"
            f"Names: {', '.join(builders.BUILDERS)}"
        )
    known = list(builders.BUILDERS[base].builder_configs)
    if config and config not in known:
        shown = ", ".join(known[:_SHOWN_CONFIGS]) + (", ..." if len(known) > _SHOWN_CONFIGS else "")
        raise DataError(
            f"{base} has no config {config!r}; " + (f"configs: {shown}" if known else f"its name is {base}")
        )

    builder = builders.BUILDERS[base](
        config=config or None, data_dir=str(Path(data_dir).expanduser()) if data_dir else None
    )
    if not builder.info.splits:
        by_hand = Path(manual_dir).expanduser() if manual_dir else None
        if by_hand:
            originals.check_manual(builder.ORIGINALS, by_hand)
        builder.on_fetch, builder.on_image = on_fetch, on_image
        tfds.disable_progress_bar()  # two bars at a time; on_image says the same
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=by_hand, try_download_gcs=False)
        )
    info = builder.info
    return Prepared(
        name=info.full_name,
        folder=Path(builder.data_dir),
        fetched=builder.fetched_dir(Path(builder.data_dir_root) / "downloads"),
        classes=info.features["label"].num_classes,
        counts={split: part.num_examples for split, part in info.splits.items()},
        licence=info.redistribution_info.license,
        homepage=info.homepage,
        citation=info.citation,
        remarks=tuple(builder.remarks),
    )
