"""Names and layouts of published tensors: two key schemes, and how their arrays and ours map onto
each other.

A `ParamSpec` names its tensor in the scheme of Qwen2.5-VL on the hub (`visual.*`, `model.layers.*`,
`lm_head.weight`), here called canonical. Qwen3-VL on the hub, transformers 5 in memory, and
directories it saves with `save_original_format=False`, use `model.visual.*` and
`model.language_model.*`. ECG weights have the names of QoQ-Med in both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from qoq_jax.models.spec import ParamSpec

# (prefix in transformers 5, canonical prefix); the first that matches wins.
TRANSFORMERS_5 = (("model.visual.", "visual."), ("model.language_model.", "model."))
EMBEDDING, LM_HEAD = "model.embed_tokens.weight", "lm_head.weight"
ECG_PREFIX = "time_series_embedding."
# Fixed sin-cos positions that ECG-JEPA stores beside its weights; checked and dropped on import,
# written on export.
ECG_POSITIONS = ECG_PREFIX + "encoder.pos_embed"
PATCH_FRAMES = 2  # temporal_patch_size of every published model; the config reader refuses others


def canonical(name: str) -> str:
    """The canonical name of a tensor that either scheme names."""
    for theirs, ours in TRANSFORMERS_5:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def transformers_5(name: str) -> str:
    """The other scheme's name of a tensor; inverse of `canonical`."""
    for theirs, ours in TRANSFORMERS_5:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def layer_keys(spec: ParamSpec) -> list[str]:
    """Canonical names of a weight: one per layer when stacked, none without counterpart."""
    if not spec.hf_key:
        return []
    return [spec.hf_key.format(i) for i in range(spec.shape[0])] if spec.stacked else [spec.hf_key]


def layer_shape(spec: ParamSpec) -> tuple[int, ...]:
    """Our shape of one layer of a stacked weight, or of a weight that is not stacked."""
    return spec.shape[1:] if spec.stacked else spec.shape


def published_shape(spec: ParamSpec) -> tuple[int, ...]:
    """Their shape of one layer; the layouts are described in models/spec.py."""
    shape = layer_shape(spec)
    if spec.hf_layout == "vector":
        return (math.prod(shape),)
    if spec.hf_layout == "linear":
        return (math.prod(shape[1:]), shape[0])
    if spec.hf_layout == "linear_out":
        return (shape[-1], math.prod(shape[:-1]))
    if spec.hf_layout == "patches":
        side = math.isqrt(shape[0] // (3 * PATCH_FRAMES))
        return (shape[1], 3, PATCH_FRAMES, side, side)
    if spec.hf_layout == "conv":
        return (shape[3], shape[2], *shape[:2])
    if spec.hf_layout == "depthwise":
        return (shape[2], 1, *shape[:2])
    if spec.hf_layout == "pointwise":
        return (shape[1], shape[0], 1, 1)
    return shape


def split(spec: ParamSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(shape, order) with `theirs.reshape(shape).transpose(order)` = ours.

    The reshape costs nothing and keeps one dimension of theirs for one of ours, so that a device's
    part of ours is a slice of the file; the transpose is left to the device.
    """
    shape = layer_shape(spec)
    last = len(shape) - 1
    if spec.hf_layout in ("tensor", "vector"):
        return shape, tuple(range(len(shape)))
    if spec.hf_layout == "linear":
        return (*shape[1:], shape[0]), (last, *range(last))
    if spec.hf_layout == "conv":
        return (shape[3], shape[2], *shape[:2]), (2, 3, 1, 0)
    # linear_out, patches, depthwise and pointwise: their outputs come first, and last in ours
    return (shape[-1], *shape[:-1]), (*range(1, len(shape)), 0)


def fold(names: Iterable[str]) -> list[str]:
    """Names with their layer numbers joined: "model.layers.{0-27}.mlp.up_proj.weight".

    Sorted, complete.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    plain = []
    for name in names:
        if found := re.match(r"(.*?\.)(\d+)(\..*)", name):
            groups.setdefault((found[1], found[3]), []).append(int(found[2]))
        else:
            plain.append(name)
    for (head, tail), numbers in groups.items():
        runs: list[list[int]] = []
        for number in sorted(numbers):
            if runs and number == runs[-1][-1] + 1:
                runs[-1].append(number)
            else:
                runs.append([number])
        text = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
        plain.append(f"{head}{text if len(numbers) == 1 else '{' + text + '}'}{tail}")
    return sorted(plain)
