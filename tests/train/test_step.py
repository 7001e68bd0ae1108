"""Updates: exact under accumulation and sharding, deaf to non-finite gradients, compiled once."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.train import prompt_batch, tiny_model

from qoq_jax.base.errors import ConfigError
from qoq_jax.models import spec, vlm
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.rl.batches import GroupBatch, update_batch
from qoq_jax.sampling import rollout
from qoq_jax.train import minibatches, policy, sft
from qoq_jax.train.config import Config, OptimizerConfig, RlConfig
from qoq_jax.train.log import CompileCounter
from qoq_jax.train.optim import (
    check_frozen,
    make_optimizer,
    schedule,
    stop_frozen_gradients,
)
from qoq_jax.train.plan import plan
from qoq_jax.train.state import apply_gradients, create
from qoq_jax.train.step import LossMetrics, accumulated_gradients

ROWS, G, S = 8, 4, 6
RL = RlConfig(rollouts=G)
OPTIMIZER = make_optimizer(
    OptimizerConfig(frozen=("vision/patch_embed",)),
    schedule("constant", 1e-4, 2, 10),
    vlm.param_specs(tiny_model()),
)


def meshes():
    return {
        "one": mesh_lib.make_mesh(1, 1, 1, jax.devices()[:1]),
        "eight": mesh_lib.make_mesh(2, 2, 2, jax.devices()),
    }


def run_sft(mesh, accumulate=1, count=5):
    cfg = tiny_model()
    with jax.set_mesh(mesh):
        state = create(jax.random.key(0), cfg, OPTIMIZER, mesh)
        step = sft.make_sft_step(cfg, OPTIMIZER, accumulate, state)
        losses = []
        for i in range(count):
            batch = jax.device_put(prompt_batch(cfg, ROWS, seed=i), mesh_lib.batch_sharding(mesh))
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
    return np.array(losses), jax.device_get(state.params)


def run_rl(mesh, rl=RL, updates=2, deal=False):
    """A DRPO update on a fixed set of rollouts: scores, advantages, two policy steps."""
    cfg = tiny_model()
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 900, (ROWS, G, S)).astype(np.int32)
    mask = (np.arange(S) < rng.integers(2, S + 1, (ROWS, G, 1))).astype(np.float32)
    rewards = rng.uniform(size=(ROWS, G)).astype(np.float32)
    domains = rng.integers(0, 3, ROWS).astype(np.int32)
    with jax.set_mesh(mesh):
        put = functools.partial(jax.device_put, device=mesh_lib.batch_sharding(mesh))
        state = create(jax.random.key(0), cfg, OPTIMIZER, mesh)
        reference = create(jax.random.key(7), cfg, OPTIMIZER, mesh).params
        batch, tokens, mask = put(prompt_batch(cfg, ROWS)), put(tokens), put(mask)
        scorer = rollout.make_scorer(cfg, 1.0)
        old, ref = scorer(state.params, batch, tokens, mask), scorer(reference, batch, tokens, mask)
        stage = plan(Config(rl=rl), "rl")
        groups = GroupBatch(
            rewards=put(rewards),
            domains=put(domains),
            valid=put(np.ones(ROWS, bool)),
            mask=mask,
            prompts=batch,
            tokens=tokens,
            sampler_logprobs=old,
            ref_logprobs=ref,
            old_logprobs=old,
        )
        estimate, _, _ = policy.make_advantages(rl, stage.algorithm)(groups)
        advantages = estimate.advantages
        data = update_batch(groups, advantages, estimate.returns)
        if deal:
            order = minibatches.deal_rows(np.asarray(mask).sum(axis=(1, 2)), rl.accumulate)
            assert (order != np.arange(ROWS)).any()
            data = minibatches.reorder(data, order)
        step = policy.make_policy_step(cfg, stage, OPTIMIZER, state)
        losses = []
        for _ in range(updates):
            state, metrics = step(state, data)
            losses.append(float(metrics["loss"]))
    return np.array(losses), jax.device_get(state.params), jax.device_get(advantages)


@pytest.fixture(scope="module")
def one_device():
    mesh = meshes()["one"]
    return {"sft": run_sft(mesh), "rl": run_rl(mesh)}


@pytest.mark.slow
def test_sft_on_eight_devices_equals_one(one_device):
    losses, params = run_sft(meshes()["eight"])
    np.testing.assert_allclose(losses, one_device["sft"][0], atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), params, one_device["sft"][1]
    )


@pytest.mark.slow
def test_drpo_update_on_eight_devices_equals_one(one_device):
    losses, params, advantages = run_rl(meshes()["eight"])
    np.testing.assert_allclose(advantages, one_device["rl"][2], atol=1e-5)
    np.testing.assert_allclose(losses, one_device["rl"][0], atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), params, one_device["rl"][1]
    )


@pytest.mark.slow
def test_accumulation_changes_nothing(one_device):
    mesh = meshes()["one"]
    losses, _ = run_sft(mesh, accumulate=4)
    np.testing.assert_allclose(losses, one_device["sft"][0], atol=1e-5)
    split = run_rl(mesh, dataclasses.replace(RL, accumulate=2))
    np.testing.assert_allclose(split[0], one_device["rl"][0], atol=1e-5)


def test_micro_batches_bound_the_memory():
    """Of four, what the backward pass keeps is a quarter; the copy of the rows in their new order
    and the weights stay.
    """
    mesh, width, rows = mesh_lib.make_mesh(fsdp=8), 64, 1 << 15

    def loss(params, batch):
        for weight in params:
            batch = jnp.tanh(batch @ weight)
        total = jnp.square(batch).sum()
        return total, LossMetrics({"loss": total}, {})

    def temporaries(parts):
        at = mesh_lib.named_sharding(mesh, ("embed", None), (width, width))
        params = [jax.ShapeDtypeStruct((width, width), jnp.float32, sharding=at)] * 8
        cut = mesh_lib.batch_sharding(mesh)
        batch = jax.ShapeDtypeStruct((rows, width), jnp.float32, sharding=cut)
        gradients = jax.jit(lambda p, b: accumulated_gradients(loss, p, b, parts)[1])
        return gradients.lower(params, batch).compile().memory_analysis().temp_size_in_bytes

    with jax.set_mesh(mesh):
        assert temporaries(4) < 0.45 * temporaries(1)


def test_rows_are_dealt_to_parts_of_about_equal_tokens():
    rng = np.random.default_rng(0)
    tokens = rng.lognormal(5, 0.8, (200, 16, 1))[..., 0]

    def spread(parts):
        sums = parts.reshape(4, -1).sum(axis=1)
        return sums.max() / sums.mean()

    plain = [spread(row) for row in tokens]
    for random in (None, rng):
        orders = [minibatches.deal_rows(row, 4, random) for row in tokens]
        assert all(sorted(order) == list(range(16)) for order in orders)
        dealt = [spread(row[order]) for row, order in zip(tokens, orders)]
        assert np.mean(dealt) - 1 < (np.mean(plain) - 1) / (1.5 if random else 2)


@pytest.mark.slow
def test_rows_in_another_order_of_micro_batches_give_the_same_update(one_device):
    moved = run_rl(meshes()["one"], dataclasses.replace(RL, accumulate=2), deal=True)
    np.testing.assert_allclose(moved[0], one_device["rl"][0], atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), moved[1], one_device["rl"][1]
    )


@pytest.mark.slow
def test_policy_step_raises_the_log_probability_of_good_answers(one_device):
    """The second update sees a lower loss: the first one moved the policy towards positive
    advantages.
    """
    losses = one_device["rl"][0]
    assert losses[1] < losses[0]


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_non_finite_updates_leave_the_state_bit_unchanged(poison):
    mesh = meshes()["one"]
    with jax.set_mesh(mesh):
        state = create(jax.random.key(0), tiny_model(), OPTIMIZER, mesh)
        grads = jax.tree.map(jnp.ones_like, state.params)
        loss = jnp.array(jnp.nan if poison == "loss" else 1.0)
        if poison == "gradient":
            grads["decoder"]["embedding"] = grads["decoder"]["embedding"].at[0, 0].set(jnp.inf)
        new, facts = jax.jit(lambda s, g, x: apply_gradients(s, g, x, OPTIMIZER))(
            state, grads, loss
        )
    assert int(new.skipped) == 1 and int(new.step) == 1 and float(facts["update_finite"]) == 0
    for a, b in zip(
        jax.tree.leaves((state.params, state.opt_state)),
        jax.tree.leaves((new.params, new.opt_state)),
    ):
        np.testing.assert_array_equal(a, b)


def test_weight_decay_spares_vectors():
    mesh = meshes()["one"]
    optimizer = make_optimizer(
        OptimizerConfig(weight_decay=0.5),
        optax.constant_schedule(0.1),
        vlm.param_specs(tiny_model()),
    )
    with jax.set_mesh(mesh):
        state = create(jax.random.key(0), tiny_model(), optimizer, mesh)
        zeros = jax.tree.map(jnp.zeros_like, state.params)
        new, _ = jax.jit(apply_gradients, static_argnums=3)(state, zeros, 1.0, optimizer)
    layers, before = new.params["decoder"]["layers"], state.params["decoder"]["layers"]
    np.testing.assert_array_equal(
        layers["attention_norm"]["scale"], before["attention_norm"]["scale"]
    )
    assert np.abs(layers["mlp"]["up"]["kernel"]).sum() < np.abs(before["mlp"]["up"]["kernel"]).sum()


def test_frozen_weights_and_the_critic_have_their_own_part_of_the_optimiser():
    ones = jnp.ones((2, 2))
    params = {
        "vision": {"w": ones},
        "lora": {"vision": {"w": {"a": ones}}},
        "decoder": {"w": ones},
        "critic": {"w": ones},
    }
    optimizer = make_optimizer(
        OptimizerConfig(weight_decay=0.0, frozen=("vision",)),
        optax.constant_schedule(0.1),
        jax.tree.map(lambda x: spec.ParamSpec(x.shape, (None, None), "ones"), params),
        critic_lr=0.5,
    )
    updates, _ = optimizer.update(
        jax.tree.map(jnp.ones_like, params), optimizer.init(params), params
    )
    largest = {
        name: float(jnp.abs(jax.tree.leaves(part)[0]).max()) for name, part in updates.items()
    }
    assert largest == pytest.approx(
        {"vision": 0.0, "lora": 0.0, "decoder": 0.1, "critic": 0.5}, rel=1e-3
    )


def test_a_frozen_part_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="did you mean 'vision'"):
        check_frozen(("visoin",), {"vision": {"w": 0}})


@pytest.mark.slow
def test_frozen_weights_cost_no_gradient():
    cfg = tiny_model()
    params, batch = (
        spec.init_params(vlm.param_specs(cfg), jax.random.key(0)),
        prompt_batch(cfg, ROWS),
    )

    def gradients(frozen):
        grad = jax.jit(
            jax.grad(lambda p: sft.sft_loss(stop_frozen_gradients(p, frozen), cfg, batch, 1.0)[0])
        )
        return grad.lower(params).cost_analysis()["flops"], grad(params)

    (all_flops, everything), (flops, part) = gradients(()), gradients(("vision", "ecg"))
    assert flops < 0.8 * all_flops
    assert not any(np.any(leaf) for leaf in jax.tree.leaves([part["vision"], part["ecg"]]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        part["decoder"],
        everything["decoder"],
    )


@pytest.mark.slow
def test_no_recompilation_after_the_first_step():
    cfg, mesh = tiny_model(), meshes()["eight"]
    with jax.set_mesh(mesh):
        state = create(jax.random.key(0), cfg, OPTIMIZER, mesh)
        step = sft.make_sft_step(cfg, OPTIMIZER, 1, state)
        sharding = mesh_lib.batch_sharding(mesh)
        batches = [
            jax.device_put(prompt_batch(cfg, ROWS, seed=seed), sharding) for seed in range(3)
        ]
        state, _ = step(state, batches[0])
        counter = CompileCounter()
        for batch in batches[1:]:
            state, _ = step(state, batch)
        assert counter.count == 0
        jax.jit(lambda x: x * 3.5 + 1)(jnp.ones(3))
        assert counter.count > 0, "the counter must see compilations"


def test_schedules():
    constant, cosine, linear = (
        schedule(kind, 1.0, 10, 100) for kind in ("constant", "cosine", "linear")
    )
    assert float(linear(55)) == pytest.approx(0.55) and float(linear(100)) == pytest.approx(0.1)
    assert float(constant(0)) == pytest.approx(0.1) and float(constant(50)) == 1.0
    assert float(cosine(100)) == pytest.approx(0.1)


@pytest.mark.slow
def test_the_entropy_bonus_is_taken_from_the_loss(one_device):
    plain, _, _ = one_device["rl"]
    with_bonus, _, _ = run_rl(meshes()["one"], dataclasses.replace(RL, entropy_coefficient=0.5), 1)
    # of a random model with V equally likely tokens
    entropy = (plain[0] - with_bonus[0]) / 0.5
    assert entropy == pytest.approx(np.log(tiny_model().decoder.vocab_size), rel=0.2)
