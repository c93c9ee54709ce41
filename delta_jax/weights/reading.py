"""Weights files into arrays: safetensors, .npz, .pth of PyTorch, pickled arrays, .h5 and .keras; told by content."""

import contextlib
import io
import json
import logging
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors

from delta_jax.weights import checkpoint_states, keras_file, pickled_arrays, pickles, torch_file
from delta_jax.weights.errors import WeightsError

_log = logging.getLogger(__name__)

# Put before every name by torch.compile, by DataParallel and by training scripts.
WRAPPERS = ("_orig_mod.", "module.", "model.", "backbone.")
# Put into names, anywhere, by torch.compile, FSDP and checkpointing of activations; no module of anybody is called so.
_INNER_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_COUNTER = "n_averaged"  # of AveragedModel, beside the averaged weights
# What an honest file may hold: eight times its size leaves room for compression and for tensors that share storage.
EXPANSION, EXPANSION_BASE = 8, 16 * 2**20  # times, bytes
# Files that are often taken for weights, by their first bytes.
_STRANGERS = {
    b"version https://git-lfs": "Git LFS's note of where the file is: fetch it with git lfs pull",
    b"\x1f\x8b": "packed by gzip: unpack it",
    b"<": "a page of a website, or an error of a server: fetch the file itself",
}
# Of safetensors: what numpy, with ml_dtypes, has types for.
_READ_TYPES = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}


@dataclass(frozen=True)
class Content:
    """What a weights file holds.

    Attributes:
      tensors: C-contiguous arrays in the file's layouts, by name.
      says: (where, text) of what the file itself calls its network: ("its args.model", "resnet50").
      remarks: what was chosen where the file leaves a choice, for people.
    """

    tensors: dict[str, np.ndarray]
    says: tuple[tuple[str, str], ...] = ()
    remarks: tuple[str, ...] = ()


def split_choice(path: str | Path) -> tuple[Path, str]:
    """("w.pth", "state_dict_ema") of w.pth#state_dict_ema; a file whose own name has a # goes first."""
    name, mark, choice = str(path).rpartition("#")
    return (Path(name), choice) if mark and not Path(path).exists() else (Path(path), "")


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Reads every named tensor of a weights file; runs nothing that lies in it.

    Args:
      path: a safetensors file, an .npz without pickled objects, an .h5 or .keras of Keras (its names are
        "LAYER/VARIABLE"), a .pth of torch.save: a state_dict, or a checkpoint that keeps it under one of
        `checkpoint_states.NESTED_UNDER`; or a pickle of nested dicts of arrays, which get names such as
        "params/conv/kernel". What follows a # says which state of a checkpoint is meant, or what the names of the
        tensors that are meant begin with.

    Returns:
      {name: array} of C-contiguous arrays in the file's layouts. Half precision becomes float32, other types stay. A
      prefix of `WRAPPERS` that all names share is taken off, and a second one after it.

    Raises:
      WeightsError: whatever is wrong with the file, in one sentence that names it.
    """
    content = read_content(path)
    for remark in content.remarks:
        _log.warning("%s", remark)
    return content.tensors


def read_content(path: str | Path) -> Content:
    """As `read`, with what else is to be known; says nothing."""
    path, choice = split_choice(path)
    try:
        content = _read(path, choice)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # damage surfaces as anything, from KeyError to RecursionError: readers want one error
        raise WeightsError(f"{path}: damaged or cut off, fetch it again ({type(error).__name__}: {error})") from error
    tensors = {name: _widened(tensor) for name, tensor in content.tensors.items()}
    return Content(_unwrapped(tensors), content.says, tuple(f"{path}: {remark}" for remark in content.remarks))


def _read(path: Path, choice: str) -> Content:
    if path.is_dir():
        inside = sorted(file.name for file in path.iterdir() if file.suffix in (".safetensors", ".pth", ".bin", ".npz"))
        hint = f": {', '.join(inside[:10])}" if inside else ""
        raise WeightsError(f"is a folder; name the weights file in it{hint}")
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
            if keras_file.MEMBER in members:
                return Content(_beginning_with(choice, keras_file.read_zip(archive, budget)))
            if any(map(torch_file.is_program, members)):
                return _of_checkpoint(*torch_file.read_zip(archive, choice=choice, budget=budget), choice)
            if all(name.endswith(".npy") for name in members):
                return Content(_beginning_with(choice, _read_npz(path, archive, budget)))
        if any(name.endswith("/archive_format") for name in members):
            raise WeightsError(
                "is an archive of torch.export: a program with its weights; save those alone, with torch: "
                "torch.save(torch.export.load(FILE).state_dict, 'weights.pth')"
            )
        raise WeightsError(
            "is a zip archive, but none of torch.save, numpy.savez or Keras; name the weights file in it"
        )
    if head.startswith(keras_file.MAGIC):
        return Content(_beginning_with(choice, keras_file.read(path, budget)))
    if torch_file.is_legacy(head):
        return _of_checkpoint(*torch_file.read_legacy(path.read_bytes(), choice=choice, budget=budget), choice)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return _read_safetensors(path, choice)
    if head.startswith(b"\x80"):
        return _read_pickle(path, choice)
    if path.name.endswith(".index.json"):
        return _read_parts(path, choice)
    what = next((f"; that is {known}" for start, known in _STRANGERS.items() if head.startswith(start)), "")
    raise WeightsError(f"is no safetensors, .npz, .pth or .h5 file: it begins with {head[:24]!r}{what}")


def _of_checkpoint(tensors: dict[str, np.ndarray], state: checkpoint_states.State, choice: str) -> Content:
    if choice and state.under != choice:
        return Content(_beginning_with(choice, tensors, (state.under, *state.others)), state.says)
    if choice or not state.others:
        return Content(tensors, state.says)
    remark = (
        f"its weights under {state.under or 'no key'} are taken; it also holds {', '.join(state.others)}, for which "
        f"add '#{state.others[0]}' to the name of the file"
    )
    return Content(tensors, state.says, (remark,))


def _beginning_with(choice: str, tensors: dict[str, np.ndarray], states: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Those whose names begin with `choice`, which is taken off; all of them for ""."""
    if not choice:
        return tensors
    for given in (tensors, _unwrapped(tensors)):
        for mark in "./":
            if found := {n.removeprefix(choice + mark): t for n, t in given.items() if n.startswith(choice + mark)}:
                return found
    first = list(dict.fromkeys(re.split(r"[./]", name)[0] for name in tensors))
    known = f"; its states are {', '.join(filter(None, states))}" if any(states) else ""
    raise WeightsError(
        f"holds no state {choice!r}, and no names that begin so, but with {', '.join(first[:10])}{known}"
    )


