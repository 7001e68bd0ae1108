"""The vision-language-signal model: towers, projections and decoder over one device batch.

The batch is the dict of data/packing.py. Text row b uses media row b // (B // R); the media table
of a media row is its vision tokens, then its ECG tokens, and `media_index` says which of them
replaces a text token's embedding.

Axis letters: base/axes.py.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import einops
import jax
import jax.numpy as jnp

from qoq_jax.base.errors import ConfigError
from qoq_jax.models import cache as cache_lib
from qoq_jax.models import decoder, int8, layers
from qoq_jax.models.attention import TokenIds
from qoq_jax.models.cache import KVCache
from qoq_jax.models.embedding import embed_tokens
from qoq_jax.models.encoders import ecg
from qoq_jax.models.gathered import gathered, in_compute_dtype
from qoq_jax.models.sizes import PatchTower, Qwen3VisionConfig, VisionConfig, VlmConfig
from qoq_jax.models.spec import ParamSpec, fan_in
from qoq_jax.models.vision import qwen3, qwen25
from qoq_jax.parallel.mesh import constrain

# The module of each kind of vision tower; all have `param_specs` and `tokens`.
VISION_TOWERS: dict[type[PatchTower], ModuleType] = {
    VisionConfig: qwen25,
    Qwen3VisionConfig: qwen3,
}


def vision_tower(cfg: VlmConfig) -> ModuleType:
    """The module of the configured vision tower."""
    return VISION_TOWERS[type(cfg.vision)]


def param_specs(cfg: VlmConfig) -> dict[str, Any]:
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


def ecg_projection_specs(ecg_width: int, width: int) -> dict[str, Any]:
    """The linear layer from the ECG encoder to the decoder."""
    key = f"{ecg.VLM_PREFIX}linear"
    return {
        "kernel": ParamSpec(
            (ecg_width, width), (None, "embed"), fan_in(ecg_width), f"{key}.weight", "linear"
        ),
        "bias": ParamSpec((width,), (None,), "zeros", f"{key}.bias", "vector"),
    }


@jax.named_scope("ecg")
def ecg_tokens(params: dict[str, Any], cfg: VlmConfig, signal: jax.Array) -> jax.Array:
    """ECGs [R,E,leads,samples] in mV -> tokens [R, E * ecg_tokens, D].

    The encoder gives one token per lead and time step. ecg_tokens=1 takes their mean (released
    QoQ-Med), 50 the mean over leads at each time step, 400 all of them, lead by lead.
    """
    if cfg.ecg is None:
        raise ConfigError(
            "an ECG for a model without an ECG encoder", hint="add one with `qoq convert --ecg`"
        )
    R = signal.shape[0]
    dtype = layers.compute_dtype(cfg)
    weights = jax.tree.map(
        lambda w: w.astype(dtype), gathered(params["ecg"], ecg.param_specs(cfg.ecg), dtype)
    )
    x = ecg.tokens(
        weights,
        cfg.ecg,
        einops.rearrange(signal, "r e c samples -> (r e) c samples"),
        remat=cfg.remat != "none",
    )
    x = einops.rearrange(x, "re (c t) w -> re c t w", c=cfg.ecg.leads)
    if cfg.ecg_tokens == 1:
        x = x.mean(axis=(1, 2), keepdims=True)
    elif cfg.ecg_tokens == cfg.ecg.patches:
        x = x.mean(axis=1, keepdims=True)
    x = einops.rearrange(x, "(r e) c t w -> r (e c t) w", r=R).astype(dtype)
    # [R,E*tokens,W] x [W,D] -> [R,E*tokens,D]
    projection = gathered(
        params["ecg_proj"], ecg_projection_specs(cfg.ecg.width, cfg.decoder.width), dtype
    )
    return layers.linear("rtw,wd->rtd", x, **projection)


def media_tables(
    params: dict[str, Any], cfg: VlmConfig, batch: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array | None]:
    """(embeddings of all media [R, M + E * ecg_tokens, D], DeepStack features of vision tokens
    [J,R,M,D] or None).

    A budget without patches or ECGs skips a tower.
    """
    R = batch["patches"].shape[0]
    parts, features = [jnp.zeros((R, 0, cfg.decoder.width), layers.compute_dtype(cfg))], None
    if batch["patches"].shape[1]:
        with jax.named_scope("vision"):
            tokens, features = vision_tower(cfg).tokens(_vision_weights(params, cfg), cfg, batch)
        if features is not None:  # any token of a row may read any of them
            features = constrain(features, (None, "media", None, None))
        parts.append(tokens)
    if batch["ecg"].shape[1]:
        parts.append(ecg_tokens(params, cfg, batch["ecg"]))
    return constrain(jnp.concatenate(parts, axis=1), ("media", None, None)), features


def _vision_weights(params: dict[str, Any], cfg: VlmConfig) -> dict[str, Any]:
    """Weights of the vision tower, gathered but for the blocks, which gather their own."""
    specs = vision_tower(cfg).param_specs(cfg.vision, out_width=cfg.decoder.width)
    dtype = layers.compute_dtype(cfg)
    return {
        name: part if name == "blocks" else gathered(part, specs[name], dtype)
        for name, part in params["vision"].items()
    }


def media_table(params: dict[str, Any], cfg: VlmConfig, batch: dict[str, jax.Array]) -> jax.Array:
    """Embeddings of all media alone, [R, M + E * ecg_tokens, D]."""
    return media_tables(params, cfg, batch)[0]


def _text(params: dict[str, Any], cfg: VlmConfig, tokens: jax.Array) -> jax.Array:
    """tokens int32 [B,T] -> their embeddings [B,T,D] in the compute dtype."""
    return embed_tokens(params["decoder"]["embedding"], tokens, layers.compute_dtype(cfg))


def place_media(text: jax.Array, table: jax.Array, media_index: jax.Array) -> jax.Array:
    """text [B,T,D] with table[b // (B // R), media_index[b, t]] wherever media_index >= 0; table
    [R,N,D].
    """
    return jnp.where(media_index[:, :, None] >= 0, layers.take_media(table, media_index), text)


def decoder_inputs(
    params: dict[str, Any], cfg: VlmConfig, batch: dict[str, jax.Array]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
    """(embeddings [B,T,D]: text tokens, with media embeddings in the place of modality pads;
    deepstack of decoder.forward).
    """
    text = _text(params, cfg, batch["tokens"])
    table, features = media_tables(params, cfg, batch)
    if table.shape[1]:
        text = place_media(text, table, batch["media_index"])
    deepstack = None if features is None else (features, batch["media_index"])
    return constrain(text, ("batch", "tokens", None)), deepstack


def embed(params: dict[str, Any], cfg: VlmConfig, batch: dict[str, jax.Array]) -> jax.Array:
    """Input embeddings alone, [B,T,D]."""
    return decoder_inputs(params, cfg, batch)[0]


def hidden(
    params: dict[str, Any],
    cfg: VlmConfig,
    batch: dict[str, jax.Array],
    shared: tuple[int, int] | None = None,
) -> jax.Array:
    """Final hidden states [B,T,D], after the last norm. shared: see decoder.forward."""
    x, deepstack = decoder_inputs(params, cfg, batch)
    ids = TokenIds(batch["segment_ids"], batch["branch_ids"])
    return decoder.forward(
        params["decoder"],
        cfg,
        x,
        batch["positions"],
        ids,
        shared=shared,
        deepstack=deepstack,
    )


def unembed(params: dict[str, Any], hidden: jax.Array) -> jax.Array:
    """Hidden states [B,T,D] -> float32 logits [B,T,V]: for one sampled position per response, or
    for tests.
    """
    return decoder.logits(params["decoder"], hidden)


def logits(params: dict[str, Any], cfg: VlmConfig, batch: dict[str, jax.Array]) -> jax.Array:
    """Float32 logits [B,T,V] of a whole batch; for tests and small models."""
    return unembed(params, hidden(params, cfg, batch))


def prefill(
    params: dict[str, Any],
    cfg: VlmConfig,
    batch: dict[str, jax.Array],
    *,
    rollouts: int,
    max_new_tokens: int,
) -> tuple[jax.Array, KVCache]:
    """Runs the prompts, one per row.

    Returns (hidden state [B,D] at each row's last token that is not padding, which predicts the
    first response token; cache for `rollouts` responses of `max_new_tokens`).
    """
    x, deepstack = decoder_inputs(params, cfg, batch)
    return prefill_embedded(
        params, cfg, x, deepstack, batch, rollouts=rollouts, max_new_tokens=max_new_tokens
    )


def prefill_embedded(
    params: dict[str, Any],
    cfg: VlmConfig,
    x: jax.Array,
    deepstack: tuple[jax.Array, jax.Array] | None,
    batch: dict[str, jax.Array],
    *,
    rollouts: int,
    max_new_tokens: int,
) -> tuple[jax.Array, KVCache]:
    """`prefill` of prompts whose `decoder_inputs` (x [B,T,D], deepstack) are there already.

    Of the batch it reads positions, segment_ids and branch_ids.
    """
    prompt_mask = batch["segment_ids"] > 0
    x, (keys, values) = decoder.forward(
        params["decoder"],
        cfg,
        x,
        batch["positions"],
        TokenIds(batch["segment_ids"], batch["branch_ids"]),
        return_kv=True,
        deepstack=deepstack,
    )
    index = jnp.arange(x.shape[1], dtype=jnp.int32)
    last = jnp.where(prompt_mask, index[None], 0).max(axis=1)
    last_hidden = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
    return last_hidden, cache_lib.init(
        keys,
        values,
        prompt_mask,
        rollouts=rollouts,
        max_new_tokens=max_new_tokens,
        dtype=cfg.kv_cache_dtype,
    )


def layer_views(
    params: dict[str, Any], cfg: VlmConfig, deepest: int | None = None
) -> dict[str, Any]:
    """`params` with the layers of decoder and vision tower apart where that copies nothing: see
    `layers.views`.

    deepest: stacks of more layers stay as they are, to be scanned: an unrolled program takes longer
    to compile.
    """
    dtype, params, specs = layers.compute_dtype(cfg), dict(params), param_specs(cfg)
    for part, name, count in (
        ("decoder", "layers", cfg.decoder.num_layers),
        ("vision", "blocks", cfg.vision.depth),
    ):
        stack = params[part][name]
        if not isinstance(stack, tuple) and (deepest is None or count <= deepest):
            views = layers.views(stack, specs[part][name], dtype)
            params[part] = params[part] | {name: views or stack}
    return params


def sampling_params(
    params: dict[str, Any], cfg: VlmConfig, weights: str = "auto"
) -> dict[str, Any]:
    """All weights as a sampler with a copy of its own reads them: matrices in the compute dtype,
    the decoder's layers apart. Of `params` that are the model's; not a critic.

    weights: of the kernels of the decoder's layers, "auto" or "int8" (models/int8.py). Embedding,
    head and towers stay in the compute dtype: all but the head are read once a prompt.
    """
    specs = param_specs(cfg)
    params = {name: params[name] for name in specs}
    # Rounded to 8 bits from the stored weights, not from those in the compute dtype.
    of_decoder = decoder.layers_apart(params["decoder"], cfg, weights)
    rest = params | {"decoder": params["decoder"] | {"layers": ()}}
    specs = specs | {"decoder": specs["decoder"] | {"layers": ()}}
    cast = in_compute_dtype(rest, specs, layers.compute_dtype(cfg))
    return cast | {"decoder": cast["decoder"] | {"layers": of_decoder["layers"]}}


def sampling_specs(cfg: VlmConfig, weights: str = "auto") -> dict[str, Any]:
    """Declarations of `sampling_params`."""
    specs, layer = param_specs(cfg), decoder.layer_specs(cfg.decoder)
    if weights == "int8":
        layer = int8.layer_specs(layer)
    apart = (layer,) * cfg.decoder.num_layers
    return specs | {"decoder": specs["decoder"] | {"layers": apart}}


def decode_params(params: dict[str, Any], cfg: VlmConfig) -> dict[str, Any]:
    """The weights that `decode_step` and `unembed` read, each layer apart: for a loop over tokens,
    made once before it.
    """
    return {"decoder": decoder.layers_apart(params["decoder"], cfg)}


def decode_step(
    params: dict[str, Any],
    cfg: VlmConfig,
    tokens: jax.Array,
    positions: jax.Array,
    cache: KVCache,
    live: jax.Array | None = None,
) -> tuple[jax.Array, KVCache]:
    """Feeds a token to every response.

    tokens int32 [B,G], positions int32 [B,3,G] -> (hidden [B,G,D], cache); live: see
    decoder.decode_step.
    """
    x = _text(params, cfg, tokens)
    return decoder.decode_step(params["decoder"], cfg, x, positions, cache, live)


def decode_several(
    params: dict[str, Any], cfg: VlmConfig, tokens: jax.Array, positions: jax.Array, cache: KVCache
) -> tuple[jax.Array, KVCache]:
    """Feeds C tokens to every response: see decoder.decode_several.

    tokens and positions int32 [B,G,C] -> (hidden [B,G,C,D], cache).
    """
    B, G, C = tokens.shape
    x = _text(params, cfg, tokens.reshape(B, G * C)).reshape(B, G, C, -1)
    return decoder.decode_several(params["decoder"], cfg, x, positions, cache)
