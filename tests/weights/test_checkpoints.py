"""Checkpoints of training scripts: what lies beside the weights, which weights are meant, and files that hold none."""

import argparse
import collections
import datetime
import enum
import json
import re
import struct
import sys
import types
import zipfile
from pathlib import Path, PurePosixPath
from unittest import mock

import flax.linen as nn
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

from delta_jax import models, weights
from delta_jax.models import ModelSpec, registry
from delta_jax.weights import WeightsError, hallmarks, merging, read, sources
from delta_jax.weights.reading import read_content
from tests.weights.test_reading import TORCH, UTILS, WRITERS, Call, check, dumps, random, saved, write_legacy, write_zip

STATE = {"conv1.weight": random(4, 3), "bn1.weight": random(4)}


def stored(**more):
    return {name: saved(array) for name, array in STATE.items()} | more


class Loud:
    """Complains when it is built, as an object of a script's own class might do worse."""

    def __init__(self):
        self.lr = 0.1

    def __setstate__(self, state):
        raise AssertionError("was built")


class Colour(enum.Enum):
    RED = 1


BESIDE = {
    "timm and torchvision": argparse.Namespace(lr=0.1, model="net", path=PurePosixPath("x"), colour=Colour.RED),
    "MultiStepLR": {"milestones": collections.Counter({3: 1, 6: 1}), "last_epoch": 2},
    "defaultdict": collections.defaultdict(list, {"loss": [1.0, 2.0]}),
    "nested": collections.OrderedDict(a=collections.Counter("abc"), b=types.SimpleNamespace(c=argparse.Namespace())),
    "time": [datetime.datetime(2024, 1, 2), datetime.timedelta(seconds=3), {1, 2}, frozenset((1,)), 1 + 2j],
    "numpy": (np.float64(0.5), np.arange(3), np.random.default_rng(0).bit_generator.state, np.dtype("f4")),
    "own class": Loud(),
    "a function": len,
    "a method": Call(getattr, Colour, "RED"),
    "bytes": bytearray(b"abc"),
}


@pytest.mark.parametrize(
    ("write", "protocol"), [*((write_zip, protocol) for protocol in (1, 2, 4, 5)), (write_legacy, 2), (write_legacy, 4)]
)
@pytest.mark.parametrize("name", BESIDE)
def test_what_lies_beside_the_weights_is_never_built(tmp_path, write, protocol, name):
    path = write(tmp_path / "w.pth", {"state_dict": stored(), "args": BESIDE[name], "epoch": 3}, protocol)
    check(read(path), STATE)
    path = write(tmp_path / "v.pth", {"args": BESIDE[name], **stored()}, protocol)
    check(read(path), STATE)


def test_objects_of_the_oldest_protocols(tmp_path):
    # (cargparse\nNamespace\no makes one by OBJ, (iargparse\nNamespace\n by INST.
    pickled, _ = dumps({"state_dict": stored()}, 2, legacy=False)
    for made in (b"(cargparse\nNamespace\no", b"(iargparse\nNamespace\n"):
        end = pickled.rindex(b"s.")
        program = pickled[:end] + b"sX\x04\x00\x00\x00args" + made + b"}X\x05\x00\x00\x00modelX\x03\x00\x00\x00netsbs."
        content = read_content(write_zip(tmp_path / "w.pth", {"state_dict": stored()}, program=program))
        check(content.tensors, STATE)
        assert content.says == (("its args.model", "net"),)


def test_a_record_holds_the_weights_of_a_kind_of_dict(tmp_path):
    class Kind(dict):
        pass

    Kind.__module__, Kind.__qualname__ = "torch", "Kind"
    with mock.patch.object(TORCH, "Kind", Kind, create=True):
        check(read(write_zip(tmp_path / "w.pth", {"state_dict": Kind(stored())})), STATE)
        check(read(write_zip(tmp_path / "v.pth", Kind(stored()))), STATE)


def test_parameters_with_attributes(tmp_path):
    def rebuild(name, module="torch._utils"):
        function = types.FunctionType((lambda *arguments: None).__code__, {}, name)
        function.__module__, function.__qualname__ = module, name
        return function

    with_state, of_type = rebuild("_rebuild_parameter_with_state"), rebuild("_rebuild_from_type_v2", "torch._tensor")
    tensor = types.ModuleType("torch._tensor")
    tensor._rebuild_from_type_v2 = of_type
    plain = saved(random(3))
    function, arguments = plain.__reduce__()
    value = {
        "a": Call(with_state, plain, True, collections.OrderedDict(), {"tag": 1}),
        "b": Call(of_type, function, Loud, arguments, {"tag": 1}),
    }
    with (
        mock.patch.object(UTILS, "_rebuild_parameter_with_state", with_state, create=True),
        mock.patch.dict(sys.modules, {"torch._tensor": tensor}),
    ):
        check(read(write_zip(tmp_path / "w.pth", value)), {"a": random(3), "b": random(3)})


