"""What the set-up decides before training: missing data, parts that do not fit."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import types

import pytest

from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.rewards.score import RewardConfig
from qoq_jax.train import run as loop
from qoq_jax.train import setup
from qoq_jax.train.config import (
    Config,
    DataConfig,
    LoraConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    RlConfig,
)
from qoq_jax.train.stage_run import StageRun


def test_rows_must_divide_over_the_copies_of_the_rollouts():
    data = DataConfig(media_rows=2)
    mesh = MeshConfig(data=2, fsdp=1, tensor=4, rollout_tensor=2)
    with pytest.raises(ConfigError, match=r"media_rows = 2 does not divide over the 4 copies"):
        setup.assemble(Config(stages=("rl",), data=data, mesh=mesh))


def test_a_kernel_of_tpus_is_refused_elsewhere():
    with pytest.raises(ConfigError, match="ragged on cpu: a kernel for TPUs"):
        setup.model_config(Config(model=ModelConfig(decode_attention="ragged")))


def test_parts_that_do_not_fit_are_named():
    with pytest.raises(ConfigError, match="does not divide over 8"):
        setup.assemble(Config(mesh=MeshConfig(data=8), data=DataConfig(media_rows=4)))
    with pytest.raises(
        ConfigError, match=r"over 8 data x fsdp devices in 4 parts \(stage rl\).*multiple of 32"
    ):
        setup.assemble(
            Config(
                mesh=MeshConfig(data=8),
                data=DataConfig(media_rows=8),
                rl=RlConfig(minibatches=2, accumulate=2),
            )
        )
    with pytest.raises(ConfigError, match="does not fit 8 devices"):
        setup.assemble(Config(mesh=MeshConfig(data=3)), prepare=False)
    with pytest.raises(ConfigError, match="unknown model variant 'nona'"):
        setup.assemble(Config(model=ModelConfig(variant="nona")), prepare=False)
    with pytest.raises(ConfigError, match="'7b' has no tokenizer of its own"):
        setup.assemble(Config(model=ModelConfig(variant="7b")), prepare=False)
    with pytest.raises(ConfigError, match="has id"):
        setup.assemble(
            Config(
                model=ModelConfig(variant="7b", tokenizer="nano"),
                mesh=MeshConfig(data=1, fsdp=8),
                data=DataConfig(media_rows=8),
            ),
            prepare=False,
        )


def test_mistakes_in_later_stages_are_found_before_the_first_trains():
    for changed, message in (
        (
            {"rl": RlConfig(reward=RewardConfig(custom="nowhere:reward"))},
            "rl.reward.custom = 'nowhere:reward'",
        ),
        ({"lora": LoraConfig(rank=2, targets=("nothing",))}, "nothing"),
        ({"optimizer": OptimizerConfig(frozen=("vison",))}, "no weight is under 'vison'"),
    ):
        made = setup.assemble(
            Config(mesh=MeshConfig(data=8), data=DataConfig(media_rows=8), **changed), prepare=False
        )
        with pytest.raises(ConfigError, match=message):
            loop.check_stages(made)


def test_extra_folders_are_checked(tmp_path):
    for folder, message in (
        ("nowhere", "no train.jsonl"),
        ("real", "two sources are called 'real'"),
    ):
        (tmp_path / "real").mkdir(exist_ok=True)
        (tmp_path / "real" / "train.jsonl").write_text("{}")
        with pytest.raises(ConfigError, match=message):
            setup.assemble(Config(data=DataConfig(media_rows=8, extra=(str(tmp_path / folder),))))


def test_broken_rows_are_skipped_and_counted_when_asked(tmp_path):
    good = {
        "id": "a",
        "dataset": "d",
        "domain": "chest_xray",
        "problem": "Answer with one of: A, B.",
        "answer": "A",
        "labels": ["A", "B"],
    }
    lines = [good, good | {"id": "b", "answer": "C"}]
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    prepared = concurrent.futures.Future()
    prepared.set_result(({"mine": str(tmp_path)}, []))

    def made(data):
        assembled = setup.assemble(
            Config(data=data, mesh=MeshConfig(data=1, fsdp=8)), prepare=False
        )
        return dataclasses.replace(assembled, prepared=prepared)

    with pytest.raises(DataError, match="'C'"):
        made(DataConfig(media_rows=8)).rows("train")
    skipping = made(DataConfig(media_rows=8, on_error="skip"))
    assert (
        [row.id for row in skipping.rows("train")["mine"]]
        == ["a"]
        == [row.id for row in skipping.rows("train")["mine"]]
    )
    assert len(skipping.quarantined) == 1 and skipping.quarantined[0]["where"] == "mine/train.jsonl"
    (tmp_path / "train.jsonl").write_text(
        "\n".join(json.dumps(line | {"answer": "C"}) for line in (good, good | {"id": "b"}))
    )
    with pytest.raises(DataError, match="2 of 2 rows are broken"):
        skipping.rows("train")


def test_what_a_finished_stage_skipped_is_known_after_a_restart_and_counts_once():
    made = setup.assemble(Config(mesh=MeshConfig(data=1, fsdp=8)), prepare=False)
    # as __init__ leaves it when the last checkpoint is the last step
    resumed = StageRun.__new__(StageRun)
    resumed.setup, resumed.plan, resumed.start = made, types.SimpleNamespace(steps=6), 6
    resumed._validation, resumed._data_state = (
        types.SimpleNamespace(stopped=False),
        {"quarantined": {"mine/a": "gone.png"}},
    )
    for _ in range(2):  # two stages read the same row
        resumed.feed(None)
    assert made.quarantined == [{"where": "mine/a", "reason": "gone.png"}]
