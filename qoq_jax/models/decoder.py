"""Qwen2.5 and Qwen3 decoder: grouped-query attention with multimodal rotary positions, SwiGLU,
RMSNorm.

Source: Qwen2.5-VL technical report, arXiv 2502.13923; M-RoPE from Qwen2-VL, arXiv 2409.12191,
section 2.1. Qwen3-VL technical report, arXiv 2511.21631: normed queries and keys, interleaved
M-RoPE, DeepStack.

Axis letters: base/axes.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.models import cache as cache_lib
from qoq_jax.models import decode_attention, int8, layers, sequence
from qoq_jax.models.attention import KeySet, TokenIds, attention, grouped_rows, packed_rows
from qoq_jax.models.cache import KVCache
from qoq_jax.models.gathered import gathered, in_compute_dtype
from qoq_jax.models.mlp import swiglu_by_slices
from qoq_jax.models.sizes import DecoderConfig, VlmConfig
from qoq_jax.models.spec import ParamSpec, fan_in, residual_scale
from qoq_jax.parallel.mesh import constrain

UNROLL_LAYERS = 8  # a decoder this shallow is unrolled in `forward`


def param_specs(cfg: DecoderConfig) -> dict[str, Any]:
    """Weights of the decoder; the head is stored as [V, D] like the embedding."""
    V, D = cfg.vocab_size, cfg.width
    embedding = ParamSpec(
        (V, D), ("vocab", "embed"), fan_in(D), "model.embed_tokens.weight", "tensor"
    )
    final = ParamSpec((D,), (None,), "ones", "model.norm.weight", "vector", compute_in_float32=True)
    specs = {
        "embedding": embedding,
        "layers": _layer_specs(cfg),
        "final_norm": {"scale": final},
    }
    if not cfg.tied_embeddings:
        head = ParamSpec((V, D), ("vocab", "embed"), fan_in(D), "lm_head.weight", "tensor")
        specs["lm_head"] = head
    return specs


def _layer_specs(cfg: DecoderConfig) -> dict[str, Any]:
    """Weights of the L layers, stacked."""
    L, D, F = cfg.num_layers, cfg.width, cfg.mlp_dim
    H, K, h = cfg.num_heads, cfg.num_kv_heads, cfg.head_dim
    out_scale = residual_scale(L)
    at = "model.layers.{}."

    def stacked(
        shape: Sequence[int],
        axes: Sequence[str | None],
        init: str | float,
        name: str,
        layout: str = "linear",
    ) -> ParamSpec:
        return ParamSpec((L, *shape), ("layers", *axes), init, at + name, layout)

    def norm(name: str, size: int = D) -> dict[str, ParamSpec]:
        scale = stacked((size,), (None,), "ones", f"{name}.weight", "vector")
        return {"scale": dataclasses.replace(scale, compute_in_float32=True)}

    def projection(name: str, heads: int, axis: str) -> dict[str, ParamSpec]:
        name = f"self_attn.{name}_proj"
        kernel = stacked((D, heads, h), ("embed", axis, None), fan_in(D), f"{name}.weight")
        if not cfg.qkv_bias:
            return {"kernel": kernel}
        bias = stacked((heads, h), (axis, None), "zeros", f"{name}.bias", "vector")
        return {"kernel": kernel, "bias": bias}

    def mlp(
        name: str, shape: Sequence[int], axes: Sequence[str | None], std: float
    ) -> dict[str, ParamSpec]:
        return {"kernel": stacked(shape, axes, std, f"mlp.{name}_proj.weight")}

    output = stacked(
        (H, h, D),
        ("heads", None, "embed"),
        fan_in(H * h, out_scale),
        "self_attn.o_proj.weight",
        "linear_out",
    )
    specs = {
        "attention_norm": norm("input_layernorm"),
        "q": projection("q", H, "heads"),
        "k": projection("k", K, "kv_heads"),
        "v": projection("v", K, "kv_heads"),
        "o": {"kernel": output},
        "mlp_norm": norm("post_attention_layernorm"),
        "mlp": {
            "gate": mlp("gate", (D, F), ("embed", "mlp"), fan_in(D)),
            "up": mlp("up", (D, F), ("embed", "mlp"), fan_in(D)),
            "down": mlp("down", (F, D), ("mlp", "embed"), fan_in(F, out_scale)),
        },
    }
    if cfg.qk_norm:
        specs |= {f"{x}_norm": norm(f"self_attn.{x}_norm", h) for x in "qk"}
    return specs


def rope_frequencies(cfg: DecoderConfig) -> np.ndarray:
    """float32 [h/2]: theta^(-2i/h), stretched by YaRN (arXiv 2309.00071, section 3) where cfg has
    it.
    """
    half = cfg.head_dim // 2
    frequency = cfg.rope_theta ** -(np.arange(half, dtype=np.float32) / half)
    if (yarn := cfg.yarn) is None:
        return frequency

    def index_that_turns(times: float) -> float:
        """Where the frequency turns so many times over the original positions."""
        turns = math.log(yarn.original_positions / (times * 2 * math.pi))
        return half * turns / math.log(cfg.rope_theta)

    low, high = index_that_turns(yarn.beta_fast), index_that_turns(yarn.beta_slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, cfg.head_dim - 1)
    # the 0.001 is transformers', against a ramp of length zero
    width = high - low or 0.001
    stretched = np.clip((np.arange(half, dtype=np.float32) - low) / width, 0, 1)
    return (frequency * (1 - stretched) + frequency / yarn.factor * stretched).astype(np.float32)


def mrope_angles(cfg: DecoderConfig, positions: jax.Array) -> jax.Array:
    """positions int32 [B, 3, T] -> angles float32 [B, T, h/2].

    Frequency i turns with the time, height or width position: by the section of mrope_section that
    holds i, or, interleaved, height at i = 1, 4, 7, ..., width at i = 2, 5, 8, ..., as often as
    their sections say, else time.
    """
    half = cfg.head_dim // 2
    section = np.repeat(np.arange(3), cfg.mrope_section)
    if cfg.mrope_interleaved:
        section = np.zeros(half, int)
        for axis in (1, 2):
            section[axis : 3 * cfg.mrope_section[axis] : 3] = axis
    frequency = rope_frequencies(cfg)
    chosen = positions.astype(jnp.float32)[:, section, :].swapaxes(1, 2)
    return chosen * frequency[None, None, :]


def _qkv(
    layer: dict[str, Any],
    x: jax.Array,
    angles: jax.Array,
    cfg: DecoderConfig,
    tokens: str | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Layer input [B,T,D] -> rotated q [B,T,K,N,h], rotated k [B,T,K,h], v [B,T,K,h].

    tokens: the logical axis of T; None = whole.
    """
    x = layers.rms_norm(x, layer["attention_norm"]["scale"], cfg.norm_eps)
    # [B,T,D] x [D,H,h] -> [B,T,H,h], and K in the place of H
    q = layers.linear("btd,dnh->btnh", x, layer["q"]["kernel"], layer["q"].get("bias"))
    k = layers.linear("btd,dkh->btkh", x, layer["k"]["kernel"], layer["k"].get("bias"))
    v = layers.linear("btd,dkh->btkh", x, layer["v"]["kernel"], layer["v"].get("bias"))
    if cfg.qk_norm:
        q = layers.rms_norm(q, layer["q_norm"]["scale"], cfg.norm_eps)
        k = layers.rms_norm(k, layer["k_norm"]["scale"], cfg.norm_eps)
    scale = cfg.yarn.attention_factor if cfg.yarn else 1.0
    q = constrain(layers.rotate(q, angles, scale), ("batch", tokens, "heads", None))
    k = constrain(layers.rotate(k, angles, scale), ("batch", tokens, "kv_heads", None))
    return einops.rearrange(q, "b t (k n) h -> b t k n h", k=cfg.num_kv_heads), k, v