def test_what_a_checkpoint_calls_its_network(tmp_path):
    value = {"arch": "resnet50", "args": argparse.Namespace(model="resnetblur50", lr=1), "state_dict": stored()}
    assert read_content(write_zip(tmp_path / "w.pth", value)).says == (
        ("its arch", "resnet50"),
        ("its args.model", "resnetblur50"),
    )
    safetensors.numpy.save_file(STATE, tmp_path / "w.safetensors", {"format": "flax", "arch": "resnet50"})
    assert read_content(tmp_path / "w.safetensors").says == (("its metadata's arch", "delta_jax:resnet50"),)


AVERAGE = {name: array + 1 for name, array in STATE.items()}


@pytest.mark.parametrize("average", ["state_dict_ema", "model_ema", "teacher"])
def test_trained_or_averaged_weights_are_a_choice_that_is_said(tmp_path, caplog, average):
    averaged = {f"module.{name}": saved(array) for name, array in AVERAGE.items()} | {"n_averaged": saved(np.array(7))}
    path = write_zip(tmp_path / "w.pth", {average: averaged, "state_dict": stored(), "optimizer": {"state": stored()}})
    check(read(path), STATE)
    (line,) = caplog.messages
    assert "under state_dict are taken" in line
    assert f"add '#{average}'" in line
    caplog.clear()
    check(read(f"{path}#{average}"), AVERAGE)
    check(read(f"{path}#state_dict"), STATE)
    assert not caplog.messages
    with pytest.raises(WeightsError, match=rf"no state 'emma'.*its states are state_dict, {average}"):
        read(f"{path}#emma")


def test_a_hash_in_the_name_of_a_file_is_part_of_it(tmp_path):
    path = write_zip(tmp_path / "run#3.pth", {"state_dict": stored(), "ema": stored(x=saved(random(2)))})
    check(read(path), STATE)
    assert "x" in read(f"{path}#ema")


def test_states_under_names_of_ones_own(tmp_path):
    path = write_zip(tmp_path / "w.pth", {"mine": stored(), "best": saved(np.float32(3))})
    check(read(path), STATE)
    path = write_zip(tmp_path / "v.pth", {"first": stored(), "second": stored()})
    with pytest.raises(WeightsError, match="several states: first, second; say which, as in 'FILE#first'"):
        read(path)
    check(read(f"{path}#second"), STATE)


def test_a_state_is_chosen_behind_the_hash_of_an_address(tmp_path):
    plain, ema, both = (
        sources._address(f"https://host.org/w.pth{end}") for end in ("", "#ema", "#sha256=0123abcd&state_dict_ema")
    )
    assert plain[0] != ema[0]  # converted for itself
    assert [found[2] for found in (plain, ema, both)] == ["", "ema", "state_dict_ema"]
    assert both[1].sha256 == "0123abcd"
    for wrong in ("#sha256=xyz", "#md5=0123abcd&ema"):
        with pytest.raises(WeightsError, match="is to be sha256="):
            sources._address(f"https://host.org/w.pth{wrong}")


def test_wrappers_inside_of_names_come_off(tmp_path):
    # FSDP, checkpointing of activations and torch.compile of a part put themselves between the modules.
    value = {
        "_fsdp_wrapped_module.layer1._orig_mod.0._checkpoint_wrapped_module.conv1.weight": saved(random(2)),
        "_fsdp_wrapped_module.fc.bias": saved(random(3)),
    }
    check(read(write_zip(tmp_path / "w.pth", value)), {"layer1.0.conv1.weight": random(2), "fc.bias": random(3)})
    kept = {"a.weight": saved(random(2)), "_orig_mod.a.weight": saved(random(3))}  # would become one
    assert len(read(write_zip(tmp_path / "v.pth", kept))) == 2


def test_the_counter_of_averaged_weights(tmp_path):
    value = {"n_averaged": saved(np.array(4))} | {f"module.{name}": saved(array) for name, array in STATE.items()}
    check(read(write_zip(tmp_path / "w.pth", value)), STATE)


