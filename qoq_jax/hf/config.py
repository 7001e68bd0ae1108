"""config.json <-> VlmConfig, and the registry of architectures.

Every field is used, or known to change nothing that is computed here, or refused by name. Missing
fields have the defaults of transformers' config classes. Both nestings are read: flat, as on the
hub, and text_config / vision_config with rope_parameters, as transformers 5 writes.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any

from qoq_jax.base import files
from qoq_jax.base.errors import ConfigError
from qoq_jax.hf import names as keys
from qoq_jax.models import sizes as variants
from qoq_jax.models.sizes import (
    DecoderConfig,
    EcgConfig,
    PatchTower,
    Qwen3VisionConfig,
    VisionConfig,
    VlmConfig,
)

CONFIG, GENERATION = "config.json", "generation_config.json"
PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
VIDEO_PREPROCESSOR = "video_preprocessor_config.json"
QOQ_PIXELS = (65_536, 524_288)  # least and most of an image in QoQ-Med
PROCESSOR_PIXELS = (56 * 56, 28 * 28 * 1280)  # the defaults of transformers' Qwen2VLImageProcessor
# of an image in QoQ-Med; VisionConfig.max_frame_patches of an imported model follows from it
MAX_PIXELS = QOQ_PIXELS[1]

# Fields that change no number here, and are copied from the source on export.
# max_position_embeddings limits nothing with plain rotary positions; sliding_window and
# max_window_layers are idle while use_sliding_window is false.
IDLE = ("max_position_embeddings", "initializer_range", "max_window_layers", "sliding_window", "bos_token_id", "use_cache",
        "vision_token_id")  # fmt: skip
# Book-keeping of transformers and of programs that save through it; auto_map names Python files,
# which are never run.
BOOKKEEPING = (
    "architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "auto_map", "_name_or_path", "return_dict",
    "output_hidden_states", "output_attentions", "problem_type", "id2label", "label2id", "is_encoder_decoder",
    "chunk_size_feed_forward", "_attn_implementation", "_attn_implementation_autoset", "attn_implementation", "unsloth_fixed",
    "unsloth_version", "time_series_max_length", "spatial_patch_size",
)  # fmt: skip
# What a processor may not say differently: how pixels become the numbers that the tower reads.
_PIXEL_FIELDS = ("image_mean", "image_std", "patch_size", "temporal_patch_size", "merge_size", "rescale_factor", "do_normalize",
                 "do_rescale", "do_convert_rgb", "resample")  # fmt: skip
_MISSING = object()


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One family of published models.

    Attributes:
      model_type: as in config.json.
      names: what `architectures` may hold; the first is written.
      processor: class name of its processor in transformers.
      read: (config.json, whether the weights hold an ECG encoder) -> VlmConfig, adding to the
        section's problems.
      write: (VlmConfig, IDLE fields, dtype) -> config.json.
      published_name: canonical tensor name -> the name that the hub's checkpoints of this family
        use.
    """

    model_type: str
    names: tuple[str, ...]
    processor: str
    read: Callable[[Section, bool], VlmConfig]
    write: Callable[[VlmConfig, dict[str, Any], str], dict[str, Any]]
    published_name: Callable[[str], str]


class Section:
    """A JSON object of config.json that collects what is wrong with it, and the fields that nobody
    has used.
    """

    def __init__(self, fields: dict[str, Any], name: str = "", problems: list[str] | None = None):
        self.fields, self.name = fields, name
        self.problems: list[str] = [] if problems is None else problems
        self._unused = set(fields) - set(BOOKKEEPING) - set(IDLE)

    def take(self, field: str, default: Any, kind: type = int) -> Any:
        """The value, or `default` when it is missing or null; a value of another type is a problem."""
        self._unused.discard(field)
        value = self.fields.get(field)
        if value is None:
            return default
        right = isinstance(value, (int, float) if kind is float else kind) and (
            kind is bool
        ) == isinstance(value, bool)
        if not right:
            self.problems.append(f"{self.name}{field} is {value!r}, not {kind.__name__}")
            return default
        return value

    def require(self, field: str, *allowed: Any, default: Any = _MISSING) -> None:
        """Only these values are supported; a missing or null field counts as `default`, else as
        allowed.
        """
        self._unused.discard(field)
        value = self.fields.get(field)
        value = (allowed[0] if default is _MISSING else default) if value is None else value
        if value not in allowed:
            wanted = " or ".join(repr(one) for one in allowed)
            self.problems.append(f"{self.name}{field} = {value!r} is not supported, only {wanted}")

    def section(self, field: str) -> Section | None:
        """A nested object, whose problems are this one's; None when it is missing."""
        fields = self.take(field, None, dict)
        return None if fields is None else Section(fields, f"{self.name}{field}.", self.problems)

    def has(self, field: str) -> bool:
        return self.fields.get(field) is not None

    def finish(self) -> None:
        """Refuses the fields that were not used: their meaning is unknown, and may change what the
        model computes.
        """
        self.problems += [f"{self.name}{field} is not supported" for field in sorted(self._unused)]


