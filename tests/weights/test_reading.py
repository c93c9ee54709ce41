"""Files are made here with `pickle`, `zipfile` and stand-ins for torch's classes; expected arrays are numpy's own."""

import contextlib
import importlib.util
import io
import json
import os
import pickle
import runpy
import struct
import subprocess
import sys
import timeit
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from unittest import mock

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from delta_jax.weights import sources
from delta_jax.weights.errors import WeightsError
from delta_jax.weights.reading import read

# What torch.save writes, from a description of the formats: types by name, persistent ids, five pickles or a zip.
STORAGE_TYPES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
TORCH, UTILS = types.ModuleType("torch"), types.ModuleType("torch._utils")
for _name in STORAGE_TYPES.values():
    setattr(TORCH, _name, type(_name, (), {"__module__": "torch"}))
for _name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"):
    _function = types.FunctionType((lambda *arguments: None).__code__, {}, _name)
    _function.__module__, _function.__qualname__ = "torch._utils", _name
    setattr(UTILS, _name, _function)


class Saved:
    """A tensor that pickles as torch's would: a view of `storage` (1-D array)."""

    def __init__(self, storage, offset=0, shape=None, strides=(1,), old=False, parameter=False):
        self.storage, self.offset, self.strides = storage, offset, strides
        self.shape = storage.shape if shape is None else shape
        self.old, self.parameter = old, parameter

    def __reduce__(self):
        if self.parameter:
            plain = Saved(self.storage, self.offset, self.shape, self.strides)
            return UTILS._rebuild_parameter, (plain, True, OrderedDict())
        place = (StorageReference(self.storage), self.offset, self.shape, self.strides)
        return (
            (UTILS._rebuild_tensor, place) if self.old else (UTILS._rebuild_tensor_v2, (*place, False, OrderedDict()))
        )


class StorageReference:
    def __init__(self, array):
        self.array = array