def test_numbers_that_are_not_read_are_no_damage(tmp_path):
    header = {"x": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(WeightsError, match=r"such as x, are of the kind float8 \(F8_E4M3\), .*sound: convert") as error:
        read(tmp_path / "w.safetensors")
    assert "damaged" not in str(error.value)


# `torch.save` of types without a class of storages, torch 2.14: _rebuild_tensor_v3 and an untyped storage of bytes.
@pytest.mark.parametrize(("kind", "read_as"), [("float8_e4m3fn", None), ("uint16", "<u2")])
def test_tensors_in_storages_without_a_type(tmp_path, kind, read_as):
    raw = np.arange(8, dtype=np.uint8)
    program = (
        b"\x80\x02}X\x01\x00\x00\x00xctorch._utils\n_rebuild_tensor_v3\n((X\x07\x00\x00\x00storage"
        b"ctorch.storage\nUntypedStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x08tQK\x00K\x04\x85K\x01\x85\x89}"
        + f"ctorch\n{kind}\n".encode()
        + b"tRs."
    )
    path = write_zip(tmp_path / "w.pth", {"x": saved(raw)}, program=program)
    if read_as:
        check(read(path), {"x": raw.view(read_as)})
        return
    with pytest.raises(WeightsError, match=rf"kind torch\.{kind}, which is not read here; the file is sound"):
        read(path)


class Network:
    """Pickles as a module of torch does: attributes with `_modules` among them."""

    def __init__(self):
        self._parameters, self._buffers, self._modules = {}, {}, {"fc": None}


@WRITERS
@pytest.mark.parametrize("under", ["", "model"])
def test_a_whole_module_is_refused_with_a_way_out(tmp_path, write, under):
    value = {under: Network(), "epoch": 3} if under else Network()
    with pytest.raises(WeightsError, match=r"a whole module of the class .*\.Network.*torch\.save\(module\.state_dict"):
        read(write(tmp_path / "w.pth", value))


def test_a_torchscript_archive_is_refused_with_a_way_out(tmp_path):
    path = write_zip(tmp_path / "w.pth", stored())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/constants.pkl", b"\x80\x02).")
    with pytest.raises(WeightsError, match=r"is a TorchScript archive.*torch\.jit\.load"):
        read(path)
    with zipfile.ZipFile(tmp_path / "w.pt2", "w") as archive:
        archive.writestr("w/archive_format", "pt2")
        archive.writestr("w/models/model.json", "{}")
    with pytest.raises(WeightsError, match=r"archive of torch\.export"):
        read(tmp_path / "w.pt2")


