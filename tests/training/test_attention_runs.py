"""The attention of runs: its files, on which images it is measured, and which runs share it."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from delta_jax import attention
from delta_jax.training import attention_images, attention_program, trainer
from delta_jax.training import config as configs
from tests.small_network import FILTERS
from tests.small_run import make_photos, small_config


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("attention") / "photos")


@pytest.fixture(scope="module")
def exact(photos):
    """A workdir with exact gaps of all images, measured as the published code does it."""
    workdir = photos.parent / "exact"
    trainer.attend(small_config(photos), workdir)
    return workdir


def gap_table(workdir):
    """What attention.json points to, [images, filters]."""
    folder = Path(json.loads((workdir / "attention.json").read_text())["table"])
    return np.fromfile(folder / "gaps.f32", np.float32).reshape(-1, sum(FILTERS.values()))


def test_the_attention_is_of_every_filter_and_averages_the_gaps(exact):
    table = gap_table(exact)
    assert table.shape == (40, sum(FILTERS.values()))
    with np.load(exact / "attention.npz") as file:
        np.testing.assert_array_equal(np.sort(file["images"]), np.arange(40))
        start = 0
        for tap, filters in FILTERS.items():
            gaps = table[:, start : start + filters]
            np.testing.assert_allclose(file[f"gap/{tap}"], gaps.mean(0), rtol=1e-4, atol=1e-8)
            z = (gaps.mean(0) - gaps.mean(0).mean()) / gaps.mean(0).std()  # z-scores over a temperature of 5
            expected = np.exp(z / 5) / np.exp(z / 5).sum()
            np.testing.assert_allclose(file[f"weight/{tap}"], expected, rtol=1e-3)
            assert file[f"standard_error/{tap}"].shape == (filters,)
            start += filters
    assert np.abs(table).max() > 0


def test_the_paper_preset_weighs_the_filters_of_each_image(photos, tmp_path):
    assert trainer.fit(small_config(photos, steps=4, preset="paper"), tmp_path).summary["steps"] == 4
    with np.load(tmp_path / "attention.npz") as file:
        for tap, filters in FILTERS.items():
            assert file[f"weight/{tap}"].shape == (40, filters)
            np.testing.assert_allclose(file[f"weight/{tap}"].sum(1), np.ones(40), rtol=1e-5)


def test_the_attention_can_be_measured_on_some_of_the_images_and_its_error_is_told(exact, photos, tmp_path):
    config = small_config(photos, attention_estimator="first_order", attention_images=12)
    found = trainer.attend(config, tmp_path)
    assert {tap: weight.shape for tap, weight in found.weights.items()} == {tap: (n,) for tap, n in FILTERS.items()}
    with np.load(tmp_path / "attention.npz") as file:
        assert len(np.unique(file["images"])) == 12
        assert 0 <= file["images"].min() <= file["images"].max() < 40
    assert gap_table(tmp_path).shape == (12, 64)
    told = json.loads((tmp_path / "attention.json").read_text())["error"]
    # Against what the exact run measured, for the same images: 32 random filters of 8 images were compared.
    all_gaps, order = gap_table(exact), list(np.load(exact / "attention.npz")["images"])
    rows, start = [order.index(image) for image in found.images], 0
    for tap, filters in FILTERS.items():
        truth = all_gaps[rows, start : start + filters]
        rms = np.sqrt(np.mean(np.square(found.gaps[tap] - truth))) / truth.std()
        assert told[tap]["rms"] == pytest.approx(rms, rel=0.5)
        assert -1 <= told[tap]["spearman"] <= 1
        start += filters


def test_runs_that_need_the_same_attention_measure_it_once(exact, photos, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("these gaps are in the cache")

    monkeypatch.setattr(attention_program.attention, "filter_gaps", never)
    found = trainer.attend(small_config(photos, seed=5, alpha=0.7, attention_normalization="softmax"), tmp_path / "a")
    np.testing.assert_array_equal(np.concatenate(list(found.gaps.values()), 1), gap_table(exact))
    fewer = trainer.attend(small_config(photos, attention_images=9, attention_per="class"), tmp_path / "b")
    np.testing.assert_array_equal(fewer.images, found.images[:9])
    with np.load(tmp_path / "b" / "attention.npz") as file:
        assert all(file[f"weight/{tap}"].shape == (40, n) for tap, n in FILTERS.items())
    for changed in (
        {"attention_estimator": "mixed"},
        {"taps": list(FILTERS)[:1]},
        {"head_l2": (0.5,)},
        {"data.crop": 36},
    ):
        config = small_config(photos, **changed)
        with pytest.raises(AssertionError, match="in the cache"):
            trainer.attend(config, tmp_path / str(len(list(tmp_path.iterdir()))))


def test_a_share_of_the_time_pays_for_some_images_and_what_is_noise_is_shrunk(
    exact, photos, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(attention_program.attention, "filter_gaps", lambda *_, **__: pytest.fail("in the cache"))
    changed = {"attention_share": 1.2 * attention_images._TIME_OF_AN_OPERATION["cpu"], "attention_shrink": True}
    found = trainer.attend(small_config(photos, **changed), tmp_path)
    # 1.2 * 64 images of 4 forwards of 616,688 FLOPs, over the 10,544,368 of an image's gaps, in whole passes of 8.
    assert len(found.images) == 16
    signal = json.loads((tmp_path / "attention.json").read_text())["signal"]
    start = 0
    for tap, filters in FILTERS.items():
        gaps = gap_table(exact)[:16, start : start + filters].astype(np.float64)
        assert signal[tap] == attention.signal_of(gaps) < 1
        z = (gaps.mean(0) - gaps.mean()) / gaps.mean(0).std()
        expected = np.exp(signal[tap] * z / 5) / np.exp(signal[tap] * z / 5).sum()
        np.testing.assert_allclose(found.weights[tap], expected, rtol=1e-4)
        start += filters
    with np.load(tmp_path / "attention.npz") as file:
        np.testing.assert_array_equal(file[f"weight/{tap}"], found.weights[tap])
    assert "attention on 16 of 40 images: " in capsys.readouterr().out


def test_two_phases_correct_estimates_of_many_images_by_exact_gaps_of_some(exact, photos, tmp_path):
    found = trainer.attend(small_config(photos, attention_estimator="two_phase"), tmp_path / "both")
    mixed = small_config(photos, attention_estimator="mixed", attention_exact_filters=0)
    estimates, start = trainer.attend(mixed, tmp_path / "estimates").gaps, 0
    facts = json.loads((tmp_path / "both" / "attention.json").read_text())
    assert (facts["images"], facts["exact_images"]) == (40, 16)
    with np.load(tmp_path / "both" / "attention.npz") as file:
        for tap, filters in FILTERS.items():
            known, guessed = gap_table(exact)[:16, start : start + filters], estimates[tap][:16]
            deviations = [np.subtract(table, table.mean(0), dtype=np.float64) for table in (known, guessed)]
            slope = np.clip((deviations[0] * deviations[1]).sum() / (deviations[1] ** 2).sum(), 0, 1)
            expected = known.mean(0) + slope * (estimates[tap].mean(0) - guessed.mean(0))
            np.testing.assert_allclose(file[f"gap/{tap}"], expected, atol=1e-5 * np.abs(expected).max())
            assert file[f"standard_error/{tap}"].min() > 0
            start += filters
    assert len(found.images) == 40
    # A share of 0.3 pays for no 16 exact images: 64 images of 4 forwards, at three quarters, are 25 of an estimate's 4.
    little = small_config(photos, attention_estimator="two_phase", attention_share=0.3)
    found = trainer.attend(little, tmp_path / "little")
    facts = json.loads((tmp_path / "little" / "attention.json").read_text())
    assert set(facts["error"]) == set(FILTERS)
    for tap, gaps in estimates.items():
        np.testing.assert_array_equal(found.gaps[tap], gaps[:24])


def test_the_attention_comes_from_a_file_of_the_published_code(photos, tmp_path):
    gaps = {tap: np.linspace(-1, 1, n) ** 3 for tap, n in FILTERS.items()}
    file = tmp_path / "channel_wei.json"
    file.write_text(json.dumps([gap.tolist() for gap in gaps.values()]))
    trainer.fit(small_config(photos, steps=4, attention_file=str(file)), tmp_path / "run")
    with np.load(tmp_path / "run" / "attention.npz") as found:
        for tap, gap in gaps.items():
            z = np.exp((gap - gap.mean()) / gap.std() / 5)
            np.testing.assert_allclose(found[f"weight/{tap}"], z / z.sum(), rtol=1e-4)
    with pytest.raises(configs.ConfigError, match="takes its attention from"):
        trainer.attend(small_config(photos, attention_file=str(file)), tmp_path / "attend")
    file.write_text("[[1, 2]]")
    with pytest.raises(configs.ConfigError, match="gaps of 1 taps"):
        trainer.fit(small_config(photos, attention_file=str(file)), tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_when_memory_runs_out_fewer_filters_run_together(photos, tmp_path, monkeypatch, capsys):
    asked, filter_gaps = [], attention_program.attention.filter_gaps

    def small_device(*args, chunk, **kwargs):
        asked.append(chunk)
        if chunk is None or chunk > 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes.")
        return filter_gaps(*args, chunk=chunk, **kwargs)

    monkeypatch.setattr(attention_program.attention, "filter_gaps", small_device)
    config = small_config(photos, data__cache_dir=str(tmp_path / "cache"), attention_images=8)
    trainer.attend(config, tmp_path / "run")
    assert asked == [None, 8, 4]
    assert "out of memory; going on with 4 filters at once" in capsys.readouterr().out
