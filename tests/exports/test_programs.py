"""Runs as programs of other runtimes: what is written computes what the network does, or is not kept."""

import dataclasses
import json
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from PIL import Image

from delta_jax import data, features, models
from delta_jax.exports import formats, instructions, onnx_file, programs, stablehlo_file, trial
from delta_jax.exports.errors import ExportError
from delta_jax.training import trainer
from delta_jax.training.classifier import Classifier
from tests import small_network
from tests.exports.test_export import SEEN, executed, finished, what_the_network_sees
from tests.reference import random_variables
from tests.small_run import make_photos, run, small_config

needs_flatbuffers = pytest.mark.skipif(bool(stablehlo_file.missing()), reason="pip install flatbuffers")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Of a run on photos that are here."""
    root = make_photos(tmp_path_factory.mktemp("programs") / "photos", per_class=8)
    trainer.fit(small_config(root, method="l2_fe"), root.parent / "run")
    return root.parent / "run"


@pytest.fixture(scope="module")
def trained(workdir):
    return Classifier(workdir)


def primitives(function, *arguments):
    return {equation.primitive.name for equation in jax.make_jaxpr(function)(*arguments).jaxpr.eqns}


@jax.custom_vjp
def doubled(x):
    return 2 * x


doubled.defvjp(lambda x: (2 * x, None), lambda _, cotangent: (3 * cotangent,))


def test_a_plain_program_has_no_calls_and_what_is_known_is_computed():
    scale = jnp.arange(1.0, 4)

    def function(x):
        x = features.tap(jax.jit(doubled)(x), "twice") * lax.rsqrt(scale)[None]
        x = jax.checkpoint(jnp.sin)(lax.optimization_barrier(x))
        # For none in particular there is no branch here: then that for CPUs.
        x = lax.platform_dependent(x, tpu=lambda x: x - 7, cpu=lambda x: x + 1)
        return lax.platform_dependent(x, cpu=lambda x: x - 7, default=jax.nn.relu6)

    x = jnp.linspace(-2, 2, 12).reshape(4, 3)
    (count,) = export.symbolic_shape("b")
    plain = programs.plain(function, jax.ShapeDtypeStruct((count, 3), jnp.float32))
    expected = np.clip(np.sin(2 * np.asarray(x) / np.sqrt([1, 2, 3])) + 1, 0, 6)
    np.testing.assert_allclose(plain(x), expected, rtol=1e-5, atol=1e-6)
    images = programs.plain(function, x)
    assert primitives(images, x) <= {"mul", "sin", "add", "max", "min", "convert_element_type", "broadcast_in_dim"}


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_is_written_out(reverse):
    weights = np.array([1.0, 2, 3], np.float32)

    def function(x):
        def step(carry, w):
            return carry * w + x, (carry, x - w)

        last, (before, _) = lax.scan(step, x, jnp.asarray(weights), reverse=reverse)
        return last[None] + before

    x = jnp.array([0.5, -2], jnp.float32)
    plain = jax.jit(programs.plain(function, x))
    assert "scan" not in primitives(programs.plain(function, x), x)
    carry, seen = np.asarray(x), []
    for w in weights[::-1] if reverse else weights:
        seen.append(carry)
        carry = carry * w + np.asarray(x)
    np.testing.assert_allclose(plain(x), carry + np.array(seen[::-1] if reverse else seen), rtol=1e-6)


@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 0), (2, 1))])
def test_windows_as_flax_has_them(padding):
    # Expected: a loop over the windows.
    x = np.random.default_rng(0).standard_normal((2, 7, 6, 3)).astype(np.float32)
    around = ((0, 0), *padding, (0, 0))
    for lowest, operation, whole in ((-np.inf, lax.max, np.max), (np.float32(0), lax.add, np.sum)):

        def reduced(x, lowest=lowest, operation=operation):
            return lax.reduce_window(x, lowest, operation, (1, 3, 2, 1), (1, 2, 2, 1), around)

        used = []
        rules = dict.fromkeys(
            ("reduce_window_max", "reduce_window_sum"),
            lambda *given: used.append(programs.pooling_of_flax(*given)) or used[-1],  # noqa: B023
        )
        found = programs.plain(reduced, jax.ShapeDtypeStruct(x.shape, x.dtype), rules)(jnp.asarray(x))
        padded = np.pad(x, around, constant_values=lowest)
        expected = [
            [whole(padded[:, i : i + 3, j : j + 2], axis=(1, 2)) for j in range(0, padded.shape[2] - 1, 2)]
            for i in range(0, padded.shape[1] - 2, 2)
        ]
        np.testing.assert_allclose(found, np.array(expected).transpose(2, 0, 1, 3), rtol=1e-5)


def test_windows_over_channels_or_with_gaps_are_left_alone():
    x = jnp.arange(96.0).reshape(2, 4, 4, 3)
    for settings in (
        {"window_dimensions": (1, 2, 2, 3), "window_strides": (1, 1, 1, 1)},
        {"window_dimensions": (1, 2, 2, 1), "window_strides": (1, 1, 1, 1), "window_dilation": (1, 2, 1, 1)},
    ):

        def reduced(x, settings=settings):
            return lax.reduce_window(x, -jnp.inf, lax.max, padding="VALID", **settings)

        rules = {"reduce_window_max": programs.pooling_of_flax}
        # Tracers: what is known would be computed without a rule.
        found = jax.jit(programs.plain(reduced, x, rules))(x)
        np.testing.assert_array_equal(found, reduced(x))


@needs_flatbuffers
def test_the_command_tries_what_it_writes_on_the_test_photos(workdir, trained, tmp_path):
    ended = run("export", f"--workdir={workdir}", "--format=stablehlo", f"--out={tmp_path / 'out'}")
    assert ended.returncode == 0, ended.stderr
    count = json.loads((workdir / "summary.json").read_text())["test"]["n"]
    assert f"tried on {count} test photos of the run: the same class for all, probabilities within " in ended.stdout
    assert "model.stablehlo: 0.0" in ended.stdout
    assert " MB, the run's weights 0.0" in ended.stdout
    facts = json.loads((tmp_path / "out" / "classifier.json").read_text())
    assert facts["classes"] == ["blue", "green", "red"]
    assert facts["input"] == {"shape": ["batch", 32, 32, 3], "values": "uint8 RGB, resized and cropped"}
    names = executed(ended.stdout[ended.stdout.index("    import") :], tmp_path)
    assert names["images"].dtype == np.uint8
    expected = trained.probabilities([trained.decode(tmp_path / instructions.PHOTO)])
    np.testing.assert_allclose(names["probabilities"], expected, atol=1e-6)


@needs_flatbuffers
@pytest.mark.parametrize("aspect", ["squash", "keep"])
def test_the_printed_lines_prepare_a_photo_as_the_run_did(trained, tmp_path, aspect, monkeypatch):
    seen = dataclasses.replace(trained.preprocessing, aspect=aspect, resize=41, interpolation="bicubic")
    monkeypatch.setattr(trained, "preprocessing", seen)
    usage = formats.export(trained, "stablehlo", tmp_path / "out", pixels=False, say=lambda _: None)
    names = executed(usage, tmp_path)  # a photo of 120 x 90
    assert names["images"].dtype == np.float32
    photo = trained.decode(tmp_path / instructions.PHOTO)
    given = photo[None] if aspect == "squash" else data.to_canvas([photo])
    np.testing.assert_allclose(names["images"], seen.views(given)[0], atol=1e-5)
    assert names["probabilities"].shape == (1, 3)


@needs_flatbuffers
def test_one_program_for_all_platforms_and_any_number_of_images(trained, tmp_path):
    stablehlo_file.write(trained, tmp_path, pixels=True)
    exported = export.deserialize(bytearray((tmp_path / stablehlo_file.FILE).read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    images = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), np.uint8)
    ours = programs.program(trained, pixels=True)
    read = stablehlo_file.reader(tmp_path)
    for count in (1, 5):
        np.testing.assert_allclose(read(images[:count]), ours(images[:count]), atol=1e-6)
    np.testing.assert_allclose(read(images).sum(-1), np.ones(5), rtol=1e-5)


@needs_flatbuffers
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: np.roll(p, 1, -1), "get another class"),
        (lambda p: p + 2e-4, "0 get another class, and probabilities differ by up to 2.0e-04, where 0.0001 is allowed"),
        (lambda p: p * np.nan, "no numbers"),
        (lambda p: p[:, :2], "too few"),
    ],
)
def test_what_computes_something_else_is_not_kept(trained, workdir, tmp_path, monkeypatch, change, said):
    reader = stablehlo_file.reader
    monkeypatch.setattr(stablehlo_file, "reader", lambda folder: lambda images: change(reader(folder)(images)))
    with pytest.raises(ExportError, match=said):
        formats.export(trained, "stablehlo", tmp_path / "out", workdir=workdir)
    assert list(tmp_path.iterdir()) == []


@needs_flatbuffers
def test_what_the_runtime_refuses_is_not_kept(trained, tmp_path, monkeypatch):
    def refuses(folder):
        raise RuntimeError("opset 99 is unknown\nand more")

    monkeypatch.setattr(stablehlo_file, "reader", refuses)
    with pytest.raises(
        ExportError, match=r"the runtime of stablehlo does not run what was written: opset 99 is unknown$"
    ):
        formats.export(trained, "stablehlo", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_classes_that_are_tied_may_change_places():
    class Tied:
        arch, class_names, preprocessing = small_network.ARCH, ("a", "b"), dataclasses.replace(SEEN, crop=32)
        variables = jax.tree.map(np.zeros_like, random_variables(small_network.SmallNet(2), jnp.zeros((1, 32, 32, 3))))

    photos = trial.made_up(Tied, "a test")
    found = trial.tried(
        Tied, lambda images: np.tile(np.float32([0.499999, 0.500001]), (len(images), 1)), photos, pixels=True
    )
    assert found.largest == pytest.approx(1e-6, rel=0.1)


@needs_flatbuffers
def test_without_photos_noise_is_taken_and_that_is_said(trained, workdir, tmp_path):
    said = []
    formats.export(trained, "stablehlo", tmp_path / "out", say=said.append)
    assert said[0].startswith("tried on 32 images of noise, for want of test photos (no run): the same class for all")
    # A folder that was exported from a run is none.
    formats.export(trained, "safetensors", tmp_path / "weights")
    photos = trial.photos_of(tmp_path / "weights", trained)
    assert photos.name.startswith("32 images of noise, for want of test photos (")
    assert "config.json does not exist" in photos.name


def test_the_photos_are_those_of_the_test_split(trained, workdir):
    photos = trial.photos_of(workdir, trained)
    (batch,) = photos.batches()
    assert batch.shape == (photos.count, 32, 32, 3)
    assert batch.dtype == np.uint8
    # predictions.csv has what the run gave them, to 6 digits.
    lines = (workdir / "predictions.csv").read_text().splitlines()[1:]
    expected = np.array([line.split(",")[3:] for line in lines], float)
    np.testing.assert_allclose(programs.program(trained, pixels=True)(batch), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--format=timm", "--input=images"], "--input is of --format=onnx or stablehlo or litert, not of timm"),
        (["--format=litert", "--opset=18"], "--opset is of --format=onnx, not of litert"),
        (["--format=onnx", "--push=a/b"], "--push is of --format=hub, not of onnx"),
        (["--format=hub", "--push=crabs"], "--push=crabs names no repository; expected user/name"),
    ],
)
def test_flags_of_other_formats_are_refused(tmp_path, flags, said):
    ended = run("export", f"--workdir={tmp_path}", *flags)
    assert ended.returncode == 1
    assert said in ended.stderr


@pytest.mark.parametrize(
    ("form", "package", "install"),
    [
        ("onnx", "jax2onnx", "jax2onnx onnxruntime"),
        ("litert", "litert_converter", "litert-converter ai-edge-litert"),
        ("stablehlo", "flatbuffers", "flatbuffers"),
    ],
)
def test_a_missing_package_is_named(trained, tmp_path, monkeypatch, form, package, install):
    for name in ("jax2onnx", "onnxruntime", "litert_converter", "ai_edge_litert", "ai_edge_litert.interpreter"):
        monkeypatch.setitem(sys.modules, name, sys)  # as if it were there
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExportError, match=rf"{form} needs {package}; run: pip install {install}"):
        formats.export(trained, form, tmp_path / "out")


_OF_EACH_KIND = {spec.module: spec.name for spec in reversed([models.spec(name) for name in models.names()])}


@pytest.mark.parametrize("arch", sorted(_OF_EACH_KIND.values()))
def test_every_kind_of_network_takes_any_number_of_images(arch):
    model, side = models.create(arch, num_classes=3), 139 if arch == "inception_v3" else 64
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))
    (count,) = export.symbolic_shape("batch")
    logits = jax.eval_shape(model.apply, variables, jax.ShapeDtypeStruct((count, side, side, 3), jnp.float32))
    assert logits.shape == (count, 3)


class Counting(nn.Module):
    """A network of a user's own that asks how many images there are."""

    num_classes: int

    @nn.compact
    def __call__(self, x, train: bool = False):
        return nn.Dense(self.num_classes)(x.reshape(len(x), -1))