def test_a_state_in_several_files(tmp_path):
    for i, (name, array) in enumerate(STATE.items()):
        safetensors.numpy.save_file({name: array}, tmp_path / f"{i}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: f"{i}.safetensors" for i, name in enumerate(STATE)}}))
    check(read(index), STATE)
    safetensors.numpy.save_file({"conv1.weight": STATE["conv1.weight"]}, tmp_path / "0.safetensors", {"arch": "net"})
    assert read_content(index).says == (("its metadata's arch", "net"),)
    (tmp_path / "1.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"1 of its 2 parts are missing, such as 1\.safetensors"):
        read(index)
    for strange in ("../0.safetensors", "/etc/passwd", index.name):
        index.write_text(json.dumps({"weight_map": {"x": strange}}))
        with pytest.raises(WeightsError, match="no file of its folder"):
            read(index)


def test_arrays_of_numpy_in_a_pickle(tmp_path):
    with pytest.raises(WeightsError, match=r"arrays of numpy in a pickle.*numpy\.savez"):
        read(write_zip(tmp_path / "w.pth", {"state_dict": {"x": random(3)}}))
    with pytest.raises(WeightsError, match=r"arrays of numpy in a pickle"):
        read(write_zip(tmp_path / "v.pth", {"x": random(3)}))


def test_a_folder_names_the_files_in_it(tmp_path):
    safetensors.numpy.save_file(STATE, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"is a folder; name the weights file in it: model\.safetensors"):
        read(tmp_path)


class Tiny(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3), use_bias=False, name="conv1")(x)
        x = nn.BatchNorm(use_running_average=not train, name="bn1")(x)
        return nn.Dense(self.num_classes, name="fc")(jnp.mean(x, axis=(1, 2)))


BODY = {
    "conv1.weight": np.random.default_rng(0).random((4, 3, 3, 3), np.float32),
    **{f"bn1.{leaf}": np.full(4, i, np.float32) for i, leaf in enumerate(("weight", "bias", "running_mean"), 1)},
    "bn1.running_var": np.full(4, 4, np.float32),
}
HEAD = {"fc.weight": np.ones((5, 4), np.float32), "fc.bias": np.full(5, 7, np.float32)}


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(registry, "_SPECS", {})
    models.register(ModelSpec("tiny", "none", Tiny, {}, "fc", input_size=8, torch_name=lambda module: module))
    monkeypatch.setattr(merging, "variable_shapes", merging.variable_shapes.__wrapped__)
    return "tiny"


def under(prefix, tensors, plus=0.0):
    return {f"{prefix}{name}": tensor + np.float32(plus) for name, tensor in tensors.items()}


MLP = {"fc.0.weight": np.ones((4, 4), np.float32), "fc.2.weight": np.ones((6, 4), np.float32)}
OTHER = np.ones(3, np.float32)
IN_LARGER_ONES = {  # what is in the file, whether its head is taken, and what is said
    "Lightning": (under("model.", BODY | HEAD) | {"criterion.weight": OTHER}, True, r"1 others left out \(criterion\)"),
    "TLLib": (under("backbone.", BODY) | {"head.weight": OTHER, "bottleneck.0.weight": OTHER}, False, "head, bottlen"),
    "net": (under("net.", BODY | HEAD), True, ""),
    "MoCo": (
        under("encoder_q.", BODY | MLP) | under("encoder_k.", BODY | MLP, 1) | {"queue": OTHER},
        False,
        r"under encoder_q\. are taken, and 8 others left out \(encoder_k, queue\); .* add '#encoder_k'",
    ),
    "BYOL": (under("online.net.", BODY) | under("target.net.", BODY, 1), False, r"add '#target\.net'"),
    "averages": (under("net.", BODY | HEAD) | under("ema_net.module.", BODY, 1), True, "ema_net"),
    "deep": (under("a.b.c.", BODY | HEAD) | {"x": OTHER}, True, r"under a\.b\.c\. are taken"),
    "a head of several layers": (BODY | MLP, False, r"of other layers \(fc\.0\.weight, fc\.2\.weight\)"),
}


@pytest.mark.parametrize("name", IN_LARGER_ONES)
def test_a_network_among_other_tensors(tiny, caplog, name):
    tensors, with_head, says = IN_LARGER_ONES[name]
    found = flatten_dict(weights.from_torch(tensors, tiny, 5), sep="/")
    np.testing.assert_array_equal(found["params/conv1/kernel"], BODY["conv1.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(found["batch_stats/bn1/var"], np.full(4, 4))
    np.testing.assert_array_equal(found["params/fc/bias"], np.full(5, 7 if with_head else 0))
    assert bool(caplog.messages) == bool(says)
    assert not says or any(re.search(says, line) for line in caplog.messages)


def test_two_networks_among_which_nothing_tells(tiny):
    with pytest.raises(WeightsError, match=r"2 networks like tiny, whose names begin with left\., right\..*'#left'"):
        weights.from_torch(under("left.", BODY) | under("right.", BODY), tiny, 5)


def test_the_state_that_is_meant_may_be_a_beginning_of_names(tiny, tmp_path):
    moco = IN_LARGER_ONES["MoCo"][0]
    safetensors.numpy.save_file({f"module.{name}": tensor for name, tensor in moco.items()}, tmp_path / "w.safetensors")
    lines: list[str] = []
    for end, plus in (("", 0), ("#encoder_k", 1), ("#module.encoder_k", 1)):
        found = weights.load(f"{tmp_path}/w.safetensors{end}", tiny, 5, say=lines.append)
        np.testing.assert_array_equal(found["batch_stats"]["bn1"]["var"], np.full(4, 4 + plus))
    assert sum("others left out" in line for line in lines) == 1


def test_other_tensors_within_a_network_are_an_error_as_before(tiny):
    with pytest.raises(WeightsError, match=r"1 unexpected: se\.weight"):
        weights.from_torch(under("model.", BODY | {"se.weight": OTHER}) | {"criterion.weight": OTHER}, tiny, 5)


@pytest.mark.parametrize("prefix", ["", "a.net."])
def test_the_command_that_leaves_out_what_stands_beside_a_network(tiny, tmp_path, monkeypatch, prefix):
    # SwAV: the prototypes lie beside the network, under no name of their own; a.net. is a beginning that nobody shares.
    beside = {"prototypes.weight": OTHER, "projection_head.0.weight": OTHER, "conv1.scale": OTHER}
    others = {"queue": OTHER} if prefix else {}
    safetensors.numpy.save_file(under(prefix, BODY | beside) | others, tmp_path / "swav.safetensors")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"(?s)^swav\.safetensors: these .*3 unexpected") as caught:
        weights.load("swav.safetensors", tiny, 5)
    exec(re.search(r'python -c "(.*)"', str(caught.value))[1])
    assert read("weights.npz").keys() == {f"{prefix}{name}" for name in BODY} | others.keys()
    weights.load("weights.npz", tiny, 5)


def test_counters_of_other_programs_are_left_out(tiny):
    weights.from_torch(BODY | HEAD | {"total_ops": OTHER, "conv1.total_params": OTHER}, tiny, 5)


# Names from state_dicts of timm 1.0.31, torchvision 0.29.1 and transformers.
@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("layer1.0.se.fc1.weight", (16, 256, 1, 1), "squeeze-and-excitation"),
        ("conv1.0.weight", (32, 3, 3, 3), "resnet50t"),
        ("stages.0.blocks.0.conv_dw.weight", (40, 1, 7, 7), "ConvNeXt"),
        ("blocks.0.attn.qkv.weight", (576, 192), "transformer"),
        ("features.denseblock1.denselayer1.norm1.weight", (64,), "DenseNet"),
        ("layer1.0.convs.0.weight", (26, 26, 3, 3), "Res2Net"),
        ("layer1.0.conv2.paths.0.conv.weight", (32, 32, 3, 3), "SKNet"),
        ("blocks.1.0.se.conv_reduce.weight", (4, 96, 1, 1), "EfficientNet"),
        ("layer1.0.conv2.weight", (128, 4, 3, 3), "a ResNeXt"),
        ("layer1.0.conv2.weight", (128, 128, 3, 3), "a wide ResNet"),
        ("features.0.weight", (64, 3, 3, 3), "VGG"),
        ("resnet.embedder.embedder.convolution.weight", (64, 3, 7, 7), "transformers"),
        ("s1.b1.conv1.conv.weight", (48, 32, 1, 1), "RegNet"),
        ("layer1.0.conv2.weight", (64, 64, 3, 3), ""),
    ],
)
def test_networks_that_are_not_here_are_recognised(tiny, name, shape, says):
    tensors = {name: np.zeros(shape, np.float32)}
    assert says in hallmarks.foreign(tensors)
    if says:
        with pytest.raises(
            WeightsError, match=rf"look like the weights of .*{says}.*: that is not supported here"
        ) as e:
            weights.from_torch(tensors, tiny, 5)
        assert "did you mean" not in str(e.value)


