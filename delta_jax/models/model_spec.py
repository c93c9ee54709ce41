"""What a user has to know about a network: how it is built, its input, its preprocessing, taps, head."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelSpec:
    """One network, as data.

    Attributes:
      name: in this registry.
      family: which table of parameter names applies; any word for a network that has none.
      module: class of the Flax module, or a function that returns one. It takes num_classes; what it can take of
        dropout, frozen_norm, dtype and auxiliary is given to it where it is asked for, see `create`. An NNX module is
        made with `rngs`, which the class or function takes, too. What other models `delta_jax.frameworks` makes are
        taken where they can be initialised.
      arguments: its other arguments.
      head: path of the classifier's Dense layer, e.g. "fc" or "classifier/logits".
      torch_taps: {name of the module in PyTorch: module path here} of the default taps.
      input_size: height and width it was trained with, pixels.
      mean: per channel, of images scaled to [0, 1].
      std: as mean.
      interpolation: of the resize its published accuracy was measured with.
      auxiliary: path of the Dense layer of a second classifier that is trained along, "" where the network has none.
      torch_name: path of a module here -> its name in PyTorch's network; None where the family's table applies.
      taps: default module paths whose feature maps DELTA compares, from the input to the output; not needed beside
        `torch_taps`.
      on_tpu: arguments that make the same network quicker on TPUs.
      train_argument: keyword of the module's call that is True in training. "deterministic" and
        "use_running_average" are taken to mean the opposite; "" for a module that is the same in both. NNX modules
        need none: their layers are switched, as by `nnx.Module.train` and `eval`.
    """

    name: str
    family: str
    module: Callable[..., Any]
    arguments: Mapping[str, Any]
    head: str
    torch_taps: Mapping[str, str] = field(default_factory=dict)
    input_size: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bilinear"
    auxiliary: str = ""
    torch_name: Callable[[str], str] | None = None
    taps: tuple[str, ...] = ()
    on_tpu: Mapping[str, Any] = field(default_factory=dict)
    train_argument: str = "train"

    def __post_init__(self):
        named = tuple(self.torch_taps.values())
        if self.taps and named and self.taps != named:
            raise ValueError(
                f"{self.name}: taps {self.taps} are not those of torch_taps, {named}; give one of them, and the other "
                "empty: torch_taps={} or taps=()"
            )
        object.__setattr__(self, "taps", tuple(self.taps) or named)

    @property
    def resize(self) -> int:
        """Side before the crop to input_size, in the usual proportion: 256 for 224, 342 for 299."""
        return round(self.input_size * 8 / 7)
