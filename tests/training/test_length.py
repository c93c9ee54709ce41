"""Steps that follow from the number of training images."""

import json

import pytest

from delta_jax.configs.default import get_config
from delta_jax.training import config as configs
from delta_jax.training import length, trainer
from tests.small_run import make_photos, small_config


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("length") / "photos")


def default_with(**fields):
    config = get_config()
    config.update(fields)
    return config


@pytest.mark.parametrize(
    ("images", "batch", "effort", "steps"),
    [
        # By hand, at 6 passes, from 4,800 to 32,000 images shown: 6 * 1,600 / 32; the least; the most; twice the most.
        (1600, 32, 1.0, 300),
        (40, 16, 1.0, 300),
        (100_000, 32, 1.0, 1000),
        (100_000, 32, 2.0, 2000),
        (1600, 32, 0.001, 1),
    ],
)
def test_steps_by_hand(images, batch, effort, steps):
    assert length.Rule(6, 4_800, 32_000).steps(images, batch, effort) == steps


def test_what_is_given_stays():
    config = configs.resolve(default_with(steps=70, eval_every=7))
    assert length.settled(config, 1000) is config


def test_ten_looks():
    config = length.settled(configs.resolve(default_with(steps=75, eval_every=-1)), 1000)
    assert (config.steps, config.eval_every) == (75, 7)


def test_a_warm_up_that_is_longer_is_one_error():
    config = configs.resolve(default_with(steps=0, effort=0.01, batch_size=16, warmup_steps=20))
    with pytest.raises(configs.ConfigError, match=r"effort=0.01: 3 steps of 16 images come out, .* warmup_steps = 20"):
        length.settled(config, 40)


def test_steps_that_come_out_have_room_for_new_heads_and_end():
    config = configs.resolve(default_with(steps=0, batch_size=16, head_restarts=300))
    with pytest.raises(configs.ConfigError, match=r"head_restarts=300: expected less than the 300 steps"):
        length.settled(config, 40)
    config = configs.resolve(default_with(steps=0, batch_size=16, effort=1e300))
    with pytest.raises(configs.ConfigError, match=r"effort=1e\+300: 3e\+302 steps come out, .* 10,000,000"):
        length.settled(config, 40)


@pytest.mark.parametrize(("field", "value"), [("effort", 0.0), ("steps", -1), ("eval_every", -2)])
def test_values_that_cannot_work(field, value):
    with pytest.raises(configs.ConfigError, match=f"config.{field}"):
        configs.resolve(default_with(**{field: value}))


def test_a_run_counts_its_images_once(photos, tmp_path, capsys):
    config = small_config(photos, steps=0, effort=0.01, eval_every=-1)
    summary = trainer.fit(config, tmp_path).summary
    steps = summary["steps"]
    assert f"{steps} steps: " in capsys.readouterr().out
    kept = json.loads((tmp_path / "config.json").read_text())
    assert (kept["steps"], kept["eval_every"]) == (steps, max(steps // 10, 1))
    # Where some photos cannot be read any more fewer are counted: still the same run. By hand, 6 * images / 16:
    resolved = configs.resolve(default_with(steps=0, batch_size=16))
    begun = {"effort": 1.0, "steps": 1000}
    assert length.as_begun(resolved, begun, 2600).steps == 1000  # 975 by the rule
    assert length.as_begun(resolved, begun, 1000).steps == 0  # 375: a thousand were given
    assert trainer.fit(config, tmp_path).summary["steps"] == steps
    other = small_config(photos, steps=0, effort=0.02, eval_every=-1)
    with pytest.raises(configs.ConfigError, match="steps: "):
        trainer.fit(other, tmp_path)
