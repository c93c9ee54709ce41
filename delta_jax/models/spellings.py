"""Networks by the spellings of papers, libraries and repositories: `ConvNeXt-T`, `regnetY_400mf`, `BiT-M-R50x1`."""

import re
from collections.abc import Iterable

# What is typed, in small letters and digits alone, and how the name here begins, without underscores.
_ELSEWHERE = (
    (r"(convnext(?:tiny|small|base))(?:224|384)", r"\1"),  # Hugging Face: convnext-tiny-224
    (r"(mobilenetv2)(?:10|100)?(?:224)?", r"\1"),  # mobilenet_v2_1.0_224
    (r"(?:bit)?[ms]?r(50|101)x1", r"resnetv2\1x1bit"),
    (r"bit[ms]?", r"resnetv2"),
    (r"wrn(50|101)2?", r"wideresnet\1"),
    (r"rn?(\d+)", r"resnet\1"),
    (r"resnet([cd])(\d+)", r"resnet\2\1"),
    (r"resnet(\d+)v(d)", r"resnet\1\2"),
    (r"densenet(?:bc(\d+)|(\d+)bc)", r"densenet\1\2"),
)
_MODULES = r"(?:(?:torchvision|keras|tf|timm|models|applications)\.)+"
_REGNET = r"regnet[^a-z0-9]*([xy])[^a-z0-9]*(\d+)(?:[._](\d+))?[^a-z0-9]*(mf|gf|)"


def spelled_otherwise(name: str, known: Iterable[str]) -> list[str]:
    """The networks of `known` that are meant by a name of other separators or capitals, or without its end."""
    last = re.sub(rf"^{_MODULES}", "", name.lower().rpartition("/")[2])
    typed = re.sub(r"[^a-z0-9]", "", last)
    if not typed:
        return []
    if found := _written(typed, known):
        return found
    if regnet := re.fullmatch(_REGNET, last):
        # A RegNet is called after its multiply-adds, here and in timm hundreds of millions.
        family, whole, part, unit = regnet.groups()
        size = round(float(f"{whole}.{part or 0}") * (10 if unit == "gf" else 0.01))
        return [other for other in known if re.match(rf"regnet{family}_{size:03}(_|$)", other)]
    for pattern, beginning in _ELSEWHERE:
        if match := re.fullmatch(pattern, typed):
            return _written(match.expand(beginning), known)
    return []


def _written(typed: str, known: Iterable[str]) -> list[str]:
    same = [other for other in known if other.replace("_", "") == typed]
    # A number is not to go on: resnetv2_50 of timm is not resnetv2_50x1_bit, nor resnet5 the ResNet-50.
    begins = re.compile("_?".join(typed) + r"(?!(?<=\d)[a-z0-9])")
    return same or [other for other in known if begins.match(other)]
