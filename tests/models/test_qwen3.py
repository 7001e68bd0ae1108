"""Qwen3-VL: parity with Hugging Face (golden/qwen3_tiny.npz), DeepStack in every path, and eight
devices against one.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.models import GOLDEN, TINY, batch, text_batch
from jax.sharding import PartitionSpec

from qoq_jax import hf
from qoq_jax.data import positions
from qoq_jax.models import decoder, spec, vlm
from qoq_jax.models.attention import TokenIds
from qoq_jax.models.logprobs import token_logprobs
from qoq_jax.models.sizes import DecoderConfig, Qwen3VisionConfig
from qoq_jax.models.vision import qwen3 as qwen3_vision
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.sampling import loop, rollout

# The tiny model of make_qwen3_fixtures.py; token ids and ECG encoder are those of TINY.
CFG = dataclasses.replace(
    TINY,
    decoder=DecoderConfig(
        vocab_size=128,
        width=48,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        mlp_dim=96,
        mrope_section=(4, 2, 2),
        rope_theta=5e6,
        qkv_bias=False,
        qk_norm=True,
        mrope_interleaved=True,
    ),
    vision=Qwen3VisionConfig(
        width=32,
        depth=4,
        num_heads=2,
        mlp_dim=48,
        patch_size=4,
        position_grid=6,
        deepstack_blocks=(0, 2),
        max_frame_patches=64,
    ),
)
SPECS = vlm.param_specs(CFG)
INPUTS = ("patches", "patch_hw", "patch_frame")
HIDDEN = jax.jit(vlm.hidden, static_argnums=1)


@functools.cache
def golden() -> dict[str, np.ndarray]:
    """Inputs and outputs of the Hugging Face model; see make_qwen3_fixtures.py."""
    with np.load(GOLDEN / "qwen3_tiny.npz") as arrays:
        return dict(arrays)


def weights() -> dict[str, np.ndarray]:
    return {
        name.removeprefix("weight:"): a
        for name, a in golden().items()
        if name.startswith("weight:")
    }


def published() -> dict:
    """The part of the table that Hugging Face has; the ECG part is ours."""
    return {name: part for name, part in SPECS.items() if name in ("decoder", "vision")}


@functools.cache
def params() -> dict:
    """The Hugging Face weights, float32, and random ones for the ECG part."""
    rng = np.random.default_rng(0)
    random = {
        path: rng.normal(size=s.shape, scale=0.1).astype(np.float32)
        for path, s in spec.flatten(SPECS).items()
    }
    tensors = {name: array.astype(np.float32) for name, array in weights().items()}
    return jax.tree.map(
        jnp.asarray, spec.unflatten(random | spec.flatten(hf.from_tensors(published(), tensors)))
    )


def prompt() -> dict[str, np.ndarray]:
    """The fixture's row: two images and a video of two steps in one media row."""
    data = golden()
    row = text_batch(data["tokens"], positions=data["prompt_positions"])
    row |= {name: data[name][None] for name in INPUTS}
    return row | {"media_index": data["media_index"], "patch_window": data["patch_frame"][None]}


@functools.cache
def run_tower():
    """Jitted (features, tokens, DeepStack features) of packed patches."""

    def run(vision, inputs):
        row = dict(zip(INPUTS, inputs))
        return qwen3_vision.tower(vision, CFG, *inputs)[0], *qwen3_vision.tokens(vision, CFG, row)

    return jax.jit(run)


