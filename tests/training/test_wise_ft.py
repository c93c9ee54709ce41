"""Networks between the source with its head and the fine-tuned one."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from delta_jax.training import config as configs
from delta_jax.training import trainer, wise_ft
from tests.small_run import make_photos, small_config


def network(value):
    return {"params": {"conv": {"kernel": np.full((2, 3), value, np.float32)}}}


@pytest.mark.parametrize(("best", "share"), [(1.0, 0.0), (2.1, 0.6), (9.0, 1.0)])
def test_the_least_cross_entropy_chooses(best, share):
    def measures(variables):
        kernel = variables["params"]["conv"]["kernel"]
        return {"cross_entropy": float(np.mean((kernel - best) ** 2)), "top1": 0.5}

    chosen, found = wise_ft.choose(network(1.0), network(3.0), measures)
    # By hand: a network at 1 + 2 share, so 2.1 is nearest to 2.2 and not 1.8.
    assert found["share"] == share
    np.testing.assert_allclose(chosen["params"]["conv"]["kernel"], 1 + 2 * share, rtol=1e-6)
    assert [one["share"] for one in found["tried"]] == [0, 0.2, 0.4, 0.6, 0.8, 1]


def test_equal_ones_leave_the_source_and_the_ends_are_bit_by_bit_themselves():
    source, tuned = network(0.1), network(0.7)
    chosen, found = wise_ft.choose(source, tuned, lambda _: {"cross_entropy": 1.0, "top1": 0.5})
    assert found["share"] == 0
    assert chosen is source
    assert wise_ft.interpolated(source, tuned, 1.0) is tuned


def test_a_run_keeps_the_mix_and_says_so(tmp_path, capsys):
    photos = make_photos(tmp_path / "photos")
    # A rate that ruins the network: something on the way to it is better.
    config = {"method": "l2", "head_init": "l2_fe", "learning_rate": 0.5, "clip_norm": 1.0, "weight_decay": 0.0}
    last = trainer.fit(small_config(photos, **config), tmp_path / "last")
    mixed = trainer.fit(small_config(photos, **config, select="wise_ft"), tmp_path / "mixed")
    facts = mixed.summary["wise_ft"]
    assert facts["share"] < 1
    assert f"WiSE-FT: {facts['share']:.0%} of the way" in capsys.readouterr().out
    by_share = {one["share"]: one for one in facts["tried"]}
    assert by_share[1.0]["cross_entropy"] == pytest.approx(last.summary["validation"]["cross_entropy"], rel=1e-6)
    assert by_share[0.0]["cross_entropy"] == pytest.approx(mixed.summary["l2_fe"]["validation"]["cross_entropy"])
    assert mixed.summary["validation"]["cross_entropy"] == pytest.approx(by_share[facts["share"]]["cross_entropy"])
    # The files of both runs, mixed by numpy.
    kept, end = (load_file(tmp_path / name / "model.safetensors") for name in ("mixed", "last"))
    for name, array in trainer_start(mixed).items():
        expected = (1 - facts["share"]) * array + facts["share"] * end[name]
        np.testing.assert_allclose(kept[name], expected, rtol=1e-5, atol=1e-6)
    assert json.loads((tmp_path / "mixed" / "fine_tune.json").read_text())["wise_ft"] == facts


def trainer_start(fitted):
    from delta_jax.workdir.variable_files import save_variables

    path = fitted.workdir / "start.safetensors"
    save_variables(path, fitted.before)
    return load_file(path)


def test_a_way_needs_a_beginning_and_images_to_choose(tmp_path):
    photos = make_photos(tmp_path / "photos", per_class=4)
    for fields, expected in (
        ({"head_init": "zeros"}, "select=wise_ft goes from the source's trained head"),
        ({"head_init": "l2_fe", "data.validation_fraction": 0.0}, "data.validation_fraction is 0"),
    ):
        config = small_config(photos, method="l2", select="wise_ft")
        config.update_from_flattened_dict(fields)
        with pytest.raises(configs.ConfigError, match=expected):
            configs.resolve(config)
