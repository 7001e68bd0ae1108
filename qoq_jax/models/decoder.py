"""Qwen2.5 and Qwen3 decoder: grouped-query attention with multimodal rotary positions, SwiGLU,
RMSNorm.

Source: Qwen2.5-VL technical report, arXiv 2502.13923; M-RoPE from Qwen2-VL, arXiv 2409.12191,
section 2.1.
Qwen3-VL technical report, arXiv 2511.21631: normed queries and keys, interleaved M-RoPE, DeepStack.

Axis letters: B rows, T query tokens, S key tokens (S also: response length in the cache), D width,
K kv
heads, N query heads per kv head (H = K * N), h head dim, L layers, F mlp hidden, V vocabulary, G
rollouts of a question, R media rows, M vision tokens of a media row, J DeepStack layers.
"""

from __future__ import annotations

import functools
import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.models import layers
from qoq_jax.models.sizes import DecoderConfig, VlmConfig
from qoq_jax.models.spec import ParamSpec, fan_in, residual_scale
from qoq_jax.parallel.mesh import batch_shards, constrain

# longer rows attend in blocks of queries, so that [T, T] scores never exist at once
QUERY_BLOCK = 512
UNROLL_LAYERS = 8  # a decoder this shallow is unrolled in `forward`


def param_specs(cfg: DecoderConfig) -> dict:
    """Weights of the decoder; the head is stored as [V, D] like the embedding."""
    L, D, H, K, h, F = (
        cfg.num_layers,
        cfg.width,
        cfg.num_heads,
        cfg.num_kv_heads,
        cfg.head_dim,
        cfg.mlp_dim,
    )
    out_scale = residual_scale(L)
    at = "model.layers.{}."

    def norm(key, size=D):
        return {
            "scale": ParamSpec((L, size), ("layers", None), "ones", f"{at}{key}.weight", "vector")
        }

    def projection(name, heads, axis):
        key = f"{at}self_attn.{name}_proj"
        kernel = ParamSpec(
            (L, D, heads, h), ("layers", "embed", axis, None), fan_in(D), f"{key}.weight", "linear"
        )
        if not cfg.qkv_bias:
            return {"kernel": kernel}
        bias = ParamSpec((L, heads, h), ("layers", axis, None), "zeros", f"{key}.bias", "vector")
        return {"kernel": kernel, "bias": bias}

    def mlp(name, shape, axes, std):
        key = f"{at}mlp.{name}_proj.weight"
        return {"kernel": ParamSpec((L, *shape), ("layers", *axes), std, key, "linear")}

    o_kernel = ParamSpec(
        (L, H, h, D), ("layers", "heads", None, "embed"), fan_in(H * h, out_scale),
        f"{at}self_attn.o_proj.weight", "linear_out",
    )  # fmt: skip
    specs = {
        "embedding": ParamSpec(
            (cfg.vocab_size, D),
            ("vocab", "embed"),
            fan_in(D),
            "model.embed_tokens.weight",
            "tensor",
        ),
        "layers": {
            "attention_norm": norm("input_layernorm"),
            "q": projection("q", H, "heads"),
            "k": projection("k", K, "kv_heads"),
            "v": projection("v", K, "kv_heads"),
            "o": {"kernel": o_kernel},
            "mlp_norm": norm("post_attention_layernorm"),
            "mlp": {
                "gate": mlp("gate", (D, F), ("embed", "mlp"), fan_in(D)),
                "up": mlp("up", (D, F), ("embed", "mlp"), fan_in(D)),
                "down": mlp("down", (F, D), ("mlp", "embed"), fan_in(F, out_scale)),
            },
        },
        "final_norm": {"scale": ParamSpec((D,), (None,), "ones", "model.norm.weight", "vector")},
    }
    if cfg.qk_norm:
        specs["layers"] |= {f"{x}_norm": norm(f"self_attn.{x}_norm", h) for x in "qk"}
    if not cfg.tied_embeddings:
        specs["lm_head"] = ParamSpec(
            (cfg.vocab_size, D), ("vocab", "embed"), fan_in(D), "lm_head.weight", "tensor"
        )
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
    holds i, or,
    interleaved, height at i = 1, 4, 7, ..., width at i = 2, 5, 8, ..., as often as their sections
    say, else time.
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


