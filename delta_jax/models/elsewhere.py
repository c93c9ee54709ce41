"""Networks by the names they have in timm (1.0.31) and torchvision (0.29.1): which are here, which only look so.

Names and shapes of the tensors in a file do not always tell the network. Of all networks of timm these have those of
another one here, and compute something else: `efficientnet_lite0` to 2, `resnetaa50`, `resnetblur18`, `resnetblur50`,
`tf_efficientnet_b0` to 4, `tf_mobilenetv3_small_100` and `large_100`, `efficientnet_blur_b0`, `efficientnetv2_s`.
"""

import re
from dataclasses import dataclass

from delta_jax.models import regnet


@dataclass(frozen=True)
class Elsewhere:
    """What a name of another library means.

    Attributes:
      name: as it stands there.
      arch: the network here that computes the same, "" where there is none.
      like: the network here whose tensors have the same names and shapes, "" where there is none.
      differs: in what it differs from that, for a sentence.
    """

    name: str
    arch: str = ""
    like: str = ""
    differs: str = ""


_SUPPORTED = (
    (r"(?:tv_|gluon_|ssl_|swsl_)?resnet(18|34|50|101|152)(?:_v1b)?", r"resnet\1"),
    (r"mobilenetv2_100|mobilenet_?v2()", r"mobilenet_v2\1"),
    (r"tf_efficientnet_lite([012])", r"efficientnet_lite\1"),
    (r"efficientnet_lite([012])", r"timm_efficientnet_lite\1"),
    (r"(?:tf_|tv_|gluon_|adv_)?inception_?v3()", r"inception_v3\1"),
    (r"(?:tv_|gluon_|ssl_|swsl_|ig_)?(resnext(?:50_32x4d|101_(?:32x[48]d|64x4d))|wide_resnet(?:50|101)_2)", r"\1"),
    (r"(resnext50d_32x4d|resnet26)", r"\1"),
    (r"(?:gluon_)?resnet(50|101|152)(?:_v1)?(c)", r"resnet\1\2"),
    (r"resnet((?:18|26|34|200)d)", r"resnet\1"),
    (r"(?:gluon_)?resnet(50|101|152)(?:_v1)?(d)", r"resnet\1\2"),
    (r"(?:gluon_)?(seresnet(?:50|152d)|seresnext(?:26d_32x4d|50_32x4d|101d?_32x8d|101_(?:32|64)x4d))", r"\1"),
    (r"(?:tv_)?(vgg1[1369](?:_bn)?|alexnet|densenet(?:121|161|169|201))", r"\1"),
    *((theirs, arch) for arch, theirs in regnet.TORCHVISION.items()),
    *((f"({arch})", r"\1") for arch in regnet.SIZES),
    (r"(mobilenet_v3_(?:small|large)|tf_mobilenetv3_(?:small|large)_100|mobilenetv3_small_100)", r"\1"),
    (r"(mobilenetv3_large_100)(?:_miil(?:_in21k)?)?", r"\1"),
    (r"(efficientnet_b[0-4])a?", r"\1"),
    (r"(tf_efficientnet_b[0-4])(?:_(?:ap|ns))?", r"\1"),
    (r"(efficientnetv2_rw_s|efficientnet_v2_s)", r"\1"),
    (r"(tf_efficientnetv2_s)(?:_in21k|_in21ft1k)?", r"\1"),
    (r"(convnext_(?:tiny|small|base))(?:_in22k|(?:_384)?_in22ft1k)?", r"\1"),
    (r"(resnetv2_(?:50|101)x1_bit)(?:m|m_in21k|_distilled)?", r"\1"),
    (r"(?:legacy_)?(xception)", r"\1"),
)
_AS_TORCH = "pads every side alike, with 1e-5 in its BatchNorms, where the other pads as TensorFlow does, with 1e-3"
_AS_TENSORFLOW = "pads as TensorFlow does, with 1e-3 in its BatchNorms, where the other pads sides alike, with 1e-5"
_LOOKALIKES = (
    (r"resnetblur(18|50|50d|101d)", r"resnet\1", "blurs the maps in front of each halving"),
    (r"resnetaa(50|34d|50d|101d)", r"resnet\1", "averages the maps where the other takes every second value"),
    (r"seresnextaa(101d_32x8d)", r"seresnext\1", "averages the maps where the other takes every second value"),
    (r"efficientnet_blur_b(0)", r"efficientnet_b\1", "blurs the maps in front of each halving"),
    (r"efficientnetv2_s()", r"tf_efficientnetv2_s\1", _AS_TORCH),
    (r"resnet(50|101|152)_(?:caffe|msra)", r"resnet\1", "halves the maps in the 1x1 convolutions of its blocks"),
)
# Other networks: how their names begin, behind tf_ and the like. Narrow where a name here could have been mistyped.
_OTHERS = re.compile(
    r"(?:tf_|tv_|legacy_|gluon_|ssl_|swsl_)?(?:"
    r"resnet(?:10|14|26|32|33|51|61|152|200|269)[a-z_]|resnet\d+_?(?:[cdqst]|ts|gn|mlp|v1[cdes]|cifar|clip)(?:$|_)|"
    r"resnet(?:v2|_v2|rs|aa|blur)|wide_?resnet|(?:se|eca|sk|gc|bot|cs|csp|t|halo|lambda_)_?resne[tx]|\w*resne(?:xt|st)|"
    r"resmlp|cspres|res2ne|efficientnet_(?:[bexhl][0-9ms2]|lite[34]|cc|blur)|efficientnetv2|efficientnet_v2_[ml]|efficientformer|efficientvit|"
    r"mobilenet_?v[134]|mobilenetv2_(?!100)|mobileone|mobilevit|inception_(?:v[14]|res|next)|"
    r"\w*convnext|conv(?:mixer|former|it)|\w*vit(?:_|$)|\w*nfnet|\w*regnet|aimv|alexnet|beit|botnet|caformer|coatn?e?t?_|"
    r"\w*darknet|davit|dei?t_|deit3|densenet|dla\d|dpn\d|eva\d|fbnet|ghostnet|googlenet|hardcore|hgnet|hiera|hrnet|lcnet|"
    r"mambaout|\w*mixer|mixnet|\w*mnasnet|nasnet|pnasnet|poolformer|pvt|rdnet|rep(?:vgg|ghost)|rexnet|selecsls|shufflenet|"
    r"\w*senet|squeezenet|\w*swin|tinynet|twins|vgg\d|visformer|volo|\w*vovnet|\w*xception|xcit|focalnet)"
)
# Two networks here, and which of them the names and shapes of both are said to be of.
_LIKE = {
    **{f"timm_efficientnet_lite{number}": f"efficientnet_lite{number}" for number in range(3)},
    **{f"tf_{name}": name for name in (f"efficientnet_b{number}" for number in range(5))},
    **{f"tf_{name}": name for name in ("mobilenetv3_small_100", "mobilenetv3_large_100")},
}
# Of timm alone.
_ALIKE_IN_TIMM = {
    "resnet18": ("resnetblur18",),
    "resnet50": ("resnetaa50", "resnetblur50"),
    "resnet34d": ("resnetaa34d",),
    "resnet50d": ("resnetaa50d", "resnetblur50d"),
    "resnet101d": ("resnetaa101d", "resnetblur101d"),
    "seresnext101d_32x8d": ("seresnextaa101d_32x8d",),
    "efficientnet_b0": ("efficientnet_blur_b0",),
    "tf_efficientnetv2_s": ("efficientnetv2_s",),
}
# Networks that have the names of torchvision for themselves.
_ALONE_IN_TORCHVISION = re.compile(r"efficientnet_b\d")


