"""A finished run's network for other programs: what lies in the folders, and that the printed lines load it."""

import contextlib
import dataclasses
import io
import json
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors
from flax.traverse_util import flatten_dict, unflatten_dict
from PIL import Image, ImageOps

from delta_jax import data, models, weights
from delta_jax.exports import formats, instructions
from delta_jax.training import classifier
from delta_jax.training.classifier import Classifier, Preprocessing
from delta_jax.training.config import ConfigError
from delta_jax.weights.merging import variable_shapes
from delta_jax.workdir import json_files
from delta_jax.workdir.stored_trees import CheckpointError
from delta_jax.workdir.variable_files import save_variables
from tests.reference import variables
from tests.small_run import run, run_afresh

CLASSES = ("blue", "dark green", "rot-weiß")
SEEN = Preprocessing(72, "bicubic", 64, 1, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def finished(workdir, arch, seen=SEEN, trained_variables=None):
    """A workdir with what a run ends with."""
    workdir.mkdir()
    save_variables(workdir / classifier.MODEL, trained_variables or variables(arch, len(CLASSES)))
    json_files.write(workdir / classifier.FACTS, classifier.describe(arch, CLASSES, seen))
    return workdir


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("export") / "run", "resnet18")


@pytest.fixture(scope="module")
def trained(workdir):
    return Classifier(workdir)


