"""Evaluations of a few rows with real media files, for the tests of the case viewer."""

from __future__ import annotations

import json
import pathlib

import numpy as np
from PIL import Image

from helpers import rows

# Each of these would end a script element, start one, or end a JavaScript string if it were markup.
EVIL = "</script><script>window.hurt = 1</script><img src=x onerror=hurt=1>\u2028<!--<script>"
DOMAINS = ("chest_xray", "ct", "ecg")
SOURCE = "mini"


def record(i: int, right: bool, **more) -> dict:
    """One record; its domain is one of three in turn."""
    gold, wrong = ["Pneumonia", "Normal"][:: 1 if i % 2 else -1]
    domain = DOMAINS[i % 3]
    said = gold if right else wrong
    boxed = domain != "ecg"
    made = {
        "id": f"row-{i}",
        "source": SOURCE,
        "dataset": f"{domain}-mini",
        "domain": domain,
        "labels": [gold],
        "vocabulary": ["Normal", "Pneumonia"],
        "predicted": [said],
        "text": f"<think>It shows {EVIL}</think>\n\\boxed{{{said}}}",
        "boxes": [[4, 4, 20, 20]] if boxed else [],
        "gold_boxes": [[5, 5, 22, 22]] if boxed else [],
        "frame_sizes": [[32, 24]] if boxed else [],
        "frame_size": [32, 24] if boxed else None,
        "iou": 0.7 - i / 100 if boxed else None,
        "scores": {gold: 0.8 if right else 0.2, wrong: 0.2 if right else 0.8},
        "reward": {"total": 0.9, "accuracy": float(right), "iou": 0.7},
    }
    return made | more


def records(count: int = 12, every: int = 3) -> list[dict]:
    """Records of which each `every`-th is wrong, the last ones of each run of `every`."""
    return [record(i, (i // 3) % every < every - 1) for i in range(count)]


def write_evaluation(path: pathlib.Path, made: list[dict]) -> pathlib.Path:
    """An eval/*.json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"summary": {}, "split": "test", "records": made}))
    return path


def write_data(root: pathlib.Path, count: int = 12) -> pathlib.Path:
    """The data set of `records`: pictures, volumes and ECGs."""
    root.mkdir(parents=True)
    rows.write_image(root, "a.png", 24, 32)
    rows.write_video(root, "v.npz", 4, 24, 32)
    rows.write_ecg(root, "e.npz")
    media = {"chest_xray": {"images": ["a.png"]}, "ct": {"videos": ["v.npz"]}}
    lines = []
    for i in range(count):
        one = record(i, True)
        shown = media.get(one["domain"], {"time-series": ["e.npz"]})
        fields = {name: one[name] for name in ("id", "dataset", "domain")}
        answer = {"answer": one["labels"][0], "problem": f"What is it? {EVIL}"}
        lines.append(json.dumps(fields | answer | shown) + "\n")
    (root / "test.jsonl").write_text("".join(lines))
    return root


def write_workdir(root: pathlib.Path) -> pathlib.Path:
    """A run evaluated before and after RL, with a gallery of one picture and a data set."""
    write_evaluation(root / "eval/sft.json", records(every=2))
    write_evaluation(root / "eval/rl.json", records())
    gallery = root / "gallery/rl"
    gallery.mkdir(parents=True)
    Image.fromarray(np.full((24, 32, 3), 90, np.uint8)).save(gallery / "a.png")
    kept = record(0, True, image="a.png", prompt=f"Look. {EVIL}")
    (gallery / "case_000.json").write_text(json.dumps(kept))
    data = write_data(root / "data")
    (root / "data.json").write_text(json.dumps({"sources": {SOURCE: {"root": str(data)}}}))
    (root / "metrics.jsonl").write_text(
        "".join(
            json.dumps({"step": i, "stage": "sft", "loss": 2 / (i + 1)}) + "\n" for i in range(9)
        )
    )
    return root