def read(directory: str, has_ecg: bool = False) -> VlmConfig:
    """The configuration of a Hugging Face directory.

    Args:
      directory: with config.json, and generation_config.json and preprocessor_config.json when
        there are such.
      has_ecg: whether the weights hold an ECG encoder.

    Raises:
      ConfigError: an unknown architecture, or fields that are not supported; all are named.
    """
    path = os.path.join(directory, CONFIG)
    root = Section(_read_json(path, required=True))
    model_type, names = root.fields.get("model_type"), root.fields.get("architectures") or []
    known = ARCHITECTURES.get(model_type)
    if known is None or any(name not in known.names for name in names):
        what = f"model_type {model_type!r}, architectures {names!r}"
        supported = ", ".join(name for one in ARCHITECTURES.values() for name in one.names)
        raise ConfigError(
            f"unsupported architecture: {what}", where=path, hint=f"supported: {supported}"
        )
    cfg = None
    try:
        cfg = known.read(root, has_ecg)
    except ConfigError as error:
        root.problems.append(error.what)
    if root.problems:
        raise ConfigError(
            "; ".join(root.problems),
            where=path,
            hint="use a checkpoint of a supported configuration",
        )
    _check_preprocessor(directory, cfg)
    return _with_generation_ids(cfg, root, _read_json(os.path.join(directory, GENERATION)))


def _read_json(path: str, required: bool = False) -> dict[str, Any]:
    if not required and not os.path.exists(path):
        return {}
    hint = "give a Hugging Face model directory"
    content = files.read_json(path, finite=False, error=ConfigError, hint=hint)
    if not isinstance(content, dict):
        raise ConfigError("cannot be read (it is not an object)", where=path, hint=hint)
    return content


def _with_generation_ids(cfg: VlmConfig, root: Section, generation: dict[str, Any]) -> VlmConfig:
    """End and pad tokens, from generation_config.json before config.json, as transformers' generate
    has it.
    """
    text = root.fields.get("text_config") or {}

    def find(field):
        found = [
            place[field]
            for place in (generation, text, root.fields)
            if place.get(field) is not None
        ]
        return [] if not found else found[0] if isinstance(found[0], list) else [found[0]]

    # An id beyond the vocabulary can be neither drawn nor looked up: small models keep the defaults
    # of large ones.
    eos = tuple(i for i in find("eos_token_id") if i < cfg.decoder.vocab_size)
    pads = [i for i in (*find("pad_token_id"), *eos, 0) if i < cfg.decoder.vocab_size]
    return dataclasses.replace(cfg, eos_ids=eos, pad_id=pads[0])


def _check_preprocessor(directory: str, cfg: VlmConfig) -> None:
    """Pixels are normalised on the device with constants: a processor with others belongs to
    another model.
    """
    ours = write_preprocessor(cfg)
    for name, part in ((PREPROCESSOR, "image_processor"), (VIDEO_PREPROCESSOR, "video_processor")):
        path, found = _processor(directory, name, part)
        wrong = [
            f"{field} = {found[field]!r} is not supported, only {ours[field]!r}"
            for field in _PIXEL_FIELDS
            if found.get(field) is not None and not _near(found[field], ours[field])
        ]
        if wrong:
            raise ConfigError(
                "; ".join(wrong),
                where=path,
                hint=f"use a checkpoint with the {ours['processor_class']} of the hub",
            )


def _processor(directory: str, name: str, part: str) -> tuple[str, dict[str, Any]]:
    """(path, fields) of a processor: of the file `name`, or of the one file that transformers 5
    writes for all.
    """
    path = os.path.join(directory, name)
    if os.path.exists(path):
        return path, _read_json(path)
    path = os.path.join(directory, PROCESSOR)
    return path, _read_json(path).get(part) or {}