def saved(array):
    """`array` in a storage of its own."""
    array = np.asarray(array)
    strides = tuple(stride // array.itemsize for stride in np.empty(array.shape, array.dtype).strides)
    return Saved(np.ascontiguousarray(array).reshape(-1), 0, array.shape, strides)


def dumps(value, protocol, legacy):
    """The main pickle, and the storages by key."""
    stream = io.BytesIO()
    keys: dict[str, np.ndarray] = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            if not isinstance(item, StorageReference):
                return None
            key = next((key for key, array in keys.items() if array is item.array), str(len(keys)))
            keys[key] = item.array
            kind = getattr(TORCH, STORAGE_TYPES[item.array.dtype.name])
            return ("storage", kind, key, "cpu", item.array.size, *([None] if legacy else []))

    with mock.patch.dict(sys.modules, {"torch": TORCH, "torch._utils": UTILS}):
        Pickler(stream, protocol).dump(value)
    return stream.getvalue(), keys


def write_zip(path, value, protocol=2, folder="archive/", compression=zipfile.ZIP_STORED, program=None):
    pickled, keys = dumps(value, protocol, legacy=False)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{folder}data.pkl", program or pickled)
        archive.writestr(f"{folder}byteorder", "little")
        for key, array in keys.items():
            archive.writestr(f"{folder}data/{key}", array.tobytes())
        archive.writestr(f"{folder}version", "3\n")
    return path


def write_legacy(path, value, protocol=2, program=None):
    pickled, keys = dumps(value, protocol, legacy=True)
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    with Path(path).open("wb") as file:
        for header in (0x1950A86A20F9469CFC6C, 1001, system):
            pickle.dump(header, file, protocol)
        file.write(program or pickled)
        pickle.dump(sorted(keys), file, protocol)
        for key in sorted(keys):
            file.write(struct.pack("<q", keys[key].size) + keys[key].tobytes())
    return path


WRITERS = pytest.mark.parametrize("write", [write_zip, write_legacy])


def random(*shape, dtype="float32"):
    return np.random.default_rng(0).integers(-9, 9, shape).astype(dtype)


def check(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].flags.c_contiguous
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@WRITERS
@pytest.mark.parametrize("protocol", [2, 4])
def test_every_type_of_numbers(tmp_path, write, protocol):
    arrays = {name: random(2, 3, dtype=name if name != "bfloat16" else ml_dtypes.bfloat16) for name in STORAGE_TYPES}
    path = write(tmp_path / "w.pth", OrderedDict((name, saved(array)) for name, array in arrays.items()), protocol)
    widened = {name: a.astype("float32") if name in ("float16", "bfloat16") else a for name, a in arrays.items()}
    check(read(path), widened)


def test_bfloat16_is_the_upper_half_of_float32(tmp_path):
    # 1.0, -2.5 and 3.140625 by hand: the first 16 bits of their IEEE single-precision forms.
    bits = np.array([0x3F80, 0xC020, 0x4049], np.uint16)
    path = write_zip(tmp_path / "w.pth", {"x": Saved(bits.view(ml_dtypes.bfloat16))})
    np.testing.assert_array_equal(read(path)["x"], np.array([1.0, -2.5, 3.140625], np.float32))


@WRITERS
def test_views_strides_and_shared_storages(tmp_path, write):
    storage = random(24)
    block = storage.reshape(2, 3, 4)
    value = {
        "whole": Saved(storage, 0, (2, 3, 4), (12, 4, 1)),
        "transposed": Saved(storage, 0, (4, 3, 2), (1, 4, 12)),
        "slice": Saved(storage, 13, (3, 2), (4, 2)),
        "expanded": Saved(storage, 5, (3, 2), (0, 1)),
        "scalar": Saved(storage, 7, (), ()),
        "empty": Saved(storage, 0, (0, 3), (3, 1)),
        "old": Saved(storage, 0, (24,), (1,), old=True),
        "parameter": Saved(storage, 0, (6, 4), (4, 1), parameter=True),
    }
    expected = {
        "whole": block,
        "transposed": block.transpose(2, 1, 0),
        "slice": block[1, :, 1::2],
        "expanded": np.stack([storage[5:7]] * 3),
        "scalar": storage[7],
        "empty": np.zeros((0, 3), np.float32),
        "old": storage,
        "parameter": block.reshape(6, 4),
    }
    found = read(write(tmp_path / "w.pth", value))
    check(found, expected)
    found["whole"][:] = 0  # one's own memory, though the storage is shared
    np.testing.assert_array_equal(found["old"], storage)


@WRITERS
@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net", "ema"])
def test_checkpoint_with_plain_values(tmp_path, write, key):
    weights = OrderedDict({"module.fc.weight": saved(random(2, 3)), "module.fc.bias": saved(random(2))})
    vars(weights)["_metadata"] = OrderedDict({"": {"version": 1}})  # torch's: pickled as BUILD
    checkpoint = {
        "epoch": 7,
        "best_acc1": saved(np.float32(76.1)),
        "seen": {1, 2},
        "numpy": np.float64(0.5),
        "optimizer": {"state": {0: {"step": 3}, (0, 1): None}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]},
        key: weights,
    }
    check(read(write(tmp_path / "w.pth", checkpoint)), {"fc.weight": random(2, 3), "fc.bias": random(2)})


def test_nested_twice_and_averages_last(tmp_path):
    averaged, trained = {"x": saved(random(2))}, {"x": saved(random(3))}
    value = {"ema": averaged, "best": saved(random(4)), "model": {"epoch": 3, "state_dict": trained}}
    check(read(write_zip(tmp_path / "w.pth", value)), {"x": random(3)})
    del value["model"]
    check(read(write_zip(tmp_path / "v.pth", value)), {"x": random(2)})
    too_deep = {"model": {"model": {"model": trained}}}
    assert "no named tensors" in raised(write_zip(tmp_path / "u.pth", too_deep))


