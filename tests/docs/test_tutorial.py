"""docs/tutorial.ipynb runs as written, and shows what it says."""

import json
import re

import jax
import numpy as np
import pytest

from tests.docs import notebook
from tests.docs.markdown import ROOT

CONTENT = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text())


@pytest.fixture(scope="module")
def finished():
    # As a reader has it: optax.adam mixes types, which the tests forbid elsewhere.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return notebook.run(CONTENT)


def test_the_tutorial_fine_tunes_and_the_penalty_holds_the_feature_maps(finished):
    names, _ = finished
    for weight in names["weights"].values():
        np.testing.assert_allclose(np.sum(np.asarray(weight)), 1.0, rtol=1e-5)
    free, held = (history for _, history in names["results"].values())
    for history in (free, held):
        assert history.shape == (100, 2)
        assert history[-1, 0] < 0.2 * history[0, 0]  # cross-entropy
    assert held[-1, 1] < 0.1 * free[-1, 1]  # distance of the feature maps
    free_network, held_network = (variables for variables, _ in names["results"].values())
    assert names["accuracy"](names["source"]) > 0.8  # four classes
    assert names["accuracy"](held_network) > names["accuracy"](free_network)


def test_what_the_tutorial_shows_is_what_its_code_prints_and_draws(finished):
    _, outputs = finished
    shown = [cell["outputs"] for cell in CONTENT["cells"] if cell["cell_type"] == "code"]
    assert [_without_numbers(cell) for cell in shown] == [_without_numbers(cell) for cell in outputs]


def _without_numbers(outputs: list[dict]) -> list[str]:
    # Numbers and pixels differ from one processor to the next.
    texts = ["".join(output.get("text", sorted(output.get("data", {})))) for output in outputs]
    return [re.sub(r"\d+(\.\d+)?", "#", text) for text in texts]
