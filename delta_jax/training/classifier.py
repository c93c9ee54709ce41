"""A trained classifier as it lies in a workdir: model.safetensors and classifier.json are all it needs."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from delta_jax import data, models
from delta_jax.training import evaluation
from delta_jax.training.config import ConfigError
from delta_jax.weights.merging import variable_shapes
from delta_jax.workdir.variable_files import load_variables, stored_names

MODEL, FACTS = "model.safetensors", "classifier.json"
_WHITE_BEFORE = 65535  # of classifiers that say nothing: what they were trained with, whatever the bits of a file


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """From a photo to what the network sees.

    Attributes:
      aspect: whether the photo becomes a square, see `data.decode_image`.
      resize: side of that square, or the shorter side, pixels.
      interpolation: of that resize.
      crop: pixels, of the square cut out.
      crops: 1 for the centre, 10 for corners and centre, mirrored.
      mean, std: per channel, of images scaled to [0, 1].
      white: value that shows white in photos of more than 8 bits a sample, see `data.decode_image`.
    """

    resize: int
    interpolation: str
    crop: int
    crops: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    aspect: str = "squash"
    white: int | None = None

    def views(self, images: data.Pixels) -> jax.Array:
        """uint8 [B, resize, resize, 3] or a Canvas -> normalised float32 [crops, B, crop, crop, 3]."""
        return evaluation.make_views(self.crop, self.mean, self.std, crops=self.crops)(images)


class Classifier:
    """The network that a run ended with.

    Attributes:
      arch: of the network.
      class_names: one per output.
      preprocessing: what was used in evaluation.
      auxiliary: whether the network was trained with its auxiliary classifier, which is then among the variables.
      variables: of the network.
    """

    def __init__(self, workdir: Path):
        """Reads a workdir.

        Raises:
          ConfigError: the run there has not come to its end.
          CheckpointError: the file of the parameters is damaged.
        """
        facts_path = Path(workdir) / FACTS
        if not facts_path.exists() or not (Path(workdir) / MODEL).exists():
            raise ConfigError(
                f"{workdir} holds no finished classifier; run delta_jax.train with this --workdir to its end first"
            )
        facts = json.loads(facts_path.read_text())
        self.arch, self.class_names = facts["arch"], tuple(facts["classes"])
        seen = {"white": _WHITE_BEFORE} | facts["preprocessing"]
        self.preprocessing = Preprocessing(**{**seen, **_tuples(seen)})
        try:
            auxiliary = models.spec(self.arch).auxiliary
            self.auxiliary = bool(auxiliary) and f"params/{auxiliary}/kernel" in stored_names(Path(workdir) / MODEL)
            shapes = variable_shapes(self.arch, len(self.class_names), self.auxiliary)
        except ValueError as error:  # a network of the user's own, in a module that is not to be found from here
            raise ConfigError(str(error)) from error
        like = unflatten_dict({path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()})
        self.variables = load_variables(Path(workdir) / MODEL, like)

    @cached_property
    def _predict(self) -> Any:
        model = models.create(self.arch, num_classes=len(self.class_names))
        return jax.jit(evaluation.make_predict(model, self.preprocessing.views))

    def probabilities(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """B images, as `decode` gives them -> [B, K] in float32."""
        squares = self.preprocessing.aspect == "squash"
        batch = np.stack(list(images)) if squares else data.to_canvas(list(images))
        return np.asarray(self._predict(self.variables, jax.tree.map(jnp.asarray, batch)))

    def decode(self, path: Path) -> np.ndarray:
        """The photo at `path` as uint8, see `data.decode_image`; raises DataError when it is none."""
        wanted = self.preprocessing
        return data.decode_image(
            _read(path), wanted.resize, interpolation=wanted.interpolation, aspect=wanted.aspect, white=wanted.white
        )

    def remark(self, path: Path) -> str:
        """What of the photo at `path` the network does not see, "" if nothing; raises DataError when it is none."""
        found, white = data.look(_read(path)), self.preprocessing.white
        remarks = []
        if found.pages > 1:
            remarks.append(f"the first of {found.pages} pages or frames")
        if found.depth and white is None and found.nearly_black:
            remarks.append(f"values up to {found.largest:g} of {found.depth.full}, which are nearly black")
        if found.depth and white is not None and (found.lowest < 0 or found.largest > white):
            remarks.append(f"values from {found.lowest:g} to {found.largest:g}, clipped to 0..{white}")
        return ", ".join(remarks)


def describe(arch: str, class_names: Sequence[str], preprocessing: Preprocessing) -> dict[str, Any]:
    """The content of classifier.json."""
    return {"arch": arch, "classes": list(class_names), "preprocessing": dataclasses.asdict(preprocessing)}


def _read(path: Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise data.DataError(f"cannot be read ({error.strerror or error})") from error


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
