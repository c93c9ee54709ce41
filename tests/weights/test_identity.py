"""Which network a file says it holds, by itself, by the files beside it, and by its name; how that one saw images."""

import json

import numpy as np
import pytest
import safetensors.numpy

from delta_jax import models, weights
from delta_jax.weights import WeightsError, beside, identity
from delta_jax.weights.catalogue import SOURCES

# By timm 1.0.31 and torchvision 0.29.1: `timm.create_model(NAME).state_dict()` has the names and shapes of the network
# in the third column; the second is the one here with the same logits, "" for none.
NAMES = [
    ("resnet50", "resnet50", "resnet50"),
    ("timm/resnet50.a1_in1k", "resnet50", "resnet50"),
    ("hf-hub:timm/tv_resnet34", "resnet34", "resnet34"),
    ("gluon_resnet101_v1b.gluon_in1k", "resnet101", "resnet101"),
    ("swsl_resnet18", "resnet18", "resnet18"),
    ("mobilenetv2_100.ra_in1k", "mobilenet_v2", "mobilenet_v2"),
    ("mobilenet_v2", "mobilenet_v2", "mobilenet_v2"),
    ("tf_efficientnet_lite1", "efficientnet_lite1", "efficientnet_lite1"),
    ("efficientnet_lite1", "timm_efficientnet_lite1", "efficientnet_lite1"),
    ("inception_v3.gluon_in1k", "inception_v3", "inception_v3"),
    ("tf_inception_v3", "inception_v3", "inception_v3"),
    ("mobilenet_v3_small", "mobilenet_v3_small", "mobilenet_v3_small"),
    ("mobilenetv3_large_100.miil_in21k_ft_in1k", "mobilenetv3_large_100", "mobilenetv3_large_100"),
    ("tf_mobilenetv3_small_100.in1k", "tf_mobilenetv3_small_100", "mobilenetv3_small_100"),
    ("efficientnet_b2a", "efficientnet_b2", "efficientnet_b2"),
    ("tf_efficientnet_b4_ns", "tf_efficientnet_b4", "efficientnet_b4"),
    ("efficientnet_blur_b0", "", "efficientnet_b0"),
    ("efficientnet_v2_s", "efficientnet_v2_s", "efficientnet_v2_s"),
    ("tf_efficientnetv2_s.in21k", "tf_efficientnetv2_s", "tf_efficientnetv2_s"),
    ("efficientnetv2_s", "", "tf_efficientnetv2_s"),
    ("hf-hub:timm/convnext_tiny.fb_in22k_ft_in1k", "convnext_tiny", "convnext_tiny"),
    ("resnetv2_50x1_bitm", "resnetv2_50x1_bit", "resnetv2_50x1_bit"),
    ("legacy_xception.tf_in1k", "xception", "xception"),
    ("resnetblur50.bt_in1k", "", "resnet50"),
    ("resnetblur18", "", "resnet18"),
    ("resnetaa50.d_in12k", "", "resnet50"),
    ("resnet50_caffe", "", "resnet50"),
    *((name, "", "") for name in ("resnet50_gn", "seresnet18", "convnext_large.fb_in22k", "resnext26ts")),
    *((name, "", "") for name in ("resnet50s", "gluon_resnet50_v1s", "legacy_seresnet50", "ecaresnet50t")),
    *(
        (name, arch, arch)
        for name, arch in (
            *(("resnet50d.ra2_in1k", "resnet50d"), ("gluon_resnet50_v1c", "resnet50c"), ("resnet200d", "resnet200d")),
            *(("seresnet50.a1_in1k", "seresnet50"), ("gluon_seresnext101_64x4d", "seresnext101_64x4d")),
            *(("resnext50_32x4d", "resnext50_32x4d"), ("ig_resnext101_32x8d", "resnext101_32x8d")),
            *(("tv_resnext50_32x4d", "resnext50_32x4d"), ("wide_resnet50_2.racm_in1k", "wide_resnet50_2")),
            *(("vgg16_bn", "vgg16_bn"), ("alexnet", "alexnet"), ("tv_densenet121", "densenet121")),
            *(("regnety_032.ra_in1k", "regnety_032"), ("regnet_y_400mf", "regnety_004")),
            *(("regnet_x_400mf", "regnetx_004_tv"), ("regnet_y_8gf", "regnety_080_tv")),
        )
    ),
    ("resnetaa50d.sw_in12k", "", "resnet50d"),
    ("resnetblur101d", "", "resnet101d"),
    ("seresnextaa101d_32x8d.ah_in1k", "", "seresnext101d_32x8d"),
    *((name, "", "") for name in ("resnetv2_50", "resnetrs50", "efficientnet_b5", "tf_efficientnet_lite4", "vit_b_16")),
    *((name, "", "") for name in ("mobilenetv3_large_075", "mobilenetv2_110d", "inception_v4", "swin_t", "resnet26t")),
    *(
        (name, "", "")
        for name in ("densenetblur121d", "regnetv_040", "regnety_640", "deit_tiny_patch16_224", "inception_resnet_v2")
    ),
]