def _output(layer: dict[str, Any], attended: jax.Array) -> jax.Array:
    """Attention result [B,T,K,N,h] -> [B,T,D]."""
    # One axis f of heads and channels: XLA would contract two in an order of its own, and transpose
    # the kernel for it.
    attended = einops.rearrange(attended, "b t k n h -> b t (k n h)")
    kernel = jax.tree.map(lambda w: einops.rearrange(w, "n h d -> (n h) d"), layer["o"]["kernel"])
    # [B,T,H*h] x [H*h,D] -> [B,T,D]
    return layers.linear("btf,fd->btd", attended, kernel)


def _mlp(layer: dict[str, Any], x: jax.Array, cfg: DecoderConfig) -> jax.Array:
    return layers.swiglu(layers.rms_norm(x, layer["mlp_norm"]["scale"], cfg.norm_eps), layer["mlp"])


def add_deepstack(
    x: jax.Array, layer: jax.Array, features: jax.Array, media_index: jax.Array
) -> jax.Array:
    """DeepStack (arXiv 2406.04334): adds features[layer] to the output x [B,T,D] of the first J
    layers.

    features [J,R,M,D] belong to vision tokens, whose media_index [B,T] is in 0 .. M - 1; other
    tokens stay. The layer's rows are gathered inside the scan over layers: a sum of zeros for the
    other L - J layers would be as large as all activations, and a scan cut in two would copy the
    stacked weights.
    """
    J, _, M, _ = features.shape

    def add(x: jax.Array) -> jax.Array:
        seen = (media_index >= 0) & (media_index < M)
        rows = layers.take_media(
            features[jnp.minimum(layer, J - 1)], jnp.where(seen, media_index, -1)
        )
        return x + jnp.where(seen[:, :, None], rows.astype(x.dtype), 0)

    return jax.lax.cond(layer < J, add, lambda x: x, x)


