"""What the phases of a run work with, put together and checked before anything slow starts."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

from delta_jax import data, features, methods, models, precision, processes, weights
from delta_jax.processes import sharding
from delta_jax.training import checks, evaluation, steps
from delta_jax.training.classifier import Preprocessing
from delta_jax.training.config import origin_of_preprocessing
from delta_jax.training.image_sets import ImageSet
from delta_jax.training.state import Variables
from delta_jax.workdir import logs


class Setup:
    """Network, source, method and data of a resolved config.

    Attributes:
      config: resolved.
      spec: of the network.
      method: of fine-tuning.
      catalogue: the data set; images are decoded when one is first asked for.
      source: variables of the source network with a head of zeros for the target's classes.
      preprocessing: of evaluation; the normalisation is that of the source's weights.
      mesh: of all devices.
      frozen: paths of the modules that fine-tuning leaves as they are in the source.
      channels: {tap: how many filters it has}.
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
        self.config = config
        self.spec = models.spec(config.arch)
        self.method = methods.create(config.method, scale=config.penalty_scale, rectify=config.rectify)
        self.mesh = sharding.make_mesh()
        checks.batches_divide(config, self.mesh)
        self._trains = trains
        self.catalogue = found(config) if images is None else images
        if self._trains:
            checks.counts(config, self.catalogue)
        self.preprocessing = Preprocessing(
            resize=config.data.resize,
            interpolation=config.data.interpolation,
            crop=config.data.crop,
            crops=config.eval_crops,
            mean=tuple(config.data.mean),
            std=tuple(config.data.std),
            aspect=config.data.aspect,
        )
        checks.network_fits(config, self.spec, self.network(), self.num_classes)
        # What the one that is trained cannot do is to be known before minutes are spent on the source.
        checks.network_trains(config, self.trained_network)
        checks.computes(config)
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
        self.source: Variables = sharding.replicate(loaded, self.mesh)
        self.frozen = checks.frozen_modules(config, self.network(), self.source, self.heads)
        if self.frozen and self.method.uses_source_maps:
            self.config = config = self._without_frozen_taps()
        checks.blocks_to_recompute(config, self.source)
        self.channels = checks.taps_fit(config, self.spec, self.network(), self.source)
        # Last: of many images it takes minutes, the first time.
        self.catalogue = identified(self.catalogue, config)
        self.preprocessing = dataclasses.replace(self.preprocessing, white=self._white())

    def _without_frozen_taps(self) -> FrozenConfigDict:
        config = self.config
        kept = checks.taps_outside(config, self.frozen)
        if left_out := [tap for tap in config.taps if tap not in kept]:
            logs.say(f"frozen, so its feature maps are the source's: {', '.join(left_out)} is not compared")
        return FrozenConfigDict({**config.to_dict(), "taps": kept})

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
    def num_classes(self) -> int:
        """Of the target."""
        return len(self.catalogue.class_names)

    @property
    def trains_auxiliary(self) -> bool:
        """Whether the network's second classifier is there, and trained along."""
        return self.config.auxiliary_weight > 0

    @property
    def heads(self) -> tuple[str, ...]:
        """Module paths of what is new for the target: the classifier, and the second one if it is trained along."""
        return (self.spec.head, self.spec.auxiliary) if self.trains_auxiliary else (self.spec.head,)

    def network(self, *, compute_dtype: str = "float32", **static: Any) -> Any:
        """The Flax module; float32 unless told otherwise."""
        dtype = None if compute_dtype == "float32" else jnp.dtype(compute_dtype)
        return models.create(self.config.arch, num_classes=self.num_classes, dtype=dtype, **static)

    def trained_network(self) -> Any:
        """The Flax module that is fine-tuned."""
        config = self.config
        return self.network(
            compute_dtype=config.compute_dtype,
            dropout=config.dropout,
            frozen_norm=config.batch_norm != "train",
            auxiliary=self.trains_auxiliary,
        )

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

    def centre(self, images: data.Pixels) -> jax.Array:
        """uint8 [B, S, S, 3] or a Canvas -> the centre crops, normalised float32 [B, crop, crop, 3]."""
        crops = data.center_crop(images, self.preprocessing.crop)
        return data.normalize(crops, self.preprocessing.mean, self.preprocessing.std)

    def place(self, variables: Variables) -> Variables:
        """The variables on every device."""
        return sharding.replicate(variables, self.mesh)

    def augment(self, key: jax.Array, images: data.Pixels) -> jax.Array:
        """uint8 [B, S, S, 3] or a Canvas -> random views, normalised [B, crop, crop, 3]; see `data.random_view`."""
        dtype, settings = jnp.dtype(self.config.compute_dtype), self.config.data
        views = data.random_view(
            key,
            images,
            settings.crop,
            augment=settings.augment,
            mirror=settings.mirror,
            interpolation=settings.interpolation,
            least_area=settings.least_area,
            jitter=settings.color_jitter,
        )
        return data.normalize(views, self.preprocessing.mean, self.preprocessing.std, dtype)

    def head_features(self) -> Any:
        """(variables, uint8 images [B, S, S, 3] or a Canvas) -> [V, B, D]: what the head sees of the V views.

        They are the centre and, unless `data.mirror` is off, its mirror image.
        """
        model = self.network()

        @jax.jit
        def compute(variables: Variables, images: data.Pixels) -> jax.Array:
            centre = self.centre(images)
            views = jnp.stack([centre, centre[:, :, ::-1]] if self.config.data.mirror else [centre])
            return jax.lax.map(partial(features.head_inputs, model, variables, head=self.spec.head), views)

        return compute

    def penalty_of_zero_maps(self) -> Any:
        """(variables, attention, batch) -> [B]: what the method's penalty would be if every feature map were zero."""
        model = self.network()

        @jax.jit
        def compute(variables: Variables, attention: Any, batch: steps.Batch) -> jax.Array | None:
            with precision.full():
                _, maps = features.apply_with_taps(model, variables, self.centre(batch["image"]), self.config.taps)
            zeros = jax.tree.map(jnp.zeros_like, maps)
            return self.method.example_penalty(zeros, maps, steps.attention_of(attention, batch["index"]))

        return compute

    @cached_property
    def _predict(self) -> Any:
        model = self.network(compute_dtype=self.config.compute_dtype)
        return jax.jit(evaluation.make_predict(model, self.preprocessing.views))

    def probabilities(self, variables: Variables, images: ImageSet, description: str = "") -> np.ndarray:
        """[M, K] for the M images of a split, in order."""
        found = []
        with logs.progress(len(images), description or "evaluate") as bar:
            for _, mask, batch in images.batches(self.config.eval_batch_size):
                kept = int(mask.sum())
                found.append(sharding.on_host(self._predict(variables, batch["image"]))[:kept])
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
    )


def found_again(config: FrozenConfigDict, class_names: Sequence[str], *, more_classes: bool = False) -> data.Catalogue:
    """The data set as it is now, with contents, for a run that has its split: of one's own images none is drawn.

    Args:
      config: of the run, resolved.
      class_names: of the run.
      more_classes: whether other classes of one's own images come behind these, instead of an error.
    """
    settings = config.data
    if settings.name in ("folder", "manifest"):
        again = data.find_other(
            settings.root,
            class_names,
            split="",
            unsaid="unused",
            # A column that was added since is no reason to stop: the split is known.
            split_column=settings.get("split_column", "") or ("none" if settings.name == "manifest" else ""),
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
