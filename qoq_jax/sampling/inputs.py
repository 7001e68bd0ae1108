"""Samples as a user has them -> the samples that data/packing.py packs. All checks are here, before
any compute.

A sample is a dict in one of two forms.

  In files and arrays: {"prompt": text, "images": ..., "videos" or "volumes": ..., "ecg": ...}; one
    medium or a list.
    image           a path, a PIL image, or an array: grey [h, w] of any numbers, uint8 [h, w, 3]
                    or [h, w, 4]; all of them give the pixels of the same picture as a file
    video, volume   a path (NIfTI, NRRD, video, DICOM, TIFF, .npz), or an array: grey [frames, h, w]
                    of any numbers, uint8 [frames, h, w, 3]
    ecg             a path (WFDB, DICOM, .npz), float [8, 2500] in mV (I, II, V1..V6, 10 s at 250
                    Hz), or {"signal": [leads, n] in mV, "fs": Hz, "leads": names}

  Already processed: {"input_ids": int [T], "patches": [N, 1176], "grid_thw": int [I, 3], "ecg":
    [8, 2500] or [E, 8, 2500]}. input_ids hold one pad token for each merged patch or ECG token.
    patches are uint8 pixels or floats that are normalised already, in the order of Hugging Face's
    image processor; grids and patches of images come before those of videos.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from qoq_jax.base.errors import DataError, did_you_mean
from qoq_jax.data import images, readers
from qoq_jax.data import sample as transforms
from qoq_jax.data.meta import SampleMeta
from qoq_jax.data.readers import image as pictures
from qoq_jax.data.readers.ecg import standard_leads
from qoq_jax.data.sample import ECG_SHAPE, ProcessConfig, naming
from qoq_jax.data.tokenizer import Tokenizer
from qoq_jax.models.sizes import VlmConfig

FILE_KEYS = ("prompt", "images", "videos", "volumes", "ecg")
PROCESSED_KEYS = ("input_ids", "patches", "grid_thw", "ecg")


def prepare(
    samples: Sequence[Mapping[str, Any]],
    model: VlmConfig,
    process: ProcessConfig,
    tokenizer: Tokenizer | None,
) -> list[dict[str, Any]]:
    """The samples as data/packing.py takes them: the dicts of transforms.process, in order.

    Raises:
      DataError: naming the sample and the field; whatever is wrong with it.
    """
    if isinstance(samples, Mapping) or isinstance(samples, str):
        raise DataError(
            "samples must be a list of dicts", hint="put the sample in a list: [sample]"
        )
    return [
        _one(sample, f"sample {i}", model, process, tokenizer) for i, sample in enumerate(samples)
    ]


def _one(
    sample, name: str, model: VlmConfig, process: ProcessConfig, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    if not isinstance(sample, Mapping):
        raise DataError(
            f"is a {type(sample).__name__}",
            where=name,
            hint='give a dict with "prompt" or "input_ids"',
        )
    processed = "input_ids" in sample
    known = PROCESSED_KEYS if processed else FILE_KEYS
    for key in sample:
        if key not in known:
            raise DataError(
                f"unknown field {key!r}",
                where=name,
                hint=did_you_mean(key, known, "known are " + ", ".join(known)),
            )
    made = (_processed if processed else _in_files)(sample, name, model, process, tokenizer)
    meta = SampleMeta(
        id=name,
        dataset="",
        domain="",
        labels=(),
        vocabulary=(),
        boxes=(),
        box_labels=(),
        box_images=(),
        mask=None,
        frame_sizes=made.pop("frame_sizes", ()),
        source="",
        row=None,
        box_coordinates=process.box_coordinates,
    )
    return made | {"prompt_length": len(made["input_ids"]), "meta": meta}


# --------------------------------------------------------------------------------- files and arrays


def _in_files(sample, name, model, process: ProcessConfig, tokenizer) -> dict[str, Any]:
    if not isinstance(sample.get("prompt"), str):
        raise DataError("has no prompt", where=name, hint='give "prompt": a text')
    if tokenizer is None:
        raise DataError(
            "the model has no tokenizer, so it cannot read a prompt",
            where=name,
            hint='put tokenizer.json beside the weights, or give "input_ids"',
        )
    stills, clips = [], []
    for i, image in enumerate(_listed(sample, "images")):
        where = f"{name}, images[{i}]"
        stills.append(
            transforms.resize(_image(image, where)[None], process, process.max_pixels, where)
        )
    for key in ("videos", "volumes"):
        for i, clip in enumerate(_listed(sample, key)):
            where = f"{name}, {key}[{i}]"
            clips.append(
                transforms.resize(
                    _frames(clip, process.frames, where), process, process.frame_max_pixels, where
                )
            )
    ecg = [
        _ecg(signal, _ecg_name(name, sample, i), process.ecg_length)
        for i, signal in enumerate(_listed(sample, "ecg"))
    ]
    _check_has_ecg(model, ecg, name)
    cut = [
        images.patchify(stack, patch=process.patch, temporal=process.temporal, merge=process.merge)
        for stack in (*stills, *clips)
    ]
    grids = [grid for _, grid in cut]
    still = len(stills)
    ids = transforms.prompt_ids(
        sample["prompt"],
        grids[:still],
        grids[still:],
        len(ecg),
        tokenizer,
        process,
        f"{name}, prompt",
    )
    with naming(name):
        made = transforms.arrange(
            np.array(ids, np.int32), [p for p, _ in cut], grids[:still], grids[still:], ecg, process
        )
    return made | {"frame_sizes": tuple(x.shape[2:0:-1] for x in (*stills, *clips))}


def _listed(sample: Mapping[str, Any], key: str) -> list[Any]:
    """The media of a kind: one, a list or tuple of them, or none."""
    value = sample.get(key)
    if value is None:
        return []
    if key == "ecg" and isinstance(value, np.ndarray) and value.ndim == 3:
        return list(value)
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _ecg_name(name: str, sample, i: int) -> str:
    return f"{name}, ecg[{i}]" if len(_listed(sample, "ecg")) > 1 else f"{name}, ecg"


def _image(image: Any, where: str) -> np.ndarray:
    """uint8 [h, w, 3]."""
    if isinstance(image, (str, os.PathLike)):
        with naming(where):
            return readers.read_image(image)
    if isinstance(image, Image.Image):
        return pictures.from_picture(image, where)
    return pictures.from_array(np.asarray(image), where)


def _frames(clip: Any, count: int, where: str) -> np.ndarray:
    """uint8 [count, h, w, 3]; an array of more frames is thinned out like a file."""
    if isinstance(clip, (str, os.PathLike)):
        with naming(where):
            return readers.read_frames(clip, count)
    frames = pictures.from_array(np.asarray(clip), where, frames=True)
    return frames[readers.frame_indices(len(frames), count)]


def _ecg(signal: Any, where: str, length: readers.EcgLength) -> np.ndarray:
    """float32 [8, 2500] in mV."""
    if isinstance(signal, (str, os.PathLike)):
        with naming(where):
            return transforms.check_ecg(readers.read_ecg(signal, length=length), where)
    if isinstance(signal, Mapping):
        missing = [key for key in ("signal", "fs", "leads") if key not in signal]
        if missing:
            raise DataError(
                "lacks " + ", ".join(missing),
                where=where,
                hint='give {"signal", "fs", "leads"}, a path, or [8, 2500]',
            )
        try:
            values, rate, leads = (
                np.asarray(signal["signal"], np.float64),
                float(signal["fs"]),
                [str(n) for n in signal["leads"]],
            )
        except (TypeError, ValueError):
            raise DataError(
                "signal or fs is not made of numbers", where=where, hint="give mV and Hz as numbers"
            ) from None
        return transforms.check_ecg(standard_leads(values, rate, leads, where, length), where)
    values = np.asarray(signal)
    if values.dtype.kind not in "fiu":
        raise DataError(f"is {values.dtype}, not numbers", where=where, hint="give mV as floats")
    return transforms.check_ecg(values, where)


def _check_has_ecg(model: VlmConfig, ecg: Sequence[Any], name: str) -> None:
    if len(ecg) and model.ecg is None:
        raise DataError(
            "has an ECG, and the model no ECG encoder",
            where=name,
            hint="load weights with time_series_embedding",
        )


# -------------------------------------------------------------------------------- already processed


def _processed(sample, name, model: VlmConfig, process: ProcessConfig, tokenizer) -> dict[str, Any]:
    del tokenizer
    ids = np.asarray(sample["input_ids"])
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or not len(ids):
        raise DataError(
            f"is {ids.dtype} {list(ids.shape)}",
            where=f"{name}, input_ids",
            hint="give integers [T], without a batch axis",
        )
    room = (
        model.decoder.vocab_size
        if model.ecg is None
        else max(model.decoder.vocab_size, model.ecg_token_id + 1)
    )
    if ids.min() < 0 or ids.max() >= room:
        raise DataError(
            f"ids run from {ids.min()} to {ids.max()}, the vocabulary has "
            f"{model.decoder.vocab_size}",
            where=f"{name}, input_ids",
            hint="use the tokenizer of the model",
        )
    size = model.vision.patch_dim
    sample = {key: value for key, value in sample.items() if value is not None}
    patches = np.asarray(sample.get("patches", np.zeros((0, size), np.uint8)))
    if (
        patches.ndim != 2
        or patches.shape[1] != size
        or (patches.dtype.kind != "f" and patches.dtype != np.uint8)
    ):
        raise DataError(
            f"is {patches.dtype} {list(patches.shape)}",
            where=f"{name}, patches",
            hint=f"give uint8 pixels or normalised floats [N, {size}]",
        )
    if patches.dtype.kind == "f":
        patches = patches.astype(np.float32)
        if not np.isfinite(patches).all():
            raise DataError(
                "has NaN or infinite values",
                where=f"{name}, patches",
                hint="process the image again",
            )
    grids = _grids(sample, name, model, len(patches))
    ecg = np.asarray(sample.get("ecg", np.zeros((0, *ECG_SHAPE), np.float32)))
    ecg = [
        _ecg(signal, f"{name}, ecg", process.ecg_length)
        for signal in (ecg if ecg.ndim == 3 else ecg[None])
    ]
    _check_has_ecg(model, ecg, name)
    of_images = int(np.isin(ids, (process.image_token_id, process.video_token_id)).sum())
    transforms.check_length(len(ids), of_images, process, f"{name}, input_ids")
    still = _stills(ids, grids, process)
    with naming(f"{name}, input_ids"):
        return transforms.arrange(
            ids.astype(np.int32), [patches], grids[:still], grids[still:], ecg, process
        )


def _grids(sample, name: str, model: VlmConfig, patches: int) -> list[tuple[int, int, int]]:
    grids = np.asarray(sample.get("grid_thw", np.zeros((0, 3), np.int64)))
    where, merge, room = (
        f"{name}, grid_thw",
        model.vision.merge_size,
        model.vision.max_frame_patches,
    )
    if (
        grids.ndim != 2
        or grids.shape[1] != 3
        or grids.dtype.kind not in "iu"
        or (grids < 1).any()
        or (grids[:, 1:] % merge).any()
    ):
        raise DataError(
            f"is {grids.tolist()}",
            where=where,
            hint="give integers [I, 3]: time, height and width in patches, the last two "
            f"multiples of {merge}",
        )
    if (total := int(grids.prod(axis=1).sum())) != patches:
        raise DataError(
            f"the grids hold {total} patches, patches has {patches}",
            where=where,
            hint="give the grid of each image",
        )
    if len(grids) and (largest := int(grids[:, 1:].prod(axis=1).max())) > room:
        raise DataError(
            f"a frame of {largest} patches, the model takes {room}",
            where=where,
            hint="use smaller images",
        )
    return [tuple(int(n) for n in grid) for grid in grids]


def _stills(ids: np.ndarray, grids: Sequence[tuple[int, int, int]], process: ProcessConfig) -> int:
    """How many of the grids are images: as many as fill the image tokens, the others being videos."""
    tokens, count = int((ids == process.image_token_id).sum()), 0
    for t, h, w in grids:
        if tokens <= 0:
            break
        tokens, count = tokens - t * h * w // process.merge**2, count + 1
    return count
