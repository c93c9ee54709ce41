"""What the builders of the paper's data sets share: TensorFlow Datasets without tensorflow."""

import errno
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from delta_jax import downloads
from delta_jax.data import originals
from delta_jax.data.builders.encoded import storable
from delta_jax.data.errors import DataError
from delta_jax.data.images import BrokenImageError

_log = logging.getLogger(__name__)

Splits = Mapping[str, Mapping[str, Mapping[str, Any]]]
_MAX_LISTED = 10


@dataclass(frozen=True)
class Plan:
    """What the published files turn into.

    Attributes:
      class_names: in the order of the labels.
      splits: {split: {name of the image: {feature: value}}}, all features but "image" and "file".
      read: gives (name, encoded bytes) for each of the names given, in any order.
    """

    class_names: list[str]
    splits: Splits
    read: Callable[[Iterable[str]], Iterator[tuple[str, bytes]]]


class ImageSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A data set of published files.

    Images are stored as published, in array_record: any of them can be read by number, without tensorflow. Subclasses
    say what files there are and how to read them (`_plan`), and how many images that has to give.
    """

    ORIGINALS: ClassVar[tuple[originals.Original, ...]] = ()
    CLASSES: ClassVar[int]  # of all configs; see `classes`
    COUNTS: ClassVar[dict[str, dict[str, int]]]  # {config or "": {split: images}}, as published
    CHANNELS: ClassVar[int] = 3

    # Allows tfds' manual_dir.
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Any of the published files, by its own name: what is not there is fetched."
    # tfds would look for a file with hashes beside this one, by a package that may not be installed.
    url_infos = None
    pkg_dir_path = None

    def __init__(self, *, file_format: str | None = None, **kwargs: Any):
        super().__init__(file_format=file_format, **kwargs)
        if file_format is None and not self.info.splits:
            self.info.set_file_format("array_record", override=True)
        self.remarks: list[str] = []  # of the last preparation: images that are not what their names say
        self.on_fetch: downloads.Progress | None = None
        self.on_image: Callable[[int, int], None] | None = None  # images so far and in all

    def _plan(self, paths: dict[str, Path]) -> Plan:
        """From {name of an original: its path}."""
        raise NotImplementedError

    def _classes(self) -> int:
        """How many classes this config has."""
        return self.CLASSES

    def _counts(self) -> dict[str, int]:
        """{split: images} of this config."""
        return self.COUNTS[self.builder_config_name or ""]

    def _dataset_info(
        self, description: str, homepage: str, citation: str, licence: str, **features: Any
    ) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=description,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, self.CHANNELS)),
                    "label": tfds.features.ClassLabel(num_classes=self._classes()),
                    "file": tfds.features.Text(),
                    **features,
                }
            ),
            supervised_keys=("image", "label"),
            homepage=homepage,
            citation=citation,
            redistribution_info={"license": licence},
        )

    def download_and_prepare(self, **kwargs: Any) -> None:
        """As in tfds, by one process at a time; what a killed one left behind is removed.

        Raises:
          DataError: files that cannot be had or are not the published ones; no room.
        """
        target = Path(self.data_dir)
        try:
            with downloads.locked(target):
                if target.exists():
                    self.info.read_from_directory(str(target))
                    return
                for left in target.parent.glob(f"incomplete.*_{target.name}"):
                    shutil.rmtree(left)
                config = kwargs.get("download_config")
                self._check_space(
                    self.fetched_dir(Path(kwargs.get("download_dir") or Path(self.data_dir_root) / "downloads")),
                    Path(config.manual_dir) if config and config.manual_dir else None,
                )
                super().download_and_prepare(**kwargs)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DataError(
                    f"the disk of {target.parent} is full; make room, or choose another folder (--data_dir), and run "
                    "the same again: nothing half-written is left, and what was fetched is kept"
                ) from error
            raise DataError(
                f"{error.filename or target.parent} cannot be written ({error.strerror or error}); choose another "
                "folder with --data_dir"
            ) from error

    def fetched_dir(self, download_dir: Path) -> Path:
        """Where the published files lie within the folder for those of all data sets."""
        return download_dir / self.name

    def _check_space(self, fetched_dir: Path, manual_dir: Path | None) -> None:
        # tfds writes the images twice: sorted into buckets, then into their final files.
        target = Path(self.data_dir_root)
        stored = 2 * sum(file.megabytes for file in self.ORIGINALS)
        folders = [fetched_dir, *([manual_dir] if manual_dir else [])]
        fetched = sum(
            file.megabytes for file in self.ORIGINALS if not any((folder / file.name).exists() for folder in folders)
        )
        target.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target).free / 1e6
        if stored + fetched > free:
            raise DataError(
                f"{self.info.full_name} needs {stored + fetched:,.0f} MB in {target} ({fetched:,.0f} to fetch, "
                f"{stored:,.0f} to prepare), and {free:,.0f} MB are free; make room there or choose another "
                "folder with --data_dir"
            )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[str, Any]]]:
        paths = originals.obtain(
            self.ORIGINALS,
            self.fetched_dir(Path(dl_manager.download_dir)),
            _manual_dir(dl_manager),
            self.on_fetch,
        )
        plan = self._plan(paths)
        self._check_counts(plan)
        self.info.features["label"].names = plan.class_names
        self.remarks = []
        return {split: self._generate_examples(plan, split) for split in plan.splits}

    def _check_counts(self, plan: Plan) -> None:
        """Before any image is read."""
        found = {"classes": len(plan.class_names)} | {split: len(rows) for split, rows in plan.splits.items()}
        expected = {"classes": self._classes()} | self._counts()
        if found != expected:
            texts = [", ".join(f"{name} {count:,}" for name, count in c.items()) for c in (found, expected)]
            files = ", ".join(file.name for file in self.ORIGINALS) or "the package"
            raise DataError(
                f"{self.info.full_name}: found {texts[0]}; expected, as published: {texts[1]}. {files} must have "
                "changed or be incomplete: delete what was fetched and get it again"
            )

    def _generate_examples(self, plan: Plan, split: str) -> Iterator[tuple[str, Any]]:
        rows, broken = plan.splits[split], []
        before = sum(len(plan.splits[name]) for name in list(plan.splits)[: list(plan.splits).index(split)])
        total = sum(map(len, plan.splits.values()))
        for done, (name, data) in enumerate(plan.read(rows), start=before + 1):
            shown = _printable(name)
            try:
                stored, remark = storable(data, name)
            except BrokenImageError as error:
                broken.append(f"{shown} ({error})")
                continue
            if remark:
                self.remarks.append(f"{shown}: {remark}")
                _log.info("%s: %s", shown, remark)
            if self.on_image:
                self.on_image(done, total)
            yield shown, {"image": stored, "file": shown, **rows[name]}
        if broken:
            more = f" and {len(broken) - _MAX_LISTED:,} more" if len(broken) > _MAX_LISTED else ""
            raise DataError(
                f"{len(broken):,} images of {self.info.full_name} cannot be decoded: {', '.join(broken[:_MAX_LISTED])}"
                f"{more}; get the archive again"
            )

    # tfds prints both in bold, sizes unknown.
    def _log_download_bytes(self) -> None: ...

    def _log_download_done(self) -> None: ...


def _manual_dir(dl_manager: tfds.download.DownloadManager) -> Path | None:
    try:
        return Path(dl_manager.manual_dir)
    except AssertionError:  # not given, and the default one is not there
        return None


def text_lines(data: bytes) -> list[str]:
    """The lines of a published list that are not empty; bytes that are not UTF-8 as tarfile gives those of names."""
    return [line.strip() for line in data.decode("utf-8", "surrogateescape").splitlines() if line.strip()]


def _printable(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
