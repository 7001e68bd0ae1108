"""The hint for a wrong name."""

from __future__ import annotations

from qoq_jax.base.errors import did_you_mean


def test_the_nearest_name_is_named():
    assert did_you_mean("drop", ["grpo", "drpo"]) == "did you mean 'drpo'?"


def test_without_a_near_one_all_are_listed_or_the_hint_given():
    assert did_you_mean("x", ["b", "a"]) == "known: a, b"
    assert did_you_mean("x", ["b", "a"], "use a or b") == "use a or b"


def test_names_may_be_other_things_than_text():
    assert did_you_mean(41, [40, 400], cutoff=0.5) == "did you mean '40'?"
