"""Files of Keras, .weights.h5, .h5 and .keras, into arrays by layer and variable: "conv1_conv/kernel".

Layouts: Keras 3.15.1, keras/src/saving/saving_lib.py and keras/src/legacy/saving/legacy_h5_format.py. Only arrays are
read; the layers that config.json or an attribute describe are never built.
"""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from delta_jax.weights.errors import WeightsError

if TYPE_CHECKING:
    import h5py

MAGIC, MEMBER = b"\x89HDF\r\n\x1a\n", "model.weights.h5"
# Keras 3 numbers the variables of a layer.
_VARIABLES = {
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "depthwise_conv2d": ("kernel", "bias"),
    "normalization": ("mean", "variance"),
    "separable_conv2d": ("kernel", "pointwise_kernel", "bias"),
}
# Keras 1, of which the files of VGG are, begins names with the layer's: block1_conv1/block1_conv1_W_1:0.
_KERAS_1 = {"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"}
_OPTIMIZER = ("optimizer", "optimizer_weights")
_FILTERS = {1, 2, 3}  # deflate, shuffle, Fletcher's checksum: others are programs that HDF5 would load


def read_zip(archive: zipfile.ZipFile, budget: int) -> dict[str, np.ndarray]:
    """Of a .keras file; see `read`."""
    size = archive.getinfo(MEMBER).file_size
    if size > budget:
        raise WeightsError(f"{MEMBER} claims {size:,} bytes, more than a file of this size can mean")
    with archive.open(MEMBER) as member:
        content = member.read(budget + 1)
    return read(io.BytesIO(content), budget)


def read(file: Path | io.BytesIO, budget: int) -> dict[str, np.ndarray]:
    """{"LAYER/VARIABLE": array} of all layers, whatever they are nested in; of an optimizer nothing.

    Args:
      file: of HDF5.
      budget: bytes that all arrays may take.

    Raises:
      WeightsError: h5py is not installed, layers without names or with the same, or arrays that lead out of the file.
    """
    try:
        import h5py
    except ImportError as error:
        raise WeightsError(
            "is an HDF5 file, which h5py reads, and that is not installed: pip install 'delta_jax[keras]'"
        ) from error
    tensors: dict[str, np.ndarray] = {}
    try:
        with h5py.File(file, "r") as opened:
            for place, dataset in _datasets(opened):
                name = _name(opened, place)
                budget -= dataset.nbytes
                if budget < 0:
                    raise WeightsError("its arrays claim more bytes than a file of this size can mean")
                if name in tensors:
                    raise WeightsError(
                        f"holds two arrays {name}: layers of several networks; save the one that is meant"
                    )
                tensors[name] = np.asarray(dataset[()])
    except (OSError, RuntimeError) as error:  # HDF5 has no others for what is damaged
        raise WeightsError(f"damaged or cut off, fetch it again ({str(error).splitlines()[0]})") from error
    if not tensors:
        raise WeightsError("is an HDF5 file without the weights of layers, as Keras writes them")
    return tensors


def _datasets(opened: "h5py.File") -> Iterator[tuple[str, "h5py.Dataset"]]:
    import h5py

    found: list[tuple[str, Any]] = []
    # Follows no links: what is found lies in this file.
    opened.visititems(lambda place, item: found.append((place, item)))
    for place, item in found:
        parts = place.split("/")
        if not isinstance(item, h5py.Dataset) or parts[0] in _OPTIMIZER:
            continue
        if item.is_virtual or item.external:
            raise WeightsError(f"keeps {place} in another file, which is not read")
        settings = item.id.get_create_plist()
        codes = {settings.get_filter(i)[0] for i in range(settings.get_nfilters())}
        if codes - _FILTERS:
            raise WeightsError(
                f"has {place} packed by filter {min(codes - _FILTERS)} of HDF5; expected deflate or none"
            )
        if item.dtype.kind == "f":  # not the state of random numbers
            yield place, item


def _name(opened: "h5py.File", place: str) -> str:
    *groups, last = place.split("/")
    if not groups or groups[-1] != "vars":  # of the older format, where every name is there: LAYER/.../LAYER/kernel:0
        layer, variable = groups[-1] if groups else "", last.partition(":")[0]
        if layer and variable.startswith(f"{layer}_"):
            variable = re.sub(r"_\d+$", "", variable.removeprefix(f"{layer}_"))
            variable = _KERAS_1.get(variable, variable)
        if groups[-2:] in (["conv1", "conv"], ["conv1", "bn"]):
            layer = f"conv1_{layer}"  # of DenseNets, whose layer was conv1/conv
        layer = "predictions" if layer == "fc1000" else layer  # until Keras 2.2
        return f"{layer}/{'kernel' if variable == 'depthwise_kernel' else variable}"
    layer = opened["/".join(groups)].attrs.get("name")
    if not isinstance(layer, str):
        raise WeightsError(
            f"does not say what the layer {'/'.join(groups[:-1])} is called, as newer Keras does; load it there and "
            "save it as .h5: model.save('weights.h5')"
        )
    kind = groups[-2].rstrip("0123456789").rstrip("_") if len(groups) > 1 else ""
    known = _VARIABLES.get(groups[-2], _VARIABLES.get(kind, ()))
    number = int(last) if last.isdecimal() else len(known)
    return f"{layer}/{known[number] if number < len(known) else last}"