@pytest.mark.parametrize(("name", "arch", "like"), NAMES)
def test_names_of_networks_elsewhere(name, arch, like):
    found = models.named_elsewhere(name)
    assert found is not None
    assert (found.arch, found.like) == (arch, like)
    assert bool(found.differs) == (like not in ("", arch))


@pytest.mark.parametrize(
    "name", ["", "baseline", "my_net", "resnet5", "resnet_50", "efficientnet", "resnet", "small/x"]
)
def test_other_words_are_no_names(name):
    assert models.named_elsewhere(name) is None


@pytest.mark.parametrize("name", models.names())
def test_the_library_knows_its_own_names(name):
    assert models.named_elsewhere(f"delta_jax:{name}").arch == name
    assert models.like(name) in models.names()


@pytest.mark.parametrize(
    "name",
    [
        "resnet50t",
        "resnet50_gn",
        "seresnet18",
        "convnext_large",
        "vit_base_patch16_224",
        "resnetv2_50",
        "efficientnetv2_s",
    ],
)
def test_the_registry_offers_no_other_network_for_one_that_is_not_here(name):
    with pytest.raises(ValueError, match=f"^{name} is not supported here") as caught:
        models.spec(name)
    assert "did you mean" not in str(caught.value)


def test_the_registry_knows_the_names_of_timm():
    with pytest.raises(
        ValueError, match="no network called 'tf_efficientnet_lite0'; here it is called efficientnet_lite0"
    ):
        models.spec("tf_efficientnet_lite0")


# Names of files and repositories; the network asked for, and the one they speak of.
@pytest.mark.parametrize(
    ("path", "arch", "says"),
    [
        ("resnetblur50-84f4748f.pth", "resnet50", "resnetblur50"),
        ("resnetaa50_a1h-4cf422b3.pth", "resnet50", "resnetaa50"),
        ("resnetblur50.bt_in1k/model.safetensors", "resnet50", "resnetblur50"),
        ("models--timm--resnetblur50.bt_in1k/snapshots/0/model.safetensors", "resnet50", "resnetblur50"),
        ("efficientnet_lite0_ra-37913777.pth", "efficientnet_lite0", "set arch to timm_efficientnet_lite0"),
        ("efficientnet_lite0.ra_in1k/pytorch_model.bin", "efficientnet_lite0", "set arch to timm_efficientnet_lite0"),
        ("tf_efficientnet_lite0-0aa007d2.pth", "timm_efficientnet_lite0", "set arch to efficientnet_lite0"),
        ("https://huggingface.co/timm/resnetaa50.a1h_in1k/resolve/main/model.safetensors", "resnet50", "resnetaa50"),
        ("https://host.org/efficientnet_lite0_ra-37913777.pth#ema", "efficientnet_lite0", "timm_efficientnet_lite0"),
        ("tf_efficientnet_b0_aa-827b6e33.pth", "efficientnet_b0", "set arch to tf_efficientnet_b0"),
        ("mobilenetv3_large_100_ra-f55367f5.pth", "tf_mobilenetv3_large_100", "set arch to mobilenetv3_large_100"),
        ("resnet50_caffe-788b5fa3.pth", "resnet50", "halves the maps in the 1x1"),
    ],
)
def test_a_name_that_speaks_of_a_network_of_the_same_names_and_shapes(tmp_path, path, arch, says):
    place = path if path.startswith("https") else tmp_path / path
    with pytest.raises(WeightsError, match=rf"^its name says .*names and shapes are those of {arch} here, ") as caught:
        identity.check(place, (), arch, "timm")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("path", "arch", "assumed"),
    [
        ("resnet50-0676ba61.pth", "resnet50", False),
        ("tf_efficientnet_lite0-0aa007d2.pth", "efficientnet_lite0", False),
        ("efficientnet_lite0_ra-37913777.pth", "timm_efficientnet_lite0", False),
        ("resnet50_vs_resnetblur50.pth", "resnet50", False),
        ("w.pth", "resnet50", True),
        ("w.pth", "resnet18", True),
        ("efficientnet_lite0.pth", "efficientnet_lite0", True),  # here and in timm two networks
        ("w.pth", "timm_efficientnet_lite2", True),
        ("w.pth", "resnet34", False),
        ("w.pth", "tf_efficientnet_b1", True),
        ("efficientnet_b1-533bc792.pth", "efficientnet_b1", False),
        ("w.pth", "convnext_tiny", False),
        ("w.pth", "inception_v3", False),
        ("resnetblur50/best_run.pth", "resnet50", True),  # folders count only for names that say nothing
        ("resnetblur50.pth", "resnet18", True),  # other shapes: what fits is no resnetblur50
    ],
)
def test_what_is_assumed_is_said(tmp_path, path, arch, assumed):
    line = identity.check(tmp_path / path, (), arch, "timm")
    assert bool(line) == assumed
    if assumed:
        assert f"{arch} is assumed" in line
        assert "and other logits" in line