def test_prefixes_shared_by_all_names_come_off(tmp_path):
    for prefix in ("_orig_mod.", "_orig_mod.module.", "module._orig_mod."):  # torch.compile, and with DataParallel
        path = write_zip(tmp_path / "c.pth", {f"{prefix}a": saved(random(1)), f"{prefix}b.c": saved(random(2))})
        check(read(path), {"a": random(1), "b.c": random(2)})
    path = write_zip(tmp_path / "a.pth", {"module.model.a": saved(random(1)), "module.model.b": saved(random(2))})
    assert list(read(path)) == ["a", "b"]
    path = write_zip(tmp_path / "b.pth", {"backbone.a": saved(random(1)), "head.b": saved(random(2))})
    assert list(read(path)) == ["backbone.a", "head.b"]


def test_python_2_strings_are_latin_1(tmp_path):
    # {"caf\xe9": tensor} with SHORT_BINSTRING, the text of Python 2, in place of BINUNICODE
    pickled, _ = dumps({"caf\xe9": saved(random(3))}, 2, legacy=True)
    written = b"X\x05\x00\x00\x00caf\xc3\xa9"
    assert written in pickled
    path = write_legacy(
        tmp_path / "w.pth", {"caf\xe9": saved(random(3))}, program=pickled.replace(written, b"U\x04caf\xe9")
    )
    check(read(path), {"caf\xe9": random(3)})


def test_views_of_the_older_stream_begin_later(tmp_path):
    pickled, _ = dumps({"x": Saved(random(6), 0, (2,), (1,))}, 2, legacy=True)
    # the persistent id's last entry None -> ("view", 3, 2): key, first element, elements
    place = pickled.index(b"N", pickled.index(b"cpu"))
    view = pickle.dumps(("view", 3, 2), 2)[2:-1].replace(b"q\x00", b"").replace(b"q\x01", b"")
    path = write_legacy(
        tmp_path / "w.pth",
        {"x": Saved(random(6), 0, (2,), (1,))},
        program=pickled[:place] + view + pickled[place + 1 :],
    )
    check(read(path), {"x": random(6)[3:5]})


def test_zip_without_a_folder(tmp_path):
    check(read(write_zip(tmp_path / "w.pth", {"x": saved(random(3))}, folder="")), {"x": random(3)})


def test_safetensors_and_npz_whatever_they_are_called(tmp_path):
    arrays = {"model.a": random(2, 3), "model.b": random(4, dtype="float16"), "model.c": np.int64(3)}
    expected = {"a": random(2, 3), "b": random(4, dtype="float32"), "c": np.array(3)}
    safetensors.numpy.save_file({k: np.asarray(v) for k, v in arrays.items()}, tmp_path / "s.bin")
    found = read(tmp_path / "s.bin")
    check({name: found[name] for name in expected}, expected)
    with (tmp_path / "n.bin").open("wb") as file:
        np.savez_compressed(file, **arrays, **{"model.big": random(3, dtype=">f4")})
    check(read(tmp_path / "n.bin"), expected | {"big": random(3)})
    safetensors.numpy.save_file({"x": random(3, dtype=ml_dtypes.bfloat16)}, tmp_path / "b.bin")
    check(read(tmp_path / "b.bin"), {"x": random(3)})