def forward(
    params: dict[str, Any],
    cfg: VlmConfig,
    x: jax.Array,
    positions: jax.Array,
    ids: TokenIds,
    *,
    shared: tuple[int, int] | None = None,
    return_kv: bool = False,
    deepstack: tuple[jax.Array, jax.Array] | None = None,
) -> Any:
    """Embeddings [B,T,D] -> hidden [B,T,D] after the final norm.

    Args:
      params: of the decoder; params["layers"] is a stack, which is scanned, or a tuple of layers
        (`layers.views`), which is unrolled.
      positions: int32 [B,3,T], for `mrope_angles`.
      ids: segment and branch, int32 [B,T] each, for `attention.packed_rows`.
      shared: (prompt length, branches) of rows in the form that `attention.grouped_rows` needs;
        None = any.
      return_kv: returns (hidden, (keys, values)), each [L,B,T,K,h], keys rotated.
      deepstack: (features, media_index) of `add_deepstack`; None = nothing is added.
    """
    dec = cfg.decoder
    dtype, specs = layers.compute_dtype(cfg), _layer_specs(dec)
    angles = mrope_angles(dec, positions)
    x = constrain(x.astype(dtype), ("batch", "tokens", None))

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        if shared:
            return grouped_rows(
                q,
                k,
                v,
                ids.segment,
                prompt=shared[0],
                branches=shared[1],
                kernel=cfg.attention,
            )
        return packed_rows(q, k, v, ids, cfg.attention)

    def block(
        x: jax.Array, layer_and_index: tuple[dict[str, Any], jax.Array]
    ) -> tuple[jax.Array, Any]:
        layer, i = layer_and_index
        layer = int8.layer_in(layer, dtype)
        mlp = layer["mlp"]
        layer = gathered({**layer, "mlp": {}}, {**specs, "mlp": {}}, dtype)
        q, k, v = _qkv(layer, x, angles, dec, "tokens")
        attended = attend(*sequence.row_heads(q, k, v))
        x = x + _output(layer, sequence.to_tokens(attended, "batch", "tokens"))
        y = layers.rms_norm(x, layer["mlp_norm"]["scale"], dec.norm_eps)
        x = x + swiglu_by_slices(y, mlp, specs["mlp"])
        if deepstack:
            x = add_deepstack(x, i, *deepstack)
        return constrain(x, ("batch", "tokens", None)), (k, v) if return_kv else None

    block = layers.rematerialised(block, cfg.remat, offloads=True)
    if isinstance(params["layers"], tuple):
        each = []
        for i, layer in enumerate(params["layers"]):
            x, one = block(x, (layer, jnp.int32(i)))
            each.append(one)
        kv = jax.tree.map(lambda *x: jnp.stack(x), *each)
    else:
        # Cast before the scan, not in it: the stack of gradients has the dtype of what is scanned.
        stack = in_compute_dtype(params["layers"], specs, dtype)
        x, kv = jax.lax.scan(block, x, (stack, jnp.arange(dec.num_layers)), unroll=_unroll(dec))
    hidden = layers.rms_norm(x, params["final_norm"]["scale"], dec.norm_eps)
    return (hidden, kv) if return_kv else hidden


