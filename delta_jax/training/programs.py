"""What a run compiles: made of its config, and of variables and images by their shapes alone where that is wanted."""

import dataclasses
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import FrozenConfigDict

from delta_jax import data, features, methods, models, precision
from delta_jax.models.checks import init_shapes
from delta_jax.processes import sharding
from delta_jax.training import checks, evaluation, steps
from delta_jax.training.classifier import Preprocessing
from delta_jax.training.head import get_head
from delta_jax.training.state import Variables
from delta_jax.workdir import logs

IMAGENET_CLASSES = 1000  # where no weights are looked at


class Programs:
    """Network, method and programs of a resolved config.

    Attributes:
      config: resolved.
      spec: of the network.
      method: of fine-tuning.
      num_classes: of the target.
      source: variables of the source network with a head for the target's classes: their shapes, and of a `Setup`,
        which has found weights, zeros in the head.
      preprocessing: of evaluation; the normalisation is that of the source's weights.
      mesh: of all devices.
      frozen: paths of the modules that fine-tuning leaves as they are in the source.
      shapes: of what the method sees.
      layers: of the network, where they have rates of their own; None where not.
      channels: {tap: how many filters it has}.
    """

    def __init__(self, config: FrozenConfigDict, mesh: sharding.Mesh, num_classes: int):
        """Checks the network against the config.

        Args:
          config: resolved.
          mesh: of the devices, of which none need be here.
          num_classes: of the target.

        Raises:
          ConfigError: what does not fit.
        """
        self.config, self.mesh, self.num_classes = config, mesh, num_classes
        self.spec = models.spec(config.arch)
        self.method = methods.create(
            config.method,
            scale=config.penalty_scale,
            rectify=config.rectify,
            **{field: config[field] for field in methods.options(config.method)},
        )
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
        self.source: Variables = self._variables()
        self.frozen = checks.frozen_modules(config, self.network(), self.source, self.heads)
        if self.frozen and self.method.uses_source_maps:
            self.config = config = self._without_frozen_taps()
        checks.blocks_to_recompute(config, self.source)
        checks.stochastic_norm(config, self.trained_network(), self.source)
        self.layers = checks.layers(config, self.trained_network(), self.source, self.heads)
        self.shapes = checks.taps_fit(config, self.spec, self.network(), self.source)
        if self.method.uses_source_head:
            self.shapes = dataclasses.replace(self.shapes, source_head=self._source_head())
        self.channels = {tap: shape[-1] for tap, shape in self.shapes.maps.items()}
        checks.method_fits(config, self.method, self.shapes)

    def _variables(self) -> Variables:
        shapes = init_shapes(self.network(auxiliary=self.trains_auxiliary), self.config.data.crop)
        return sharding.planned(shapes, self.mesh)

    def _source_head(self) -> Any:
        """The classifier that the source's weights were trained with: here its shapes, of ImageNet's classes."""
        head = get_head(self.source["params"], self.spec.head)
        return {
            name: jax.ShapeDtypeStruct((*leaf.shape[:-1], IMAGENET_CLASSES), jnp.float32) for name, leaf in head.items()
        }

    def _without_frozen_taps(self) -> FrozenConfigDict:
        config = self.config
        kept = checks.taps_outside(config, self.frozen)
        if left_out := [tap for tap in config.taps if tap not in kept]:
            logs.say(f"frozen, so its feature maps are the source's: {', '.join(left_out)} is not compared")
        return FrozenConfigDict({**config.to_dict(), "taps": kept})

    @property
    def trains_auxiliary(self) -> bool:
        """Whether the network's second classifier is there, and trained along."""
        return self.config.auxiliary_weight > 0

    @property
    def heads(self) -> tuple[str, ...]:
        """Module paths of what is new for the target: the classifier, and the second one if it is trained along."""
        return (self.spec.head, self.spec.auxiliary) if self.trains_auxiliary else (self.spec.head,)

    @property
    def platform(self) -> str:
        """Of the devices: "cpu", "tpu" or "gpu"."""
        found = self.mesh.devices.flat[0].platform
        return "gpu" if found in ("cuda", "rocm") else found

    def network(self, *, compute_dtype: str = "float32", **static: Any) -> Any:
        """The Flax module; float32 unless told otherwise, and in the form in which filters can be silenced."""
        dtype = None if compute_dtype == "float32" else jnp.dtype(compute_dtype)
        return models.create(self.config.arch, num_classes=self.num_classes, dtype=dtype, **static)

    def trained_network(self) -> Any:
        """The Flax module that is fine-tuned."""
        config = self.config
        return self.network(
            compute_dtype=config.compute_dtype,
            dropout=config.dropout,
            frozen_norm=config.batch_norm in ("frozen_stats", "frozen"),
            auxiliary=self.trains_auxiliary,
            platform=self.platform,
        )

    def own_parameters(self, source_head: Any = None) -> Any:
        """What the method trains beside the network, before the first step; None for most.

        Where shapes are all that is wanted, those of the source's classifier are an argument: jax.eval_shape then has
        arrays in their place.
        """
        if not self.method.has_own_parameters:
            return None
        shapes = dataclasses.replace(self.shapes, source_head=source_head or self.shapes.source_head)
        return self.method.own_parameters(self._key(1), shapes)

    def first_buffers(self, params: Any, own: Any) -> Any:
        """What a method that carries something from step to step begins with."""
        return self.method.first_buffers(self._key(2), self.shapes, params, own, self.num_classes)

    def _key(self, number: int) -> jax.Array:
        # The step's keys are fold_in(key, step): no run has so many steps.
        return jax.random.fold_in(jax.random.key(self.config.seed), 2**32 - number)

    def pixels(self, batch: int, *, long_side: int | None = None) -> data.Pixels:
        """Shapes of decoded images, uint8 [batch, S, S, 3]; where they keep their aspect, a Canvas of `long_side`."""
        size = self.config.data.resize
        if self.config.data.aspect != "keep":
            return sharding.planned(jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8), self.mesh, split=True)
        canvas: Any = data.Canvas
        shapes = canvas(
            jax.ShapeDtypeStruct((batch, long_side or data.LONGEST * size, size, 3), jnp.uint8),
            jax.ShapeDtypeStruct((batch,), jnp.int32),
            jax.ShapeDtypeStruct((batch,), jnp.bool_),
        )
        return sharding.planned(shapes, self.mesh, split=True)

    def centre(self, images: data.Pixels) -> jax.Array:
        """uint8 [B, S, S, 3] or a Canvas -> the centre crops, normalised float32 [B, crop, crop, 3]."""
        crops = data.center_crop(images, self.preprocessing.crop)
        return data.normalize(crops, self.preprocessing.mean, self.preprocessing.std)

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
            upright=settings.upright,
            operations=tuple(settings.rand_augment),
        )
        images = data.normalize(views, self.preprocessing.mean, self.preprocessing.std, dtype)
        return data.random_erasing(jax.random.fold_in(key, 4), images, settings.erase) if settings.erase else images

    @property
    def mix(self) -> Callable[..., tuple[jax.Array, jax.Array]] | None:
        """(key, normalised images, labels) -> `data.mix_batch` as configured; None for no mixing."""
        mixup, cutmix = self.config.data.mix
        if not mixup and not cutmix:
            return None
        return partial(data.mix_batch, num_classes=self.num_classes, mixup=mixup, cutmix=cutmix)

    def head_features(self) -> Any:
        """(variables, uint8 images [B, S, S, 3] or a Canvas) -> [V, B, D]: what the head sees of the V views.

        They are the centre and, unless `data.mirror` is off, its mirror image.
        """
        model = self.network(platform=self.platform)

        @jax.jit
        def compute(variables: Variables, images: data.Pixels) -> jax.Array:
            centre = self.centre(images)
            views = jnp.stack([centre, centre[:, :, ::-1]] if self.config.data.mirror else [centre])
            return jax.lax.map(partial(features.head_inputs, model, variables, head=self.spec.head), views)

        return compute

    def penalty_of_zero_maps(self) -> Any:
        """(variables, attention, batch) -> [B]: what the method's penalty would be if every feature map were zero."""
        model = self.network()
        own = self.own_parameters()

        @jax.jit
        def compute(variables: Variables, attention: Any, batch: steps.Batch) -> jax.Array | None:
            with precision.full():
                _, maps = features.apply_with_taps(model, variables, self.centre(batch["image"]), self.config.taps)
            zeros = jax.tree.map(jnp.zeros_like, maps)
            return self.method.example_penalty(zeros, maps, steps.attention_of(attention, batch["index"]), own)

        return compute

    @cached_property
    def predict(self) -> Any:
        """(variables, decoded images) -> probabilities [B, K], see `evaluation.make_predict`."""
        model = self.network(compute_dtype=self.config.compute_dtype, platform=self.platform)
        return jax.jit(evaluation.make_predict(model, self.preprocessing.views))
