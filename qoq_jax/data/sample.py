"""One row becomes one sample: media, patches, tokens, positions, and regions in the model's frame.

Axis letters: t tokens, n patches, u = n/4 vision tokens, e ECGs, h w pixels of the resized frame.

Every rule that a sample can break is a DataError that names the row, the field and a hint. Nothing
is truncated, replaced or guessed: an image whose tokens are cut does not match its features (EasyR1
issue 175).

ECG scale: ECG-JEPA's public training code (sehunfromdaegu/ECG_JEPA, ecg_data.py) feeds the physical
signal of the record, in mV, resampled to 250 Hz, without filter and without normalisation; records
with NaN or with a silent start are dropped. So mV pass through unchanged here (a z-score would
erase voltage criteria such as those of hypertrophy), and what cannot be such a record is an error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.data import chat, images, media, positions, readers
from qoq_jax.data import rows as schema
from qoq_jax.data.answer_format import PIXELS, RELATIVE_1000
from qoq_jax.data.meta import SampleMeta
from qoq_jax.data.tokenizer import ECG_TOKEN, END_OF_TURN, Tokenizer
from qoq_jax.models.sizes import Qwen3VisionConfig, VlmConfig

TEXT, VISION, ECG = 0, 1, 2  # values of media_kind
ECG_SHAPE = (8, 2500)
MAX_MILLIVOLT = 50.0  # no surface ECG is larger; a signal in µV or in ADC units is

# numpy parses .npy headers with `ast`, which fails at random in two threads of CPython 3.11
# (gh-106905).
_NPZ_LOCK = threading.Lock()


@dataclasses.dataclass(frozen=True)
class ProcessConfig:
    """What `process` needs to know of the model and of the budget.

    Attributes:
      image_token_id, video_token_id, ecg_token_id: pad tokens of the media; None: the model has no
        ECG encoder.
      window: side of a vision window in pixels, 0 = none. patch, merge, temporal: as in
        VisionConfig.
      timestamps: each temporal step of a video has its time as text before it, and none in its
        positions (Qwen3-VL).
      ecg_tokens: tokens per ECG.
      tokens_per_second: M-RoPE time steps per second of video.
      min_pixels, max_pixels: bounds of an image's area after the resize.
      frame_max_pixels: upper bound of a frame of a video or volume.
      frames: frames read of a video or volume.
      seconds_per_grid: seconds between temporal patches. Frames are sampled uniformly from clips
        and volumes without a common clock, so a fixed value: 1 s is Qwen's default of 2 frames per
        second.
      max_prompt_tokens, max_response_tokens: a longer sample is an error.
      system: system turn of the prompt; "" leaves it out. opening: words that responses are made to
        begin with.
    """

    image_token_id: int
    video_token_id: int
    ecg_token_id: int | None
    window: int = 112
    patch: int = 14
    merge: int = 2
    temporal: int = 2
    timestamps: bool = False
    ecg_tokens: int = 50
    tokens_per_second: float = 2
    min_pixels: int = 65_536
    max_pixels: int = 524_288
    frame_max_pixels: int = 131_072
    frames: int = 4
    seconds_per_grid: float = 1.0
    max_prompt_tokens: int = 4000
    max_response_tokens: int = 4000
    system: str = chat.SYSTEM
    opening: str = ""
    answer_only: bool = False  # gold answers are the diagnosis alone
    # what becomes of an ECG under 10 s, as `read_ecg` says
    ecg_length: readers.EcgLength = "refuse"
    box_coordinates: str = PIXELS  # how boxes are written, see data/answer_format.py

    @classmethod
    def for_model(cls, model: VlmConfig, **budget: Any) -> ProcessConfig:
        """The config that fits a model; `budget` sets pixels, frames, token limits and system.

        box_coordinates "" (or absent) means those of the model family.
        """
        qwen3 = isinstance(model.vision, Qwen3VisionConfig)
        coordinates = budget.pop("box_coordinates", "") or (RELATIVE_1000 if qwen3 else PIXELS)
        made = cls(
            image_token_id=model.image_token_id,
            video_token_id=model.video_token_id,
            ecg_token_id=None if model.ecg is None else model.ecg_token_id,
            window=model.vision.window,
            patch=model.vision.patch_size,
            merge=model.vision.merge_size,
            temporal=model.vision.temporal_patch_size,
            timestamps=qwen3,
            box_coordinates=coordinates,
            ecg_tokens=model.ecg_tokens,
            tokens_per_second=model.tokens_per_second,
            **budget,
        )
        room = model.vision.max_frame_patches * model.vision.patch_size**2
        if (largest := max(made.max_pixels, made.frame_max_pixels)) > room:
            raise ConfigError(
                f"images of {largest} pixels, the model takes {room}",
                hint="lower data.max_pixels and data.frame_max_pixels",
            )
        return made

    @property
    def patch_dim(self) -> int:
        """Values in one flat patch."""
        return 3 * self.temporal * self.patch**2

    def token_ids(self) -> dict[str, int]:
        """Ids to compare with the tokenizer: `tokenizer.check(cfg.token_ids())`."""
        ids = {"<|image_pad|>": self.image_token_id, "<|video_pad|>": self.video_token_id}
        return ids if self.ecg_token_id is None else ids | {ECG_TOKEN: self.ecg_token_id}


def process(
    row: schema.Row,
    root: str | os.PathLike,
    tokenizer: Tokenizer,
    cfg: ProcessConfig,
    with_answer: bool = False,
) -> dict[str, Any]:
    """Makes the sample of a row.

    Args:
      row: validated row.
      root: folder that the row's paths are relative to, or its URL.
      with_answer: append the gold answer and the end-of-turn token (supervised training).

    Returns a dict:
      input_ids int32 [t]: prompt with media pads, then the answer.
      prompt_length int.
      positions int32 [3, t]: M-RoPE.
      media_kind int8 [t]: 0 text, 1 vision, 2 ECG; media_index int32 [t]: which vision (0..u-1) or
        ECG (0..e*ecg_tokens-1) token of the sample stands there, -1 for text. Vision tokens are
        numbered in the window order in which the vision tower emits them.
      patches uint8 [n, patch_dim], patch_hw int32 [n, 2], patch_frame, patch_window int32 [n]: see
      images.py. ecg float32 [e, 8, 2500] in mV. meta: SampleMeta.

    Raises:
      DataError: whatever is wrong with the row or its media.
    """
    with media.opened(root) as folder:
        return _process(row, folder, tokenizer, cfg, with_answer)


def _process(
    row: schema.Row,
    root: str | os.PathLike,
    tokenizer: Tokenizer,
    cfg: ProcessConfig,
    with_answer: bool,
) -> dict[str, Any]:
    def here(field: str) -> str:
        return f"row {row.id!r}, {field}"

    wrong = [label for label in row.answers if row.labels and label not in row.labels]
    if wrong or not row.answers:
        raise DataError(
            f"{wrong or row.answer!r} is not among the labels",
            where=here("answer"),
            hint="correct the row",
        )

    if row.time_series and cfg.ecg_token_id is None:
        raise DataError(
            "an ECG, and the model has no ECG encoder",
            where=here("time-series"),
            hint="set model.ecg_tokens",
        )
    read = [read_medium(readers.read_image, root, path, here("images")) for path in row.images]
    stacks = [resize(image[None], cfg, cfg.max_pixels, here("images")) for image in read]
    clips = [
        read_medium(readers.read_frames, root, path, here("videos"), cfg.frames)
        for path in row.videos
    ]
    stacks += [resize(clip, cfg, cfg.frame_max_pixels, here("videos")) for clip in clips]
    cut = [
        images.patchify(stack, patch=cfg.patch, temporal=cfg.temporal, merge=cfg.merge)
        for stack in stacks
    ]
    lengths: list[str] = []
    read_ecg = functools.partial(
        readers.read_ecg, root=root, length=cfg.ecg_length, note=lengths.append
    )
    signals = [read_medium(read_ecg, root, path, here("time-series")) for path in row.time_series]
    ecg = [check_ecg(signal, here("time-series")) for signal in signals]

    grids = [grid for _, grid in cut]
    still = len(read)
    prompt = prompt_ids(
        row.problem, grids[:still], grids[still:], len(ecg), tokenizer, cfg, here("problem")
    )
    meta = _meta(row, root, read + clips, stacks, cfg, here)
    meta = dataclasses.replace(meta, ecg_lengths=tuple(lengths))
    answer = _answer_ids(row, meta, tokenizer, cfg) if with_answer else []
    sample = arrange(
        np.array(prompt + answer, np.int32),
        [patches for patches, _ in cut],
        grids[:still],
        grids[still:],
        ecg,
        cfg,
    )
    return sample | {"prompt_length": len(prompt), "meta": meta}


def _answer_ids(
    row: schema.Row, meta: SampleMeta, tokenizer: Tokenizer, cfg: ProcessConfig
) -> list[int]:
    """Token ids of the gold answer and the end of its turn."""
    with naming(f"row {row.id!r}"):
        text = chat.answer_text(
            row.answers,
            meta.boxes,
            meta.box_labels,
            row.reasoning or "",
            meta.frame_sizes,
            cfg.answer_only,
            meta.box_images,
            cfg.box_coordinates,
        )
    ids = [*tokenizer.encode(text), tokenizer.special_ids[END_OF_TURN]]
    if len(ids) > cfg.max_response_tokens:
        raise DataError(
            f"the answer takes {len(ids)} tokens, the limit is {cfg.max_response_tokens}",
            where=f"row {row.id!r}, answer",
            hint="raise data.max_response_tokens or shorten the reasoning",
        )
    return ids


def prompt_ids(
    problem: str,
    image_grids: Sequence[tuple[int, int, int]],
    video_grids: Sequence[tuple[int, int, int]],
    ecgs: int,
    tokenizer: Tokenizer,
    cfg: ProcessConfig,
    where: str,
) -> list[int]:
    """Token ids of the prompt with the pads of its media; DataError when it is longer than
    cfg.max_prompt_tokens.
    """
    still, moving = (
        [t * h * w // cfg.merge**2 for t, h, w in grids] for grids in (image_grids, video_grids)
    )
    times = positions.step_times(cfg.frames, cfg.seconds_per_grid, cfg.temporal)
    parts = chat.prompt_parts(
        problem,
        images=still,
        videos=moving,
        ecgs=[cfg.ecg_tokens] * ecgs,
        video_times=[times] * len(moving) if cfg.timestamps else (),
        system=cfg.system,
        opening=cfg.opening,
        where=where,
    )
    with naming(where):
        prompt = tokenizer.encode_parts(parts)
    check_length(len(prompt), sum(still) + sum(moving), cfg, where)
    return prompt


def check_length(tokens: int, of_images: int, cfg: ProcessConfig, where: str) -> None:
    """DataError when a prompt is longer than cfg.max_prompt_tokens."""
    if tokens > cfg.max_prompt_tokens:
        raise DataError(
            f"the prompt takes {tokens} tokens ({of_images} of images), the limit is "
            f"{cfg.max_prompt_tokens}",
            where=where,
            hint="raise data.max_prompt_tokens or lower data.max_pixels",
        )


def arrange(
    ids: np.ndarray,
    patches: Sequence[np.ndarray],
    image_grids: Sequence[tuple[int, int, int]],
    video_grids: Sequence[tuple[int, int, int]],
    ecg: Sequence[np.ndarray],
    cfg: ProcessConfig,
) -> dict[str, Any]:
    """The arrays of a sample from its tokens and media; see `process`, whose dict lacks only
    prompt_length and meta.

    Args:
      ids: int32 [t] with pads in the place of media.
      patches: arrays [.., patch values] in Hugging Face order, together those of all images, then
        of all videos.
      image_grids, video_grids: (t, h, w) in patches. ecg: float32 [8, 2500] each.

    Raises:
      DataError: the pads and the media do not match.
    """
    if (found := int(_is_ecg(ids, cfg).sum())) != len(ecg) * cfg.ecg_tokens:
        raise DataError(f"{found} ECG tokens for {len(ecg)} ECGs of {cfg.ecg_tokens} tokens each")
    steps = positions.single_steps(video_grids) if cfg.timestamps else video_grids
    rope = positions.rope_positions(
        ids,
        image_token_id=cfg.image_token_id,
        video_token_id=cfg.video_token_id,
        image_grids=image_grids,
        video_grids=steps,
        second_per_grid=[cfg.seconds_per_grid] * len(steps),
        tokens_per_second=cfg.tokens_per_second,
        merge=cfg.merge,
    )
    order, patch_hw, patch_frame, patch_window = images.window_order(
        [*image_grids, *video_grids], window=cfg.window, patch=cfg.patch, merge=cfg.merge
    )
    size, unit = cfg.patch_dim, cfg.merge**2
    stacked = np.concatenate(patches) if len(patches) else np.zeros((0, size), np.uint8)
    kind, index = _media_tokens(ids, cfg, order)
    return {
        "input_ids": ids,
        "positions": rope,
        "media_kind": kind,
        "media_index": index,
        "patches": stacked.reshape(len(order), unit, size)[order].reshape(-1, size),
        "patch_hw": patch_hw,
        "patch_frame": patch_frame,
        "patch_window": patch_window,
        "ecg": np.stack(ecg) if len(ecg) else np.zeros((0, *ECG_SHAPE), np.float32),
    }


@contextlib.contextmanager
def naming(where: str) -> Iterator[None]:
    """Puts the row and field in front of a DataError's place."""
    try:
        yield
    except DataError as error:
        place = f"{where}: {error.where}" if error.where else where
        raise DataError(error.what, where=place, hint=error.hint) from error