def pixel_limits(directory: str) -> tuple[int, int]:
    """(least, most) pixels of an image after its resize, as transformers' image processor has them
    in this directory.

    Raises:
      ConfigError: limits that are not numbers.
    """
    path, found = _processor(directory, PREPROCESSOR, "image_processor")
    if not found:
        return QOQ_PIXELS
    size = found.get("size") if isinstance(found.get("size"), dict) else {}
    limits = [
        found.get(old) if found.get(old) is not None else size.get(new, default)
        for old, new, default in zip(
            ("min_pixels", "max_pixels"), ("shortest_edge", "longest_edge"), PROCESSOR_PIXELS
        )
    ]
    if any(not isinstance(limit, int) or limit < 1 for limit in limits):
        raise ConfigError(
            f"sizes of images from {limits[0]!r} to {limits[1]!r} pixels",
            where=path,
            hint="give numbers of pixels",
        )
    return limits[0], limits[1]


def _near(a: Any, b: Any) -> bool:
    """Equal numbers, or lists of numbers, up to what decimal notation loses."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_near, a, b))
    return isinstance(a, (int, float)) and isinstance(b, (int, float)) and abs(a - b) < 1e-6


def architecture(cfg: VlmConfig) -> Architecture:
    """The published family that a configuration belongs to."""
    return QWEN3_VL if isinstance(cfg.vision, Qwen3VisionConfig) else QWEN2_5_VL


def write(cfg: VlmConfig, dtype: str, source: str | None = None) -> dict[str, Any]:
    """config.json of a model whose tensors have `dtype`; fields that change no number come from
    `source`, a directory.

    Raises:
      ConfigError: the family's config.json has no field for something that cfg says.
    """
    family = architecture(cfg)
    theirs = _read_json(os.path.join(source, CONFIG)) if source else {}
    theirs = {**theirs, **(theirs.get("text_config") or {})}
    idle = {
        "max_position_embeddings": 128000,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": cfg.pad_id,
    }
    idle |= {name: theirs[name] for name in IDLE if name in theirs}
    fields = {
        "architectures": [family.names[0]],
        "model_type": family.model_type,
        **family.write(cfg, idle, dtype),
    }
    fields |= {theirs: getattr(cfg, ours) for ours, theirs, _ in _TOKEN_IDS}
    if cfg.ecg is not None:
        fields["time_series_token_id"] = cfg.ecg_token_id
        fields["time_series_config"] = {"tokens": cfg.ecg_tokens, **dataclasses.asdict(cfg.ecg)}
    _check_says(family, cfg, fields)
    return fields


def _check_says(family: Architecture, cfg: VlmConfig, fields: dict[str, Any]) -> None:
    """Reads what was written: whoever loads the file must get the same model."""
    read = family.read(root := Section(fields), cfg.ecg is not None)
    elsewhere = {
        name: getattr(cfg, name) for name in ("eos_ids", "pad_id", "compute_dtype", "remat")
    }
    if cfg.ecg is None:  # then they mean nothing
        elsewhere |= {"ecg_tokens": cfg.ecg_tokens, "ecg_token_id": cfg.ecg_token_id}
    vision = dataclasses.replace(read.vision, max_frame_patches=cfg.vision.max_frame_patches)
    said, meant = (
        dataclasses.asdict(one)
        for one in (dataclasses.replace(read, vision=vision, **elsewhere), cfg)
    )
    lost = [
        f"{part}.{name} = {value!r}"
        for part in ("decoder", "vision")
        for name, value in meant[part].items()
        if value != said[part][name]
    ]
    lost += [
        f"{name} = {value!r}"
        for name, value in meant.items()
        if name not in ("decoder", "vision") and value != said[name]
    ]
    if lost or root.problems:
        raise ConfigError(
            f"{CONFIG} of {family.model_type} cannot say {', '.join(lost + root.problems)}",
            hint="export a model of a published family",
        )


def write_generation(cfg: VlmConfig) -> dict[str, Any]:
    """generation_config.json: greedy, with the model's end and pad tokens."""
    return {"do_sample": False, "eos_token_id": list(cfg.eos_ids), "pad_token_id": cfg.pad_id}


