"""One prediction from all modalities of a patient: late fusion, concatenated features, or
cross-attention (CLIMB, arXiv 2503.07667, the experiments on MIMIC-IV).

Axis letters: base/axes.py; here B patients, S tokens of a modality, W its width (D that of the
fusion), Q learned queries, and c classes.

A patient who lacks a modality has no valid token of it, and what the arrays hold there changes
nothing. Attention is among the tokens of one patient, never over the batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp

from qoq_jax.models import layers
from qoq_jax.models.attention import KeySet, attention
from qoq_jax.models.spec import ParamSpec, fan_in

Method = Literal["late", "concat", "attention"]
METHODS: tuple[Method, ...] = ("late", "concat", "attention")
_NORM_EPS = 1e-6


@flax.struct.dataclass
class Modality:
    """What an encoder says of one modality of each patient.

    Attributes:
      pooled: float32 [B,W], one vector per patient.
      tokens: float32 [B,S,V], what cross-attention sees; their width V may differ from W.
      valid: bool [B,S], which tokens are there; none for a patient without the modality.
    """

    pooled: jax.Array
    tokens: jax.Array
    valid: jax.Array

    @property
    def present(self) -> jax.Array:
        """Bool [B]."""
        return self.valid.any(axis=1)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Sizes of one modality.

    Attributes:
      name: of the modality.
      pooled: W.
      tokens: S.
      width: V.
      table: its tokens are the columns of a table, each with a projection of its own (the feature
        tokenizer of FT-Transformer, arXiv 2106.11959, section 3.1); else they share one.
    """

    name: str
    pooled: int
    tokens: int
    width: int
    table: bool = False


@dataclasses.dataclass(frozen=True)
class FusionConfig:
    """Sizes of a fusion.

    Attributes:
      method: late, concat or attention.
      inputs: of the modalities, in the order of the concatenation.
      classes: c, of an exclusive label.
      width: D.
      heads: of cross-attention.
      depth: blocks of cross-attention.
      queries: Q.
    """

    method: Method
    inputs: tuple[Inputs, ...]
    classes: int
    width: int = 32
    heads: int = 4
    depth: int = 1
    queries: int = 2


def param_specs(cfg: FusionConfig) -> dict[str, Any]:
    """Weights of the method alone; encoders have their own."""
    if cfg.method == "late":
        return {one.name: _linear(one.pooled, cfg.classes, zero=True) for one in cfg.inputs}
    if cfg.method == "concat":
        # one input more per modality: whether it is there
        size = sum(one.pooled + 1 for one in cfg.inputs)
        return {
            "hidden": _linear(size, cfg.width),
            "out": _linear(cfg.width, cfg.classes, zero=True),
        }
    return {
        "modalities": {one.name: _tokens(one, cfg.width) for one in cfg.inputs},
        # a token that each patient has, so that a softmax never runs over nothing
        "nothing": ParamSpec((cfg.width,), (None,), 0.02),
        "queries": ParamSpec((cfg.queries, cfg.width), (None, None), 1.0),
        "blocks": {str(n): _block(cfg) for n in range(cfg.depth)},
        "norm": _norm(cfg.width),
        "out": _linear(cfg.queries * cfg.width, cfg.classes, zero=True),
    }


def _linear(inputs: int, outputs: int, zero: bool = False) -> dict[str, ParamSpec]:
    kernel = ParamSpec((inputs, outputs), (None, None), "zeros" if zero else fan_in(inputs))
    return {"kernel": kernel, "bias": ParamSpec((outputs,), (None,), "zeros")}


def _norm(width: int) -> dict[str, ParamSpec]:
    return {
        "scale": ParamSpec((width,), (None,), "ones"),
        "bias": ParamSpec((width,), (None,), "zeros"),
    }


def _tokens(one: Inputs, width: int) -> dict[str, ParamSpec]:
    """Projection of tokens, and what says of each which it is: modality and place."""
    shape = (one.tokens, one.width, width) if one.table else (one.width, width)
    return {
        "kernel": ParamSpec(shape, (None,) * len(shape), fan_in(one.width)),
        "place": ParamSpec((one.tokens, width), (None, None), 0.5),
    }


def _block(cfg: FusionConfig) -> dict[str, Any]:
    width, head = cfg.width, cfg.width // cfg.heads
    heads = ParamSpec((width, cfg.heads, head), (None, None, None), fan_in(width))
    return {
        "query_norm": _norm(width),
        "token_norm": _norm(width),
        "q": heads,
        "k": heads,
        "v": heads,
        "attended": ParamSpec((cfg.heads, head, width), (None, None, None), fan_in(width)),
        "mlp_norm": _norm(width),
        "up": _linear(width, 2 * width),
        "down": _linear(2 * width, width),
    }


def logits(
    params: Mapping[str, Any], cfg: FusionConfig, patients: Mapping[str, Modality]
) -> jax.Array:
    """Logits of "concat" and "attention", float32 [B,c]; "late" has one per modality
    (`late_logits`).
    """
    names = {one.name for one in cfg.inputs}
    assert set(patients) == names, f"{sorted(patients)} and {sorted(names)}"
    return (_concat if cfg.method == "concat" else _attend)(params, cfg, patients)


