"""Names of encoders' weights in published files: those of timm, which the specs of vision encoders
have, and those of transformers, as `save_pretrained` writes them; specs of EEG encoders have the
names of their authors.

A layout other than timm's is a table of rules. Each says under which name, or in which parts, a
weight or the weights of a module are stored.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

# matrix: theirs [out, in] for [out, in, 1, 1]; row: theirs [1, 1, 1, n] for [n]
Form = Literal["same", "matrix", "row"]


@dataclasses.dataclass(frozen=True)
class Rule:
    """How a layout stores what timm calls `name`.

    Attributes:
      name: of a weight or a module in timm; `{}` stands for a number.
      parts: its names in the layout, the numbers in the same order; several are equal parts along
        the first axis.
      form: of the arrays.
    """

    name: str
    parts: tuple[str, ...]
    form: Form = "same"


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a library stores the weights of an encoder.

    Attributes:
      rules: the first that fits a name applies; () = as timm.
      prefix: that names may have, "vit." in ViTForImageClassification.
      other: pattern of names that are not the encoder's: classifiers, tokens for masked patches.
      opened: theirs -> tensors that the rules describe; saved: the inverse.
    """

    rules: tuple[Rule, ...] = ()
    prefix: str = ""
    other: str = r"classifier\..*|embeddings\.mask_token|pooler\..*"
    opened: Callable[[Mapping[str, Any]], dict[str, Any]] = dict
    saved: Callable[[Mapping[str, Any]], dict[str, Any]] = dict

    def stored(self, name: str) -> tuple[tuple[str, ...], Form]:
        """(names, form) under which the layout stores a weight that timm calls `name`."""
        for rule in self.rules:
            # the last part, ".weight" or ".bias", is the same unless the rule names it
            pattern = re.escape(rule.name).replace(r"\{\}", r"(\d+)")
            if found := re.fullmatch(rf"{pattern}((?:\.[a-z]+)?)", name):
                *numbers, rest = found.groups()
                return tuple(part.format(*numbers) + rest for part in rule.parts), rule.form
        return (name,), "same"


def _qkv(name: str, theirs: str) -> Rule:
    return Rule(name, tuple(f"{theirs}{part}" for part in ("query", "key", "value")))


def _transformer(ours: str, theirs: str, pairs: Mapping[str, str]) -> tuple[Rule, ...]:
    return tuple(Rule(ours + name, (theirs + part,)) for name, part in pairs.items())


