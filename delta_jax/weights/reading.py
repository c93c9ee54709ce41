"""Weights files into arrays: safetensors, .npz and PyTorch's .pth, told apart by their content."""

import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors

from delta_jax.weights import torch_file
from delta_jax.weights.errors import WeightsError

# Put before every name by torch.compile, by DataParallel and by training scripts.
WRAPPERS = ("_orig_mod.", "module.", "model.", "backbone.")
# What an honest file may hold: eight times its size leaves room for compression and for tensors that share storage.
EXPANSION, EXPANSION_BASE = 8, 16 * 2**20  # times, bytes


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Reads every named tensor of a weights file; runs nothing that lies in it.

    Args:
      path: a safetensors file, an .npz without pickled objects, or a .pth of torch.save: a state_dict, or a checkpoint
        that keeps it under one of `torch_file.NESTED_UNDER`.

    Returns:
      {name: array} of C-contiguous arrays in the file's layouts. Half precision becomes float32, other types stay. A
      prefix of `WRAPPERS` that all names share is taken off, and a second one after it.

    Raises:
      WeightsError: whatever is wrong with the file, in one sentence that names it.
    """
    path = Path(path)
    try:
        tensors = _read(path)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # damage surfaces as anything, from KeyError to RecursionError: readers want one error
        raise WeightsError(f"{path}: damaged or cut off, fetch it again ({type(error).__name__}: {error})") from error
    return _unwrapped({name: _widened(tensor) for name, tensor in tensors.items()})


def _read(path: Path) -> dict[str, np.ndarray]:
    if path.is_dir():
        raise WeightsError("is a folder; name the weights file in it")
    size = path.stat().st_size
    budget = EXPANSION * size + EXPANSION_BASE
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise WeightsError("is empty; fetch it again")
    if head.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            # Others make no weights files, and their unpackers take memory by what the file claims.
            if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in archive.infolist()):
                raise WeightsError("is a zip archive packed by another method than deflate; unpack and save it again")
            if any(map(torch_file.is_program, members)):
                return torch_file.read_zip(archive, budget=budget)
            if all(name.endswith(".npy") for name in members):
                return _read_npz(path, archive, budget)
        raise WeightsError(
            "is a zip archive, but neither of torch.save nor of numpy.savez; name the weights file in it"
        )
    if torch_file.is_legacy(head):
        return torch_file.read_legacy(path.read_bytes(), budget=budget)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        with safetensors.safe_open(path, framework="numpy") as file:
            return file.get_tensors()
    raise WeightsError(f"is no safetensors, .npz or .pth file: it begins with {head[:24]!r}")


def _read_npz(path: Path, archive: zipfile.ZipFile, budget: int) -> dict[str, np.ndarray]:
    claimed = sum(member.file_size for member in archive.infolist())
    if claimed > budget:
        raise WeightsError(f"its arrays claim {claimed:,} bytes, more than a file of this size can mean")
    with np.load(path, allow_pickle=False) as arrays:
        tensors = dict(arrays.items())
    strange = [f"{name} ({tensor.dtype})" for name, tensor in tensors.items() if tensor.dtype.kind not in "fiub"]
    if strange:
        raise WeightsError(f"holds arrays that are not of numbers: {', '.join(strange[:8])}")
    return tensors


def _widened(tensor: np.ndarray) -> np.ndarray:
    if tensor.dtype in (np.float16, ml_dtypes.bfloat16):
        tensor = tensor.astype(np.float32)
    return np.array(tensor, dtype=tensor.dtype.newbyteorder("="), order="C", copy=None)


def _unwrapped(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for prefix in WRAPPERS * 2:  # twice: "module.model." and "model.module." both occur
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