def test_names_that_only_one_network_has_leave_nothing_to_assume(tmp_path):
    assert identity.check(tmp_path / "w.pth", (), "efficientnet_b0", "torchvision") == ""
    assert "tf_efficientnet_b0" in identity.check(tmp_path / "w.pth", (), "efficientnet_b0", "timm")
    assert identity.check(tmp_path / "w.pth", (), "efficientnet_lite0", "efficientnet_lite_pytorch") == ""


@pytest.mark.parametrize(
    ("says", "arch", "wrong"),
    [
        ((("args.model", "resnetblur50"),), "resnet50", "args.model says resnetblur50"),
        ((("arch", "resnet50"),), "resnet50", ""),
        ((("arch", "resnet50"), ("args.model", "resnetaa50")), "resnet50", "args.model says resnetaa50"),
        ((("args.model", "efficientnet_lite0"),), "efficientnet_lite0", "set arch to timm_efficientnet_lite0"),
        ((("its metadata's arch", "delta_jax:efficientnet_lite0"),), "efficientnet_lite0", ""),
        ((("its metadata's arch", "delta_jax:timm_efficientnet_lite0"),), "efficientnet_lite0", "set arch to timm_eff"),
        ((("args.model", "resnet152"),), "resnet34", ""),  # what fits is no resnet152: of the teacher, perhaps
        ((("args.model", "my_net"),), "resnet34", ""),
    ],
)
def test_what_a_file_says_of_itself(tmp_path, says, arch, wrong):
    if not wrong:
        assert identity.check(tmp_path / "w.pth", says, arch, "timm") == ""
        return
    with pytest.raises(WeightsError, match=wrong):
        identity.check(tmp_path / "w.pth", says, arch, "timm")


def write(folder, name, content):
    (folder / name).write_text(json.dumps(content))
    (folder / "model.safetensors").touch()
    return folder / "model.safetensors"


def test_what_the_files_beside_it_say(tmp_path):
    path = write(tmp_path, "config.json", {"architecture": "resnetblur50"})
    with pytest.raises(WeightsError, match=r"config\.json beside it says resnetblur50, which blurs"):
        identity.check(path, (), "resnet50", "timm")
    write(tmp_path, "config.json", {"architecture": "resnet50", "model_args": {"global_pool": "avg", "num_classes": 5}})
    assert identity.check(path, (), "resnet50", "timm") == ""
    write(tmp_path, "config.json", {"architecture": "resnet50", "model_args": {"output_stride": 8}})
    with pytest.raises(WeightsError, match=r"made with output_stride=8, which is not supported"):
        identity.check(path, (), "resnet50", "timm")
    (tmp_path / "config.json").write_text("no JSON")
    assert "is assumed" in identity.check(path, (), "resnet50", "timm")
    write(tmp_path, "classifier.json", {"arch": "timm_efficientnet_lite0", "classes": ["a"]})
    with pytest.raises(WeightsError, match=r"classifier\.json beside it says timm_efficientnet_lite0"):
        identity.check(path, (), "efficientnet_lite0", "flax")


def test_loading_says_and_refuses(tmp_path):
    # The smallest of the networks that has a twin; the numbers do not matter.
    shapes = {name: np.zeros(shape, np.float32) for name, shape in _resnet18().items()}
    safetensors.numpy.save_file(shapes, tmp_path / "w.safetensors")
    lines: list[str] = []
    weights.load(tmp_path / "w.safetensors", "resnet18", 3, say=lines.append)
    assert len(lines) == 1
    assert "w.safetensors: nothing says which network" in lines[0]
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnetblur18"}))
    with pytest.raises(WeightsError, match=r"w\.safetensors: config\.json beside it says resnetblur18"):
        weights.load(tmp_path / "w.safetensors", "resnet18", 3)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "seresnet18"}))
    with pytest.raises(
        WeightsError, match=r"said to be of seresnet18 \(config\.json.*\): that network is not supported"
    ):
        weights.load(tmp_path / "w.safetensors", "resnet50", 3)


def _resnet18():
    from delta_jax.weights.merging import variable_shapes
    from delta_jax.weights.name_tables import to_torch_layout, torch_names

    shapes = variable_shapes("resnet18", 3)
    names = torch_names(models.spec("resnet18"), shapes)
    return {name: to_torch_layout(np.empty(shapes[path]), path[-1]).shape for name, path in names.items()}