def _with_class_position(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The class token's position added to the class token, as timm's files with registers have it.

    Both are added before anything else happens to them.
    """
    tensors = dict(tensors)
    table, token = (tensors.get(f"embeddings.{x}") for x in ("position_embeddings", "cls_token"))
    if table is not None and token is not None and len(table.shape) == len(token.shape) == 3:
        table, token = table.map(), token.map()
        tensors["embeddings.cls_token"] = token + table[:, :1]
        tensors["embeddings.position_embeddings"] = table[:, 1:]
    return tensors


def _without_class_position(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A position of zeros for the class token, which has its own within it."""
    tensors = dict(tensors)
    table = tensors["embeddings.position_embeddings"]
    table = np.concatenate([np.zeros_like(table[:, :1]), table], axis=1)
    return tensors | {"embeddings.position_embeddings": table}


def _with_last_norm(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A pretrained LaBraM has no norm behind the mean of its tokens: a new one, as fine-tuning has
    it (935963004/LaBraM, run_class_finetuning.py).
    """
    tensors = dict(tensors)
    if "cls_token" in tensors and not any(name.startswith("fc_norm.") for name in tensors):
        width = tensors["cls_token"].shape[-1]
        tensors["fc_norm.weight"] = np.ones(width, np.float32)
        tensors["fc_norm.bias"] = np.zeros(width, np.float32)
    return tensors


_VIT = "encoder.layer.{}."
_EMBEDDINGS = (
    Rule("cls_token", ("embeddings.cls_token",)),
    Rule("reg_token", ("embeddings.register_tokens",)),
    Rule("pos_embed", ("embeddings.position_embeddings",)),
    Rule("patch_embed.proj", ("embeddings.patch_embeddings.projection",)),
    _qkv("blocks.{}.attn.qkv", f"{_VIT}attention.attention."),
    Rule("blocks.{}.attn.proj", (f"{_VIT}attention.output.dense",)),
)
_DINO = (
    *_EMBEDDINGS,
    *_transformer(
        "blocks.{}.",
        _VIT,
        {
            "norm1": "norm1",
            "norm2": "norm2",
            "ls1.gamma": "layer_scale1.lambda1",
            "ls2.gamma": "layer_scale2.lambda1",
        },
    ),
)
_PLAIN_MLP = _transformer("blocks.{}.mlp.", f"{_VIT}mlp.", {"fc1": "fc1", "fc2": "fc2"})
_SWIGLU = _transformer("blocks.{}.mlp.", f"{_VIT}mlp.", {"fc1": "weights_in", "fc2": "weights_out"})
_NORM = (Rule("norm", ("layernorm",)),)

_CONVNEXT = (
    Rule("stem.0", ("embeddings.patch_embeddings",)),
    Rule("stem.1", ("embeddings.layernorm",)),
    Rule("stages.{}.downsample.{}", ("encoder.stages.{}.downsampling_layer.{}",)),
    *(
        Rule(f"stages.{{}}.blocks.{{}}.{name}", (f"encoder.stages.{{}}.layers.{{}}.{part}",), form)
        for name, part, form in (
            ("conv_dw", "dwconv", "same"),
            ("norm", "layernorm", "same"),
            ("mlp.fc1.weight", "pwconv1.weight", "matrix"),
            ("mlp.fc2.weight", "pwconv2.weight", "matrix"),
            ("mlp.fc1", "pwconv1", "same"),
            ("mlp.fc2", "pwconv2", "same"),
            ("mlp.grn", "grn", "row"),
        )
    ),
    Rule("head.norm", ("layernorm",)),
)

_SWIN = "encoder.layers.{}.blocks.{}."
_SWIN_RULES = (
    Rule("patch_embed.proj", ("embeddings.patch_embeddings.projection",)),
    Rule("patch_embed.norm", ("embeddings.norm",)),
    # transformers counts the step between two stages to the first of them
    *(
        Rule(f"layers.{i}.downsample.{x}", (f"encoder.layers.{i - 1}.downsample.{x}",))
        for i in (1, 2, 3)
        for x in ("reduction", "norm")
    ),
    _qkv("layers.{}.blocks.{}.attn.qkv", f"{_SWIN}attention.self."),
    *_transformer(
        "layers.{}.blocks.{}.",
        _SWIN,
        {
            "attn.q_bias": "attention.self.query.bias",
            "attn.v_bias": "attention.self.value.bias",
            "attn.logit_scale": "attention.self.logit_scale",
            "attn.cpb_mlp.0": "attention.self.continuous_position_bias_mlp.0",
            "attn.cpb_mlp.2": "attention.self.continuous_position_bias_mlp.2",
            "attn.proj": "attention.output.dense",
            "norm1": "layernorm_before",
            "norm2": "layernorm_after",
            "mlp.fc1": "intermediate.dense",
            "mlp.fc2": "output.dense",
        },
    ),
    *_NORM,
)

LAYOUTS: dict[str, Layout] = {
    "timm": Layout(
        other=r"head\.(fc\.)?(weight|bias)|mask_token"
        r"|.*\.(attn_mask|relative_coords_table|relative_position_index)"
    ),
    "ConvNextV2Model": Layout(_CONVNEXT, "convnextv2."),
    "ViTModel": Layout(
        (
            *_EMBEDDINGS,
            *_transformer(
                "blocks.{}.",
                _VIT,
                {
                    "norm1": "layernorm_before",
                    "norm2": "layernorm_after",
                    "mlp.fc1": "intermediate.dense",
                    "mlp.fc2": "output.dense",
                },
            ),
            *_NORM,
        ),
        "vit.",
    ),
    "Dinov2Model": Layout((*_DINO, *_PLAIN_MLP, *_NORM), "dinov2."),
    "Dinov2Model, SwiGLU": Layout((*_DINO, *_SWIGLU, *_NORM), "dinov2."),
    "Dinov2WithRegistersModel": Layout(
        (*_DINO, *_PLAIN_MLP, *_NORM),
        "dinov2_with_registers.",
        opened=_with_class_position,
        saved=_without_class_position,
    ),
    "Dinov2WithRegistersModel, SwiGLU": Layout(
        (*_DINO, *_SWIGLU, *_NORM),
        "dinov2_with_registers.",
        opened=_with_class_position,
        saved=_without_class_position,
    ),
    "Swinv2Model": Layout(_SWIN_RULES, "swinv2."),
    # positions, and the buffers of a local attention that no head uses
    "BIOT": Layout(other=r"index|positional_encoding\.pe|.*\.local_attn\..*"),
    "LaBraM": Layout(
        prefix="student.",
        other=r"(lm_)?head\..*|norm\..*|mask_token|projection_head\..*",
        opened=_with_last_norm,
    ),
}