def read_medium(
    reader: Callable[..., np.ndarray], root: str | os.PathLike, path: str, where: str, *args: Any
) -> np.ndarray:
    """Reads a medium that must lie inside root; what cannot be read is a DataError that names the
    row too.
    """
    with naming(where):
        full = schema.resolve(root, path)
        try:
            numpy_file = full.suffix.startswith((".npz", ".npy"))  # "a.npy#3" too
            with _NPZ_LOCK if numpy_file else contextlib.nullcontext():
                return reader(full, *args)
        except OSError as error:
            what = f"cannot be read ({error.strerror or type(error).__name__})"
            raise DataError(what, where=path, hint="fetch the file again") from error


def resize(stack: np.ndarray, cfg: ProcessConfig, max_pixels: int, where: str) -> np.ndarray:
    """uint8 [f, H, W, 3] -> [f, h, w, 3] inside the pixel budget."""
    height, width = stack.shape[1:3]
    low, factor = min(cfg.min_pixels, max_pixels), cfg.patch * cfg.merge
    with naming(where):
        h, w = images.smart_resize(
            height, width, factor=factor, min_pixels=low, max_pixels=max_pixels
        )
        if h * w > max_pixels:  # very long and thin: one side is already at its minimum
            raise DataError(
                f"an image of {height} x {width} does not fit in {max_pixels} pixels",
                hint="crop it, or raise data.max_pixels (images) or data.frame_max_pixels (frames)",
            )
    if len(stack) == 1:  # np.stack would copy it
        return images.resize(stack[0], h, w)[None]
    return np.stack([images.resize(frame, h, w) for frame in stack])


