"""config.json <-> VlmConfig, and the files beside it that say how a model is used.

Every field is used, or known to change nothing that is computed here, or refused by name; see
`fields` for the forms that are read and `architectures` for the families.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from qoq_jax.base import files
from qoq_jax.base.errors import ConfigError
from qoq_jax.hf import adapter, architectures
from qoq_jax.hf.architectures import ARCHITECTURES, TOKEN_IDS, Architecture
from qoq_jax.hf.fields import IDLE, Section, normalised
from qoq_jax.models.sizes import VlmConfig

CONFIG, GENERATION = "config.json", "generation_config.json"
PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
VIDEO_PREPROCESSOR = "video_preprocessor_config.json"
QOQ_PIXELS = (65_536, 524_288)  # least and most of an image in QoQ-Med
PROCESSOR_PIXELS = (56 * 56, 28 * 28 * 1280)  # the defaults of transformers' Qwen2VLImageProcessor
# What a processor may not say differently: how pixels become the numbers that the tower reads.
_PIXEL_FIELDS = (
    "image_mean",
    "image_std",
    "patch_size",
    "temporal_patch_size",
    "merge_size",
    "rescale_factor",
    "do_normalize",
    "do_rescale",
    "do_convert_rgb",
    "resample",
)


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
    fields = _read_json(path, required=True)
    try:
        cfg = parse(fields, has_ecg)
    except ConfigError as error:
        raise ConfigError(
            error.what,
            where=path,
            hint=error.hint or "use a checkpoint of a supported configuration",
        ) from error
    _check_preprocessor(directory, cfg)
    return _with_generation_ids(cfg, fields, _read_json(os.path.join(directory, GENERATION)))


def parse(fields: dict[str, Any], has_ecg: bool = False) -> VlmConfig:
    """The configuration that the content of a config.json describes; eos_ids and pad_id as for the
    variants.

    Raises:
      ConfigError: an unknown architecture, or fields that are not supported; all are named.
    """
    model_type, names = fields.get("model_type"), fields.get("architectures") or []
    known = ARCHITECTURES.get(model_type)
    if known is None or any(name not in known.names for name in names):
        what = f"model_type {model_type!r}, architectures {names!r}"
        supported = ", ".join(name for one in ARCHITECTURES.values() for name in one.names)
        raise ConfigError(f"unsupported architecture: {what}", hint=f"supported: {supported}")
    cfg, root = None, Section(normalised(fields))
    try:
        cfg = known.read(root, has_ecg)
    except ConfigError as error:
        root.problems.append(error.what)
    if root.problems:
        raise ConfigError("; ".join(root.problems))
    return cfg


def _read_json(path: str, required: bool = False) -> dict[str, Any]:
    if not required and not os.path.exists(path):
        return {}
    hint = "give a Hugging Face model directory"
    content = files.read_json(path, finite=False, error=ConfigError, hint=hint)
    if not isinstance(content, dict):
        raise ConfigError("cannot be read (it is not an object)", where=path, hint=hint)
    return content


def _with_generation_ids(
    cfg: VlmConfig, fields: dict[str, Any], generation: dict[str, Any]
) -> VlmConfig:
    """End and pad tokens, in the order in which transformers' generate takes them:
    generation_config.json, the root of config.json, its text_config.
    """
    places = (generation, fields, fields.get("text_config") or {})

    def find(field: str) -> list[int]:
        found = [place[field] for place in places if place.get(field) is not None]
        return [] if not found else found[0] if isinstance(found[0], list) else [found[0]]

    # An id beyond the vocabulary can be neither sampled nor looked up: small models keep the
    # defaults of large ones.
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
    if path := adapter.find(directory, name):
        return path, _read_json(path)
    path = adapter.find(directory, PROCESSOR) or os.path.join(directory, PROCESSOR)
    return path, _read_json(path).get(part) or {}


def quantization(directory: str) -> dict[str, Any] | None:
    """quantization_config of a directory; `read` refuses those that are not supported."""
    return _read_json(os.path.join(directory, CONFIG)).get("quantization_config")


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


def write(cfg: VlmConfig, dtype: str, source: str | None = None) -> dict[str, Any]:
    """config.json of a model whose tensors have `dtype`; fields that change no number come from
    `source`, a directory.

    Raises:
      ConfigError: the family's config.json has no field for something that cfg says.
    """
    family = architectures.of(cfg)
    found = adapter.find(source, CONFIG) if source else None
    theirs = _read_json(found) if found else {}
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
    fields |= {theirs: getattr(cfg, ours) for ours, theirs in TOKEN_IDS}
    if cfg.ecg is not None:
        fields["time_series_token_id"] = cfg.ecg_token_id
        fields["time_series_config"] = {"tokens": cfg.ecg_tokens, **dataclasses.asdict(cfg.ecg)}
    _check_says(family, cfg, fields)
    return fields


def _check_says(family: Architecture, cfg: VlmConfig, fields: dict[str, Any]) -> None:
    """Reads what was written: whoever loads the file must get the same model."""
    try:
        read = parse(fields, cfg.ecg is not None)
    except ConfigError as error:
        lost = [error.what]
    else:
        elsewhere = {
            name: getattr(cfg, name)
            for name in ("eos_ids", "pad_id", "compute_dtype", "remat", "attention")
        }
        if cfg.ecg is None:  # then they mean nothing
            elsewhere |= {"ecg_tokens": cfg.ecg_tokens, "ecg_token_id": cfg.ecg_token_id}
        vision = dataclasses.replace(read.vision, max_frame_patches=cfg.vision.max_frame_patches)
        lost = _differences(dataclasses.replace(read, vision=vision, **elsewhere), cfg)
    if lost:
        raise ConfigError(
            f"{CONFIG} of {family.model_type} cannot say {', '.join(lost)}",
            hint="export a model of a published family",
        )


def _differences(said: VlmConfig, meant: VlmConfig) -> list[str]:
    """What `meant` has and `said` has not, as "decoder.width = 64"."""
    said_fields, meant_fields = dataclasses.asdict(said), dataclasses.asdict(meant)
    nested = ("decoder", "vision")
    found = [
        f"{part}.{name} = {value!r}"
        for part in nested
        for name, value in meant_fields[part].items()
        if value != said_fields[part].get(name)
    ]
    return found + [
        f"{name} = {value!r}"
        for name, value in meant_fields.items()
        if name not in nested and value != said_fields[name]
    ]


def write_generation(cfg: VlmConfig) -> dict[str, Any]:
    """generation_config.json: greedy, with the model's end and pad tokens."""
    return {"do_sample": False, "eos_token_id": list(cfg.eos_ids), "pad_token_id": cfg.pad_id}


def write_preprocessor(cfg: VlmConfig) -> dict[str, Any]:
    """preprocessor_config.json of the image geometry and of the pixel statistics that the tower
    expects.
    """
    vision = cfg.vision
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": architectures.of(cfg).processor,
        "image_mean": list(vision.pixel_mean),
        "image_std": list(vision.pixel_std),
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_rescale": True,
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": 3,  # bicubic
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.merge_size,
        "min_pixels": 4 * (vision.patch_size * vision.merge_size) ** 2,
        "max_pixels": vision.max_frame_patches * vision.patch_size**2,
    }