def like(arch: str) -> str:
    """The first of the networks here whose tensors have the names and shapes of those of `arch`, often itself."""
    return _LIKE.get(arch, arch)


def lookalikes(arch: str, scheme: str = "timm") -> tuple[str, ...]:
    """The networks elsewhere whose tensors have the names and shapes that `arch` has in `scheme`, but other logits."""
    if scheme == "torchvision" and _ALONE_IN_TORCHVISION.fullmatch(arch):
        return ()
    twins = (other for pair in _LIKE.items() for other in pair if arch in pair and other != arch)
    return tuple(f"timm's {name}" for name in (*map(_in_timm, twins), *_ALIKE_IN_TIMM.get(arch, ())))


def _in_timm(arch: str) -> str:
    return f"tf_{arch}" if arch.startswith("efficientnet_lite") else arch.removeprefix("timm_")


def named_elsewhere(text: str) -> Elsewhere | None:
    """What a name such as "hf-hub:timm/resnet50.a1_in1k" or "resnet50d" means; None where it is not known.

    "delta_jax:NAME" is a name of this library.
    """
    place, _, rest = text.strip().rpartition(":")
    name = rest.rpartition("/")[2].partition(".")[0].lower().replace("-", "_")
    if place == "delta_jax":
        return Elsewhere(name, name, like(name))
    for pattern, arch in _SUPPORTED:
        if match := re.fullmatch(pattern, name):
            found = match.expand(arch)
            differs = _AS_TENSORFLOW if found.startswith("tf_") else _AS_TORCH
            return Elsewhere(name, found, like(found), differs if found in _LIKE else "")
    for pattern, arch, differs in _LOOKALIKES:
        if match := re.fullmatch(pattern, name):
            return Elsewhere(name, like=match.expand(arch), differs=differs)
    return Elsewhere(name) if _OTHERS.match(name) else None


def mentioned_elsewhere(text: str) -> list[Elsewhere]:
    """The networks that the name of a file or a repository speaks of: "resnetblur50-84f4748f.pth".

    A plain "efficientnet_lite0" is left out: here and in timm it means two networks. With timm's tag behind it, as in
    "efficientnet_lite0_ra-37913777.pth", it is timm's.
    """
    patterns = [pattern for pattern, *_ in (*_LOOKALIKES, *_SUPPORTED)]
    found = []
    for match in re.finditer(
        rf"(?<![a-z0-9])(?:timm_)?(?:{'|'.join(patterns)})(?![a-z0-9])", text.lower().replace("-", "_")
    ):
        meant = named_elsewhere(match[0].removeprefix("timm_"))
        tagged = match[0].startswith("timm_") or re.match(r"[._]ra[._]", text.lower().replace("-", "_")[match.end() :])
        if meant and (meant.arch not in _LIKE or meant.arch.startswith("tf_") or tagged):
            found.append(meant)
    return found