def check_ecg(signal: np.ndarray, where: str) -> np.ndarray:
    """float32 [8, 2500] in mV, or a DataError."""
    if signal.shape != ECG_SHAPE:
        raise DataError(
            f"signal of shape {signal.shape}",
            where=where,
            hint="8 leads of 10 s at 250 Hz are needed",
        )
    if not np.isfinite(signal).all():
        raise DataError(
            "the signal has NaN or infinite values", where=where, hint="drop the record"
        )
    peak = float(np.abs(signal).max())
    if peak == 0:
        raise DataError("the signal is zero throughout", where=where, hint="drop the record")
    if peak > MAX_MILLIVOLT:
        raise DataError(
            f"the signal reaches {peak:.0f} mV",
            where=where,
            hint="store the signal in mV, not in µV or ADC units",
        )
    return signal.astype(np.float32, copy=False)


def _meta(
    row: schema.Row,
    root: str | os.PathLike,
    original: list[np.ndarray],
    resized: list[np.ndarray],
    cfg: ProcessConfig,
    here: Callable[[str], str],
) -> SampleMeta:
    """Gold regions in the resized pictures; the mask belongs to the first.

    A row with a mask and no box gets the tight box around the mask.

    Args:
      original, resized: the pictures [.., H, W, 3] and [f, h, w, 3], images first.
    """
    labels, boxes, mask = row.answers, [], None
    pictures = row.bbox_images or (0,) * len(row.bbox)
    if original:
        for box, picture in zip(row.bbox, pictures, strict=True):
            height, width = original[picture].shape[-3:-1]
            h, w = resized[picture].shape[1:3]
            x1, y1, x2, y2 = box
            if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
                raise DataError(
                    f"box {list(box)} leaves the image of {width} x {height} pixels",
                    where=here("bbox"),
                    hint="give [x1, y1, x2, y2] in pixels of the original image",
                )
            boxes.append((x1 * w / width, y1 * h / height, x2 * w / width, y2 * h / height))
        height, width = original[0].shape[-3:-1]
        h, w = resized[0].shape[1:3]
        if row.segmentation_path:
            full = read_medium(
                readers.read_mask,
                root,
                row.segmentation_path,
                here("segmentation_path"),
                cfg.frames,
            )
            if full.shape != (height, width):
                raise DataError(
                    f"the mask is {full.shape[1]} x {full.shape[0]} and the image {width} x "
                    f"{height} pixels",
                    where=here("segmentation_path"),
                    hint="save the mask at the size of the image",
                )
            mask = images.resize_mask(full, h, w)
            if not boxes and mask.any():
                rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
                boxes.append(
                    tuple(float(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
                )
    return SampleMeta(
        id=row.id,
        dataset=row.dataset,
        domain=row.domain,
        labels=labels,
        vocabulary=row.labels,
        boxes=tuple(boxes),
        box_labels=row.bbox_labels or (", ".join(labels),) * len(boxes),
        box_images=pictures or (0,) * len(boxes),
        mask=mask,
        frame_sizes=tuple((stack.shape[2], stack.shape[1]) for stack in resized),
        source=row.source,
        row=row,
        box_coordinates=cfg.box_coordinates,
    )


def _media_tokens(
    ids: np.ndarray, cfg: ProcessConfig, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """media_kind int8 [t] and media_index int32 [t] (see `process`).

    Images come before videos in the patch stream whatever their order in the text: each kind has
    its count.
    """
    still, moving = ids == cfg.image_token_id, ids == cfg.video_token_id
    signal = _is_ecg(ids, cfg)
    # place in window order of each unit in Hugging Face order
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    kind, index = np.zeros(len(ids), np.int8), np.full(len(ids), -1, np.int32)
    kind[still | moving], kind[signal] = VISION, ECG
    index[still] = place[: still.sum()]
    index[moving] = place[still.sum() :]
    index[signal] = np.arange(signal.sum())
    return kind, index


def _is_ecg(ids: np.ndarray, cfg: ProcessConfig) -> np.ndarray:
    """bool [t]: ECG pads."""
    return np.zeros(len(ids), bool) if cfg.ecg_token_id is None else ids == cfg.ecg_token_id