@pytest.mark.parametrize("pad", [0, 12])
def test_features_tokens_and_deepstack_equal_hugging_face(pad):
    """Frames of 6x10, 4x6 and 4x4 patches stretch over the position grid of 6x6; also with padding
    in the budget.
    """
    data = golden()
    inputs = [np.pad(data[n], [(0, pad)] + [(0, 0)] * (data[n].ndim - 1))[None] for n in INPUTS]
    features, tokens, deep = run_tower()(params()["vision"], inputs)
    count = len(data["patches"])
    np.testing.assert_allclose(features[0, :count], data["vision_features"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(tokens[0, : count // 4], data["vision_tokens"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(deep[:, 0, : count // 4], data["deepstack"], atol=1e-4, rtol=0)
    assert np.isfinite(features).all() and np.isfinite(deep).all()


def test_logits_of_text_images_and_video_equal_hugging_face():
    logits = jax.jit(vlm.logits, static_argnums=1)(params(), CFG, prompt())
    np.testing.assert_allclose(logits, golden()["logits"], atol=1e-4, rtol=0)


def test_positions_equal_get_rope_index():
    """Each step of a video starts from its own text, so all its tokens have the same time."""
    got = positions.rope_positions(
        golden()["tokens"][0],
        image_token_id=CFG.image_token_id,
        video_token_id=CFG.video_token_id,
        image_grids=[(1, 6, 10), (1, 4, 6)],
        video_grids=positions.single_steps([(2, 4, 4)]),
        second_per_grid=[1.0, 1.0],
    )
    np.testing.assert_array_equal(got, golden()["prompt_positions"][0])


def test_height_and_width_take_turns_with_time():
    angles = [
        decoder.mrope_angles(CFG.decoder, jnp.zeros((1, 3, 1), jnp.int32).at[0, axis].set(1))[0, 0]
        > 0
        for axis in range(3)
    ]
    assert np.argmax(np.stack(angles), axis=0).tolist() == [0, 1, 2, 0, 1, 2, 0, 0]


def test_hugging_face_round_trip_is_bit_exact_and_complete():
    tensors = dict(hf.to_tensors(published(), hf.from_tensors(published(), weights())))
    assert tensors.keys() == weights().keys()
    for name, tensor in weights().items():
        np.testing.assert_array_equal(tensors[name], tensor, err_msg=name)


def test_deepstack_adds_to_vision_tokens_of_the_first_layers_alone():
    features = jnp.arange(1.0, 25).reshape(2, 1, 3, 4)  # two layers, three vision tokens
    index = jnp.asarray([[-1, 0, 2, 3, 1]], jnp.int32)  # text, vision, vision, an ECG token, vision
    add = jax.jit(lambda layer: decoder.add_deepstack(jnp.zeros((1, 5, 4)), layer, features, index))
    for layer in range(2):
        rows = np.asarray(features)[layer, 0]
        np.testing.assert_array_equal(
            add(layer)[0], [rows[0] * 0, rows[0], rows[2], rows[0] * 0, rows[1]]
        )
    assert not add(2).any()


def test_deepstack_makes_nothing_of_the_size_of_all_layers():
    """Backward through 12 scanned layers takes two more copies of the features at most (their
    gradient), not twelve.
    """
    cfg = dataclasses.replace(
        CFG, decoder=dataclasses.replace(CFG.decoder, num_layers=12), remat="full"
    )
    shaped = jax.ShapeDtypeStruct
    weights, x = spec.abstract(decoder.param_specs(cfg.decoder)), shaped((2, 512, 48), jnp.float32)
    features, ids = shaped((2, 2, 256, 48), jnp.float32), shaped((2, 512), jnp.int32)

    def temporaries(deep: bool) -> int:
        def loss(weights, x, features, positions, ids):
            hidden = decoder.forward(
                weights,
                cfg,
                x,
                positions,
                TokenIds(ids, ids),
                deepstack=(features, ids) if deep else None,
            )
            return (hidden**2).sum()

        lowered = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(
            weights, x, features, shaped((2, 3, 512), jnp.int32), ids
        )
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporaries(deep=True) - temporaries(deep=False) < 2 * features.size * 4


def loss_and_scores(weights, inputs, cfg=CFG):
    """A scalar that every weight contributes to, and (logprob, entropy) of the next tokens."""
    hidden = vlm.hidden(weights, cfg, inputs)
    logprob, entropy = token_logprobs(
        weights["decoder"], hidden, jnp.roll(inputs["tokens"], -1, axis=1), scores=500
    )
    return (logprob * inputs["segment_ids"]).sum() + 0.1 * entropy.sum(), (logprob, entropy)


def image_batch(rows: int, media_rows: int) -> dict[str, np.ndarray]:
    """Rows with an image, text and padding; no ECG, whose encoder would only be compiled again."""
    inputs = batch(rows, tokens=20, media_rows=media_rows)
    vision = inputs["media_index"] < inputs["patches"].shape[1] // 4
    return inputs | {
        "ecg": inputs["ecg"][:, :0],
        "media_index": np.where(vision, inputs["media_index"], -1),
    }


@functools.cache
def one_device_result():
    """((loss, scores), gradients of decoder and vision tower) on one device; computed once for all
    tests.
    """
    (_, scores), gradients = jax.jit(jax.value_and_grad(loss_and_scores, has_aux=True))(
        params(), image_batch(8, 4)
    )
    return scores, {name: gradients[name] for name in published()}


@pytest.mark.slow
def test_every_weight_receives_a_gradient():
    for path, gradient in jax.tree_util.tree_leaves_with_path(one_device_result()[1]):
        assert np.isfinite(gradient).all() and float(jnp.abs(gradient).max()) > 0, (
            jax.tree_util.keystr(path)
        )


@pytest.mark.slow
def test_eight_devices_with_scanned_rematerialised_layers_equal_one(monkeypatch):
    """In a scan the number of the layer, and so whether features are added, is known at run time
    only.
    """
    scores, gradients = one_device_result()  # there the three layers are unrolled
    monkeypatch.setattr(decoder, "UNROLL_LAYERS", 0)
    loss = functools.partial(loss_and_scores, cfg=dataclasses.replace(CFG, remat="full"))
    mesh = mesh_lib.make_mesh(data=2, fsdp=2, tensor=2)
    with jax.set_mesh(mesh):
        weights = jax.device_put(params(), spec.shardings(SPECS, mesh))
        inputs = jax.device_put(image_batch(8, 4), mesh_lib.batch_sharding(mesh))
        (_, eight), sharded = jax.jit(jax.value_and_grad(loss, has_aux=True))(weights, inputs)
    assert weights["vision"]["deepstack"]["hidden"]["kernel"].sharding.spec == PartitionSpec(
        None, "fsdp", "tensor"
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), scores, eight)
    sharded = {name: sharded[name] for name in gradients}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-5), gradients, sharded
    )


def test_a_prompt_prefilled_in_parts_equals_the_whole():
    """DeepStack adds the features of the tokens of each part."""
    batch, whole = prompt(), functools.partial(vlm.prefill, rollouts=1, max_new_tokens=1)
    wanted, _ = jax.jit(whole, static_argnums=1)(params(), CFG, batch)
    part = batch["tokens"].shape[1] // 3 + 1

    def in_parts(params, batch):
        state = loop.begin_prefill(CFG, params, batch, part=part)
        for _ in range(3):
            state = loop.prefill_part(CFG, params, state, part=part)
        return state.hidden

    np.testing.assert_allclose(jax.jit(in_parts)(params(), batch), wanted, atol=1e-4)


def test_cached_decode_and_shared_prompt_equal_the_full_forward():
    """Prompts with an image, one of them padded; three answers each, decoded from the cache and as
    one shared row.
    """
    G, S = 3, 4
    prompts = image_batch(2, 2)
    lengths = prompts["segment_ids"].sum(axis=1)
    assert min(lengths) < max(lengths)
    answers = np.random.default_rng(4).integers(0, 100, (2, G, S)).astype(np.int32)
    mask = np.ones((2, G, S), np.float32)
    last, cache = jax.jit(vlm.prefill, static_argnames=("cfg", "rollouts", "max_new_tokens"))(
        params(), cfg=CFG, batch=prompts, rollouts=G, max_new_tokens=S
    )
    start = np.asarray(loop.last_position(prompts)) + 1
    step, decoded = jax.jit(vlm.decode_step, static_argnums=1), []
    for s in range(S):
        places = np.broadcast_to((start + s)[:, None, None], (2, 3, G)).astype(np.int32)
        hidden, cache = step(params(), CFG, answers[:, :, s], places, cache)
        decoded.append(hidden)
    decoded = np.stack(decoded, axis=2)  # [B, G, S, D]
    # [prompt | answer 1 | answer 2 | answer 3] under the general rule, and with the prompt's scores
    # shared.
    rows = rollout.group_rows(prompts, answers, mask)
    full = np.asarray(HIDDEN(params(), CFG, rows))
    shared = jax.jit(functools.partial(vlm.hidden, shared=(20, G)), static_argnums=1)(
        params(), CFG, rows
    )
    real = np.asarray(rows["segment_ids"]) > 0
    np.testing.assert_allclose(np.asarray(shared)[real], full[real], atol=1e-5)
    np.testing.assert_allclose(decoded.reshape(2, G * S, -1), full[:, 20:], atol=1e-5)
    np.testing.assert_allclose(last, full[np.arange(2), lengths - 1], atol=1e-5)