class Call:
    """Pickles as a call of `function`: what an attacker writes."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def raised(path):
    with pytest.raises(WeightsError) as error:
        read(path)
    assert str(path) in str(error.value)
    return str(error.value)


@WRITERS
@pytest.mark.parametrize("protocol", [2, 4])
def test_calls_are_refused_by_name_and_not_run(tmp_path, write, protocol):
    marker = tmp_path / "marker"
    system = f"{os.system.__module__}.system"
    touch = f"touch {marker}"
    attacks = {
        system: Call(os.system, touch),
        "builtins.eval": Call(eval, f"open({str(marker)!r}, 'w')"),
        "builtins.getattr": Call(getattr, Call(__import__, "os"), "system"),
        ".Popen": Call(subprocess.Popen, touch),  # Python 2 called the module commands
        "runpy.run_path": Call(runpy.run_path, touch),
        "timeit.timeit": Call(timeit.timeit, f"open({str(marker)!r}, 'w')"),
    }
    for name, attack in attacks.items():
        for value in ({"x": saved(random(2)), "deep": [({"a": attack},)]}, Call(OrderedDict, [("x", attack)]), attack):
            message = raised(write(tmp_path / "w.pth", value, protocol))
            name = "builtins.__import__" if "getattr" in name and "__import__" in message else name
            assert name in message.replace("__builtin__", "builtins")
            assert "safetensors" in message
    assert not marker.exists()


PROGRAMS = {  # pickles by hand, and what the error says of them
    "INST": (b"(S'true'\niposix\nsystem\n.", "asks for posix.system"),
    "dotted name": (
        b"\x80\x04\x8c\x08builtins\x8c\x0deval.__call__\x93.",
        "asks for builtins.eval.__call__",
    ),
    "extension registry": (b"\x80\x02\x82\x01.", "uses EXT1"),
    "NEWOBJ": (b"\x80\x02K\x01)\x81.", "makes an object of what is no class"),
    "NEWOBJ of what runs": (b"\x80\x02csubprocess\nPopen\n)\x81.", "asks for subprocess.Popen"),
    "an object": (b"\x80\x02cargparse\nNamespace\n)\x81.", "no state_dict (a dict of named tensors) but an object of"),
    "persistent id as text": (b"Pstorage\n.", "uses PERSID"),
    "call of a call's result": (b"\x80\x02ctorch\nSize\n)R)R.", "calls what is no function"),
    "call of a text": (b"\x80\x02X\x01\x00\x00\x00a)R.", "calls what is no function"),
    "item of a function": (b"\x80\x02ctorch\nSize\nK\x01K\x02s.", "what is no dict"),
    "more than there is": (b"\x80\x02e0.", "damaged"),
    "no storage": (b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor\n(NK\x00))tRs.", "what is no storage"),
    "whole model": (b"\x80\x02(X\x06\x00\x00\x00moduleNX\x01\x00\x00\x000NK\x01tQ.", "not a storage of plain numbers"),
    "a list": (b"\x80\x02].", "no state_dict"),
    "an array of objects": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n.",
        "no state_dict",
    ),
    "nested names": (b"\x80\x04]" + b"\x94h\x00" * 9 + b"\x93.", "no text"),
    # A dict whose key is a tuple 200,000 deep: its hash would overflow the C stack.
    "deep key": (b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s.", "no named tensors"),
    # 200 memo slots numbered from 4 billion downwards: a table of them would take 64 GB.
    "far memo": (
        b"\x80\x02}" + b"".join(b"r" + struct.pack("<I", 2**32 - 1 - i) for i in range(200)) + b".",
        "no named tensors",
    ),
    # pairs of an OrderedDict that share one long list: n * n items from 2n bytes
    "wide pairs": (
        b"\x80\x02ccollections\nOrderedDict\n](](" + b"K\x01" * 50_000 + b"eq\x00" + b"h\x00" * 50_000 + b"e\x85R.",
        "damaged",
    ),
    "long text": (b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a.", "damaged"),
    "no end": (b"\x80\x02}", "cut off"),
    "nothing": (b"\x00", "damaged"),
}


@WRITERS
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_crafted_pickle_is_refused_and_runs_nothing(tmp_path, write, name):
    program, says = PROGRAMS[name]
    assert says in raised(write(tmp_path / "w.pth", {}, program=program))


@WRITERS
def test_attributes_cannot_reach_the_reader(tmp_path, write):
    # BUILD with slot state would set __defaults__ of a function; the file after it must read as before.
    program = (
        b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor\nN}X\x0c\x00\x00\x00__defaults__K\x01\x85s\x86bs."
    )
    raised(write(tmp_path / "w.pth", {}, program=program))
    check(read(write(tmp_path / "v.pth", {"x": saved(random(3))})), {"x": random(3)})


@WRITERS
@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (Saved(random(4), 1, (4,), (1,)), "reaches element 4 of a storage of 4"),
        (Saved(random(4), 0, (2, 2), (3, 1)), "reaches element 4"),
        (Saved(random(4), -1, (2,), (1,)), "impossible"),
        (Saved(random(4), 2, (2,), (-1,)), "impossible"),
        (Saved(random(4), 0, (2,), (1, 1)), "impossible"),
        (Saved(random(4), 0, (True,), (1,)), "impossible"),
        (Saved(random(4), 0, (2**70,), (0,)), "impossible"),
        (Saved(random(4), 0, (10**6, 10**6), (0, 0)), "claim 4,000,000,000,000 bytes"),
        (Saved(random(4), 0, (0, 2**62), (1, 1)), "damaged"),
    ],
)
def test_tensors_outside_their_storage(tmp_path, write, tensor, says):
    assert says in raised(write(tmp_path / "w.pth", {"x": tensor}))


@WRITERS
@pytest.mark.parametrize(
    "key", ["../../secret", "/etc/passwd", "..\\secret", "0/../../data.pkl", "", "0\0", "a" * 70_000]
)
def test_keys_of_storages_lead_nowhere_but_into_the_file(tmp_path, monkeypatch, write, key):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    for secret in (tmp_path / "secret", tmp_path / "folder" / "secret"):
        secret.write_bytes(random(3).tobytes())
    pickled, _ = dumps({"x": saved(random(3))}, 2, legacy=write is write_legacy)
    written = b"X\x01\x00\x00\x000q"  # the key "0", and its place in the memo
    assert pickled.count(written) == 1
    text = key.encode()
    program = pickled.replace(written, b"X" + struct.pack("<I", len(text)) + text + b"q")
    raised(write(tmp_path / "folder" / "w.pth", {"x": saved(random(3))}, program=program))


@pytest.mark.parametrize("folder", ["../", "/", "C:\\", "archive/../"])
def test_members_are_never_unpacked_to_the_disk(tmp_path, monkeypatch, folder):
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    path = write_zip(inside / "w.pth", {"x": saved(random(3))}, folder=folder)
    with contextlib.suppress(WeightsError):
        check(read(path), {"x": random(3)})
    with zipfile.ZipFile(inside / "w.npz", "w") as archive:
        archive.writestr(f"{folder}x.npy", npy(random(3)))
    check(read(inside / "w.npz"), {f"{folder}x": random(3)})
    assert sorted(tmp_path.rglob("*")) == [inside, inside / "w.npz", inside / "w.pth"]


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_other_methods_of_packing_are_refused(tmp_path):
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path = write_zip(tmp_path / "w.pth", {"x": saved(random(3))}, compression=method)
        assert "packed by another method than deflate" in raised(path)


@pytest.mark.parametrize("count", [4, 2**31, 2**50, 2**70])
def test_an_array_that_claims_more_than_its_member_holds(tmp_path, count):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (count,)})
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue() + random(3).tobytes())
    raised(tmp_path / "w.npz")


def test_zip_bombs_are_not_unpacked(tmp_path):
    bomb = Saved(np.zeros(2**24, np.float32))
    path = write_zip(tmp_path / "w.pth", {"x": bomb}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**17
    assert "claim" in raised(path)
    path = write_zip(tmp_path / "w.pth", {}, compression=zipfile.ZIP_DEFLATED, program=bytes(2**25))
    assert "member data.pkl claims 33,554,432 bytes" in raised(path)
    np.savez_compressed(tmp_path / "w.npz", x=np.zeros(2**24, np.float32))
    assert "claim" in raised(tmp_path / "w.npz")


def test_storages_of_another_size_than_declared(tmp_path):
    path = write_zip(tmp_path / "w.pth", {"x": saved(random(3))})
    with zipfile.ZipFile(tmp_path / "v.pth", "w") as archive, zipfile.ZipFile(path) as good:
        archive.writestr("archive/data.pkl", good.read("archive/data.pkl"))
        archive.writestr("archive/data/0", bytes(8))
    assert "8 bytes where 3 elements of float32" in raised(tmp_path / "v.pth")
    with zipfile.ZipFile(tmp_path / "u.pth", "w") as archive, zipfile.ZipFile(path) as good:
        archive.writestr("archive/data.pkl", good.read("archive/data.pkl"))
    assert "archive/data/0" in raised(tmp_path / "u.pth")


def test_big_endian_is_refused(tmp_path):
    path = write_zip(tmp_path / "w.pth", {"x": saved(random(3))})
    path.write_bytes(path.read_bytes().replace(b"little", b"biggle"))
    raised(path)  # the checksum of the zip
    with zipfile.ZipFile(tmp_path / "v.pth", "w") as archive:
        archive.writestr("data.pkl", b"\x80\x02}.")
        archive.writestr("byteorder", "big")
    assert "big-endian" in raised(tmp_path / "v.pth")


def test_what_is_no_weights_file(tmp_path):
    assert "folder" in raised(tmp_path)
    assert "No such file" in raised(tmp_path / "missing.pth")
    for name, content, says in [
        ("empty", b"", "empty"),
        ("page", b"<!DOCTYPE html><html>", "a page of a website"),
        ("pickle", pickle.dumps({"a": 1}), "a pickle, which is never run"),
        ("note", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        ("text", b"resnet18", "no safetensors, .npz, .pth or .h5"),
        ("names", b"\x05\x00\x00\x00\x00\x00\x00\x00{1,2}", "damaged"),
    ]:
        (tmp_path / name).write_bytes(content)
        assert says in raised(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "z", "w") as archive:
        archive.writestr("readme.txt", "no weights")
    assert "zip archive" in raised(tmp_path / "z")
    np.savez(tmp_path / "objects.npz", x=np.array([Call(os.system, "true")], dtype=object))
    assert "allow_pickle" in raised(tmp_path / "objects.npz")
    np.savez(tmp_path / "texts.npz", x=np.array(["a"]))
    assert "not of numbers: x (<U1)" in raised(tmp_path / "texts.npz")
    assert "epoch" in raised(write_zip(tmp_path / "n.pth", {"epoch": 3}))


@pytest.fixture(scope="module")
def small_files(tmp_path_factory):
    """Bytes of one small good file of each format."""
    folder = tmp_path_factory.mktemp("small")
    value = OrderedDict({"a.weight": Saved(random(6), 0, (3, 2), (1, 3)), "a.bias": saved(random(3, dtype="int64"))})
    vars(value)["_metadata"] = {"version": 1}
    arrays = {"a.weight": random(2, 3), "a.bias": random(3, dtype="float16")}
    safetensors.numpy.save_file(arrays, folder / "safetensors")
    np.savez(folder / "npz.npz", **arrays)
    paths = {
        "zip": write_zip(folder / "zip", value),
        "zip protocol 4": write_zip(folder / "zip4", value, protocol=4),
        "legacy": write_legacy(folder / "legacy", value),
        "safetensors": folder / "safetensors",
        "npz": folder / "npz.npz",
    }
    return {name: path.read_bytes() for name, path in paths.items()}


FORMATS = pytest.mark.parametrize("name", ["zip", "zip protocol 4", "legacy", "safetensors", "npz"])


@FORMATS
def test_files_cut_off_anywhere(tmp_path, small_files, name):
    content = small_files[name]
    path = tmp_path / "w"
    path.write_bytes(content)
    assert list(read(path)) in (["a.weight", "a.bias"], ["a.bias", "a.weight"])
    for length in range(0, len(content), max(1, len(content) // 150)):
        path.write_bytes(content[:length])
        raised(path)


def reads_or_complains(folder, content):
    """What is left of a file is read as named arrays or refused with the one error."""
    path = folder.getbasetemp() / "fuzz"
    path.write_bytes(content)
    with contextlib.suppress(WeightsError):
        tensors = read(path)
        assert all(isinstance(key, str) and isinstance(array, np.ndarray) for key, array in tensors.items())


def damaged(data, content):
    """`content` after up to six changes: bytes replaced, cut out, put in, or copied from elsewhere in it."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 6))):
        start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(changed))] * 2)))
        match data.draw(st.sampled_from(["replace", "cut", "put", "copy"])):
            case "replace":
                new = data.draw(st.binary(min_size=1, max_size=4))
                changed[start : start + len(new)] = new
            case "cut":
                del changed[start:stop]
            case "put":
                changed[start:start] = data.draw(st.binary(max_size=12))
            case "copy":
                changed[start:start] = changed[start:stop][:64]
    return bytes(changed)


