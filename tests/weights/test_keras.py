"""Files and networks of Keras: what keras.applications 3.15.1 computes (tests/golden), and its layouts of files."""

import dataclasses
import re
import zipfile

import jax
import numpy as np
import pytest

from delta_jax import models, weights
from delta_jax.weights import WeightsError, keras_names, read
from delta_jax.weights.merging import variable_shapes
from tests.golden import keras_networks as golden

HERE = "delta_jax.models.keras_networks"
ARCHS = {
    "ResNet50": "resnet50",
    "ResNet101": "resnet101",
    "ResNet152": "resnet152",
    "MobileNetV2": "mobilenet_v2",
    "VGG16": "vgg16",
    "VGG16_gap": "vgg16_gap",
    "VGG19": "vgg19",
    "VGG19_gap": "vgg19_gap",
    **{f"EfficientNetB{number}": f"efficientnet_b{number}" for number in range(5)},
    **{f"DenseNet{number}": f"densenet{number}" for number in (121, 169, 201)},
    "Xception": "xception",
}


def arch_of(kind):
    return f"{HERE}:{ARCHS.get(kind) or ARCHS[kind.removesuffix('_gap')]}"


def of_keras(kind, classes=golden.CLASSES):
    """The arrays of Keras' network, by its names and in its layouts."""
    arch, found = arch_of(kind), {}
    shapes = variable_shapes(arch, classes)
    for path, name in keras_names.array_names(models.spec(arch), shapes).items():
        shape = shapes[path]
        shape = (*shape[:2], shape[3], 1) if path[-2].startswith("depthwise") and len(shape) == 4 else shape
        name = name.replace("_pointwise/kernel", "/pointwise_kernel")
        if match := re.fullmatch(r"block(\d+)_skip_(conv|bn)/(.*)", name):  # Keras gives them numbers alone
            block, part, variable = match.groups()
            name = f"{'conv2d' if part == 'conv' else 'batch_normalization'}_{block}/{variable}"
        found[name] = golden.array_of(golden.seed(*name.split("/"), shape), shape, kind)
        if kind.startswith("ResNet") and path[-1] == "kernel" and len(shape) == 4:
            bias = name.replace("/kernel", "/bias")
            found[bias] = golden.array_of(bias, shape[-1:])
    if kind.startswith("EfficientNet"):
        variance = golden.IMAGENET_STD if kind.endswith("_gap") else golden.VARIANCE
        found |= {
            "normalization_1/mean": np.array(golden.IMAGENET_MEAN),
            "normalization_1/variance": np.array(variance),
        }
    return found


@pytest.mark.parametrize("case", golden.CASES)
def test_logits_are_those_of_keras(case):
    kind, size = case.split("-")
    spec, network = models.spec(arch_of(kind)), models.create(arch_of(kind), num_classes=golden.CLASSES)
    variables = weights.from_torch(of_keras(kind), arch_of(kind), golden.CLASSES)
    seen = (golden.images(int(size)) / 255 - np.array(spec.mean)) / np.array(spec.std)
    logits = jax.jit(network.apply)(variables, seen.astype(np.float32))
    wanted = np.load(golden.FILE)[case]
    np.testing.assert_allclose(logits, wanted, atol=1e-5 * abs(wanted).max())


def test_the_default_taps_are_there():
    # Others have those of registered networks.
    for arch in map(arch_of, ("ResNet50", "ResNet101", "ResNet152", "MobileNetV2")):
        modules = {"/".join(path[1:-1]) for path in variable_shapes(arch, 3)}
        assert len(models.spec(arch).taps) == 4
        assert set(models.spec(arch).taps) <= modules


