"""Reward workers and users' own reward functions: same numbers as in process; one text that hangs
costs one reward.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import time

import pytest
from helpers.rewards import META, coherent, respond

from qoq_jax.base.errors import ConfigError, QoqError
from qoq_jax.rewards import custom
from qoq_jax.rewards import score as rewards
from qoq_jax.rewards.pool import RewardPool
from qoq_jax.rewards.score import RewardConfig

TEXTS = [respond("Pneumonia", (1, 1, 9, 9)), respond("Edema"), "nonsense", ""]


def of(name, **changes):
    return RewardConfig(custom=f"helpers.rewards:{name}", **changes)


def test_workers_give_what_the_process_itself_gives():
    pool = RewardPool(of("length"), workers=2, deadline=20.0)
    try:
        found, lost = pool.score(TEXTS * 5, [META] * 20)
    finally:
        pool.close()
    assert lost == 0 and found == rewards.score_batch(TEXTS * 5, [META] * 20, of("length"))


def test_a_text_that_hangs_or_kills_costs_one_reward():
    pool = RewardPool(of("hangs_on_request"), workers=1, deadline=0.5)
    try:
        began = time.monotonic()
        found, lost = pool.score(["a", "hang", "b", "die", "c"], [META] * 5)
        assert lost == 2 and time.monotonic() - began < 60
        assert [r.custom for r in found] == [1.0, None, 1.0, None, 1.0]
        assert found[1].total == found[3].total == 0
        assert pool.score(["a"], [META])[1] == 0, "the pool works on"
    finally:
        pool.close()


def test_a_mistake_in_a_users_function_stops_the_run():
    pool = RewardPool(of("raises"), workers=1, deadline=20.0)
    try:
        with pytest.raises(QoqError, match="raised KeyError"):
            pool.score(["a"], [META])
    finally:
        pool.close()
    with pytest.raises(QoqError, match="raised SystemExit"):
        rewards.score("a", META, of("leaves"))
    with pytest.raises(QoqError, match="returned 7"):
        rewards.score("a", META, of("too_large"))
    for path in ("helpers.rewards:absent", "no_such_module:f", "helpers.rewards"):
        with pytest.raises(ConfigError, match="package.module:function"):
            custom.load(path)
    with pytest.raises(ConfigError, match="name a function"):
        custom.load("helpers.rewards:META")


def test_the_helper_finds_what_is_wrong():
    custom.check_reward_function("helpers.rewards:length", [META], TEXTS)
    for name, message in (
        ("too_large", "returned 7"),
        ("random", "for the same arguments"),
        ("slow", "took"),
    ):
        with pytest.raises(QoqError, match=message):
            custom.check_reward_function(f"helpers.rewards:{name}", [META])


def test_weights_of_own_terms():
    alone = rewards.score("abcd", META, of("length", accuracy=0.0, iou=0.0, format=0.0))
    assert alone.total == alone.custom == 0.04
    mixed = rewards.score(
        "abcd", META, of("length", accuracy=0.5, iou=0.0, format=0.0, custom_weight=0.5)
    )
    assert mixed.total == pytest.approx(0.02)


def test_coherence_is_the_overlap_of_equal_labels_over_frames():
    volume = dataclasses.replace(META, row=dataclasses.replace(META.row, videos=("ct.nii",)))

    def score(text, meta=volume):
        return rewards.score(text, meta, RewardConfig(coherence=0.2)).coherence

    assert score(respond("Edema", (0, 0, 10, 10), (0, 0, 10, 10))) == 1
    assert score(respond("Edema", (0, 0, 10, 10), (5, 0, 15, 10))) == pytest.approx(1 / 3)
    assert score(respond("Edema", (0, 0, 10, 10))) == score("nonsense") == 1
    assert score(respond("Edema"), META) is None
    assert coherent(volume).total == 1


def test_a_worker_that_died_between_batches_is_replaced():
    pool = RewardPool(RewardConfig(), workers=1)
    os.kill(pool._workers[0].process.pid, signal.SIGKILL)
    pool._workers[0].process.join()
    found, lost = pool.score(["a", "b"], [META] * 2)
    assert lost == 0 and len(found) == 2
    process = pool._workers[0].process
    pool.close()
    assert not process.is_alive()
