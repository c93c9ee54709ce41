"""MobileNetV3 (Howard et al., ICCV 2019), as tables: the blocks are EfficientNet's, with other activations."""

from typing import Any

import flax.linen as nn

from delta_jax.models.efficientnet import Row, Stages, rounded

# (hidden, features, kernel size, stride, squeeze-and-excitation, ReLU instead of hard swish): tables 1 and 2 of the
# paper, with stages as timm has them.
_Blocks = tuple[tuple[tuple[int, int, int, int, bool, bool], ...], ...]
_LARGE: _Blocks = (
    ((16, 16, 3, 1, False, True),),
    ((64, 24, 3, 2, False, True), (72, 24, 3, 1, False, True)),
    ((72, 40, 5, 2, True, True), (120, 40, 5, 1, True, True), (120, 40, 5, 1, True, True)),
    (
        (240, 80, 3, 2, False, False),
        (200, 80, 3, 1, False, False),
        (184, 80, 3, 1, False, False),
        (184, 80, 3, 1, False, False),
    ),
    ((480, 112, 3, 1, True, False), (672, 112, 3, 1, True, False)),
    ((672, 160, 5, 2, True, False), (960, 160, 5, 1, True, False), (960, 160, 5, 1, True, False)),
)
_SMALL: _Blocks = (
    ((16, 16, 3, 2, True, True),),
    ((72, 24, 3, 2, False, True), (88, 24, 3, 1, False, True)),
    ((96, 40, 5, 2, True, False), (240, 40, 5, 1, True, False), (240, 40, 5, 1, True, False)),
    ((120, 48, 5, 1, True, False), (144, 48, 5, 1, True, False)),
    ((288, 96, 5, 2, True, False), (576, 96, 5, 1, True, False), (576, 96, 5, 1, True, False)),
)


def _stages(blocks: _Blocks) -> Stages:
    return tuple(
        tuple(
            Row(hidden, features, kernel_size, stride, rounded(hidden / 4) if squeezes else 0, rectified=rectified)
            for hidden, features, kernel_size, stride, squeezes, rectified in stage
        )
        for stage in blocks
    )


_COMMON = {
    "stem": 16,
    "activation": nn.hard_swish,
    "gate": nn.hard_sigmoid,
    "squeeze_activation": nn.relu,
}
LARGE: dict[str, Any] = {"stages": _stages(_LARGE), "head": 960, "hidden": 1280, **_COMMON}
SMALL: dict[str, Any] = {"stages": _stages(_SMALL), "head": 576, "hidden": 1024, **_COMMON}