def attention(q, k, v, segment, branch) -> jax.Array:
    """Attention within a sample, where responses see the shared prompt and themselves.

    q [B,T,K,N,h], k and v [B,T,K,h], segment and branch int32 [B,T]. Token i attends to j iff j <=
    i, their segment is equal and not 0, and j is in the prompt (branch 0) or in the branch of i.
    Returns [B,T,K,N,h].
    """
    B, T = segment.shape
    index = jnp.arange(T)

    def rows_of_queries(q, segment_q, branch_q, index_q):
        same = (segment_q[:, :, None] == segment[:, None, :]) & (segment_q[:, :, None] > 0)
        visible = (branch[:, None, :] == 0) | (branch[:, None, :] == branch_q[:, :, None])
        mask = same & visible & (index[None, None, :] <= index_q[None, :, None])
        scores = (
            jnp.einsum("btknh,bskh->bknts", q, k, preferred_element_type=jnp.float32)
            * q.shape[-1] ** -0.5
        )
        scores = jnp.where(mask[:, None, None], scores, layers.MASKED)
        return jnp.einsum("bknts,bskh->btknh", jax.nn.softmax(scores).astype(v.dtype), v)

    return _in_query_blocks(rows_of_queries, (q, segment, branch, index), (1, 1, 1, 0), out_axis=1)


def shared_prompt_attention(q, k, v, segment, branch, prompt: int, branches: int) -> jax.Array:
    """`attention` of rows [prompt | branch 1 | ... | branch G], without the scores between
    branches.

    Same arguments, same result, for rows that hold one sample whose prompt takes the first `prompt`
    places and whose `branches` responses share the rest evenly: Tp^2 + G S (Tp + S) scores a head
    instead of (Tp + G S)^2.
    """
    B, T = segment.shape
    S = (T - prompt) // branches
    first = attention(
        q[:, :prompt], k[:, :prompt], v[:, :prompt], segment[:, :prompt], branch[:, :prompt]
    )
    q_own, k_own, v_own, segment_own = (
        x[:, prompt:].reshape(B, branches, S, *x.shape[2:]) for x in (q, k, v, segment)
    )
    index = jnp.arange(S)

    def rows_of_queries(q, index_q):  # q [B,G,t,K,N,h]
        scores = jnp.concatenate(
            [
                jnp.einsum(
                    "bgtknh,bskh->bgknts", q, k[:, :prompt], preferred_element_type=jnp.float32
                ),
                jnp.einsum("bgtknh,bgskh->bgknts", q, k_own, preferred_element_type=jnp.float32),
            ],
            axis=-1,
        )
        t = index_q.shape[0]
        own = (segment_own[:, :, None, :] > 0) & (
            index[None, None, None, :] <= index_q[None, None, :, None]
        )
        seen = jnp.broadcast_to(segment[:, None, None, :prompt] > 0, (B, branches, t, prompt))
        mask = jnp.concatenate([seen, own], axis=-1)[:, :, None, None]
        weights = jax.nn.softmax(
            jnp.where(mask, scores * q.shape[-1] ** -0.5, layers.MASKED)
        ).astype(v.dtype)
        attended = jnp.einsum("bgknts,bskh->bgtknh", weights[..., :prompt], v[:, :prompt])
        return attended + jnp.einsum("bgknts,bgskh->bgtknh", weights[..., prompt:], v_own)

    rest = _in_query_blocks(rows_of_queries, (q_own, index), (2, 0), out_axis=2)
    return jnp.concatenate([first, rest.reshape(B, T - prompt, *q.shape[2:])], axis=1)