def write_preprocessor(cfg: VlmConfig) -> dict[str, Any]:
    """preprocessor_config.json of the image geometry and of the pixel statistics that the tower
    expects.
    """
    return {
        "image_processor_type": "Qwen2VLImageProcessor", "processor_class": architecture(cfg).processor,
        "image_mean": list(cfg.vision.pixel_mean), "image_std": list(cfg.vision.pixel_std), "rescale_factor": 1 / 255,
        # 3 = bicubic
        "do_normalize": True, "do_rescale": True, "do_convert_rgb": True, "do_resize": True, "resample": 3,
        "patch_size": cfg.vision.patch_size, "temporal_patch_size": cfg.vision.temporal_patch_size,
        "merge_size": cfg.vision.merge_size, "min_pixels": 4 * (cfg.vision.patch_size * cfg.vision.merge_size) ** 2,
        "max_pixels": cfg.vision.max_frame_patches * cfg.vision.patch_size**2,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------------
# What families share


def read_ecg(root: Section, width: int, has_ecg: bool, token_id: int) -> dict[str, Any]:
    """The ECG fields of VlmConfig; {"ecg": None, ...} without an encoder. token_id: that of the
    family's tokenizer.

    The released QoQ-Med code fixes the encoder's sizes and pools an ECG to one token, and its
    config.json says neither; `time_series_config`, which `write` adds, says both.
    """
    section = root.section("time_series_config")
    token = root.take("time_series_token_id", token_id)
    root.require("time_series_embed_dim", width)
    if section is None:
        return (
            {"ecg": variants.BASE_ECG, "ecg_tokens": 1, "ecg_token_id": token}
            if has_ecg
            else {"ecg": None, "ecg_token_id": token}
        )
    published = variants.BASE_ECG
    sizes = {
        field.name: section.take(
            field.name, getattr(published, field.name), type(getattr(published, field.name))
        )
        for field in dataclasses.fields(EcgConfig)
    }
    tokens = section.take("tokens", 1)
    section.finish()
    return {"ecg": EcgConfig(**sizes), "ecg_tokens": tokens, "ecg_token_id": token}


def read_rope(
    root: Section, text: Section, theta: float
) -> tuple[float, tuple[int, ...], Section | None]:
    """(theta, mrope_section, the rest of the rope fields) from rope_parameters or rope_scaling."""
    theta = text.take("rope_theta", root.take("rope_theta", theta, float), float)
    found = [
        section
        for place in {id(s): s for s in (text, root)}.values()
        for section in (place.section("rope_scaling"), place.section("rope_parameters"))
        if section
    ]
    if not found:
        text.problems.append(
            f"{text.name}rope_parameters is missing: the sections of M-RoPE are not known"
        )
        return theta, (), None
    if any(section.fields != found[0].fields for section in found[1:]):
        text.problems.append(f"{' and '.join(section.name[:-1] for section in found)} differ")
    rope = found[0]
    theta = rope.take("rope_theta", theta, float)
    # "mrope" is what older files call the default frequencies with sections.
    rope.require("rope_type", "default", "mrope")
    rope.require("type", "default", "mrope")
    sections = rope.take("mrope_section", [], list)
    if len(sections) != 3 or not all(isinstance(count, int) for count in sections):
        text.problems.append(f"{rope.name}mrope_section is {sections!r}, not three numbers")
    return theta, tuple(sections), rope


def same_everywhere(root: Section, text: Section) -> None:
    """Some versions write the text fields twice, flat and in text_config; transformers uses the
    latter.
    """
    if text is root:
        return
    for field in sorted(
        set(root.fields)
        & set(text.fields) - set(BOOKKEEPING) - set(IDLE) - {"rope_scaling", "rope_parameters"}
    ):
        if field != "tie_word_embeddings" and root.fields[field] != text.fields[field]:
            root.problems.append(
                f"{field} is {root.fields[field]!r} and in text_config {text.fields[field]!r}"
            )
        root.take(field, None, object if root.fields[field] is None else type(root.fields[field]))


def frame_patches(patch_size: int) -> int:
    """VisionConfig.max_frame_patches for images of MAX_PIXELS: up to a multiple of 64."""
    return -(-MAX_PIXELS // patch_size**2 // 64) * 64


def read_vision_rope(tower: Section) -> float:
    """The base of the vision tower's rotary frequencies; files of the hub leave it out."""
    rope = tower.section("rope_parameters")
    if rope is None:
        return PatchTower.rope_theta
    theta = rope.take("rope_theta", PatchTower.rope_theta, float)
    rope.require("rope_type", "axial", "default")
    rope.finish()
    return float(theta)


def read_text(
    root: Section, text: Section, theta: float, eps: float, **sizes: int
) -> tuple[dict[str, Any], Section | None]:
    """(the fields of DecoderConfig that both families have, the rest of the rope fields); `sizes`:
    the family's defaults.
    """
    found = {name: text.take(name, default) for name, default in sizes.items()}
    heads = found["num_attention_heads"]
    # null, as opposed to missing
    if "num_key_value_heads" in text.fields and not text.has("num_key_value_heads"):
        found["num_key_value_heads"] = heads
    theta, sections, rope = read_rope(root, text, theta)
    tied = text.take("tie_word_embeddings", False, bool) or root.take(
        "tie_word_embeddings", False, bool
    )
    text.require("hidden_act", "silu")
    text.require("use_sliding_window", False)
    text.require("attention_dropout", 0, 0.0)
    text.require("layer_types", ["full_attention"] * found["num_hidden_layers"])
    for field in ("eos_token_id", "pad_token_id"):  # read with generation_config.json
        for section in (text, root):
            section.take(field, None, list if isinstance(section.fields.get(field), list) else int)
    decoder = dict(
        vocab_size=found["vocab_size"], width=found["hidden_size"], num_layers=found["num_hidden_layers"], num_heads=heads,
        num_kv_heads=found["num_key_value_heads"], mlp_dim=found["intermediate_size"], tied_embeddings=tied,
        mrope_section=sections, rope_theta=float(theta), norm_eps=text.take("rms_norm_eps", eps, float),
    )  # fmt: skip
    return decoder, rope


def read_tower(
    tower: Section, out_width: int, act: str, patch_size: int, **sizes: int
) -> dict[str, Any]:
    """The fields of PatchTower; `sizes`: the family's defaults."""
    tower.require("hidden_act", act)
    tower.require("out_hidden_size", out_width, default=3584)
    # These are built into the pipeline's patches and their order.
    tower.require("spatial_merge_size", PatchTower.merge_size)
    tower.require("temporal_patch_size", keys.PATCH_FRAMES)
    tower.require("in_channels", 3)
    tower.require("in_chans", 3)
    found = {name: tower.take(name, default) for name, default in sizes.items()}
    patch = tower.take("patch_size", patch_size)
    return dict(
        width=found["hidden_size"], depth=found["depth"], num_heads=found["num_heads"], mlp_dim=found["intermediate_size"],
        patch_size=patch, max_frame_patches=frame_patches(patch), rope_theta=read_vision_rope(tower),
    )  # fmt: skip


def write_text(cfg: VlmConfig) -> dict[str, Any]:
    """The fields of the decoder that both families have."""
    text = cfg.decoder
    return {
        "vocab_size": text.vocab_size, "hidden_size": text.width, "intermediate_size": text.mlp_dim,
        "num_hidden_layers": text.num_layers, "num_attention_heads": text.num_heads, "num_key_value_heads": text.num_kv_heads,
        "hidden_act": "silu", "rms_norm_eps": text.norm_eps, "attention_dropout": 0.0, "rope_theta": text.rope_theta,
        "tie_word_embeddings": text.tied_embeddings, "pad_token_id": cfg.pad_id,
        "eos_token_id": cfg.eos_ids[0] if cfg.eos_ids else None,
    }  # fmt: skip


def write_tower(cfg: VlmConfig) -> dict[str, Any]:
    """The fields of the vision tower that both families have."""
    tower = cfg.vision
    fields = {
        "hidden_size": tower.width, "depth": tower.depth, "num_heads": tower.num_heads, "intermediate_size": tower.mlp_dim,
        "out_hidden_size": cfg.decoder.width, "in_channels": 3, "patch_size": tower.patch_size,
        "spatial_merge_size": tower.merge_size, "temporal_patch_size": tower.temporal_patch_size,
    }  # fmt: skip
    if tower.rope_theta != PatchTower.rope_theta:  # the hub's files do not have the field
        fields["rope_parameters"] = {"rope_type": "axial", "rope_theta": tower.rope_theta}
    return fields


_TOKEN_IDS = (
    ("image_token_id", "image_token_id", 151655), ("video_token_id", "video_token_id", 151656),
    ("vision_start_id", "vision_start_token_id", 151652), ("vision_end_id", "vision_end_token_id", 151653),
)  # fmt: skip


def _sections(root: Section) -> tuple[Section, Section]:
    """(text_config, or the root of a flat file; vision_config)."""
    text = root.section("text_config") or root
    tower = root.section("vision_config") or Section({}, "vision_config.", root.problems)
    same_everywhere(root, text)
    return text, tower


def _finish(*sections: Section | None) -> None:
    for section in {id(one): one for one in sections if one}.values():
        section.finish()


# ------------------------------------------------------------------------------------------------------------
# Qwen2.5-VL


def _read_qwen2_5_vl(root: Section, has_ecg: bool) -> VlmConfig:
    text, tower = _sections(root)
    decoder, rope = read_text(
        root,
        text,
        theta=1e6,
        eps=1e-5,
        vocab_size=152064,
        hidden_size=8192,
        intermediate_size=29568,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
    )
    width, heads = decoder["width"], decoder["num_heads"]
    if width % heads:
        raise ConfigError(f"hidden_size {width} does not divide into {heads} heads")
    text.require("head_dim", width // heads)
    vision = read_tower(
        tower, width, "silu", 14, hidden_size=3584, depth=32, num_heads=16, intermediate_size=3420
    )
    vision["window"] = tower.take("window_size", 112)
    vision["full_attention_blocks"] = tuple(
        tower.take("fullatt_block_indexes", [7, 15, 23, 31], list)
    )
    seconds = tower.take("tokens_per_second", 4)
    ids = {ours: root.take(theirs, default) for ours, theirs, default in _TOKEN_IDS}
    ecg = read_ecg(root, width, has_ecg, VlmConfig.ecg_token_id)
    _finish(root, text, tower, rope)
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
        "model_type": "qwen2_5_vl", "hidden_act": "silu", "in_chans": 3, "spatial_patch_size": cfg.vision.patch_size,
        "window_size": cfg.vision.window, "fullatt_block_indexes": list(cfg.vision.full_attention_blocks),
        "tokens_per_second": cfg.tokens_per_second, **write_tower(cfg),
    }  # fmt: skip
    return {
        "torch_dtype": dtype, **idle, **write_text(cfg), "use_sliding_window": False, "vision_config": tower,
        "rope_scaling": {"type": "mrope", "mrope_section": list(cfg.decoder.mrope_section)},
    }  # fmt: skip


QWEN2_5_VL = Architecture(
    model_type="qwen2_5_vl",
    # The second name is QoQ-Med's: the same model with an ECG encoder.
    names=("Qwen2_5_VLForConditionalGeneration", "TimeSeriesQwen2_5_VLForConditionalGeneration"),
    processor="Qwen2_5_VLProcessor",
    read=_read_qwen2_5_vl,
    write=_write_qwen2_5_vl,
    published_name=lambda name: name,
)


# ------------------------------------------------------------------------------------------------------------
# Qwen3-VL, dense


def _read_qwen3_vl(root: Section, has_ecg: bool) -> VlmConfig:
    text, tower = _sections(root)
    decoder, rope = read_text(
        root,
        text,
        theta=5e5,
        eps=1e-6,
        vocab_size=151936,
        hidden_size=4096,
        intermediate_size=22016,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
    )
    text.require("attention_bias", False)
    if rope:
        rope.require("mrope_interleaved", True)
    vision = read_tower(
        tower,
        decoder["width"],
        "gelu_pytorch_tanh",
        16,
        hidden_size=1152,
        depth=27,
        num_heads=16,
        intermediate_size=4304,
    )
    positions = tower.take("num_position_embeddings", 2304)
    if (side := math.isqrt(max(positions, 0))) ** 2 != positions:
        tower.problems.append(
            f"vision_config.num_position_embeddings = {positions} is not a square"
        )
    deepstack = tuple(tower.take("deepstack_visual_indexes", [8, 16, 24], list))
    ids = {ours: root.take(theirs, default) for ours, theirs, default in _TOKEN_IDS}
    ecg = read_ecg(root, decoder["width"], has_ecg, variants.QWEN3_ECG_TOKEN_ID)
    head_dim = text.take("head_dim", 128)
    _finish(root, text, tower, rope)
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
    text = {
        "model_type": "qwen3_vl_text", "dtype": dtype, **idle, **write_text(cfg), "head_dim": cfg.decoder.head_dim,
        "attention_bias": False, "rope_scaling": {
            "rope_type": "default", "mrope_section": list(cfg.decoder.mrope_section), "mrope_interleaved": True},
    }  # fmt: skip
    tower = {
        "model_type": "qwen3_vl", "hidden_act": "gelu_pytorch_tanh", "num_position_embeddings": cfg.vision.position_grid**2,
        "deepstack_visual_indexes": list(cfg.vision.deepstack_blocks), **write_tower(cfg),
    }  # fmt: skip
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
