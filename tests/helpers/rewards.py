"""Reward functions of an imaginary user, good and bad ones, and a sample's meta."""

from __future__ import annotations

import dataclasses
import json
import os
import random as random_lib
import time

from qoq_jax.rewards import score as rewards
from qoq_jax.rewards.score import RewardConfig


@dataclasses.dataclass(frozen=True)
class Row:
    videos: tuple = ()


@dataclasses.dataclass(frozen=True)
class Meta:
    """The fields of a SampleMeta that rewards read."""

    id: str = "sample-1"
    labels: tuple = ("Edema",)
    vocabulary: tuple = ("Pneumonia", "Edema")
    boxes: tuple = ((0.0, 0.0, 10.0, 10.0),)
    box_labels: tuple = ("Edema",)
    mask: object = None
    frame_size: tuple | None = (96, 64)
    row: Row = Row()
    box_coordinates: str = "pixels"

    @property
    def frame_sizes(self):
        return () if self.frame_size is None else (self.frame_size,)

    @property
    def box_images(self):
        return (0,) * len(self.boxes)


META = Meta()


def respond(answer, *boxes):
    items = [{"bbox_2d": list(box), "label": answer} for box in boxes]
    return f"```json\n{json.dumps(items)}\n```\n<think>Because.</think>\n\\boxed{{{answer}}}"


def coherent(meta):
    return rewards.score(
        respond("Edema", (0, 0, 10, 10), (0, 0, 10, 10)), meta, RewardConfig(coherence=0.2)
    )


def length(text, meta):
    return min(len(text) / 100, 1.0)


def hangs_on_request(text, meta):
    if text == "hang":
        time.sleep(600)
    if text == "die":
        os._exit(1)
    return 1.0


def raises(text, meta):
    return {}[text]


def too_large(text, meta):
    return 7


def random(text, meta):
    return random_lib.random()


def slow(text, meta):
    time.sleep(0.02)
    return 1.0


def leaves(text, meta):
    raise SystemExit(0)