def _in_query_blocks(rows_of_queries, args, axes, out_axis: int) -> jax.Array:
    """rows_of_queries(*args); long rows in blocks of queries (along `axes` of args), one after the
    other.
    """
    length = args[0].shape[axes[0]]
    if length <= 2 * QUERY_BLOCK:
        return rows_of_queries(*args)
    pad = -length % QUERY_BLOCK

    def blocks(x, axis):  # [.., T, ..] -> [T / QUERY_BLOCK, .., QUERY_BLOCK, ..]
        x = jnp.pad(x, [(0, pad if i == axis else 0) for i in range(x.ndim)])
        x = x.reshape(*x.shape[:axis], -1, QUERY_BLOCK, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    out = jax.lax.map(
        lambda block: jax.checkpoint(rows_of_queries)(*block), tuple(map(blocks, args, axes))
    )
    out = jnp.moveaxis(out, 0, out_axis)
    out = out.reshape(*out.shape[:out_axis], length + pad, *out.shape[out_axis + 2 :])
    return jax.lax.slice_in_dim(out, 0, length, axis=out_axis)


def _qkv(layer: dict, x: jax.Array, angles: jax.Array, cfg: DecoderConfig):
    """Normed input [B,T,D] -> rotated q [B,T,K,N,h], rotated k [B,T,K,h], v [B,T,K,h]."""
    B, T, _ = x.shape
    q = layers.linear("btd,dnh->btnh", x, layer["q"]["kernel"], layer["q"].get("bias"))
    k = layers.linear("btd,dkh->btkh", x, layer["k"]["kernel"], layer["k"].get("bias"))
    v = layers.linear("btd,dkh->btkh", x, layer["v"]["kernel"], layer["v"].get("bias"))
    if cfg.qk_norm:
        q = layers.rms_norm(q, layer["q_norm"]["scale"], cfg.norm_eps)
        k = layers.rms_norm(k, layer["k_norm"]["scale"], cfg.norm_eps)
    scale = cfg.yarn.attention_factor if cfg.yarn else 1.0
    q = constrain(layers.rotate(q, angles, scale), ("batch", None, "heads", None))
    k = constrain(layers.rotate(k, angles, scale), ("batch", None, "kv_heads", None))
    return q.reshape(B, T, cfg.num_kv_heads, -1, cfg.head_dim), k, v


def _output(layer: dict, attended: jax.Array) -> jax.Array:
    """Attention result [B,T,K,N,h] -> [B,T,D]."""
    B, T = attended.shape[:2]
    # One axis of heads and channels: XLA would contract two in an order of its own, and transpose
    # the kernel for it.
    kernel = layer["o"]["kernel"]
    return layers.linear(
        "btf,fd->btd", attended.reshape(B, T, -1), kernel.reshape(-1, kernel.shape[-1])
    )


def _mlp(layer: dict, x: jax.Array, cfg: DecoderConfig) -> jax.Array:
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

    def add(x):
        seen = (media_index >= 0) & (media_index < M)
        rows = layers.take_media(
            features[jnp.minimum(layer, J - 1)], jnp.where(seen, media_index, -1)
        )
        return x + jnp.where(seen[:, :, None], rows.astype(x.dtype), 0)

    return jax.lax.cond(layer < J, add, lambda x: x, x)


def forward(
    params: dict, cfg: VlmConfig, x, positions, segment, branch, *, shared: tuple[int, int] | None = None,
    return_kv: bool = False, deepstack: tuple[jax.Array, jax.Array] | None = None,
):  # fmt: skip
    """Embeddings [B,T,D] -> hidden [B,T,D] after the final norm.

    deepstack: (features, media_index) of `add_deepstack`; None = nothing is added.
    shared: (prompt length, branches) of rows in the form that `shared_prompt_attention` needs; None
    = any.
    return_kv: returns (hidden, (keys, values)), each [L,B,T,K,h], keys rotated.

    params["layers"] is a stack, which is scanned, or a tuple of layers (`layers.views`), which is
    unrolled.
    """
    dec = cfg.decoder
    angles = mrope_angles(dec, positions)
    x = constrain(x.astype(layers.compute_dtype(cfg)), ("batch", None, None))
    attend = (
        functools.partial(shared_prompt_attention, prompt=shared[0], branches=shared[1])
        if shared
        else attention
    )

    def block(x, layer_and_index):
        layer, i = layer_and_index
        q, k, v = _qkv(
            layer, layers.rms_norm(x, layer["attention_norm"]["scale"], dec.norm_eps), angles, dec
        )
        x = x + _output(layer, attend(q, k, v, segment, branch))
        x = x + _mlp(layer, x, dec)
        if deepstack:
            x = add_deepstack(x, i, *deepstack)
        return constrain(x, ("batch", None, None)), (k, v) if return_kv else None

    block = layers.rematerialised(block, cfg.remat)
    if isinstance(params["layers"], tuple):
        each = []
        for i, layer in enumerate(params["layers"]):
            x, one = block(x, (layer, jnp.int32(i)))
            each.append(one)
        kv = jax.tree.map(lambda *x: jnp.stack(x), *each)
    else:
        x, kv = jax.lax.scan(
            block, x, (params["layers"], jnp.arange(dec.num_layers)), unroll=_unroll(dec)
        )
    hidden = layers.rms_norm(x, params["final_norm"]["scale"], dec.norm_eps)
    return (hidden, kv) if return_kv else hidden


@flax.struct.dataclass
class KVCache:
    """Keys (rotated) and values of B prompts and of G responses each, written in place while
    sampling.

    The response cache is a ring: every step writes one place for all responses, whenever each of
    them began, so
    that a response may start while others go on. The layout (keys with the tokens last, heads
    outermost) is the fastest of those measured for the two products that read it:
    docs/generation.md.

    Each layer has arrays of its own: a slice of one array of all layers would be copied before it
    is multiplied,
    the whole cache once a token.

    Attributes:
      prompt_k: L of [B, K, h, Tp] and prompt_v: L of [B, K, Tp, h], read by all G responses of a
        row, never repeated.
      prompt_mask: bool [B, Tp], True at prompt tokens, False at padding.
      response_k: L of [B, K, G, h, S] and response_v: L of [B, K, G, S, h].
      step: int32 scalar, steps written since the beginning; the next goes to place step mod S.
      length: int32 [B, G], tokens of its present response that each row has written, at most S; a
        finished row goes on writing pad tokens that nothing reads.
    """

    prompt_k: tuple[jax.Array, ...]
    prompt_v: tuple[jax.Array, ...]
    prompt_mask: jax.Array
    response_k: tuple[jax.Array, ...]
    response_v: tuple[jax.Array, ...]
    step: jax.Array
    length: jax.Array


def layers_apart(params: dict, cfg: VlmConfig) -> dict:
    """`params` with a dict for each layer, matrices in the compute dtype: for many calls of
    `decode_step`.

    A slice of stacked weights is copied before it is multiplied, all weights of all layers once a
    token; taken apart, they are copied once. The price is a second copy of the layers in the
    compute dtype for as long as it is used.
    """
    dtype = layers.compute_dtype(cfg)

    def cast(path, w):  # norms compute in float32 from the stored scale
        return w if path[-1].key == "scale" else w.astype(dtype)

    apart = (
        jax.tree_util.tree_map_with_path(cast, _layer(params, i))
        for i in range(cfg.decoder.num_layers)
    )
    return params | {"layers": tuple(apart)}


def _layer(params: dict, i: int) -> dict:
    """Weights of layer i, from a stack or from `layers_apart`."""
    stack = params["layers"]
    return stack[i] if isinstance(stack, tuple) else jax.tree.map(lambda w: w[i], stack)


def decode_step(
    params: dict, cfg: VlmConfig, x, positions, cache: KVCache
) -> tuple[jax.Array, KVCache]:
    """One token of every response: embeddings x [B,G,D], positions [B,3,G] -> (hidden [B,G,D],
    cache).

    The G responses stand where `forward` has tokens; each attends to the prompt and its own earlier
    tokens.
    """
    dec = cfg.decoder
    B, G = x.shape[:2]
    angles = mrope_angles(dec, positions)
    ring = cache.response_k[0].shape[-1]
    place = cache.step % ring
    age = (cache.step - jnp.arange(ring)) % ring  # 0 = written now, ring - 1 = the oldest
    written = age[None, None] <= cache.length[:, :, None]
    prompt_length = cache.prompt_k[0].shape[-1]
    seen = jnp.broadcast_to(cache.prompt_mask[:, None], (B, G, prompt_length))
    mask = jnp.concatenate([seen, written], axis=-1)[:, None, :, None, :]  # [B,1,G,1,Tp+S]

    all_keys, all_values = [], []
    x = x.astype(layers.compute_dtype(cfg))
    for i in range(dec.num_layers):
        layer = _layer(params, i)
        q, k, v = _qkv(
            layer, layers.rms_norm(x, layer["attention_norm"]["scale"], dec.norm_eps), angles, dec
        )
        q, k, v = q.swapaxes(1, 2), k.swapaxes(1, 2), v.swapaxes(1, 2)  # [B,K,G,N,h], [B,K,G,h]
        keys = jax.lax.dynamic_update_slice(cache.response_k[i], k[..., None], (0, 0, 0, 0, place))
        values = jax.lax.dynamic_update_slice(
            cache.response_v[i], v[:, :, :, None], (0, 0, 0, place, 0)
        )
        scores = jnp.concatenate(
            [
                jnp.einsum(
                    "bkgnh,bkhs->bkgns", q, cache.prompt_k[i], preferred_element_type=jnp.float32
                ),
                jnp.einsum("bkgnh,bkghs->bkgns", q, keys, preferred_element_type=jnp.float32),
            ],
            axis=-1,
        )
        scores = jnp.where(mask, scores * dec.head_dim**-0.5, layers.MASKED)
        weights = jax.nn.softmax(scores).astype(v.dtype)
        attended = jnp.einsum("bkgns,bksh->bkgnh", weights[..., :prompt_length], cache.prompt_v[i])
        attended += jnp.einsum("bkgns,bkgsh->bkgnh", weights[..., prompt_length:], values)
        x = x + _output(layer, attended.swapaxes(1, 2))
        x = x + _mlp(layer, x, dec)
        all_keys.append(keys)
        all_values.append(values)

    hidden = layers.rms_norm(x, params["final_norm"]["scale"], dec.norm_eps)
    return hidden, cache.replace(
        response_k=tuple(all_keys),
        response_v=tuple(all_values),
        step=cache.step + 1,
        length=cache.length + 1,
    )


def embed_tokens(params: dict, cfg: VlmConfig, tokens: jax.Array) -> jax.Array:
    """tokens int32 [B,T] -> [B,T,D] in the compute dtype."""
    return jnp.take(params["embedding"].astype(layers.compute_dtype(cfg)), tokens, axis=0)


def head(params: dict) -> jax.Array:
    """The output matrix [V, D]: its own, or the embedding when tied."""
    return params.get("lm_head", params["embedding"])


def logits(params: dict, hidden: jax.Array) -> jax.Array:
    """hidden [B,T,D] -> float32 logits [B,T,V]. For sampling one step and for tests; see
    token_logprobs.
    """
    return jnp.einsum(
        "btd,vd->btv", hidden, head(params).astype(hidden.dtype), preferred_element_type=jnp.float32
    )


def token_logprobs(params: dict, hidden, targets, *, temperature: float = 1.0, chunk: int = 256):
    """log softmax(logits / temperature)[target] and its entropy, without [B,T,V] logits.

    Args:
      hidden: [B,T,D] after the final norm; position t scores targets[:, t].
      targets: int32 [B,T].
      chunk: tokens a device scores at once; a few arrays of [chunk, V] exist at a time, in both
        directions.

    Returns (logprob, entropy), float32 [B,T], entropy in nats.
    """
    B, T, D = hidden.shape
    # Chunks are cut along T and keep all rows, so that every device works on its own rows in every
    # chunk.
    width = min(T, max(1, chunk * batch_shards() // B))
    pad = -T % width
    # Gathered over fsdp once, before the loop. Kept in float32: its gradient is summed over the
    # chunks.
    kernel = constrain(head(params), ("vocab", None))

    def chunks(x):  # [B, T, ...] -> [T / width, B, width, ...]
        x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(B, -1, width, *x.shape[2:]), 1, 0)

    def score(_, hidden_and_target):
        hidden, target = hidden_and_target
        scores = jnp.einsum(
            "btd,vd->btv", hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32
        )
        scores = constrain(scores, ("batch", None, "vocab")) / temperature
        shifted = scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
        weight = jnp.exp(shifted)
        total = weight.sum(axis=-1)
        # A comparison instead of a gather: it fuses, and stays local when the vocabulary is cut
        # over devices.
        is_target = target[:, :, None] == jnp.arange(kernel.shape[0])[None, None, :]
        logprob = jnp.where(is_target, shifted, 0.0).sum(axis=-1) - jnp.log(total)
        entropy = jnp.log(total) - (weight * shifted).sum(axis=-1) / total
        return None, (logprob, entropy)

    _, results = jax.lax.scan(
        jax.checkpoint(score, prevent_cse=False), None, (chunks(hidden), chunks(targets))
    )
    logprob, entropy = (jnp.moveaxis(x, 0, 1).reshape(B, T + pad)[:, :T] for x in results)
    return logprob, entropy


def _unroll(cfg: DecoderConfig) -> int:
    """Layers a scan step holds: a shallow decoder is unrolled, so that no layer's slice of a stack
    is copied.
    """
    return cfg.num_layers if cfg.num_layers <= UNROLL_LAYERS else 1
