"""What the phases of a run work with, put together and checked before anything slow starts."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import numpy as np
from ml_collections import FrozenConfigDict

from delta_jax import data, processes, weights
from delta_jax.processes import sharding
from delta_jax.training import checks, evaluation, length, steps
from delta_jax.training.config import ConfigError, origin_of_preprocessing
from delta_jax.training.image_sets import ImageSet
from delta_jax.training.programs import Programs
from delta_jax.training.state import Variables
from delta_jax.workdir import logs


class Setup(Programs):
    """Network, source, method and data of a resolved config.

    Attributes:
      catalogue: the data set; images are decoded when one is first asked for.
      asked: the config as it was given; that of the run has numbers where it leaves them to the images.
    """

    def __init__(self, config: FrozenConfigDict, *, images: data.Catalogue | None = None, trains: bool = True):
        """Finds data and weights and checks them against the config.

        Args:
          config: resolved.
          images: in place of those that the config speaks of.
          trains: False for a network that is only measured: no training images are needed.

        Raises:
          ConfigError, DataError, WeightsError: one error that says what does not fit.
        """
        mesh = sharding.make_mesh()
        checks.batches_divide(config, mesh)
        self._trains = trains
        self.asked = config
        self.catalogue = found(config) if images is None else images
        if self._trains:
            checks.counts(config, self.catalogue)
            config = length.settled(config, len(self.catalogue.rows("train")))
        super().__init__(config, mesh, len(self.catalogue.class_names))
        # Last: of many images it takes minutes, the first time.
        self.catalogue = identified(self.catalogue, config)
        self.preprocessing = dataclasses.replace(self.preprocessing, white=self._white())

    def _variables(self) -> Variables:
        config = self.config
        remarks: list[str] = []
        with logs.transfer("fetching weights", "kB", 1000) as progress:
            loaded = weights.load(
                config.weights,
                config.arch,
                self.num_classes,
                auxiliary=self.trains_auxiliary,
                progress=progress,
                say=remarks.append,
            )
        for line in filter(None, (*remarks, origin_of_preprocessing(config))):
            logs.say(line)
        return sharding.replicate(loaded, self.mesh)

    def _source_head(self) -> dict[str, np.ndarray]:
        config = self.config
        head = weights.load_head(config.weights, config.arch)
        if head is None:
            raise ConfigError(
                f"--config.method={config.method}: it needs the classifier that the source was trained with, and "
                f"{config.weights} has none that fits {config.arch}; take weights with their head, or another method"
            )
        return head

    def _white(self) -> int | None:
        """The value that shows white in images of more than 8 bits a sample, see `data.choose_white`."""
        with ExitStack() as stack:
            advance = _when_used(stack, len(self.catalogue), "look at images")
            found = data.survey(self.catalogue, self.cache_dir, progress=advance)
        given = self.config.data.get("white")
        try:
            white, remarks = data.choose_white(found, self.catalogue.files, given)
        except data.UnknownWhiteError as error:
            if self._trains:
                raise
            # To test a network on other images: what shows white was settled when it was trained.
            white = given
            remarks = [f"warning: {error.found}, as the network was trained on: scale them to that, or they stay dark"]
        if self._trains and given is not None and not any(one.depth for one in found.values()):
            logs.say(f"--config.data.white={given} has no effect: no image has more than 8 bits a sample")
        for remark in (*remarks, data.describe_pages(self.catalogue, found)):
            if remark:
                logs.say(remark)
        return white

    @property
    def cache_dir(self) -> Path:
        """For what runs share: decoded images, gaps of the attention."""
        return cache_dir(self.config)

    def warn_of_leaks(self) -> None:
        """Says which images have the same bytes as one of another split, or of another class."""
        if leaks := data.find_leaks(self.catalogue):
            logs.say(data.describe_leaks(self.catalogue, leaks))
        if pairs := data.find_contradictions(self.catalogue.contents, self.catalogue.labels):
            logs.say(data.describe_contradictions(self.catalogue, pairs))

    @cached_property
    def images(self) -> data.Images:
        """The decoded images; the first use decodes them, or opens what an earlier run decoded."""
        settings = self.config.data
        with ExitStack() as stack:
            images = data.decode(
                self.catalogue,
                settings.resize,
                interpolation=settings.interpolation,
                aspect=settings.aspect,
                white=self.preprocessing.white,
                cache_dir=self.cache_dir,
                on_broken=settings.on_broken,
                progress=_when_used(stack, len(self.catalogue), "decode"),
            )
        for file, reason in images.broken:
            logs.say(f"left out: {file}: {reason}")
        if self._trains:
            checks.counts(self.config, images.catalogue)  # fewer than were listed, where broken ones were left out
            absent = data.absent(images.catalogue.split, images.catalogue.labels, images.catalogue.class_names)
            for line in set(absent) - set(self.catalogue.notes):
                logs.say(line)
            if (brightest := images.brightest()) < data.DARK:
                logs.say(
                    f"warning: no pixel of all images is above {brightest} of 255, so they are nearly black; if "
                    "their files are of fewer bits than 8 (labels, masks), scale the values first"
                )
        if settings.near_doubles and processes.is_first():
            with logs.progress(len(images.catalogue), "compare small grey versions") as bar:
                doubles = data.find_near_doubles(images, progress=bar.advance)
            if doubles:
                logs.say(data.describe_near_doubles(images.catalogue, doubles))
        return images

    @cached_property
    def train(self) -> ImageSet:
        """The training images."""
        return self._split("train")

    @property
    def label_weights(self) -> np.ndarray | None:
        """[K] for a loss in which every class has the same part; None where classes count as they come."""
        if self.config.imbalance == "ignore":
            return None
        return steps.class_weights(self.train.labels, self.num_classes)

    @cached_property
    def validation(self) -> ImageSet:
        """The validation images; may be empty."""
        return self._split("validation")

    @cached_property
    def test(self) -> ImageSet:
        """The test images."""
        return self._split("test")

    def _split(self, name: str) -> ImageSet:
        return ImageSet(self.images, name, self.mesh, on_device=self.config.data.on_device)

    def place(self, variables: Variables) -> Variables:
        """The variables on every device."""
        return sharding.replicate(variables, self.mesh)

    def probabilities(self, variables: Variables, images: ImageSet, description: str = "") -> np.ndarray:
        """[M, K] for the M images of a split, in order."""
        found = []
        with logs.progress(len(images), description or "evaluate") as bar:
            for _, mask, batch in images.batches(self.config.eval_batch_size):
                kept = int(mask.sum())
                found.append(sharding.on_host(self.predict(variables, batch["image"]))[:kept])
                bar.advance(kept)
        return np.concatenate(found) if found else np.zeros((0, self.num_classes), np.float32)

    def measures(self, variables: Variables, images: ImageSet, description: str = "") -> dict[str, float]:
        """`evaluation.score` of a split; {} for an empty one."""
        if not len(images):
            return {}
        return evaluation.score(self.probabilities(variables, images, description), images.labels)


def cache_dir(config: FrozenConfigDict) -> Path:
    """The folder for what runs share."""
    chosen = config.data.cache_dir or os.environ.get("DELTA_JAX_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "delta_jax"


def found(config: FrozenConfigDict) -> data.Catalogue:
    """The data set with its splits, drawn where it brings none along."""
    settings = config.data
    return data.find(
        settings.name,
        root=settings.root,
        seed=settings.split_seed,
        validation_fraction=settings.validation_fraction,
        test_fraction=settings.test_fraction,
        fold=settings.validation_fold,
        shots=settings.shots,
        train_fraction=settings.train_fraction,
        # Runs of earlier versions have no such fields in their workdir.
        split_column=settings.get("split_column", ""),
        group=settings.get("group", ""),
        image_column=settings.get("image_column", ""),
        label_column=settings.get("label_column", ""),
    )


def found_again(config: FrozenConfigDict, class_names: Sequence[str], *, more_classes: bool = False) -> data.Catalogue:
    """The data set as it is now, with contents, for a run that has its split: of one's own images none is drawn.

    Args:
      config: of the run, resolved.
      class_names: of the run.
      more_classes: whether other classes of one's own images come behind these, instead of an error.
    """
    settings = config.data
    if data.is_own(settings.name):
        again = data.find_other(
            settings.root,
            class_names,
            split="",
            unsaid="unused",
            name=settings.name,
            # A column that was added since is no reason to stop: the split is known.
            split_column=settings.get("split_column", "") or ("" if settings.name == "folder" else "none"),
            image_column=settings.get("image_column", ""),
            label_column=settings.get("label_column", ""),
            more_classes=more_classes,
        )
        return identified(again, config)
    return identified(found(config), config)


def identified(catalogue: data.Catalogue, config: FrozenConfigDict) -> data.Catalogue:
    """The catalogue with the contents of its files; those that have not changed since an earlier run are not read."""
    with ExitStack() as stack:
        advance = _when_used(stack, len(catalogue), "read contents")
        return data.identified(catalogue, cache_dir(config), progress=advance)


def _when_used(stack: ExitStack, total: int, description: str) -> Callable[[int], None]:
    """A progress bar that is not drawn before there is work: what an earlier run left in the cache needs none."""
    bars: list[logs.Advance] = []

    def advance(n: int) -> None:
        if not bars:
            bars.append(stack.enter_context(logs.progress(total, description)))
        bars[0].advance(n)

    return advance
