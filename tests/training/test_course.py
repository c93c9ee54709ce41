"""Plateaus and what they make of a schedule: the rates of the schedules are those of `optim`, the rest is by hand."""

import numpy as np

from delta_jax.training import optim
from delta_jax.training.convergence import Looks
from delta_jax.training.course import Course, ends_early, plateaus, shortened


def rates(kind, steps, **more):
    schedule = optim.learning_rate_schedule(kind, 0.5, steps, **more)
    return np.array([float(schedule(step)) for step in range(steps)], np.float32)


def looks_at(steps, levels):
    """Looks at 10 images, all with the loss `level`."""
    return Looks(
        np.array(steps), np.repeat(np.array(levels, np.float32)[:, None], 10, 1), np.ones((len(steps), 10), bool)
    )


def test_a_step_schedule_becomes_that_of_a_shorter_run():
    for warmup in (0, 5):
        found = shortened(Course(rates("step", 90, warmup_steps=warmup)), 40)
        np.testing.assert_array_equal(found.rates, rates("step", 60, warmup_steps=warmup))


def test_at_a_constant_rate_the_run_stops():
    assert shortened(Course(rates("constant", 90)), 40).steps == 40
    assert shortened(Course(rates("step", 90)), 70).steps == 70  # behind the decay


def test_of_a_cosine_the_rest_is_gone_through_faster():
    whole = rates("cosine", 100)
    found = shortened(Course(whole), 40)  # 60 steps left, in 20: every third
    assert found.steps == 60
    np.testing.assert_array_equal(found.rates, np.append(whole[:40], whole[42::3]))
    assert found.rates[-1] == whole[-1]
    assert shortened(Course(whole), 70).steps == 100  # 30 left are fewer than 35
    again = shortened(found, 50)
    np.testing.assert_array_equal(again.rates, found.rates)


def test_of_an_exponential_decay_too():
    whole = rates("exponential", 40, epoch_steps=4, epoch_factor=0.5)  # 4 steps of each rate
    found = shortened(Course(whole), 10)  # at 1/8 of 0.5, whose last two steps are left out: 28 steps in 5
    assert found.steps == 15
    assert (found.rates[10:] / found.rates[9]).tolist() == [0.5**k for k in (2, 3, 5, 6, 7)]


def test_a_course_is_a_table_of_any_length():
    assert Course(np.array([3.0, 1.0], np.float32)).table(4).tolist() == [3, 1, 1, 1]


def test_patience_is_a_number_of_looks():
    course = Course(rates("constant", 100))
    looks = looks_at([10, 20, 30, 40, 50], [1.0, 0.5, 0.5, 0.6, 0.5])
    # Look 2 is the best; 3, 4 and 5 are none better.
    for patience, expected in ((0, []), (1, [30]), (2, [40]), (3, [50]), (4, [])):
        assert plateaus(course, looks, patience) == expected, patience
    assert not ends_early(Course(rates("constant", 50)), looks, 3)  # it ends anyhow


def test_counting_begins_after_warm_up_and_anew_after_a_drop_of_the_rate():
    steps, same = [10, 20, 30, 40, 50, 60, 70, 80], [1.0] * 8
    warm = Course(rates("constant", 100, warmup_steps=35))
    assert plateaus(warm, looks_at(steps, same), 2)[0] == 60  # looks at 50 and 60, since the one at 40
    # The rate drops at 60 of 90, where two looks have been counted; the next are compared to the look there.
    course = Course(rates("step", 90))
    levels = [1.0, 0.9, 0.8, 0.7, 0.7, 0.7, 0.7, 0.7]
    assert plateaus(course, looks_at(steps, levels), 3) == []  # 50, 60, then 70, 80
    assert plateaus(course, looks_at(steps, levels), 2) == [80]  # at 60 the decay comes anyhow
    # The plateau at 30 brings the decay, up to step 45; in that tail the rate is constant.
    assert plateaus(course, looks_at([10, 20, 30, 40], [1.0] * 4), 2) == [30]
    assert plateaus(course, looks_at([10, 20, 30, 35, 40], [1.0] * 5), 2) == [30, 40]
