"""How long a search may take and took."""

import json

import pytest

from delta_jax.training.config import ConfigError
from delta_jax.tuning import budget
from delta_jax.tuning.budget import Clock


@pytest.mark.parametrize(
    ("text", "expected"), [("30m", 1800), ("2h", 7200), ("90s", 90), ("1h30m", 5400), ("0.5h", 1800)]
)
def test_a_budget_is_a_time_with_its_unit(text, expected):
    assert budget.seconds(text) == expected


def test_without_a_budget_there_is_no_limit():
    assert budget.seconds("") is None


@pytest.mark.parametrize("text", ["30", "half an hour", "m", "-5m", "0s", "30 m", "5m2h"])
def test_what_is_no_time_is_refused_with_examples(text):
    with pytest.raises(ConfigError, match=r"expected a time with its unit, such as 30m, 2h, 90s or 1h30m"):
        budget.seconds(text)


def test_time_in_which_several_worked_counts_once():
    # By hand: 0 to 10, 5 to 12 and 20 to 21 cover 0 to 12 and 20 to 21.
    assert budget.union([(5, 12), (20, 21), (0, 10), (6, 7)]) == 13
    assert budget.union([]) == 0


def test_the_clock_goes_on_after_a_restart_and_does_not_count_the_time_in_between(tmp_path):
    now = 100.0
    with Clock(tmp_path, lambda: now) as clock:
        now = 130.0
        assert clock.spent() == 30
    now = 1000.0
    with Clock(tmp_path, lambda: now) as clock:
        now = 1005.0
        assert clock.spent() == 35


def test_of_a_process_that_was_killed_counts_what_it_last_wrote(tmp_path):
    now = 0.0
    killed = Clock(tmp_path, lambda: now)
    now = 40.0
    killed.tick()
    now = 55.0  # killed here: nothing more is written
    (file,) = (tmp_path / budget.FOLDER).iterdir()
    assert json.loads(file.read_text()) == {"from": 0.0, "to": 40.0}
    now = 60.0
    assert Clock(tmp_path, lambda: now).spent() == 40


@pytest.mark.parametrize(("length", "text"), [(45.4, "45 s"), (720, "12 min"), (5400, "90 min"), (7200, "2.0 h")])
def test_a_time_is_shown_in_the_unit_that_suits_it(length, text):
    assert budget.shown(length) == text
