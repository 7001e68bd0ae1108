"""The vision-language-signal model: towers, projections and decoder over one device batch.

The batch is the dict of data/packing.py. Text row b uses media row b // (B // R); the media table
of a media row is its vision tokens, then its ECG tokens, and `media_index` says which of them
replaces a text token's embedding.

Axis letters: B text rows, R media rows, T tokens, P patches, M vision tokens of a media row (P /
4), E ECGs
of a media row, D decoder width, V vocabulary, G rollouts of a question, S response length, L
layers, K kv heads, h head dim, J DeepStack layers.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qoq_jax.base.errors import ConfigError
from qoq_jax.models import decoder, layers
from qoq_jax.models.decoder import KVCache
from qoq_jax.models.encoders import ecg
from qoq_jax.models.sizes import Qwen3VisionConfig, VlmConfig
from qoq_jax.models.spec import ParamSpec, fan_in
from qoq_jax.models.vision import qwen3 as qwen3_vision
from qoq_jax.models.vision import qwen25 as vision
from qoq_jax.parallel.mesh import constrain


def vision_tower(cfg: VlmConfig):
    """The module of the configured vision tower; both have `param_specs` and `tokens`."""
    return qwen3_vision if isinstance(cfg.vision, Qwen3VisionConfig) else vision


def param_specs(cfg: VlmConfig) -> dict:
    """Every weight of the model: {"decoder", "vision"}, and {"ecg", "ecg_proj"} with an ECG
    encoder.
    """
    width = cfg.decoder.width
    specs = {
        "decoder": decoder.param_specs(cfg.decoder),
        "vision": vision_tower(cfg).param_specs(cfg.vision, out_width=width),
    }
    if cfg.ecg is not None:
        specs |= {
            "ecg": ecg.param_specs(cfg.ecg),
            "ecg_proj": ecg_projection_specs(cfg.ecg.width, width),
        }
    return specs


def ecg_projection_specs(ecg_width: int, width: int) -> dict:
    """The linear layer from the ECG encoder to the decoder."""
    key = f"{ecg.VLM_PREFIX}linear"
    return {
        "kernel": ParamSpec(
            (ecg_width, width), (None, "embed"), fan_in(ecg_width), f"{key}.weight", "linear"
        ),
        "bias": ParamSpec((width,), (None,), "zeros", f"{key}.bias", "vector"),
    }


def ecg_tokens(params: dict, cfg: VlmConfig, signal: jax.Array) -> jax.Array:
    """ECGs [R,E,leads,samples] in mV -> tokens [R, E * ecg_tokens, D].

    The encoder gives one token a lead and time step. ecg_tokens=1 takes their mean (released
    QoQ-Med), 50 the mean over leads at each time step, 400 all of them, lead by lead.
    """
    if cfg.ecg is None:
        raise ConfigError(
            "an ECG for a model without an ECG encoder", hint="add one with `qoq convert --ecg`"
        )
    R, E, leads, samples = signal.shape
    dtype = layers.compute_dtype(cfg)
    weights = jax.tree.map(lambda w: w.astype(dtype), params["ecg"])
    x = ecg.tokens(
        weights, cfg.ecg, signal.reshape(R * E, leads, samples), remat=cfg.remat != "none"
    )
    x = x.reshape(R * E, cfg.ecg.leads, cfg.ecg.patches, cfg.ecg.width)
    if cfg.ecg_tokens == 1:
        x = x.mean(axis=(1, 2))
    elif cfg.ecg_tokens == cfg.ecg.patches:
        x = x.mean(axis=1)
    x = x.reshape(R, E * cfg.ecg_tokens, cfg.ecg.width).astype(dtype)
    return layers.linear("btd,df->btf", x, params["ecg_proj"]["kernel"], params["ecg_proj"]["bias"])


def media_tables(params: dict, cfg: VlmConfig, batch: dict) -> tuple[jax.Array, jax.Array | None]:
    """(embeddings of all media [R, M + E * ecg_tokens, D], DeepStack features of vision tokens
    [J,R,M,D] or None).

    A budget without patches or ECGs skips a tower.
    """
    R = batch["patches"].shape[0]
    parts, features = [jnp.zeros((R, 0, cfg.decoder.width), layers.compute_dtype(cfg))], None
    if batch["patches"].shape[1]:
        tokens, features = vision_tower(cfg).tokens(params["vision"], cfg, batch)
        parts.append(tokens)
    if batch["ecg"].shape[1]:
        parts.append(ecg_tokens(params, cfg, batch["ecg"]))
    return constrain(jnp.concatenate(parts, axis=1), ("media", None, None)), features


def media_table(params: dict, cfg: VlmConfig, batch: dict) -> jax.Array:
    """Embeddings of all media alone, [R, M + E * ecg_tokens, D]."""
    return media_tables(params, cfg, batch)[0]


def place_media(text: jax.Array, table: jax.Array, media_index: jax.Array) -> jax.Array:
    """text [B,T,D] with table[b // (B // R), media_index[b, t]] wherever media_index >= 0; table
    [R,N,D].
    """
    return jnp.where(media_index[:, :, None] >= 0, layers.take_media(table, media_index), text)


def decoder_inputs(params: dict, cfg: VlmConfig, batch: dict):
    """(embeddings [B,T,D]: text tokens, with media embeddings in the place of modality pads;
    deepstack of decoder.forward).
    """
    text = decoder.embed_tokens(params["decoder"], cfg, batch["tokens"])
    table, features = media_tables(params, cfg, batch)
    if table.shape[1]:
        text = place_media(text, table, batch["media_index"])
    deepstack = None if features is None else (features, batch["media_index"])
    return constrain(text, ("batch", None, None)), deepstack


def embed(params: dict, cfg: VlmConfig, batch: dict) -> jax.Array:
    """Input embeddings alone, [B,T,D]."""
    return decoder_inputs(params, cfg, batch)[0]


def hidden(
    params: dict, cfg: VlmConfig, batch: dict, shared: tuple[int, int] | None = None
) -> jax.Array:
    """Final hidden states [B,T,D], after the last norm. shared: see decoder.forward."""
    x, deepstack = decoder_inputs(params, cfg, batch)
    return decoder.forward(
        params["decoder"],
        cfg,
        x,
        batch["positions"],
        batch["segment_ids"],
        batch["branch_ids"],
        shared=shared,
        deepstack=deepstack,
    )


def unembed(params: dict, cfg: VlmConfig, hidden: jax.Array) -> jax.Array:
    """Hidden states [B,T,D] -> float32 logits [B,T,V]: for one sampled position a response, or for
    tests.
    """
    del cfg
    return decoder.logits(params["decoder"], hidden)


def logits(params: dict, cfg: VlmConfig, batch: dict) -> jax.Array:
    """Float32 logits [B,T,V] of a whole batch; for tests and small models."""
    return unembed(params, cfg, hidden(params, cfg, batch))


def token_logprobs(
    params: dict,
    cfg: VlmConfig,
    hidden: jax.Array,
    targets: jax.Array,
    *,
    temperature: float = 1.0,
    chunk: int = 256,
) -> tuple[jax.Array, jax.Array]:
    """(log-probability of targets, entropy), float32 [B,T]: hidden position t scores targets[:, t].

    Never holds [B,T,V]: see decoder.token_logprobs.
    """
    del cfg
    return decoder.token_logprobs(
        params["decoder"], hidden, targets, temperature=temperature, chunk=chunk
    )


def init_cache(
    cfg: VlmConfig, prompt_k, prompt_v, prompt_mask, *, rollouts: int, max_new_tokens: int
) -> KVCache:
    """An empty response cache beside the prompts' keys and values [L,B,Tp,K,h] and their mask
    [B,Tp].
    """
    L, B = prompt_k.shape[:2]
    K, h = cfg.decoder.num_kv_heads, cfg.decoder.head_dim
    rows = lambda x: constrain(x, ("batch", "kv_heads", *[None] * (x.ndim - 2)))  # noqa: E731
    empty = lambda *shape: tuple(rows(jnp.zeros(shape, prompt_k.dtype)) for _ in range(L))  # noqa: E731
    return KVCache(
        prompt_k=tuple(rows(jnp.transpose(layer, (0, 2, 3, 1))) for layer in prompt_k),
        prompt_v=tuple(rows(jnp.transpose(layer, (0, 2, 1, 3))) for layer in prompt_v),
        prompt_mask=prompt_mask,
        response_k=empty(B, K, rollouts, h, max_new_tokens),
        response_v=empty(B, K, rollouts, max_new_tokens, h),
        step=jnp.zeros((), jnp.int32),
        length=jnp.zeros((B, rollouts), jnp.int32),
    )


def prefill(
    params: dict, cfg: VlmConfig, batch: dict, *, rollouts: int, max_new_tokens: int
) -> tuple[jax.Array, KVCache]:
    """Runs the prompts, one a row.

    Returns (hidden state [B,D] at each row's last token that is not padding, which predicts the
    first response token; cache for `rollouts` responses of `max_new_tokens`).
    """
    x, deepstack = decoder_inputs(params, cfg, batch)
    return prefill_embedded(
        params, cfg, x, deepstack, batch, rollouts=rollouts, max_new_tokens=max_new_tokens
    )


def prefill_embedded(
    params: dict,
    cfg: VlmConfig,
    x: jax.Array,
    deepstack: tuple[jax.Array, jax.Array] | None,
    batch: dict,
    *,
    rollouts: int,
    max_new_tokens: int,
) -> tuple[jax.Array, KVCache]:
    """`prefill` of prompts whose `decoder_inputs` (x [B,T,D], deepstack) are there already.

    Of the batch it reads positions, segment_ids and branch_ids.
    """
    prompt_mask = batch["segment_ids"] > 0
    x, (keys, values) = decoder.forward(
        params["decoder"], cfg, x, batch["positions"], batch["segment_ids"], batch["branch_ids"], return_kv=True,
        deepstack=deepstack,
    )  # fmt: skip
    index = jnp.arange(x.shape[1], dtype=jnp.int32)
    last = jnp.where(prompt_mask, index[None], 0).max(axis=1)
    last_hidden = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
    return last_hidden, init_cache(
        cfg, keys, values, prompt_mask, rollouts=rollouts, max_new_tokens=max_new_tokens
    )


def layer_views(params: dict, cfg: VlmConfig, deepest: int | None = None) -> dict:
    """`params` with the layers of decoder and vision tower apart where that copies nothing: see
    `layers.views`.

    deepest: stacks of more layers stay as they are, to be scanned: an unrolled program takes longer
    to compile.
    """
    dtype, params = layers.compute_dtype(cfg), dict(params)
    for part, name, count in (
        ("decoder", "layers", cfg.decoder.num_layers),
        ("vision", "blocks", cfg.vision.depth),
    ):
        stack = params[part][name]
        if not isinstance(stack, tuple) and (deepest is None or count <= deepest):
            params[part] = params[part] | {name: layers.views(stack, count, dtype) or stack}
    return params


def decode_params(params: dict, cfg: VlmConfig) -> dict:
    """The weights that `decode_step` and `unembed` read, each layer apart: for a loop over tokens,
    made once before it.
    """
    return {"decoder": decoder.layers_apart(params["decoder"], cfg)}


def decode_step(
    params: dict, cfg: VlmConfig, tokens: jax.Array, positions: jax.Array, cache: KVCache
) -> tuple[jax.Array, KVCache]:
    """Feeds a token to every response: tokens [B,G], positions [B,3,G] -> (hidden [B,G,D], cache)."""
    x = decoder.embed_tokens(params["decoder"], cfg, tokens)
    return decoder.decode_step(params["decoder"], cfg, x, positions, cache)