def test_a_network_without_running_statistics_may_be_one_of_other_norms(tiny):
    parameters = {name: tensor for name, tensor in BODY.items() if "running" not in name}
    with pytest.raises(WeightsError, match=r"resnet50_gn, not supported here"):
        weights.from_torch(parameters, tiny, 5)


def test_bfloat16_and_counters_are_read(tmp_path):
    tensors = {"x": random(3, dtype=ml_dtypes.bfloat16), "bn.num_batches_tracked": np.array(3)}
    safetensors.numpy.save_file(tensors, tmp_path / "w.safetensors")
    found = read(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(found["x"], random(3).astype(np.float32))
    assert found["bn.num_batches_tracked"] == 3


def test_the_reader_needs_no_class_of_the_file(tmp_path):
    # A class of a module that nobody has: argparse.Namespace renamed to one of the same length.
    pickled, _ = dumps({"state_dict": stored(), "args": argparse.Namespace(a=1)}, 2, legacy=False)
    program = pickled.replace(b"cargparse\nNamespace\n", b"cargparsf\nNamespacf\n")
    assert program != pickled
    content = read_content(write_zip(tmp_path / "w.pth", {"state_dict": stored()}, program=program))
    check(content.tensors, STATE)


def test_paths_with_a_state_are_located(tmp_path):
    path = write_zip(tmp_path / "w.pth", stored())
    assert sources.locate(f"{path}#ema") == (Path(f"{path}#ema"), None)
    with pytest.raises(WeightsError, match="neither a file nor a named source"):
        sources.locate(f"{tmp_path}/v.pth#ema")