@FORMATS
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damage_gives_arrays_or_weights_error(tmp_path_factory, small_files, name, data):
    reads_or_complains(tmp_path_factory, damaged(data, small_files[name]))


@pytest.mark.parametrize("name", ["zip", "zip protocol 4", "npz"])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damage_inside_of_archives_whose_checksums_hold(tmp_path_factory, small_files, name, data):
    with zipfile.ZipFile(io.BytesIO(small_files[name])) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    stream = io.BytesIO()
    victims = data.draw(st.sets(st.sampled_from(sorted(members)), min_size=1))
    with zipfile.ZipFile(stream, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, damaged(data, content) if member in victims else content)
    reads_or_complains(tmp_path_factory, stream.getvalue())


HUGE = st.integers(-1, 2**64)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "C64", "X"]),
        "shape": st.lists(st.integers(0, 4) | HUGE, max_size=3),
        "data_offsets": st.lists(st.integers(0, 24) | HUGE, min_size=2, max_size=2),
    }
)


@settings(max_examples=200, deadline=None)
@given(header=st.dictionaries(st.text(max_size=4), ENTRIES | st.none() | st.text(max_size=3), max_size=3))
def test_any_header_of_safetensors(tmp_path_factory, header):
    text = json.dumps(header).encode()
    reads_or_complains(tmp_path_factory, struct.pack("<Q", len(text)) + text + bytes(24))