def test_a_network_that_counts_its_images_is_refused_in_one_line(monkeypatch):
    class Counted:
        arch, class_names, preprocessing = "counting", ("a", "b"), dataclasses.replace(SEEN, crop=4)
        variables = random_variables(Counting(2), jnp.zeros((1, 4, 4, 3)))

    monkeypatch.setattr(models, "create", lambda arch, num_classes: Counting(num_classes))
    (count,) = export.symbolic_shape("batch")
    program = programs.program(Counted, pixels=True)
    said = r"^counting does not take images \[batch, 4, 4, 3\], where batch .*; a network that asks for len\(x\) is to"
    with pytest.raises(ExportError, match=said):
        jax.eval_shape(program, programs.images_of(Counted, count, pixels=True))
    assert jax.eval_shape(program, programs.images_of(Counted, 5, pixels=True)).shape == (5, 2)


class Varied(nn.Module):
    """Padding, pools of several kinds, normalisation of groups and layers, a gate, an activation with erf."""

    num_classes: int

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.GroupNorm(4)(nn.Conv(8, (3, 3), strides=2, padding="SAME")(x))
        x = nn.max_pool(nn.gelu(x, approximate=False), (3, 3), (2, 2), ((1, 1), (1, 1)))
        gate = nn.sigmoid(nn.Dense(8)(x.mean((1, 2), keepdims=True)))
        x = nn.LayerNorm()(nn.avg_pool(x * gate, (3, 3), (1, 1), "SAME", count_include_pad=False))
        x = jnp.concatenate([nn.hard_swish(x), nn.Conv(8, (3, 3), feature_group_count=2, use_bias=False)(x)], -1)
        return nn.Dense(self.num_classes)(nn.BatchNorm(use_running_average=not train)(x).max((1, 2)))


