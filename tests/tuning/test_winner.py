"""Which setting wins, and what is said of it."""

import numpy as np
import pytest

from delta_jax.training.fine_tune import DivergedError
from delta_jax.tuning import winner, words
from tests.tuning.test_decision import result, state


def found(results, **how):
    return winner.candidates(state(results, **how))


def test_the_best_whole_run_wins_and_short_ones_do_not_count():
    results = [result(0, 0, 0.5), result(1, 10, 0.9), result(1, 30, 0.6), result(2, 10, 0.95), result(3, 30, 0.7)]
    ranked = found(results, settings=4, begun=((), {1, 3}, ()))
    assert [(one.setting, one.steps, one.top1) for one in ranked] == [(3, 30, 0.7), (1, 30, 0.6), (0, 0, 0.5)]
    assert winner.choose(ranked).setting == 3


def test_of_runs_on_more_folds_the_mean_counts_and_those_on_one_are_left_out():
    results = [result(0, 0, 0.5, fold) for fold in range(3)]
    results += [result(1, 30, top1, fold) for fold, top1 in enumerate((0.6, 0.6, 0.9))]
    results += [result(2, 30, 0.8)]
    ranked = found(results, settings=3, begun=((), {1, 2}, {1}))
    assert [(one.setting, one.folds) for one in ranked] == [(1, 3), (0, 3)]
    assert ranked[0].top1 == pytest.approx(0.7)


@pytest.mark.parametrize("rival", [0, 1])
def test_nothing_takes_the_place_of_config_or_head_without_being_better(rival):
    results = [result(0, 0, 0.8 if rival == 0 else 0.1), result(1, 30, 0.8 if rival == 1 else 0.1), result(2, 30, 0.8)]
    assert winner.choose(found(results, settings=3, begun=((), {1, 2}, ()))).setting == rival


def test_of_equal_accuracies_the_lower_cross_entropy_wins():
    results = [result(1, 30, 0.8, cross_entropy=0.9), result(2, 30, 0.8, cross_entropy=0.6)]
    assert winner.choose(found(results, settings=3, begun=((), {1, 2}, ()))).setting == 2


def test_with_short_runs_alone_the_best_of_these_wins_with_its_steps():
    ranked = found([result(0, 0, 0.5), result(1, 10, 0.6)], settings=2)
    assert (winner.choose(ranked).setting, winner.choose(ranked).steps) == (1, 10)


def test_a_run_that_diverged_does_not_win_and_all_of_them_are_an_error():
    diverged = result(1, 30, 0.0, error="the loss is not finite")
    assert winner.choose(found([result(0, 0, 0.0), diverged], settings=2, begun=((), {1}, ()))).setting == 0
    with pytest.raises(DivergedError, match=r"lower --config\.learning_rate"):
        winner.choose(found([diverged], settings=2, begun=((), {1}, ())))


def test_which_candidates_the_images_cannot_tell_apart():
    # By hand, with the t interval of paired differences: of 100 images, 30 differences of 1 and 70 of 0 have mean 0.3
    # and a standard error of 0.046: far from 0. One difference has 0.01 +- 0.0198, which holds 0.
    right = np.ones(100, bool)
    worse, nearly = right.copy(), right.copy()
    worse[:30], nearly[:1] = False, False
    rights = {(2, 30): right, (1, 30): worse, (3, 30): nearly}
    assert winner.indistinguishable(rights, (2, 30)) == [(3, 30)]
    pair = winner.against(right, nearly)
    assert (pair.difference, pair.low) == (pytest.approx(0.01), pytest.approx(0.01 - 0.0198, abs=2e-4))


FOUND = {
    "settings": 12,
    "methods": ["delta", "l2"],
    "runs": 20,
    "seconds": 700.0,
    "winner": {
        "setting": 4,
        "steps": 300,
        "top1": 0.74,
        "description": "l2, learning_rate 0.02",
        "fields": {"method": "l2"},
    },
    "validation_images": 296,
    "against": {
        "configured": {"difference": 0.027, "low": 0.003, "high": 0.051, "p": 0.03, "n": 296},
        "l2_fe": {"difference": 0.01, "low": -0.01, "high": 0.03, "p": 0.3, "n": 296},
    },
    "indistinguishable": 3,
    "compared": 6,
    "seeds": [0, 1, 2],
    "steps": 300,
    "refit": True,
    "average": {
        "single": [{"top1": 0.72}, {"top1": 0.74}, {"top1": 0.73}],
        "average": {"top1": 0.75},
        "ensemble": {"top1": 0.751},
        "ensemble_gain": {"low": -0.01},
    },
    "test": {"top1": 0.73, "n": 656},
    "test_l2_fe": {"top1": 0.70},
}


def test_the_paragraph_says_what_was_tried_what_won_and_how_sure_that_is():
    text = words.paragraph(FOUND)
    assert "12 settings were tried beside the head alone (L2-FE), of delta, l2, in 20 runs and 12 min." in text
    assert "l2, learning_rate 0.02, 300 steps, is best on 296 validation images: 74.0 %" in text
    assert (
        "Against the config as it is: +2.7 points (95% interval +0.3 to +5.1), which the images are enough to show."
        in text
    )
    assert "Against the head alone: +1.0 points (95% interval -1.0 to +3.0), which may be chance." in text
    assert "3 of the 5 other candidates" in text
    assert "the average of 3 seeds, trained on all images that are not for testing: on validation images 75.0 %" in text
    # Wilson's interval of 479 of 656: statsmodels.stats.proportion.proportion_confint(479, 656, method="wilson").
    assert "On the 656 test images, looked at once: 73.0 % (95% interval 69.5 to 76.3); the head alone 70.0 %." in text
    assert "Several networks" not in text


def test_the_paragraph_says_when_the_config_is_kept_and_when_several_networks_would_be_better():
    kept = {**FOUND, "winner": {**FOUND["winner"], "setting": 1}, "against": {}}
    assert "Nothing that was tried was better than the config as it is, which is kept." in words.paragraph(kept)
    head = {
        "setting": 2,
        "steps": 300,
        "top1": 0.74,
        "description": "l2_fe, data.crop 224",
        "fields": {"method": "l2_fe"},
    }
    alone = words.paragraph({**FOUND, "winner": head})
    assert "The head alone, l2_fe, data.crop 224, is best on 296 validation images: 74.0 %." in alone
    assert alone.endswith("interval 69.5 to 76.3).")
    better = {**FOUND, "average": {**FOUND["average"], "ensemble_gain": {"low": 0.001}}}
    assert "Several networks together would be better: 75.1 %." in words.paragraph(better)