# What pickles of torch are made of, and what those of attackers are: most orders of these are nonsense.
PIECES = [
    *(b"}", b"]", b")", b"(", b"t", b"R", b"Q", b"0", b"1", b"2", b"N", b"s", b"u", b"e", b"a", b"b", b"d", b"l"),
    *(b"\x85", b"\x86", b"\x87", b"\x88", b"\x93", b"\x94", b"q\x00", b"h\x00", b"\x8f", b"\x90", b"\x91", b"\x81"),
    *(b"K\x01", b"K\x03", b"J\xff\xff\xff\xff", b"X\x01\x00\x00\x000", b"X\x07\x00\x00\x00storage", b"U\x01a"),
    *(b"X\x03\x00\x00\x00cpu", b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n"),
    *(b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_parameter\n", b"ctorch\nSize\n", b"cos\nsystem\n"),
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x03tQ",
]


@WRITERS
@given(program=st.lists(st.sampled_from(PIECES), max_size=25).map(b"".join) | st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_anything_as_the_program(tmp_path_factory, write, program):
    path = tmp_path_factory.getbasetemp() / "program"
    write(path, {"x": saved(random(3))}, program=b"\x80\x02" + program + b".")
    reads_or_complains(tmp_path_factory, path.read_bytes())


# Numbers of tensors and of parameters counted with pickletools and the file sizes: 4 bytes each, 8 per batch counter.
@pytest.mark.parametrize(
    ("name", "tensors", "first", "shape"),
    [
        ("pip/efficientnet-lite0", 296, "_conv_stem.weight", (32, 3, 3, 3)),
        ("pip/mobilenet-v2", 314, "features.0.0.weight", (32, 3, 3, 3)),
    ],
)
def test_the_installed_packages_files_are_read(name, tensors, first, shape):
    if importlib.util.find_spec(sources.SOURCES[name].module) is None:
        pytest.skip(f"pip install {sources.SOURCES[name].install}")
    path, source = sources.locate(name)
    assert source == sources.SOURCES[name]
    found = read(path)
    assert len(found) == tensors
    assert next(iter(found)) == first
    assert found[first].shape == shape
    assert {array.dtype.name for array in found.values()} == {"float32", "int64"}
    assert all(np.isfinite(array).all() for array in found.values())
    # every byte of the storages came back; what remains of the file are the pickles, about 350 bytes per tensor
    assert 0 < path.stat().st_size - sum(array.nbytes for array in found.values()) < 500 * tensors