def of_ones_own(tmp_path, monkeypatch, form):
    """What a network of a user's own gives as a program, and here."""
    from delta_jax.models import ModelSpec

    spec = ModelSpec("varied", "none", Varied, {}, "Dense_1", taps=("Conv_0",), input_size=32)
    module = sys.modules[__name__]
    monkeypatch.setattr(module, "spec", lambda: spec, raising=False)
    variables = random_variables(Varied(3), jnp.zeros((1, 32, 32, 3)))
    seen = dataclasses.replace(SEEN, resize=40, crop=32)
    trained = Classifier(finished(tmp_path / "run", f"{__name__}:spec", seen, variables))
    said = []
    formats.export(trained, form, tmp_path / "out", say=said.append)
    assert "the same class for all" in said[0]
    return trained


def test_onnx_runs_in_its_own_runtime(trained, workdir, tmp_path):
    pytest.importorskip("jax2onnx", reason="pip install jax2onnx onnxruntime")
    onnxruntime = pytest.importorskip("onnxruntime")
    said = []
    usage = formats.export(trained, "onnx", tmp_path / "out", workdir=workdir, say=said.append)
    assert "test photos of the run: the same class for all" in said[0]
    names = executed(usage, tmp_path)
    expected = trained.probabilities([trained.decode(tmp_path / instructions.PHOTO)])
    np.testing.assert_allclose(names["probabilities"], expected, atol=1e-5)
    session = onnxruntime.InferenceSession(tmp_path / "out" / onnx_file.FILE)
    (given,), found = session.get_inputs(), session.get_modelmeta().custom_metadata_map
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", 32, 32, 3])
    assert json.loads(found["classes"]) == ["blue", "green", "red"]
    assert json.loads(found["preprocessing"])["resize"] == 40
    # Another number of images than it was tried with, normalised, and other operators.
    normalised = tmp_path / "normalised"
    formats.export(trained, "onnx", normalised, pixels=False, opset=21, say=said.append)
    images = what_the_network_sees(trained, tmp_path / instructions.PHOTO)
    found = onnx_file.reader(normalised)(np.repeat(images, 7, 0))
    np.testing.assert_allclose(found, np.repeat(expected, 7, 0), atol=1e-5)


