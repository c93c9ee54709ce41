"""Python that loads an export and gives a photo to it as `predict` would, in the terms of the program it is for."""

from pathlib import Path

from delta_jax import models
from delta_jax.models.layers.windows import padded_alike
from delta_jax.models.regnet import TORCHVISION
from delta_jax.training import classifier
from delta_jax.training.classifier import Classifier, Preprocessing

PHOTO = "photo.jpg"  # stands for a file of the reader's
WEIGHTS_FOLDER = "checkpoint"  # of orbax


def timm_name(arch: str) -> str:
    """What timm calls a network."""
    if arch.startswith("efficientnet_lite"):
        return f"tf_{arch}"
    return {"mobilenet_v2": "mobilenetv2_100", "xception": "legacy_xception"}.get(arch, arch.removeprefix("timm_"))


def torchvision_name(arch: str) -> str:
    """What torchvision calls a network."""
    return TORCHVISION.get(arch, arch)


def usage(trained: Classifier, form: str, out: Path, *, pixels: bool = True) -> str:
    """The lines to print: they run as they are where PHOTO is a file."""
    if form in _PROGRAMS:
        found = [*_images(trained.preprocessing, pixels), *_PROGRAMS[form](out), *_differences(trained.preprocessing)]
    else:
        lines = {"safetensors": _safetensors, "torchvision": _torchvision, "orbax": _orbax}
        found = lines.get(form, _timm)(trained, out)
    return "\n".join(f"    {line}" for line in found)


def of_repository(trained: Classifier, repo: str) -> tuple[list[str], list[str]]:
    """The same for a repository "user/name" of the Hugging Face Hub: in timm, and in JAX."""
    file = f"huggingface_hub.hf_hub_download({repo!r}, {classifier.MODEL!r})"
    load = f"variables = dj.weights.load({file}, {_made_with(trained)})"
    return (
        _with_timm(trained, f"hf-hub:{repo}"),
        _with_delta_jax(trained, ["import huggingface_hub", "import delta_jax as dj"], load),
    )


def _made_with(trained: Classifier) -> str:
    return f"{trained.arch!r}, num_classes={len(trained.class_names)}"


def _safetensors(trained: Classifier, out: Path) -> list[str]:
    path = str(out / classifier.MODEL)
    load = f"variables = dj.weights.load({path!r}, {_made_with(trained)})"
    return _with_delta_jax(trained, ["import delta_jax as dj"], load)


def _orbax(trained: Classifier, out: Path) -> list[str]:
    path = str((out / WEIGHTS_FOLDER).absolute())
    load = f"variables = ocp.StandardCheckpointer().restore({path!r})"
    return _with_delta_jax(trained, ["import delta_jax as dj", "import orbax.checkpoint as ocp"], load)


def _with_delta_jax(trained: Classifier, imports: list[str], load: str) -> list[str]:
    seen = trained.preprocessing
    return [
        *imports,
        "from pathlib import Path",
        "from delta_jax import data",
        f"model = dj.models.create({_made_with(trained)})",
        load,
        f"photo = data.decode_image(Path({PHOTO!r}).read_bytes(), {seen.resize}, interpolation={seen.interpolation!r}, "
        f"aspect={seen.aspect!r}, white={seen.white})",
        f"images = data.normalize(data.center_crop(photo[None], {seen.crop}), {seen.mean}, {seen.std})  # [B, H, W, 3]",
        "logits = model.apply(variables, images)",
        *_differences(seen, by_pillow=False),
    ]


def _torchvision(trained: Classifier, out: Path) -> list[str]:
    seen, path = trained.preprocessing, str(out / classifier.MODEL)
    auxiliary = _auxiliary(trained)
    name, classes = torchvision_name(trained.arch.removesuffix("_gap")), len(trained.class_names)
    sides = [seen.resize] * {"squash": 2, "keep": 1}[seen.aspect]  # one: the shorter
    return [
        "import numpy as np, safetensors.torch, torch, torchvision",
        "from PIL import Image, ImageOps",
        "from torchvision.transforms import InterpolationMode, functional as F",
        f"model = torchvision.models.get_model({name!r}, num_classes={classes}{auxiliary}).eval()",
        *_headless(trained),
        f"model.load_state_dict(safetensors.torch.load_file({path!r}), strict=True)",
        *_photo_in_rgb(seen),
        f"photo = F.resize(photo, {sides}, InterpolationMode.{seen.interpolation.upper()})",
        f"image = F.normalize(F.to_tensor(F.center_crop(photo, [{seen.crop}])), {seen.mean}, {seen.std})",
        "logits = model(image[None])",
        *_differences(seen),
    ]