def test_a_head_of_another_size_and_other_layers():
    arch = arch_of("MobileNetV2")
    given = of_keras("MobileNetV2") | {
        "dense/kernel": np.ones((1280, 2), np.float32),
        "dense/bias": np.ones(2, np.float32),
    }
    _, remark = keras_names.to_flax(given, models.spec(arch), variable_shapes(arch, 3))
    assert remark == "left out, no layers of the network: dense"
    loaded = weights.from_torch(given, arch, 3)
    assert not np.asarray(loaded["params"]["classifier"]["kernel"]).any()
    np.testing.assert_array_equal(
        loaded["params"]["block_3"]["depthwise_conv"]["kernel"][1, 2, 0], given["block_3_depthwise/kernel"][1, 2, :, 0]
    )
    with pytest.raises(WeightsError, match=r"of Keras, which mobilenet_v2 does not take: .*keras_networks:resnet50"):
        weights.from_torch(given, "mobilenet_v2", 3)
    with pytest.raises(WeightsError, match=r"they lack 5 arrays of Keras' network: .*Conv1/kernel"):
        weights.from_torch({k: v for k, v in given.items() if "Conv1/" not in k}, arch, 3)
    with pytest.raises(WeightsError, match=r"fit .*resnet50: they lack [0-9]+ arrays .*conv2_block1_1_bn"):
        weights.from_torch(given, arch_of("ResNet50"), 3)


def test_the_normalization_of_efficientnets():
    spec = dataclasses.replace(models.spec(arch_of("EfficientNetB0")), mean=(0.0, 0.0, 0.0))
    shapes = {("params", "stem_conv", "kernel"): (3, 3, 3, 2)}
    given = {"stem_conv/kernel": np.ones((3, 3, 3, 2))}
    with pytest.raises(WeightsError, match=r"expected mean and variance of one layer Normalization, .* found none"):
        keras_names.to_flax(given, spec, shapes)
    given |= {"normalization/mean": np.zeros(3), "normalization/variance": np.array([1.0, 4.0, 9.0])}
    found, remark = keras_names.to_flax(given, spec, shapes)
    # Images are divided by 1, 2 and 3 there, by spec.std here.
    np.testing.assert_allclose(found["params/stem_conv/kernel"][0, 0, :, 0], np.array(spec.std) / [1, 2, 3], rtol=1e-6)
    assert not remark
    with pytest.raises(WeightsError, match=r"layer normalization takes 0, 0, 0 off images .* here 0.485, 0.456, 0.406"):
        keras_names.to_flax(given, models.spec(arch_of("EfficientNetB0")), shapes)


def test_a_larger_network_of_the_same_widths():
    shapes = {("params", "conv5_3", "kernel"): (3, 3, 2, 2)}
    given = {f"block5_conv{i}/kernel": np.ones((3, 3, 2, 2)) for i in (3, 4)}
    with pytest.raises(WeightsError, match="of a larger network, with 1 layers more: block5_conv4"):
        keras_names.to_flax(given, models.spec(arch_of("VGG16_gap")), shapes)


def test_the_dense_layers_of_vgg():
    arch, rng = arch_of("VGG16"), np.random.default_rng(0)
    spec = dataclasses.replace(models.spec(arch), arguments={"map_size": 2})
    shapes = {("params", "fc1", "kernel"): (12, 4), ("params", "fc", "kernel"): (4, 3), ("params", "fc", "bias"): (3,)}
    given = {"fc1/kernel": rng.normal(size=(12, 4)), "predictions/kernel": np.ones((4, 3))}
    seen = rng.normal(size=(2, 2, 3))
    found, _ = keras_names.to_flax(given, spec, shapes)
    # Flattened row by row there, channel by channel here.
    here = seen.transpose(2, 0, 1).reshape(-1) @ found["params/fc1/kernel"]
    np.testing.assert_allclose(here, seen.reshape(-1) @ given["fc1/kernel"], rtol=1e-6)
    with pytest.raises(WeightsError, match=r"first dense layer is \(27, 4\), here \(12, 4\): .*_gap"):
        keras_names.to_flax(given | {"fc1/kernel": np.ones((27, 4))}, spec, shapes)
    # The head of a network with dense layers reads other features than one without.
    found, remark = keras_names.to_flax(given | {"predictions/kernel": np.ones((7, 3))}, spec, shapes)
    assert not any("/fc/" in name for name in found)
    assert remark == "left out, no layers of the network: predictions"


