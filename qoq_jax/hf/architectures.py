"""The registry of published architectures: how each reads and writes its config.json."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from qoq_jax.base.errors import ConfigError
from qoq_jax.hf import fp8
from qoq_jax.hf import names as keys
from qoq_jax.hf.fields import Section
from qoq_jax.models import sizes as variants
from qoq_jax.models.sizes import (
    DecoderConfig,
    EcgConfig,
    PatchTower,
    Qwen3VisionConfig,
    VisionConfig,
    VlmConfig,
    Yarn,
)

# of an image in QoQ-Med; VisionConfig.max_frame_patches of an imported model follows from it
MAX_PIXELS = 524_288
# (field of VlmConfig, field of config.json)
TOKEN_IDS = (
    ("image_token_id", "image_token_id"),
    ("video_token_id", "video_token_id"),
    ("vision_start_id", "vision_start_token_id"),
    ("vision_end_id", "vision_end_token_id"),
)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One family of published models.

    Attributes:
      model_type: as in config.json.
      names: what `architectures` may hold; the first is written.
      processor: class name of its processor in transformers.
      read: (config.json as fields.normalised makes it, whether the weights hold an ECG encoder) ->
        VlmConfig, adding to the section's problems.
      write: (VlmConfig, fields.IDLE fields, dtype) -> config.json.
      published_name: canonical tensor name -> the name that the hub's checkpoints of this family
        use.
    """

    model_type: str
    names: tuple[str, ...]
    processor: str
    read: Callable[[Section, bool], VlmConfig]
    write: Callable[[VlmConfig, dict[str, Any], str], dict[str, Any]]
    published_name: Callable[[str], str]


def of(cfg: VlmConfig) -> Architecture:
    """The published family that a configuration belongs to."""
    return QWEN3_VL if isinstance(cfg.vision, Qwen3VisionConfig) else QWEN2_5_VL


# What families share: reading