def forward_part(
    params: dict[str, Any],
    cfg: VlmConfig,
    x: jax.Array,
    positions: jax.Array,
    segment: jax.Array,
    earlier: tuple[Sequence[jax.Array], Sequence[jax.Array]],
    at: jax.Array,
    deepstack: tuple[jax.Array, jax.Array] | None = None,
) -> tuple[jax.Array, tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]]:
    """`forward` of C tokens of a row that stand behind others, whose keys and values are there.

    Args:
      x: embeddings [B,C,D] of tokens at to at + C - 1. positions: int32 [B,3,C], theirs.
      segment: int32 [B,T], of all tokens of the row.
      earlier: (keys, values), L of [B,T,K,h] each, filled before `at`.
      at: int32 scalar.
      deepstack: as in `forward`, media_index [B,C].

    Returns:
      (hidden [B,C,D] after the final norm, (keys, values) filled before at + C).
    """
    dec, dtype = cfg.decoder, layers.compute_dtype(cfg)
    angles = mrope_angles(dec, positions)
    C, T = x.shape[1], segment.shape[1]
    own = TokenIds(
        segment=jax.lax.dynamic_slice_in_dim(segment, at, C, axis=1),
        index=(at + jnp.arange(C))[None],
    )
    ids = TokenIds(segment=segment, index=jnp.arange(T)[None])
    x, all_keys, all_values = x.astype(dtype), [], []

    def write(row: jax.Array, tokens: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(row, tokens, at, axis=1)

    for i in range(dec.num_layers):
        layer = int8.layer_in(_layer(params, i), dtype)
        q, k, v = _qkv(layer, x, angles, dec)
        keys, values = write(earlier[0][i], k), write(earlier[1][i], v)
        attended = attention(q, [KeySet(keys, values, ids, causal=True)], own)
        x = x + _output(layer, attended)
        x = x + _mlp(layer, x, dec)
        if deepstack:
            x = add_deepstack(x, jnp.int32(i), *deepstack)
        all_keys.append(keys)
        all_values.append(values)
    hidden = layers.rms_norm(x, params["final_norm"]["scale"], dec.norm_eps)
    return hidden, (tuple(all_keys), tuple(all_values))


def layers_apart(params: dict[str, Any], cfg: VlmConfig, weights: str = "auto") -> dict[str, Any]:
    """`params` with a dict for each layer, matrices in the compute dtype: for many calls of
    `decode_step`.

    weights: of kernels, "auto" (the compute dtype) or "int8" (models/int8.py). Layers that are
    apart in 8 bits already stay so.

    A slice of stacked weights is copied before it is multiplied, all weights of all layers once per
    token; taken apart, they are copied once. The price is a second copy of the layers in the
    compute dtype for as long as it is used.
    """
    dtype, specs = layers.compute_dtype(cfg), layer_specs(cfg.decoder)

    def one(i: int) -> dict[str, Any]:
        layer = _layer(params, i)
        if weights == "int8":
            layer = int8.quantise_layer(layer, specs)
        return in_compute_dtype(layer, specs, dtype)

    return params | {"layers": tuple(one(i) for i in range(cfg.decoder.num_layers))}


def layer_specs(cfg: DecoderConfig) -> dict[str, Any]:
    """Declarations of one layer, apart from its stack."""
    return jax.tree.map(
        lambda one: dataclasses.replace(one, shape=one.shape[1:], axes=one.axes[1:]),
        _layer_specs(cfg),
    )


def _layer(params: dict[str, Any], i: int) -> dict[str, Any]:
    """Weights of layer i, from a stack or from `layers_apart`."""
    stack = params["layers"]
    return stack[i] if isinstance(stack, tuple) else jax.tree.map(lambda w: w[i], stack)


def decode_step(
    params: dict[str, Any],
    cfg: VlmConfig,
    x: jax.Array,
    positions: jax.Array,
    cache: KVCache,
    live: jax.Array | None = None,
) -> tuple[jax.Array, KVCache]:
    """One token of every response: embeddings x [B,G,D], positions [B,3,G] -> (hidden [B,G,D],
    cache).

    The G responses stand where `forward` has tokens; each attends to the prompt and its own earlier
    tokens. live: bool [B,G], rows whose hidden state is read, None = all; those of others are
    arbitrary.
    """
    dec = cfg.decoder
    angles = mrope_angles(dec, positions)
    at = decode_attention.filled(cache, live)

    all_keys, all_values = [], []
    x = x.astype(layers.compute_dtype(cfg))
    for i in range(dec.num_layers):
        layer = _layer(params, i)
        q, k, v = _qkv(layer, x, angles, dec)
        q, k, v = q.swapaxes(1, 2), k.swapaxes(1, 2), v.swapaxes(1, 2)  # [B,K,G,N,h], [B,K,G,h]
        attended, keys, values = decode_attention.decode(
            q,
            k,
            v,
            cache,
            i,
            at,
            kernel=cfg.decode_attention,
            write_last=cfg.attention == "splash",
        )
        x = x + _output(layer, attended.swapaxes(1, 2))
        x = x + _mlp(layer, x, dec)
        all_keys.append(keys)
        all_values.append(values)

    hidden = layers.rms_norm(x, params["final_norm"]["scale"], dec.norm_eps)
    return hidden, cache_lib.advance(cache, all_keys, all_values)


def decode_several(
    params: dict[str, Any], cfg: VlmConfig, x: jax.Array, positions: jax.Array, cache: KVCache
) -> tuple[jax.Array, KVCache]:
    """C tokens of every response at once, for a cache that is no ring (sampling/lookup.py).

    x [B,G,C,D], positions int32 [B,G,C] on all three axes -> (hidden [B,G,C,D], cache with the
    tokens written behind each row's length, which stays).
    """
    dec = cfg.decoder
    B, G, C, D = x.shape
    flat = jnp.broadcast_to(positions.reshape(B, 1, G * C), (B, 3, G * C))
    angles = mrope_angles(dec, flat)
    index = TokenIds(index=cache.length[..., None] + jnp.arange(C)[None, None])
    places = TokenIds(index=jnp.arange(cache.places)[None, None])
    x = x.astype(layers.compute_dtype(cfg)).reshape(B, G * C, D)
    all_keys, all_values = [], []
    for i in range(dec.num_layers):
        layer = _layer(params, i)
        q, k, v = _qkv(layer, x, angles, dec)
        q = einops.rearrange(q, "b (g t) k n h -> b k g t n h", g=G)
        k, v = (einops.rearrange(one, "b (g t) k h -> b k g t h", g=G) for one in (k, v))
        keys, values = cache_lib.write_several(cache, i, k, v)
        prompt = KeySet(
            int8.read(cache.prompt_k[i], x.dtype),
            int8.read(cache.prompt_v[i], x.dtype),
            valid=cache.prompt_mask,
            k_axes="bkhs",
            v_axes="bksh",
        )
        own = KeySet(
            int8.read(keys, x.dtype),
            int8.read(values, x.dtype),
            places,
            k_axes="bkghs",
            v_axes="bkgsh",
            causal=True,
        )
        attended = attention(q, [prompt, own], index, axes="bkgtnh")
        x = x + _output(layer, einops.rearrange(attended, "b k g t n h -> b (g t) k n h"))
        x = x + _mlp(layer, x, dec)
        all_keys.append(keys)
        all_values.append(values)
    hidden = layers.rms_norm(x, params["final_norm"]["scale"], dec.norm_eps)
    cache = cache.replace(response_k=tuple(all_keys), response_v=tuple(all_values))
    return hidden.reshape(B, G, C, D), cache


def head(params: dict[str, Any]) -> jax.Array:
    """The output matrix [V, D]: its own, or the embedding when tied."""
    return params.get("lm_head", params["embedding"])


@jax.named_scope("head")
def logits(params: dict[str, Any], hidden: jax.Array) -> jax.Array:
    """hidden [B,T,D] -> float32 logits [B,T,V]. For sampling one step and for tests; training uses
    `logprobs.token_logprobs`.
    """
    # [B,T,D] x [V,D] -> [B,T,V]
    return jnp.einsum(
        "btd,vd->btv", hidden, head(params).astype(hidden.dtype), preferred_element_type=jnp.float32
    )


def _unroll(cfg: DecoderConfig) -> int:
    """Layers a scan step holds: a shallow decoder is unrolled, so that no layer's slice of a stack
    is copied.
    """
    return cfg.num_layers if cfg.num_layers <= UNROLL_LAYERS else 1
