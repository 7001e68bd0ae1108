"""Every algorithm trains nano from end to end, and so does every option of the trainer that changes
a step.
"""

from __future__ import annotations

import dataclasses
import json
import os
import types

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from qoq_jax.base.errors import QoqError
from qoq_jax.models import spec, vlm
from qoq_jax.models.lora import LoraConfig
from qoq_jax.parallel import hosts, offload
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.rewards import pool as workers
from qoq_jax.rewards.score import RewardConfig
from qoq_jax.rl import algorithms
from qoq_jax.rl.algorithms import ALGORITHMS
from qoq_jax.rl.batches import GroupBatch
from qoq_jax.train import config as config_lib
from qoq_jax.train import domains, policy, refill, validation
from qoq_jax.train import groups as groups_lib
from qoq_jax.train import rl as rl_lib
from qoq_jax.train import run as run_lib
from qoq_jax.train import setup as setup_lib
from qoq_jax.train import state as state_lib
from qoq_jax.train.plan import plan
from qoq_jax.train.stage_run import checkpointer, start_state
from qoq_jax.train.weights import load_weights, weights_after

STEPS = 20
DIAGNOSTICS = {"loss", "entropy", "grad_norm", "update_finite", "tokens", "seconds/step"}
RL_DIAGNOSTICS = DIAGNOSTICS | {
    "reward/total",
    "reward/custom",
    "zero_variance_groups",
    "kl",
    "kl_answer",
    "logprob_difference_mean",
    "policy/ratio",
    "policy/clipped_high",
    "response_length",
    "seconds/rollout",
    "seconds/reward",
    "seconds/score",
    "seconds/advantages",
    "seconds/update",
}
OWN = {
    "drpo": {"drpo/damping_mean", "drpo/zero_variance_groups"},
    "ppo": {"value_loss", "value_clipped", "advantage/explained_variance"},
    "remax": {"advantage/greedy_reward", "seconds/greedy"},
    "dapo": {"dapo/refills", "dapo/informative"},
}
REWARD = RewardConfig(accuracy=0.0, iou=0.0, format=0.0, custom="helpers.train:pseudo_reward")
TINY = config_lib.parse(
    {
        "data": {
            "real": False,
            "mini_rows": 40,
            "max_patches": 72,
            "mean_patches": 64,
            "mean_ecgs": 0.5,
            "max_prompt_tokens": 76,
            "frame_max_pixels": 84 * 84,
            "media_rows": 2,
            "cache": True,
        },
        "rl": {
            "questions": 4,
            "rollouts": 3,
            "response_tokens": 6,
            "steps": STEPS,
            "warmup": 2,
            "lr": 1e-3,
            "save_every": 100,
        },
        "log": {"every": 1, "tensorboard": False},
        "eval": {"rows": 4, "limit_per_domain": 1},
        "sft": {"rows": 4},
    }
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(setup on one device, maker of start weights); compiled programs are shared by all runs of
    this file.
    """
    root = tmp_path_factory.mktemp("algorithms")
    patch = pytest.MonkeyPatch()
    patch.setattr(setup_lib.mesh_lib, "make_mesh", lambda *sizes: mesh_lib_make_one())
    cfg = dataclasses.replace(
        TINY,
        data=dataclasses.replace(TINY.data, root=str(root / "data")),
        rl=dataclasses.replace(TINY.rl, reward=REWARD),
    )
    setup = setup_lib.assemble(cfg)
    with jax.set_mesh(setup.mesh):
        specs = vlm.param_specs(setup.model)
        start = jax.jit(
            lambda k: spec.init_params(specs, k), out_shardings=spec.shardings(specs, setup.mesh)
        )
        yield setup, lambda: start(jax.random.key(3))
    patch.undo()


ONE_DEVICE = mesh_lib.make_mesh


def mesh_lib_make_one():
    return ONE_DEVICE(1, 1, 1, jax.devices()[:1])


def train(tiny, workdir, name="rl", cfg=None, **rl):
    """Runs one stage; returns (setup, weights reached, rows of metrics.jsonl)."""
    setup, start = tiny
    cfg = setup.config if cfg is None else cfg
    os.makedirs(workdir, exist_ok=True)
    cfg = dataclasses.replace(cfg, workdir=str(workdir), rl=dataclasses.replace(cfg.rl, **rl))
    setup = dataclasses.replace(setup, config=cfg, quarantined=[])
    weights = run_lib.run_stage(setup, name, start())
    return (
        setup,
        weights,
        [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()],
    )


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["sft", *ALGORITHMS])
def test_every_algorithm_trains_nano_for_20_steps(tiny, tmp_path, algorithm):
    _, weights, rows = train(tiny, tmp_path, algorithm=algorithm)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    numbers = [value for row in rows for value in row.values() if isinstance(value, (int, float))]
    assert np.isfinite(numbers).all()
    assert all(row["update_finite"] == 1 and row["recompiles"] == 0 for row in rows)
    wanted = DIAGNOSTICS if algorithm == "sft" else RL_DIAGNOSTICS | OWN.get(algorithm, set())
    assert wanted <= rows[-1].keys(), wanted - rows[-1].keys()
    assert (
        all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(weights))
        and "critic" not in weights
    )
    if algorithm == "sft":
        assert rows[-1]["loss"] < rows[0]["loss"]
    else:
        assert rows[0]["zero_variance_groups"] < 1 and max(row["grad_norm"] for row in rows) > 0
        assert all(row["logprob_difference_max"] < 1e-3 for row in rows), (
            "sampler and trainer must agree"
        )


@pytest.mark.slow
def test_bfloat16_computes_and_float32_remembers(tiny, tmp_path):
    setup, start = tiny
    half = dataclasses.replace(
        setup, model=dataclasses.replace(setup.model, compute_dtype="bfloat16")
    )
    _, weights, rows = train((half, start), tmp_path / "half", algorithm="grpo", steps=2)
    full = train(tiny, tmp_path / "full", algorithm="grpo", steps=2)[2]
    assert {leaf.dtype for leaf in jax.tree.leaves(weights)} == {np.dtype("float32")}
    saved = ocp.StandardCheckpointer().restore(
        tmp_path / "half" / "checkpoints" / "rl" / "2" / "state"
    )
    kept = {leaf.dtype.name for leaf in jax.tree.leaves(saved) if leaf.dtype.kind not in "iu"}
    assert kept == {"float32"}, "moments too"
    # The same step, rounded: near, but not equal.
    assert (
        rows[0]["entropy"] == pytest.approx(full[0]["entropy"], rel=0.02)
        and rows[0]["entropy"] != full[0]["entropy"]
    )
    assert all(row["update_finite"] == 1 for row in rows)


def equal(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.slow
def test_epochs_of_mini_batches_go_off_policy(tiny, tmp_path):
    options = dict(
        algorithm="grpo",
        steps=3,
        minibatches=2,
        epochs=2,
        old_logprobs="trainer",
        importance_cap=2.0,
        kl_in="reward",
        kl_target=0.05,
        kl_estimator="kl",
        reward_workers=1,
        reward_deadline=30.0,
    )
    setup, weights, rows = train(tiny, tmp_path / "a", **options)
    state, _, _ = start_state(setup, plan(setup.config, "rl"), tiny[1]())
    state, _, _ = checkpointer(setup, "rl").restore(state)
    assert int(state.step) == 12, "3 rollout batches x 2 epochs x 2 mini-batches"
    # Later updates of a batch see a policy that has moved; the sampler is compared before it has.
    assert abs(rows[-1]["policy/ratio"] - 1) > 1e-7 and rows[-1]["logprob_difference_max"] < 1e-3
    assert rows[-1]["reward/lost"] == 0 and rows[0]["kl_coefficient"] != rows[-1]["kl_coefficient"]
    again = train(tiny, tmp_path / "b", **options)[1]
    assert equal(weights, again), "shuffled mini-batches must be the same in every run"


@pytest.mark.slow
def test_updates_that_are_not_finite_are_counted_named_and_stop_the_run(tiny, tmp_path):
    setup, start = tiny
    cfg = dataclasses.replace(
        setup.config, optimizer=dataclasses.replace(setup.config.optimizer, max_skipped=2)
    )
    poisoned = start()
    poisoned["decoder"]["final_norm"]["scale"] = poisoned["decoder"]["final_norm"]["scale"] * np.nan
    with pytest.raises(QoqError, match="2 updates in a row were not finite"):
        train((setup, lambda: poisoned), tmp_path, cfg=cfg, algorithm="grpo", steps=5)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["skipped_updates"] for row in rows] == [1, 1]
    named = [
        json.loads(line) for line in (tmp_path / "skipped_updates.jsonl").read_text().splitlines()
    ]
    assert [(line["stage"], line["step"]) for line in named] == [("rl", 1), ("rl", 2)]
    assert all(line["ids"] and all(isinstance(name, str) for name in line["ids"]) for line in named)


def test_a_batch_that_is_not_finite_leaves_history_and_kl_coefficient():
    cfg = dataclasses.replace(
        TINY.rl, kl_target=0.05, drpo=dataclasses.replace(TINY.rl.drpo, history_size=2)
    )
    rng = np.random.default_rng(0)
    rewards, logprobs = (
        rng.random((4, 3)).astype(np.float32),
        -rng.random((4, 3, 5)).astype(np.float32),
    )
    function = policy.make_advantages(cfg, algorithms.resolve(cfg))

    def call(reference, history, coefficient):
        groups = GroupBatch(
            rewards=rewards,
            domains=np.arange(4),
            valid=np.ones(4, bool),
            mask=np.ones_like(logprobs),
            sampler_logprobs=logprobs,
            ref_logprobs=reference,
            history=history,
        )
        return function(groups, coefficient)

    first, _, coefficient = call(
        logprobs - 1, state_lib.empty_history(cfg.drpo, 3), np.float32(0.01)
    )
    assert coefficient != np.float32(0.01) and first.history.count.sum() == 4
    broken, mean, after = call(
        np.where(rng.random((4, 3, 5)) < 0.1, np.nan, logprobs), first.history, coefficient
    )
    assert np.isnan(mean) and after == coefficient and equal(broken.history, first.history)


def test_the_kl_of_advantages_is_the_trainers_where_it_has_one():
    """A policy that still is its reference has no KL, whatever 8 bits sampled with."""
    rl = dataclasses.replace(TINY.rl, algorithm="grpo", kl_in="reward", kl_coefficient=1.0)
    rewards = np.tile(np.float32([0, 1, 1]), (4, 1))
    rng = np.random.default_rng(0)
    trainer, sampler = (-rng.random((4, 3, 5)).astype(np.float32) for _ in range(2))
    function = policy.make_advantages(rl, algorithms.resolve(rl))
    groups = GroupBatch(
        rewards=rewards,
        domains=np.arange(4),
        valid=np.ones(4, bool),
        mask=np.ones_like(sampler),
        sampler_logprobs=sampler,
        ref_logprobs=trainer,
    )
    estimate, kl, _ = function(groups.replace(old_logprobs=trainer))
    assert kl == 0 and np.ptp(np.asarray(estimate.advantages), axis=0).max() == 0
    estimate, kl, _ = function(groups)
    assert kl > 0.01 and np.ptp(np.asarray(estimate.advantages), axis=0).max() > 0.01


@pytest.mark.parametrize(
    ("fields", "scores"),
    [
        (dict(rollout_weights="int8"), True),  # drpo
        (dict(kv_cache_dtype="int8", algorithm="grpo", kl_in="reward"), True),
        (dict(rollout_weights="int8", algorithm="grpo", kl_target=0.1), True),
        (dict(rollout_weights="int8", algorithm="grpo"), False),
        (dict(rollout_weights="int8", old_logprobs="sampler"), False),
        (dict(), False),
        (dict(algorithm="grpo", epochs=2), True),
    ],
)
def test_the_trainer_scores_the_old_policy_where_something_reads_it(fields, scores):
    rl = dataclasses.replace(TINY.rl, **({"algorithm": "drpo", "old_logprobs": "trainer"} | fields))
    assert plan(dataclasses.replace(TINY, rl=rl), "rl").scores_old is scores


def test_a_step_whose_answers_all_miss_the_deadline_stops_the_run():
    pool = types.SimpleNamespace(
        score=lambda texts, metas: ([workers.LOST] * len(texts), len(texts))
    )
    sample = types.SimpleNamespace(row=0, meta=types.SimpleNamespace(domain="ct"))
    with pytest.raises(QoqError, match="none of 3 responses got its reward within 2 s"):
        groups_lib.reward_terms(pool, [sample], ["", "", ""], 2.0)


@pytest.mark.slow
def test_a_step_sends_nothing_but_rewards_to_the_host_and_back(tiny, tmp_path, monkeypatch):
    """Every array that the step puts on the device, and every one that it reads, by shape."""
    sent, read = [], []
    put = setup_lib.Setup.put
    monkeypatch.setattr(
        setup_lib.Setup,
        "put",
        lambda self, tree: sent.append(jax.tree.map(np.shape, tree)) or put(self, tree),
    )

    own = setup_lib.Setup.own
    monkeypatch.setattr(
        setup_lib.Setup,
        "own",
        lambda self, tree: read.extend(x.shape for x in jax.tree.leaves(tree)) or own(self, tree),
    )
    train(tiny, tmp_path, algorithm="drpo", steps=1)
    q, g, s = TINY.rl.questions, TINY.rl.rollouts, TINY.rl.response_tokens
    assert read == [(q, g, s)] * 2, "tokens and mask"
    assert [x for x in sent if not isinstance(x, dict)] == [((q, g), (q,), (q,))], (
        "rewards, domains, valid; and the batch"
    )


@pytest.mark.slow
def test_on_policy_the_trainers_own_log_probs_cost_no_pass_and_give_ratio_one(tiny, tmp_path):
    rows = train(tiny, tmp_path, algorithm="grpo", steps=2, old_logprobs="trainer")[2]
    assert all(row["policy/ratio"] == pytest.approx(1, abs=1e-7) for row in rows)


@pytest.mark.slow
def test_the_entropies_of_the_domains_add_up_to_that_of_the_policy(tiny, tmp_path, monkeypatch):
    """In two micro-batches; weighted by tokens, which the log row does not hold."""
    found, join = [], domains.row
    monkeypatch.setattr(domains, "row", lambda steps: found.extend(steps) or join(steps))
    row = train(tiny, tmp_path, algorithm="grpo", steps=1, accumulate=2)[2][-1]
    entropy, tokens = np.asarray(found[0][domains.ENTROPY])
    assert tokens.sum() == row["tokens"]
    assert entropy.sum() / tokens.sum() == pytest.approx(row["entropy"], rel=1e-5)
    each = {key.split("/")[1] for key in row if key.startswith("domain/") and "entropy" in key}
    assert each == {key.split("/")[2] for key in row if key.startswith("reward/domain/")}


def test_the_mean_over_mini_batches_keeps_domains_apart():
    sums = [{"domain_entropy": np.full((2, 3), x, np.float32)} for x in (1.0, 3.0)]
    np.testing.assert_array_equal(rl_lib._mean(sums)["domain_entropy"], np.full((2, 3), 2.0))


@pytest.mark.slow
def test_offload_changes_no_bit(tiny, tmp_path, monkeypatch):
    moved = []
    monkeypatch.setattr(
        offload,
        "_move",
        lambda tree, kind, move=offload._move: moved.append(kind) or move(tree, kind),
    )
    plain = train(tiny, tmp_path / "a", algorithm="grpo", steps=2)[1]
    assert not moved
    cfg = dataclasses.replace(
        tiny[0].config, optimizer=dataclasses.replace(tiny[0].config.optimizer, offload=True)
    )
    setup, weights, rows = train(
        tiny, tmp_path / "b", cfg=cfg, algorithm="grpo", steps=2, offload_reference=True
    )
    assert equal(plain, weights) and moved.count("pinned_host") >= 4 and rows[-1]["recompiles"] == 0
    there = offload.to_host(jax.device_put(np.ones(3), jax.NamedSharding(setup.mesh, jax.P())))
    assert (
        there.sharding.memory_kind == "pinned_host"
        and offload.to_device(there).sharding.memory_kind == "device"
    )


@pytest.mark.slow
def test_lora_trains_and_saves_adapters_only(tiny, tmp_path):
    cfg = dataclasses.replace(
        tiny[0].config, lora=LoraConfig(rank=2, targets=("decoder/layers", "ecg_proj"))
    )
    setup, weights, rows = train(tiny, tmp_path, cfg=cfg, algorithm="grpo", steps=3)
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6), "the base is the reference"
    saved = ocp.StandardCheckpointer().restore(tmp_path / "checkpoints" / "rl" / "3" / "state")
    assert set(saved["params"]) == {"lora"}
    flat, before = spec.flatten(weights), spec.flatten(tiny[1]())
    changed = {path for path in flat if not np.array_equal(flat[path], before[path])}
    assert changed and all(
        path.startswith(("decoder/layers", "ecg_proj")) and "norm" not in path for path in changed
    )
    assert equal(weights, load_weights(setup, "rl", tiny[1]())), (
        "restored adapters on the base give the same weights"
    )


@pytest.mark.slow
def test_align_trains_on_its_domains_with_its_parts_frozen(tiny, tmp_path):
    align = config_lib.AlignConfig(steps=2, lr=1e-3, domains=("ecg",), frozen=("vision", "decoder"))
    cfg = dataclasses.replace(tiny[0].config, align=align)
    _, weights, rows = train(tiny, tmp_path, "align", cfg, algorithm="grpo")
    assert {key for row in rows for key in row if key.startswith("reward/domain/")} == {
        "reward/domain/ecg"
    }
    before = tiny[1]()
    assert equal(weights["decoder"], before["decoder"]) and equal(
        weights["vision"], before["vision"]
    )
    assert not equal(weights["ecg"], before["ecg"])


def test_a_question_unpacked_and_packed_again_is_the_same(tiny):
    setup = tiny[0]
    budget = setup.training_budget("rl", answers=False)
    for _, (batch, placed) in zip(range(3), setup.training_iterator("rl", answers=False)):
        groups = [refill.GroupPacker(budget) for _ in range(budget.media_rows)]
        for place in placed:
            assert groups[place.row // budget.rows_per_media_row].add(
                refill.unpack(batch, place, budget)
            )
        again, places = refill.write_groups(groups, budget)
        assert places == placed
        for name, value in batch.items():
            np.testing.assert_array_equal(again[name], value, err_msg=name)


def test_refill_fills_free_places_with_informative_questions(tiny):
    setup = tiny[0]
    budget, data = (
        setup.training_budget("rl", answers=False),
        setup.training_iterator("rl", answers=False),
    )
    pool = refill.Refill(budget)
    groups = []
    while not pool.full:
        batch, placed = next(data)
        new = [
            refill.Group(
                refill.unpack(batch, place, budget),
                place,
                (np.full((3, 6), pool.seen + i),),
                {"total": np.array([0, 0, i % 2], np.float32)},
            )
            for i, place in enumerate(placed)
        ]
        pool.add(refill.sizes(new, len(groups), budget, hosts.WHOLE))
        groups += new
    batch, placed, kept = refill.assemble(pool, groups, budget, hosts.WHOLE)
    assert len(placed) == budget.rows and pool.seen > pool.informative >= budget.rows
    for place, item in zip(placed, kept):
        assert place.meta is item.placed.meta and item.informative
        length = len(item.sample["input_ids"])
        np.testing.assert_array_equal(batch["tokens"][place.row, :length], item.sample["input_ids"])


def test_a_group_comes_through_a_message_as_it_was(tiny):
    setup = tiny[0]
    batch, placed = next(setup.training_iterator("rl", answers=False))
    budget, rng = setup.training_budget("rl", answers=False), np.random.default_rng(0)
    for place in placed:
        group = refill.Group(
            refill.unpack(batch, place, budget),
            place,
            (rng.integers(0, 9, (3, 6)), rng.random((3, 6), np.float32)),
            {"total": np.array([0, np.nan, 1], np.float32)},
        )
        found = refill.from_json(json.loads(json.dumps(refill.to_json(group))))
        assert found.placed.row == place.row and found.placed.meta.id == place.meta.id
        assert found.sample.keys() == group.sample.keys()
        for name, value in found.sample.items():
            if name != "meta":
                np.testing.assert_array_equal(value, group.sample[name], err_msg=name)
        assert equal(found.responses, group.responses)
        np.testing.assert_array_equal(found.rewards["total"], group.rewards["total"])


@pytest.mark.slow
def test_groups_without_variance_are_refilled_up_to_the_limit(tiny, tmp_path):
    reward = dataclasses.replace(REWARD, custom="helpers.train:rising_reward")
    _, _, rows = train(tiny, tmp_path, algorithm="dapo", steps=1, reward=reward, max_refills=2)
    assert (
        rows[0]["dapo/refills"] == 2
        and rows[0]["dapo/informative"] == 0
        and rows[0]["samples"] == 0
    )
    assert rows[0]["update_finite"] == 1 and rows[0]["grad_norm"] == 0


@pytest.mark.slow
def test_the_best_validation_is_kept_and_a_stage_stops_when_nothing_improves(
    tiny, tmp_path, monkeypatch
):
    scores = {1: 0.2, 2: 0.6, 3: 0.6, 4: 0.1}
    found = []

    def answer(setup, weights, split, limit):
        # copies: the next update donates what it gets
        found.append(jax.tree.map(np.array, weights))
        return [split, limit]

    monkeypatch.setattr(validation.runner, "answer", answer)
    monkeypatch.setattr(validation.runner, "macro_f1", lambda records: scores[len(found)])
    cfg = dataclasses.replace(
        tiny[0].config,
        eval=dataclasses.replace(tiny[0].config.eval, every=1, patience=2, best=True),
    )
    setup, weights, rows = train(tiny, tmp_path, cfg=cfg, algorithm="grpo", steps=10)
    assert [row["validation/macro_f1"] for row in rows] == [0.2, 0.6, 0.6, 0.1], (
        "stopped after two without a new best"
    )
    assert equal(weights, found[1]) and not equal(found[1], found[3])
    assert equal(weights_after(setup, "rl"), weights)
    # The same command again finds the stage finished; a resume before the best step forgets what
    # came after, and does not count on weights that better ones have replaced.
    assert equal(run_lib.run_stage(setup, "rl", tiny[1]()), weights) and len(found) == 4
    resumed = validation.Validation(str(tmp_path), "rl", cfg.eval, start=1)
    assert resumed.scores == [(1, 0.2)] and resumed.best_step is None and not resumed.stopped
    found.append(None)  # the fifth validation
    scores[6] = 0.1  # worse than the first: the best there is
    resumed.run(setup, 2, weights, weights)
    assert resumed.best_step == 2 and equal(resumed.restore_best(weights), weights)