def executed(usage, folder, photo=b""):
    """What the names of the printed lines mean after they ran as they are, where a photo lies."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    (folder / instructions.PHOTO).write_bytes(photo or encoded(Image.fromarray(noise), "JPEG"))
    names = {}
    with contextlib.chdir(folder):
        exec(textwrap.dedent(usage), names)
    return names


def what_the_network_sees(trained, photo):
    """[1, crop, crop, 3], as `predict` prepares it."""
    return np.asarray(trained.preprocessing.views(trained.decode(photo)[None])[0])


def assert_equal(found, expected):
    found, expected = flatten_dict(found), flatten_dict(expected)
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, err_msg="/".join(path))


def metadata(path):
    with safetensors.safe_open(path, framework="np") as file:
        return file.metadata()


def test_the_command_says_how_to_load_what_it_wrote(workdir, trained, tmp_path):
    ended = run_afresh("export", f"--workdir={workdir}", "--format=safetensors")
    assert ended.returncode == 0, ended.stderr
    out = workdir / "export_safetensors"
    assert f"  {out / 'model.safetensors'}\n" in ended.stdout
    usage = ended.stdout[ended.stdout.index("    import") :]
    names = executed(usage, tmp_path)
    assert_equal(names["variables"], trained.variables)
    seen = what_the_network_sees(trained, tmp_path / instructions.PHOTO)
    np.testing.assert_array_equal(names["images"], seen)
    np.testing.assert_allclose(
        jax.nn.softmax(names["logits"]),
        trained.probabilities([trained.decode(tmp_path / instructions.PHOTO)]),
        atol=1e-5,
    )
    # The folder can be used as the run's own.
    assert_equal(Classifier(out).variables, trained.variables)
    assert Classifier(out).preprocessing == SEEN

    again = run("export", f"--workdir={workdir}", "--format=safetensors")
    assert again.returncode == 1
    assert again.stderr == f"error: {out} holds an export already; replace it with --overwrite, or name another --out\n"


def test_safetensors_describe_themselves(trained, tmp_path):
    formats.export(trained, "safetensors", tmp_path / "out")
    found = metadata(tmp_path / "out" / "model.safetensors")
    assert found["arch"] == "resnet18"
    assert json.loads(found["classes"]) == list(CLASSES)
    assert json.loads(found["preprocessing"])["resize"] == 72
    assert list((tmp_path).iterdir()) == [tmp_path / "out"]  # nothing half done beside it
    (tmp_path / "plain").write_text("")
    # Whoever may read the folder may read the file.
    assert (tmp_path / "out" / "model.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("form", ["torchvision", "timm"])
def test_names_of_pytorch_and_the_facts_beside_them(trained, tmp_path, form):
    formats.export(trained, form, tmp_path / "deep" / "out")
    out = tmp_path / "deep" / "out"
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "config.json"}
    assert metadata(out / "model.safetensors") == {"format": "pt"}
    tensors = weights.read(out / "model.safetensors")
    assert tensors["layer1.0.conv1.weight"].shape == (64, 64, 3, 3)
    assert tensors["bn1.num_batches_tracked"].dtype == np.int64
    assert_equal(weights.load(str(out / "model.safetensors"), "resnet18", 3), trained.variables)
    facts = json.loads((out / "config.json").read_text())
    assert facts["architecture"] == "resnet18"
    assert facts["num_classes"] == 3
    assert facts["label_names"] == list(CLASSES)
    assert facts["preprocessing"]["interpolation"] == "bicubic"


def test_timm_is_told_the_preprocessing_the_classes_and_its_name_of_the_network(tmp_path):
    trained = Classifier(finished(tmp_path / "run", "efficientnet_lite0"))
    usage = formats.export(trained, "timm", tmp_path / "out")
    assert "timm.create_model('tf_efficientnet_lite0', num_classes=3, checkpoint_path=" in usage
    facts = json.loads((tmp_path / "out" / "config.json").read_text())
    assert facts["architecture"] == "tf_efficientnet_lite0"
    assert instructions.timm_name("timm_efficientnet_lite1") == "efficientnet_lite1"
    assert facts["num_classes"] == 3
    told = facts["pretrained_cfg"]
    assert told["num_classes"] == 3
    assert told["input_size"] == [3, 64, 64]
    assert told["crop_mode"] == "squash"
    assert told["mean"] == [0.485, 0.456, 0.406]
    assert (told["first_conv"], told["classifier"]) == ("conv_stem", "classifier")
    trained.preprocessing = dataclasses.replace(SEEN, aspect="keep")
    assert formats._timm_config(trained)["pretrained_cfg"]["crop_mode"] == "center"
    with pytest.raises(weights.WeightsError, match="no names of torchvision for efficientnet_lite0"):
        formats.export(trained, "torchvision", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_timm_resizes_to_the_same_number_of_pixels(trained):
    # timm's transforms resize to floor(crop / crop_pct).
    for resize in range(32, 600):
        for crop in {32, resize // 2, resize * 7 // 8, resize - 1, resize}:
            trained.preprocessing = dataclasses.replace(SEEN, resize=resize, crop=crop)
            told = formats._timm_config(trained)["pretrained_cfg"]
            assert int(crop / told["crop_pct"]) == resize
    trained.preprocessing = SEEN


def test_the_printed_lines_load_an_orbax_export(trained, tmp_path):
    usage = formats.export(trained, "orbax", tmp_path / "out")
    names = executed(usage, tmp_path)
    assert_equal(names["variables"], trained.variables)
    np.testing.assert_array_equal(names["images"], what_the_network_sees(trained, tmp_path / instructions.PHOTO))
    assert json.loads((tmp_path / "out" / "classifier.json").read_text())["classes"] == list(CLASSES)


def test_an_older_export_is_replaced_on_demand_and_nothing_else(trained, tmp_path):
    out = tmp_path / "out"
    formats.export(trained, "orbax", out)
    with pytest.raises(ConfigError, match=r"holds an export already; replace it with --overwrite"):
        formats.export(trained, "timm", out)
    formats.export(trained, "timm", out, overwrite=True)
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "config.json"}
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"holds other files, such as thesis\.tex; name another --out"):
        formats.export(trained, "timm", out, overwrite=True)
    assert (out / "thesis.tex").read_text() == "years of work"
    with pytest.raises(ConfigError, match="is no folder"):
        formats.export(trained, "timm", out / "thesis.tex", overwrite=True)
    (tmp_path / "link").symlink_to(out)
    with pytest.raises(ConfigError, match="is no folder"):
        formats.export(trained, "timm", tmp_path / "link", overwrite=True)
    (tmp_path / "empty").mkdir()
    formats.export(trained, "torchvision", tmp_path / "empty")


def test_a_failed_export_leaves_the_one_before(trained, tmp_path, monkeypatch):
    formats.export(trained, "timm", tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CheckpointError, match=r"out could not be written: no space left"):
        formats.export(trained, "timm", tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.parametrize(("crop", "differs"), [(224, False), (64, False), (96, False), (100, True), (225, True)])
def test_other_padding_in_timm_is_told(crop, differs, monkeypatch, trained, tmp_path):
    # TensorFlow's padding of a 3x3 stride 2 convolution is (0, 1) on even sizes and (1, 1) on odd ones. On the way from
    # 224 no map is odd before the last one (112, 56, 28, 14, 7); of 100 the third is (50, 25).
    spec = dataclasses.replace(models.spec("resnet18"), arguments={"same_at": 224})
    monkeypatch.setattr(models, "spec", lambda _: spec)
    trained.preprocessing = dataclasses.replace(SEEN, crop=crop)
    assert ("expect other logits" in instructions.usage(trained, "timm", tmp_path)) == differs
    trained.preprocessing = SEEN


def own_network():
    return dataclasses.replace(models.spec("resnet18"), name=OWN, family="none")


OWN = f"{__name__}:own_network"


def test_a_network_of_ones_own_has_flaxs_names_only(tmp_path):
    run_of_own = finished(tmp_path / "run", "resnet18")
    json_files.write(run_of_own / classifier.FACTS, classifier.describe(OWN, CLASSES, SEEN))
    trained = Classifier(run_of_own)
    names = executed(formats.export(trained, "safetensors", tmp_path / "out"), tmp_path)
    assert_equal(names["variables"], trained.variables)
    for form in ("torchvision", "timm"):
        with pytest.raises(weights.WeightsError, match=f"no names of {form} for .*:own_network; no scheme is known"):
            formats.export(trained, form, tmp_path / form)


WITH_AUXILIARY = [arch for arch in models.names() if models.spec(arch).auxiliary]


@pytest.mark.parametrize("arch", WITH_AUXILIARY)
def test_an_auxiliary_classifier_in_the_run_is_exported(tmp_path, arch):
    shapes = variable_shapes(arch, len(CLASSES), True)
    ones = unflatten_dict({path: np.ones(shape, np.float32) for path, shape in shapes.items()})
    trained = Classifier(finished(tmp_path / "run", arch, trained_variables=ones))
    usage = formats.export(trained, "timm", tmp_path / "out")
    assert "aux_logits=True" in usage
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_args"] == {"aux_logits": True}
    assert_equal(weights.load(str(tmp_path / "out" / "model.safetensors"), arch, 3, auxiliary=True), ones)
    without = Classifier(finished(tmp_path / "without", arch))
    assert "aux_logits=False" in formats.export(without, "torchvision", tmp_path / "other")


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def photos():
    """(name, file) of what a plain `Image.open(...).convert("RGB")` would show otherwise than `predict`."""
    rng = np.random.default_rng(0)
    rgb, grey = rng.integers(0, 256, (30, 45, 3), dtype=np.uint8), rng.integers(0, 256, (30, 45), dtype=np.uint8)
    alpha = np.where(grey > 100, 255, grey)
    exif = Image.Exif()
    for orientation in (3, 6, 7):
        exif[0x0112] = orientation
        yield f"turned JPEG {orientation}", encoded(Image.fromarray(rgb), "JPEG", exif=exif)
    yield "turned TIFF", encoded(Image.fromarray(rgb), "TIFF", exif=exif)
    yield "RGBA", encoded(Image.fromarray(np.dstack([rgb, alpha])))
    yield "LA", encoded(Image.fromarray(np.dstack([grey, alpha])))
    yield "palette", encoded(Image.fromarray(rgb).quantize(16), transparency=3)
    yield "GIF", encoded(Image.fromarray(rgb).quantize(16), "GIF", transparency=3)
    yield "one transparent colour", encoded(Image.fromarray(rgb), transparency=tuple(rgb[3, 4].tolist()))
    yield "CMYK", encoded(Image.fromarray(np.dstack([rgb, grey]), "CMYK"), "JPEG")
    yield "bits", encoded(Image.fromarray(grey > 128))
    for order in "<>":
        yield f"16-bit {order}", encoded(Image.fromarray(rng.integers(0, 5000, (30, 45)).astype(f"{order}u2")), "TIFF")
    yield "16-bit PNG", encoded(Image.fromarray(rng.integers(0, 65536, (30, 45)).astype("<u2")))


@pytest.mark.parametrize("white", [None, 4095])
@pytest.mark.parametrize("form", ["torchvision", "timm"])
def test_the_printed_lines_make_of_a_photo_what_predict_does(form, white, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(trained, "preprocessing", dataclasses.replace(SEEN, white=white))
    lines = instructions.usage(trained, form, tmp_path).splitlines()
    first = next(i for i, line in enumerate(lines) if "Image.open(" in line)
    last = next(i for i, line in enumerate(lines) if "convert('RGB')" in line)
    for name, file in photos():
        (tmp_path / instructions.PHOTO).write_bytes(file)
        names = {"np": np, "Image": Image, "ImageOps": ImageOps}
        with contextlib.chdir(tmp_path):
            exec(textwrap.dedent("\n".join(lines[first : last + 1])), names)
        found = names["photo"].resize((72, 72), Image.Resampling.BICUBIC)
        expected = data.decode_image(file, 72, interpolation="bicubic", white=white)
        np.testing.assert_array_equal(found, expected, err_msg=name)


def test_what_the_printed_lines_cannot_do_is_said(trained, tmp_path, monkeypatch):
    assert "Not as in predict: more than 8 bits a sample, but for 16-bit grey" in instructions.usage(
        trained, "timm", tmp_path
    )
    monkeypatch.setattr(trained, "preprocessing", dataclasses.replace(SEEN, crops=10, aspect="keep"))
    for form in ("timm", "torchvision"):
        said = instructions.usage(trained, form, tmp_path)
        assert "predict averages the probabilities of ten crops" in said
        assert "more than twice as long as wide" in said
    assert "ten crops" in instructions.usage(trained, "safetensors", tmp_path)