def _read_pickle(path: Path, choice: str) -> Content:
    """Of pickle.dump: nested dicts and lists of arrays, as many programs in JAX keep their parameters."""
    tensors = pickled_arrays.flattened(pickles.decode(io.BytesIO(path.read_bytes())))
    if not tensors:
        raise WeightsError(
            "is no safetensors, .npz or .pth file, but a pickle, which is never run, without arrays in its dicts and "
            "lists: where it was made, save with numpy.savez('weights.npz', **arrays)"
        )
    return Content(_beginning_with(choice, tensors))


def _read_safetensors(path: Path, choice: str) -> Content:
    with safetensors.safe_open(path, framework="numpy") as file:
        kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        for kind in sorted(set(kinds.values()) - _READ_TYPES):
            what = f"float8 ({kind})" if kind.startswith("F8") else kind
            raise WeightsError(
                checkpoint_states.unread_numbers(what, [name for name, found in kinds.items() if found == kind])
            )
        metadata = file.metadata() or {}
        return Content(_beginning_with(choice, file.get_tensors()), tuple(_statements(metadata)))


def _read_parts(path: Path, choice: str) -> Content:
    """Of Hugging Face's index of a state in several files: {"weight_map": {name: file in the same folder}}."""
    places = json.loads(path.read_text("utf-8"))["weight_map"]
    files = list(dict.fromkeys(places.values()))
    if strange := [file for file in files if Path(file).name != file or file == path.name]:
        raise WeightsError(f"names a part that is no file of its folder: {strange[0]!r:.80}")
    if missing := [file for file in files if not (path.parent / file).is_file()]:
        raise WeightsError(
            f"{len(missing)} of its {len(files)} parts are missing, such as {missing[0]}; fetch them too"
        )
    parts = [_read(path.parent / file, "") for file in files]
    tensors = {name: tensor for part in parts for name, tensor in part.tensors.items()}
    return Content(_beginning_with(choice, tensors), parts[0].says if parts else ())


def _statements(metadata: Mapping[str, str]) -> list[tuple[str, str]]:
    """What metadata call the network: of any program, of an export here, and of what was converted here."""
    ours = "delta_jax:" if metadata.get("format") == "flax" else ""
    keys = ("arch", "architecture", "model_name", "model")
    found = [(f"its metadata's {key}", ours + metadata[key][:80]) for key in keys if metadata.get(key)]
    with contextlib.suppress(ValueError, TypeError):
        found += [(str(where), str(text)) for where, text in json.loads(metadata.get("says", "[]"))]
    return found


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
    plain = {_without_wrappers(name): name for name in tensors if name != _COUNTER or len(tensors) == 1}
    if len(plain) == len(tensors) - (_COUNTER in tensors and len(tensors) > 1):  # no two became one
        tensors = {new: tensors[name] for new, name in plain.items()}
    for prefix in WRAPPERS * 2:  # twice: "module.model." and "model.module." both occur
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _without_wrappers(name: str) -> str:
    for wrapper in _INNER_WRAPPERS:
        name = name.replace(wrapper, "") or name
    return name