def _headless(trained: Classifier) -> list[str]:
    """What makes a VGG end behind its convolutions."""
    if models.spec(trained.arch).family != "vgg_gap":
        return []
    features = trained.variables["params"][models.spec(trained.arch).head]["kernel"].shape[0]
    return [
        "model.avgpool = torch.nn.AdaptiveAvgPool2d(1)",
        f"model.classifier = torch.nn.Linear({features}, {len(trained.class_names)})",
    ]


def _timm(trained: Classifier, out: Path) -> list[str]:
    path, name, count = str(out / classifier.MODEL), timm_name(trained.arch), len(trained.class_names)
    return [
        *_with_timm(trained, f"local-dir:{out}"),
        f"# The weights alone: timm.create_model({name!r}, num_classes={count}{_auxiliary(trained)}, "
        f"checkpoint_path={path!r})",
    ]


def _with_timm(trained: Classifier, source: str) -> list[str]:
    seen = trained.preprocessing
    # timm runs the auxiliary classifier in evaluation, too.
    logits = "logits, auxiliary" if trained.auxiliary else "logits"
    lines = [
        "import numpy as np, timm",
        "from PIL import Image, ImageOps",
        f"model = timm.create_model({source!r}, pretrained=True).eval()",
        "preprocess = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        *_photo_in_rgb(seen),
        f"{logits} = model(preprocess(photo)[None])",
        *_differences(seen),
    ]
    padded_for = models.spec(trained.arch).arguments.get("same_at")
    if padded_for and not padded_alike(seen.crop, padded_for):
        lines.append(
            f"# timm pads for the {seen.crop} pixels of the images, this network was trained as padded for "
            f"{padded_for}: expect other logits."
        )
    return lines


def _auxiliary(trained: Classifier) -> str:
    return f", aux_logits={trained.auxiliary}" if models.spec(trained.arch).family == "inception" else ""


def _images(seen: Preprocessing, pixels: bool) -> list[str]:
    """A photo as the programs take it, by numpy and Pillow."""
    size = {
        "squash": f"({seen.resize}, {seen.resize})",
        "keep": f"[{seen.resize} * side // min(photo.size) for side in photo.size]",
    }
    lines = [
        "import numpy as np",
        "from PIL import Image, ImageOps",
        *_photo_in_rgb(seen),
        f"photo = photo.resize({size[seen.aspect]}, Image.Resampling.{seen.interpolation.upper()})",
        f"left, top = (round((side - {seen.crop}) / 2) for side in photo.size)",
        f"photo = photo.crop((left, top, left + {seen.crop}, top + {seen.crop}))",
        "images = np.array(photo)[None]  # uint8 [B, H, W, 3]",
    ]
    if not pixels:
        lines.append(f"images = ((images / 255 - {list(seen.mean)}) / {list(seen.std)}).astype(np.float32)")
    return lines


def _onnx(out: Path) -> list[str]:
    return [
        "import onnxruntime",
        f"session = onnxruntime.InferenceSession({str(out / 'model.onnx')!r})",
        "probabilities = session.run(None, {'images': images})[0]",
    ]


def _stablehlo(out: Path) -> list[str]:
    return [
        "import jax, pathlib",
        f"written = pathlib.Path({str(out / 'model.stablehlo')!r}).read_bytes()",
        "probabilities = jax.export.deserialize(bytearray(written)).call(images)",
    ]


def _litert(out: Path) -> list[str]:
    return [
        "from ai_edge_litert.interpreter import Interpreter",
        f"run = Interpreter({str(out / 'model.tflite')!r}).get_signature_runner()",
        "probabilities = run(images=images)['probabilities']",
    ]


_PROGRAMS = {"onnx": _onnx, "stablehlo": _stablehlo, "litert": _litert}


def _photo_in_rgb(seen: Preprocessing) -> list[str]:
    """What `data.decode_image` does before it scales: upright, grey of 16 bits in 8, white where it is transparent."""
    white = seen.white or 65535
    return [
        f"with Image.open({PHOTO!r}) as opened: photo = ImageOps.exif_transpose(opened)",
        f"if photo.mode[0] == 'I': photo = Image.fromarray(np.uint8((np.array(photo, int).clip(0, {white}) * 255 + "
        f"{white // 2}) // {white}))",
        "if photo.has_transparency_data: photo = Image.alpha_composite(Image.new('RGBA', photo.size, 'white'), "
        "photo.convert('RGBA'))",
        "photo = photo.convert('RGB')",
    ]


def _differences(seen: Preprocessing, *, by_pillow: bool = True) -> list[str]:
    lines = []
    if by_pillow:
        lines.append(
            "# Not as in predict: more than 8 bits a sample, but for 16-bit grey where 0 is black. Those are read by "
            "delta_jax.data.decode_image."
        )
    if by_pillow and seen.aspect == "keep":
        lines.append("# Of a photo more than twice as long as wide, predict may see a square one pixel aside.")
    if seen.crops == 10:
        lines.append("# predict averages the probabilities of ten crops; this is the one in the middle.")
    return lines