@pytest.mark.parametrize("aspect", ["squash", "keep"])
def test_the_example_of_onnxruntime(trained, tmp_path, monkeypatch, capsys, aspect):
    if problem := onnx_file.missing():
        pytest.skip(problem)
    from examples import onnx_batch

    monkeypatch.setattr(trained, "preprocessing", dataclasses.replace(trained.preprocessing, aspect=aspect))
    monkeypatch.setattr(onnx_batch, "BATCH", 2)
    formats.export(trained, "onnx", tmp_path / "out", say=lambda _: None)
    rng = np.random.default_rng(0)
    names = [str(tmp_path / f"{i}.png") for i in range(3)]
    for name, size in zip(names, [(50, 60), (90, 60), (40, 40)], strict=True):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(name)
    onnx_batch.main(str(tmp_path / "out" / "model.onnx"), *names)
    seen = trained.preprocessing
    for line, name in zip(capsys.readouterr().out.splitlines()[-3:], names, strict=True):
        photo = trained.decode(Path(name))
        views = seen.views(photo[None] if aspect == "squash" else data.to_canvas([photo]))
        (expected,) = np.asarray(programs.program(trained, pixels=False)(views[0]))
        assert line == f"{name}  {trained.class_names[expected.argmax()]}  {expected.max():.2%}"


def test_litert_runs_in_its_own_runtime(trained, workdir, tmp_path):
    pytest.importorskip("litert_converter", reason="pip install litert-converter ai-edge-litert")
    pytest.importorskip("ai_edge_litert")
    said = []
    usage = formats.export(trained, "litert", tmp_path / "out", workdir=workdir, say=said.append)
    assert "test photos of the run: the same class for all" in said[0]
    names = executed(usage, tmp_path)
    expected = trained.probabilities([trained.decode(tmp_path / instructions.PHOTO)])
    np.testing.assert_allclose(names["probabilities"], expected, atol=1e-5)


@pytest.mark.parametrize("form", formats.PROGRAMS)
def test_a_network_of_ones_own(tmp_path, monkeypatch, form):
    if problem := formats.PROGRAMS[form].missing():
        pytest.skip(problem)
    of_ones_own(tmp_path, monkeypatch, form)
