"""The registry of stages: its numbers are those of old runs, and every row has what runs it."""

from __future__ import annotations

import pytest

from qoq_jax.rl.algorithms import ALGORITHMS
from qoq_jax.train import config as config_lib
from qoq_jax.train import run, stages
from qoq_jax.train.config import AlignConfig, Config, OptimizerConfig, RlConfig
from qoq_jax.train.plan import plan


def test_streams_and_seeds_are_those_that_old_runs_began_with():
    numbers = {name: (row.random_stream, row.data_seed) for name, row in stages.STAGES.items()}
    assert numbers == {"sft": (1, 0), "align": (3, 2), "rl": (2, 1), "ecg": (4, 0)}


def test_no_two_stages_of_a_run_share_random_numbers_or_order_of_rows():
    rows = [stages.get(name) for name in stages.MODEL_STAGES]
    assert len({row.random_stream for row in rows}) == len({row.data_seed for row in rows}) == 3


def test_every_stage_has_a_program_and_a_section():
    for row in stages.STAGES.values():
        assert row.program in (run.ALONE if row.alone else run.PROGRAMS)
        assert hasattr(Config(), row.section)


def test_a_config_may_name_the_stages_of_the_registry():
    for names in (stages.MODEL_STAGES, ("ecg",)):
        assert config_lib.parse({"stages": names}).stages == names


def test_align_is_rl_with_the_fields_of_its_section():
    cfg = Config(
        rl=RlConfig(steps=9, lr=1.0, minibatches=2),
        align=AlignConfig(steps=4, lr=0.5, domains=("ct",), frozen=("vision",)),
        optimizer=OptimizerConfig(frozen=("ecg", "vision")),
    )
    align, rl = plan(cfg, "align"), plan(cfg, "rl")
    assert (align.steps, align.lr, align.updates, align.domains) == (4, 0.5, 8, ("ct",))
    assert align.optimizer.frozen == ("ecg", "vision") and align.rl.rollouts == rl.rl.rollouts
    assert (rl.steps, rl.lr, rl.updates, rl.domains) == (9, 1.0, 18, ())


@pytest.mark.parametrize("name", ["sft", *ALGORITHMS])
def test_a_plan_has_the_row_of_its_algorithm_and_none_without_rl(name):
    one = plan(Config(rl=RlConfig(algorithm=name, clip_low=0.07)), "rl")
    if name == "sft":
        assert one.rl is None and one.algorithm is None and one.updates == one.steps
    else:
        assert one.algorithm.advantage is ALGORITHMS[name].advantage
        assert one.algorithm.clip_low == 0.07
