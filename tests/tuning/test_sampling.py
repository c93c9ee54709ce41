"""What optuna proposes: within the space, the same again, and better where there is something to learn."""

import math

import pytest

from delta_jax.tuning.space import Setting, Space

pytest.importorskip("optuna", reason="settings are proposed by it: pip install 'delta_jax[tune]'")

from delta_jax.tuning import sampling

SPACE = Space(("delta", "l2"), (0.001, 1.0), {"delta": ("alpha_relative", 0.01, 1.0)}, (96, 128), 1.125)


def tried(count, best=0.03):
    """Settings over the range of rates, both methods; those near `best` are good, and one of three is whole."""
    found, values = [], {}
    for number in range(1, count + 1):
        rate = 10 ** (-3 + 3 * number / count)
        fields = {"method": ("l2", "delta")[number % 2], "learning_rate": rate, "data.crop": 96, "data.resize": 108}
        if fields["method"] == "delta":
            fields["alpha_relative"] = 0.1
        found.append(Setting(number, fields))
        value = 0.8 - 0.2 * abs(math.log10(rate / best))
        values[number] = {0: value - 0.1, 1: value} if number % 3 == 0 else {0: value - 0.1}
    return found, values


def test_a_proposal_has_the_fields_of_its_method_within_the_space_and_is_the_same_again():
    found, values = tried(4)  # too few to learn from: these are drawn at random
    methods, crops = set(), set()
    for seed in range(12):
        one = sampling.propose(SPACE, found, values, 2, seed)
        assert one == sampling.propose(SPACE, found, values, 2, seed)
        assert one.keys() - {"alpha_relative"} == {"method", "learning_rate", "data.crop", "data.resize"}
        assert ("alpha_relative" in one) == (one["method"] == "delta")
        assert 0.001 <= one["learning_rate"] <= 1.0
        assert 0.01 <= one.get("alpha_relative", 0.1) <= 1.0
        assert one["data.resize"] == round(one["data.crop"] * 1.125)
        methods.add(one["method"])
        crops.add(one["data.crop"])
    assert methods == {"delta", "l2"}
    assert crops == {96, 128}


def test_proposals_come_near_what_did_well():
    found, values = tried(30)
    rates = [sampling.propose(SPACE, found, values, 2, seed)["learning_rate"] for seed in range(20)]
    # Drawn at random, the mean distance from the best rate would be 0.75 to 0.9 decades; of 20 seeds it was 0.3.
    assert sum(abs(math.log10(rate / 0.03)) for rate in rates) / len(rates) < 0.5


def test_settings_under_way_and_those_of_other_spaces_are_no_obstacle():
    found, values = tried(4)
    found += [Setting(0, {"method": "l2_fe"}), Setting(9, {"method": "l2", "learning_rate": 0.1})]
    assert sampling.propose(SPACE, found, values, 2, 0)["method"] in SPACE.methods
    narrow = Space(("l2",), None, {})
    assert sampling.propose(narrow, [Setting(1, {"method": "l2"})], {1: {0: 0.5}}, 2, 0) == {"method": "l2"}