# Layers of a network of a convolution, its BatchNorm and a classifier.
LAYERS = {
    "conv2d_3": ("Conv1", {"kernel": (3, 3, 3, 4)}),
    "batch_normalization": ("bn_Conv1", dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), (4,))),
    "depthwise_conv2d": ("block_1_depthwise", {"kernel": (3, 3, 4, 1)}),
    "dense_1": ("predictions", {"kernel": (4, 2), "bias": (2,)}),
    "separable_conv2d": ("block2_sepconv1", {"kernel": (3, 3, 4, 1), "pointwise_kernel": (1, 1, 4, 2)}),
    "normalization_1": ("normalization_7", {"mean": (3,), "variance": (3,)}),
}
ARRAYS = {
    f"{name}/{v}": golden.array_of(f"{name}/{v}", shape) for name, vs in LAYERS.values() for v, shape in vs.items()
}


def of_keras_3(file, above="layers", named=True):
    for place, (name, variables) in LAYERS.items():
        group = file.create_group(f"{above}/{place}/vars")
        if named:
            group.attrs["name"] = name
        for number, variable in enumerate(variables):
            group[str(number)] = ARRAYS[f"{name}/{variable}"]
    file[f"{above}/dropout/seed_generator/vars/0"] = np.zeros(2, np.uint32)
    file["optimizer/vars/0"] = np.zeros(3, np.float32)


def of_keras_2(file, above="", old=True):
    for name, variables in LAYERS.values():
        for variable in variables:
            is_depthwise = variable == "kernel" and ("sepconv" in name or (old and "depthwise" in name))
            called = "depthwise_kernel" if is_depthwise else variable
            file[f"{above}{name}/{name}/{called}{':0' if old else ''}"] = ARRAYS[f"{name}/{variable}"]
    file["optimizer_weights/Adam/m:0"] = np.zeros(3, np.float32)


def of_keras_1(file):
    names = {"kernel": "W", "bias": "b", "moving_mean": "running_mean", "moving_variance": "running_std"}
    for name, variables in LAYERS.values():
        for variable in variables:
            file[f"{name}/{name}_{names.get(variable, variable)}_1:0"] = ARRAYS[f"{name}/{variable}"]


@pytest.fixture
def h5py():
    return pytest.importorskip("h5py", reason="reads files of Keras: pip install 'delta_jax[keras]'")


def same(path):
    found = read(path)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    "write",
    [
        of_keras_3,
        lambda file: of_keras_3(file, "layers/functional/layers"),
        of_keras_1,
        of_keras_2,
        lambda file: of_keras_2(file, "model_weights/mobilenetv2_1.00_224/"),
        lambda file: of_keras_2(file, "model_weights/", old=False),
    ],
)
def test_every_layout(tmp_path, h5py, write):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write(file)
    same(tmp_path / "a.h5")
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("config.json", '{"class_name": "Lambda", "config": "never built"}')
        archive.write(tmp_path / "a.h5", "model.weights.h5")
    same(tmp_path / "a.keras")


def refusal(path):
    with pytest.raises(WeightsError) as caught:
        read(path)
    return str(caught.value)


def test_what_leads_out_of_a_file_or_claims_too_much(tmp_path, h5py):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        of_keras_3(file, named=False)
    assert "does not say what the layer" in refusal(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("a/kernel", (1 << 40,), "f4", chunks=(1 << 20,))
    assert "claim more bytes" in refusal(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("a/kernel", (8,), "f4", external=[("/etc/passwd", 0, 32)])
    assert "in another file" in refusal(path)
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout((8,), "f4")
        layout[:] = h5py.VirtualSource("other.h5", "a", (8,))
        file.create_virtual_dataset("a/kernel", layout)
    assert "in another file" in refusal(path)
    with h5py.File(path, "w") as file:
        file["a/kernel"] = h5py.ExternalLink("other.h5", "a")
    assert "without the weights of layers" in refusal(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("a/kernel", data=np.ones(8, np.float32), compression="lzf")
    assert "packed by filter" in refusal(path)
    with h5py.File(path, "w") as file:
        for nested in ("one", "two"):
            file[f"{nested}/Conv1/kernel"] = np.ones(8, np.float32)
    assert "two arrays Conv1/kernel" in refusal(path)
    whole = path.read_bytes()
    for end in (9, 100, len(whole) // 2):
        path.write_bytes(whole[:end])
        assert "damaged or cut off" in refusal(path)


def test_without_h5py_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    assert "pip install 'delta_jax[keras]'" in refusal(tmp_path / "a.h5")