def frame_patches(patch_size: int) -> int:
    """VisionConfig.max_frame_patches for images of MAX_PIXELS: up to a multiple of 64."""
    return -(-MAX_PIXELS // patch_size**2 // 64) * 64


def read_ecg(root: Section, width: int, has_ecg: bool, token_id: int) -> dict[str, Any]:
    """The ECG fields of VlmConfig; {"ecg": None, ...} without an encoder. token_id: that of the
    family's tokenizer.

    The released QoQ-Med code fixes the encoder's sizes and pools an ECG to one token, and its
    config.json says neither; `time_series_config`, which `config.write` adds, says both.
    """
    section = root.section("time_series_config")
    token = root.take("time_series_token_id", token_id)
    root.require("time_series_embed_dim", width)
    published = variants.BASE_ECG
    if section is None:
        with_ecg = {"ecg": published, "ecg_tokens": 1, "ecg_token_id": token}
        return with_ecg if has_ecg else {"ecg": None, "ecg_token_id": token}
    sizes = {
        field.name: section.take(
            field.name, getattr(published, field.name), type(getattr(published, field.name))
        )
        for field in dataclasses.fields(EcgConfig)
    }
    tokens = section.take("tokens", 1)
    section.finish()
    return {"ecg": EcgConfig(**sizes), "ecg_tokens": tokens, "ecg_token_id": token}


def read_rope(text: Section, sections: tuple[int, int, int], interleaved: bool) -> dict[str, Any]:
    """The rotary fields of DecoderConfig; `sections`: the default of transformers' model."""
    rope = text.section("rope_parameters") or Section({}, "rope_parameters.", text.problems)
    theta = rope.take("rope_theta", 1e6, float)
    found = rope.take("mrope_section", list(sections), list)
    if len(found) != 3 or not all(isinstance(count, int) for count in found):
        text.problems.append(f"{rope.name}mrope_section is {found!r}, not three numbers")
        found = sections
    rope.require("mrope_interleaved", interleaved)
    kind = rope.fields.get("rope_type")
    rope.require("rope_type", "default", "yarn")
    rope.require("type", kind, "mrope")
    yarn = read_yarn(rope, text.take("max_position_embeddings", 0)) if kind == "yarn" else None
    rope.finish()
    return {"mrope_section": tuple(found), "rope_theta": float(theta), "yarn": yarn}


def read_yarn(rope: Section, max_positions: int) -> Yarn | None:
    """YaRN with the defaults of transformers' `_compute_yarn_parameters`."""
    original = rope.take("original_max_position_embeddings", max_positions)
    factor = rope.take("factor", max_positions / original if original else 0.0, float)
    if factor <= 0 or original <= 0:
        rope.problems.append(
            f"{rope.name}factor = {factor!r} of {original!r} original positions is no stretch"
        )
        return None

    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    one, all_dims = (rope.take(name, 0.0, float) for name in ("mscale", "mscale_all_dim"))
    attention = mscale(one) / mscale(all_dims) if one and all_dims else mscale(1.0)
    return Yarn(
        factor=float(factor),
        original_positions=original,
        attention_factor=float(rope.take("attention_factor", attention, float)),
        beta_fast=float(rope.take("beta_fast", 0.0, float) or 32),
        beta_slow=float(rope.take("beta_slow", 0.0, float) or 1),
        truncate=rope.take("truncate", True, bool),
    )


def read_text(root: Section, text: Section) -> dict[str, Any]:
    """The fields of DecoderConfig that both families have, but for the rotary ones."""
    layers, heads = text.take("num_hidden_layers", 0), text.take("num_attention_heads", 1)
    text.require("hidden_act", "silu")
    text.require("use_sliding_window", False)
    text.require("attention_dropout", 0, 0.0)
    text.require("layer_types", ["full_attention"] * layers)
    tied = [place.take("tie_word_embeddings", False, bool) for place in (root, text)]
    for place in (text, root):  # read with generation_config.json
        place.ignore("eos_token_id", "pad_token_id")
    # transformers 4.52 wrote the ids of the media here too, and its models never read them here
    text.ignore(*(theirs for _, theirs in TOKEN_IDS))
    return dict(
        vocab_size=text.take("vocab_size", 0),
        width=text.take("hidden_size", 0),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=text.take("num_key_value_heads", heads),
        mlp_dim=text.take("intermediate_size", 0),
        tied_embeddings=any(tied),
        norm_eps=text.take("rms_norm_eps", 1e-6, float),
    )


def read_tower(tower: Section, out_width: int, act: str) -> dict[str, Any]:
    """The fields of PatchTower."""
    tower.require("hidden_act", act)
    tower.require("out_hidden_size", out_width, default=3584)
    # These are built into the pipeline's patches and their order.
    tower.require("spatial_merge_size", PatchTower.merge_size)
    tower.require("temporal_patch_size", keys.PATCH_FRAMES)
    tower.require("in_channels", 3)
    tower.require("in_chans", 3)
    patch = tower.take("patch_size", PatchTower.patch_size)
    return dict(
        width=tower.take("hidden_size", 0),
        depth=tower.take("depth", 0),
        num_heads=tower.take("num_heads", 1),
        mlp_dim=tower.take("intermediate_size", 0),
        patch_size=patch,
        max_frame_patches=frame_patches(patch),
        rope_theta=read_vision_rope(tower),
    )


def read_vision_rope(tower: Section) -> float:
    """The base of the vision tower's rotary frequencies; files of the hub leave it out."""
    rope = tower.section("rope_parameters")
    if rope is None:
        return PatchTower.rope_theta
    theta = rope.take("rope_theta", PatchTower.rope_theta, float)
    rope.require("rope_type", "axial", "default")
    rope.require("type", "axial", "default")
    rope.finish()
    return float(theta)


def read_ids(root: Section) -> dict[str, int]:
    """The token ids of VlmConfig."""
    return {ours: root.take(theirs, getattr(VlmConfig, ours)) for ours, theirs in TOKEN_IDS}


def _sections(root: Section) -> tuple[Section, Section]:
    """(text_config, vision_config)."""
    root.problems += fp8.problems(root.take("quantization_config", None, dict))
    return root.section("text_config"), root.section("vision_config")


# What families share: writing


def write_text(cfg: VlmConfig) -> dict[str, Any]:
    """The fields of the decoder that both families have."""
    text = cfg.decoder
    return {
        "vocab_size": text.vocab_size,
        "hidden_size": text.width,
        "intermediate_size": text.mlp_dim,
        "num_hidden_layers": text.num_layers,
        "num_attention_heads": text.num_heads,
        "num_key_value_heads": text.num_kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": text.norm_eps,
        "attention_dropout": 0.0,
        "rope_theta": text.rope_theta,
        "tie_word_embeddings": text.tied_embeddings,
        "pad_token_id": cfg.pad_id,
        "eos_token_id": cfg.eos_ids[0] if cfg.eos_ids else None,
    }


def write_yarn(yarn: Yarn | None) -> dict[str, Any]:
    """The fields of rope_scaling beside its type and sections; none without YaRN."""
    if yarn is None:
        return {}
    return {
        "factor": yarn.factor,
        "original_max_position_embeddings": yarn.original_positions,
        "attention_factor": yarn.attention_factor,
        "beta_fast": yarn.beta_fast,
        "beta_slow": yarn.beta_slow,
        "truncate": yarn.truncate,
    }


def write_tower(cfg: VlmConfig) -> dict[str, Any]:
    """The fields of the vision tower that both families have."""
    tower = cfg.vision
    fields = {
        "hidden_size": tower.width,
        "depth": tower.depth,
        "num_heads": tower.num_heads,
        "intermediate_size": tower.mlp_dim,
        "out_hidden_size": cfg.decoder.width,
        "in_channels": 3,
        "patch_size": tower.patch_size,
        "spatial_merge_size": tower.merge_size,
        "temporal_patch_size": tower.temporal_patch_size,
    }
    if tower.rope_theta != PatchTower.rope_theta:  # the hub's files do not have the field
        fields["rope_parameters"] = {"rope_type": "axial", "rope_theta": tower.rope_theta}
    return fields


# Qwen2.5-VL


def _read_qwen2_5_vl(root: Section, has_ecg: bool) -> VlmConfig:
    text, tower = _sections(root)
    decoder = read_text(root, text) | read_rope(text, (16, 24, 24), False)
    width, heads = decoder["width"], decoder["num_heads"]
    if width % heads:
        raise ConfigError(f"hidden_size {width} does not divide into {heads} heads")
    for place in (root, text):
        place.require("head_dim", width // heads)
    vision = read_tower(tower, width, "silu")
    vision["window"] = tower.take("window_size", 112)
    vision["full_attention_blocks"] = tuple(tower.take("fullatt_block_indexes", [], list))
    seconds = tower.take("tokens_per_second", 4)
    ids = read_ids(root)
    ecg = read_ecg(root, width, has_ecg, VlmConfig.ecg_token_id)
    for section in (root, text, tower):
        section.finish()
    return VlmConfig(
        DecoderConfig(**decoder, head_dim=width // heads),
        VisionConfig(**vision),
        tokens_per_second=seconds,
        **ecg,
        **ids,
    )


def _write_qwen2_5_vl(cfg: VlmConfig, idle: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Flat, as on the hub."""
    tower = {
        "model_type": "qwen2_5_vl",
        "hidden_act": "silu",
        "in_chans": 3,
        "spatial_patch_size": cfg.vision.patch_size,
        "window_size": cfg.vision.window,
        "fullatt_block_indexes": list(cfg.vision.full_attention_blocks),
        "tokens_per_second": cfg.tokens_per_second,
        **write_tower(cfg),
    }
    rope = {
        "type": "yarn" if cfg.decoder.yarn else "mrope",
        "mrope_section": list(cfg.decoder.mrope_section),
        **write_yarn(cfg.decoder.yarn),
    }
    return {
        "torch_dtype": dtype,
        **idle,
        **write_text(cfg),
        "use_sliding_window": False,
        "vision_config": tower,
        "rope_scaling": rope,
    }


QWEN2_5_VL = Architecture(
    model_type="qwen2_5_vl",
    # The second name is QoQ-Med's: the same model with an ECG encoder.
    names=("Qwen2_5_VLForConditionalGeneration", "TimeSeriesQwen2_5_VLForConditionalGeneration"),
    processor="Qwen2_5_VLProcessor",
    read=_read_qwen2_5_vl,
    write=_write_qwen2_5_vl,
    published_name=lambda name: name,
)


# Qwen3-VL, dense


def _read_qwen3_vl(root: Section, has_ecg: bool) -> VlmConfig:
    text, tower = _sections(root)
    decoder = read_text(root, text) | read_rope(text, (24, 20, 20), True)
    text.require("attention_bias", False)
    vision = read_tower(tower, decoder["width"], "gelu_pytorch_tanh")
    positions = tower.take("num_position_embeddings", 2304)
    if (side := math.isqrt(max(positions, 0))) ** 2 != positions:
        tower.problems.append(
            f"vision_config.num_position_embeddings = {positions} is not a square"
        )
    deepstack = tuple(tower.take("deepstack_visual_indexes", [8, 16, 24], list))
    ids = read_ids(root)
    ecg = read_ecg(root, decoder["width"], has_ecg, variants.QWEN3_ECG_TOKEN_ID)
    head_dim = text.take("head_dim", 128)
    for section in (root, text, tower):
        section.finish()
    return VlmConfig(
        DecoderConfig(
            **decoder, head_dim=head_dim, qkv_bias=False, qk_norm=True, mrope_interleaved=True
        ),
        Qwen3VisionConfig(**vision, position_grid=side, deepstack_blocks=deepstack),
        **ecg,
        **ids,
    )


def _write_qwen3_vl(cfg: VlmConfig, idle: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Nested, as on the hub."""
    rope = {
        "rope_type": "yarn" if cfg.decoder.yarn else "default",
        "mrope_section": list(cfg.decoder.mrope_section),
        "mrope_interleaved": True,
        **write_yarn(cfg.decoder.yarn),
    }
    text = {
        "model_type": "qwen3_vl_text",
        "dtype": dtype,
        **idle,
        **write_text(cfg),
        "head_dim": cfg.decoder.head_dim,
        "attention_bias": False,
        "rope_scaling": rope,
    }
    tower = {
        "model_type": "qwen3_vl",
        "hidden_act": "gelu_pytorch_tanh",
        "num_position_embeddings": cfg.vision.position_grid**2,
        "deepstack_visual_indexes": list(cfg.vision.deepstack_blocks),
        **write_tower(cfg),
    }
    return {
        "dtype": dtype,
        "tie_word_embeddings": cfg.decoder.tied_embeddings,
        "text_config": text,
        "vision_config": tower,
    }


QWEN3_VL = Architecture(
    model_type="qwen3_vl",
    names=("Qwen3VLForConditionalGeneration",),
    processor="Qwen3VLProcessor",
    read=_read_qwen3_vl,
    write=_write_qwen3_vl,
    published_name=keys.transformers_5,
)
ARCHITECTURES = {family.model_type: family for family in (QWEN2_5_VL, QWEN3_VL)}