def late_logits(
    params: Mapping[str, Any], patients: Mapping[str, Modality]
) -> dict[str, jax.Array]:
    """{modality: logits [B,c]} of the head of each modality alone."""
    return {name: _dense(one.pooled, params[name]) for name, one in patients.items()}


def late_fusion(
    heads: Mapping[str, jax.Array], present: Mapping[str, jax.Array], weights: Mapping[str, float]
) -> jax.Array:
    """log Σ_m w_m p_m / Σ_m w_m over the modalities m that a patient has, [B,c].

    Args:
      heads: logits per modality [B,c].
      present: bool [B] per modality.
      weights: w_m >= 0, from the scores of the heads on validation patients. A patient none of
        whose modalities has a weight gets equal probabilities.
    """
    total = mixed = jnp.zeros(())
    for name, logit in heads.items():
        weight = jnp.where(present[name], weights[name], 0.0)[:, None]
        mixed = mixed + weight * jax.nn.softmax(jnp.where(weight > 0, logit, 0.0))
        total = total + weight
    classes = next(iter(heads.values())).shape[-1]
    return jnp.log(jnp.where(total > 0, mixed / jnp.maximum(total, 1e-9), 1 / classes) + 1e-9)


def loss(
    params: Mapping[str, Any],
    cfg: FusionConfig,
    patients: Mapping[str, Modality],
    labels: jax.Array,
    weights: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of the label, (sum, denominator).

    The heads of "late" are learned side by side, each from the patients who have its modality.

    Args:
      labels: int32 [B]. weights: float32 [B], 0 for a row that is padding.
    """
    if cfg.method != "late":
        return _cross_entropy(logits(params, cfg, patients), labels, weights)
    heads = late_logits(params, patients)
    parts = [
        _cross_entropy(heads[name], labels, weights * one.present) for name, one in patients.items()
    ]
    return sum(part[0] for part in parts), sum(part[1] for part in parts)


def _cross_entropy(
    logit: jax.Array, labels: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    picked = jnp.take_along_axis(jax.nn.log_softmax(logit), labels[:, None], axis=1)[:, 0]
    return -(picked * weights).sum(), weights.sum()


def _dense(x: jax.Array, p: Mapping[str, jax.Array]) -> jax.Array:
    return x @ p["kernel"] + layers.expand(p["bias"], x.ndim)


def _concat(
    params: Mapping[str, Any], cfg: FusionConfig, patients: Mapping[str, Modality]
) -> jax.Array:
    """An MLP on all pooled vectors side by side, zeros for one that is not there."""
    parts = []
    for one in cfg.inputs:
        mine = patients[one.name]
        there = mine.present[:, None]
        parts += [jnp.where(there, mine.pooled, 0.0), there.astype(jnp.float32)]
    return _dense(
        jax.nn.gelu(_dense(jnp.concatenate(parts, axis=1), params["hidden"])), params["out"]
    )


def _attend(
    params: Mapping[str, Any], cfg: FusionConfig, patients: Mapping[str, Modality]
) -> jax.Array:
    """Learned queries attend to the tokens of all modalities of their patient, block by block."""
    tokens, valid = [], []
    for one in cfg.inputs:
        mine, p = patients[one.name], params["modalities"][one.name]
        # [B,S,V] x [S,V,D] or [V,D] -> [B,S,D]
        equation = "bsv,svd->bsd" if one.table else "bsv,vd->bsd"
        found = jnp.where(mine.valid[..., None], mine.tokens, 0.0)
        tokens.append(jnp.einsum(equation, found, p["kernel"]) + p["place"][None])
        valid.append(mine.valid)
    rows = tokens[0].shape[0]
    tokens.append(jnp.broadcast_to(params["nothing"], (rows, 1, cfg.width)))
    valid.append(jnp.ones((rows, 1), bool))
    x, seen = jnp.concatenate(tokens, axis=1), jnp.concatenate(valid, axis=1)
    query = jnp.broadcast_to(params["queries"], (rows, cfg.queries, cfg.width))
    for n in range(cfg.depth):
        query = _block_of(params["blocks"][str(n)], query, x, seen)
    query = layers.layer_norm(query, params["norm"], _NORM_EPS)
    return _dense(query.reshape(rows, -1), params["out"])


def _block_of(p: Mapping[str, Any], query: jax.Array, x: jax.Array, seen: jax.Array) -> jax.Array:
    """Pre-norm cross-attention and MLP: query [B,Q,D], tokens x [B,S,D], seen bool [B,S]."""
    q_in = layers.layer_norm(query, p["query_norm"], _NORM_EPS)
    kv_in = layers.layer_norm(x, p["token_norm"], _NORM_EPS)
    # [B,T,D] x [D,K,h] -> [B,T,K,h]
    q = jnp.einsum("btd,dkh->btkh", q_in, p["q"])
    k, v = (jnp.einsum("bsd,dkh->bskh", kv_in, p[name]) for name in "kv")
    mixed = attention(q, [KeySet(k, v, valid=seen)], axes="btkh")
    # [B,T,K,h] x [K,h,D] -> [B,T,D]
    query = query + jnp.einsum("btkh,khd->btd", mixed, p["attended"])
    hidden = jax.nn.gelu(_dense(layers.layer_norm(query, p["mlp_norm"], _NORM_EPS), p["up"]))
    return query + _dense(hidden, p["down"])
