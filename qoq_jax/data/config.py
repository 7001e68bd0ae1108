"""Section data of a config."""

from __future__ import annotations

import dataclasses
from typing import Literal

from qoq_jax.base.fields import NotNegative, Positive


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where rows come from and how they become fixed shapes."""

    root: str = "data_cache"  # folder for generated and fetched data sets
    mini_rows: int = 6000  # training rows of climb-mini; 0 = none
    mini_seed: int = 0
    # climb (CT over half of the rows), climb_without_rspect (chest X-rays) or balanced
    mini_imbalance: Literal["climb", "climb_without_rspect", "balanced"] = "climb"
    real: bool = True  # add the real samples of climb/samples/fetch.py when they can be fetched
    # further data sets: folders with train/validation/test.jsonl in the CLIMB-QA schema, or
    # tfds:NAME@DIR for one that tensorflow-datasets has prepared in DIR
    extra: tuple[str, ...] = ()
    real_repeat: int = 4  # times that a real training row counts, since there are few of them
    # a domain of n rows is sampled with weight n^power: 1 = as they come, 0 = all domains alike
    mixing_power: NotNegative[float] = 1.0
    cache: bool = False  # keep processed samples in memory: for some thousand small samples
    # a bad sample: "raise", or "skip" (counted, listed in the report)
    on_error: Literal["raise", "skip"] = "raise"
    # an ECG under 10 s: "refuse" (an error), or "repeat" (5 s and more start again at their end)
    ecg_length: Literal["refuse", "repeat"] = "refuse"
    # with skip: stop when more than this share of the rows read was bad
    max_bad_fraction: float = 0.01
    min_pixels: int = 28 * 28
    max_pixels: int = 112 * 112  # largest image after resizing
    frame_max_pixels: int = 112 * 112  # largest frame of a volume or video after resizing
    system: str = ""  # system turn of the chat; "" = none
    max_prompt_tokens: Positive[int] = 80
    # longest gold response, and longest response in evaluation
    max_response_tokens: Positive[int] = 56
    max_patches: int = 128  # patches of the largest sample
    mean_patches: int = 104  # vision budget of a training batch: patches per sample
    mean_ecgs: float = 0.4  # ECG budget of a training batch: ECGs per sample
    media_rows: Positive[int] = 1  # media rows per batch; a multiple of the mesh's data x fsdp