# config.json of timm 1.0.31 (`timm.models.save_for_hf`) for these tags, cut to what is read; what `resolve_data_config`
# makes of them: floor(size / crop_pct), size, interpolation, mean, std.
TIMM = {
    "resnet34.ra4_e3600_r224_in1k": (
        {"input_size": [3, 224, 224], "crop_pct": 0.9, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3},
        (248, 224, "bicubic", (0.5,) * 3, (0.5,) * 3),
    ),
    "inception_v3.gluon_in1k": (
        {
            "input_size": [3, 299, 299],
            "crop_pct": 0.875,
            "interpolation": "bicubic",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
        (341, 299, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ),
    "resnet50.tv2_in1k": (
        {
            "input_size": [3, 176, 176],
            "test_input_size": [3, 224, 224],
            "crop_pct": 0.875,
            "test_crop_pct": 0.965,
            "interpolation": "bilinear",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
        (201, 176, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ),
}


@pytest.mark.parametrize("tag", TIMM)
def test_how_a_network_of_timm_saw_images(tmp_path, tag):
    content, expected = TIMM[tag]
    path = write(tmp_path, "config.json", {"architecture": tag.partition(".")[0], "pretrained_cfg": content})
    found = beside.images(path)
    assert (found.resize, found.crop, found.interpolation, found.mean, found.std) == expected
    assert found.where == str(tmp_path / "config.json")
    assert beside.images(f"{path}#state_dict") == found
    if (
        source := SOURCES.get(f"timm/{tag}")
    ) and "tv2" not in tag:  # which the catalogue has as torchvision measured it
        assert (source.resize, source.crop, source.interpolation, source.mean, source.std) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # Of transformers: ConvNextImageProcessor, ViTImageProcessor and MobileNetV2's.
        (
            {
                "size": {"shortest_edge": 224},
                "crop_pct": 0.875,
                "resample": 3,
                "image_mean": [0.4] * 3,
                "image_std": [0.2] * 3,
            },
            (256, 224, "bicubic", (0.4,) * 3, (0.2,) * 3),
        ),
        (
            {"size": {"height": 224, "width": 224}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
            (224, 224, "bilinear", (0.5,) * 3, (0.5,) * 3),
        ),
        (
            {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_normalize": False},
            (256, 224, None, (0.0,) * 3, (1.0,) * 3),
        ),
    ],
)
def test_how_a_network_of_hugging_face_saw_images(tmp_path, content, expected):
    found = beside.images(write(tmp_path, "preprocessor_config.json", content))
    assert (found.resize, found.crop, found.interpolation, found.mean, found.std) == expected


def test_the_address_of_a_known_repository():
    url = "https://huggingface.co/timm/inception_v3.gluon_in1k/resolve/main/model.safetensors"
    found, source = beside.images(url), SOURCES["timm/inception_v3.gluon_in1k"]
    assert (found.mean, found.resize, found.crop) == (source.mean, source.resize, source.crop)
    assert beside.images("https://host.org/some/model.safetensors") is None


def test_what_a_run_here_left(tmp_path):
    seen = {"resize": 40, "interpolation": "bilinear", "crop": 36, "crops": 1, "mean": [0.1] * 3, "std": [0.2] * 3}
    path = write(tmp_path, "classifier.json", {"arch": "resnet18", "preprocessing": seen})
    # A workdir's own config.json has nothing of this.
    write(tmp_path, "config.json", {"arch": "resnet18", "data": {"mean": [0.9] * 3}})
    found = beside.images(path)
    assert (found.resize, found.crop, found.interpolation, found.mean, found.std) == (
        40,
        36,
        "bilinear",
        (0.1,) * 3,
        (0.2,) * 3,
    )
    assert beside.images(tmp_path / "missing.pth") is None
    (tmp_path / "classifier.json").unlink()
    assert beside.images(path) is None


@pytest.mark.parametrize(
    "bad", [{"mean": [123.675, 116.28, 103.53]}, {"std": [0, 1, 1]}, {"mean": "x"}, {"crop_pct": []}]
)
def test_what_cannot_be_is_an_error_that_names_the_file(tmp_path, bad):
    path = write(tmp_path, "config.json", {"pretrained_cfg": {"input_size": [3, 8, 8], "crop_pct": 1, **bad}})
    if bad == {"crop_pct": []}:
        bad = {"crop_pct": [1]}
        write(tmp_path, "config.json", {"pretrained_cfg": {"input_size": [3, 8, 8], **bad}})
    with pytest.raises(WeightsError, match=r"config\.json: "):
        beside.images(path)
