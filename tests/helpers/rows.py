"""Small rows with real media files, shared by the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from qoq_jax.data import rows as schema
from qoq_jax.data import sample as transforms
from qoq_jax.data import tokenizer
from qoq_jax.models import sizes as variants

LABELS = ("Normal", "Pneumonia", "COVID-19")
MODEL = variants.get("nano")
TOKENIZER = tokenizer.load("nano")


def config(**over) -> transforms.ProcessConfig:
    settings = {
        "min_pixels": 56 * 56,
        "max_pixels": 112 * 112,
        "frame_max_pixels": 56 * 56,
        "max_prompt_tokens": 256,
        "max_response_tokens": 64,
        "system": "",
    }
    return transforms.ProcessConfig.for_model(MODEL, **(settings | over))


def write_image(root: Path, name: str, height: int, width: int, seed: int = 0) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(root / name)
    return name


def write_video(root: Path, name: str, frames: int = 6, height: int = 60, width: int = 60) -> str:
    pixels = np.random.default_rng(1).integers(0, 256, (frames, height, width, 3), np.uint8)
    np.savez_compressed(root / name, frames=pixels)
    return name


def write_ecg(root: Path, name: str, scale: float = 0.3) -> str:
    leads = np.array(["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"])
    signal = scale * np.random.default_rng(2).standard_normal((8, 2500)).astype(np.float32)
    np.savez_compressed(root / name, signal=signal, fs=np.float64(250), leads=leads)
    return name


def write_mask(root: Path, name: str, mask: np.ndarray) -> str:
    Image.fromarray(mask.astype(np.uint8) * 255).save(root / name)
    return name


def row(id: str = "a", **fields) -> schema.Row:
    defaults = {
        "id": id,
        "dataset": "covid-19",
        "domain": "chest_xray",
        "labels": list(LABELS),
        "answer": "Pneumonia",
        "problem": "What is the diagnosis? Answer with one phrase from the following: "
        + ", ".join(LABELS),
        "reasoning": "The image shows a dense opacity.",
    }
    return schema.validate_row(defaults | fields, f"rows.jsonl:{id}")


def mixed_rows(root: Path, count: int = 24) -> list[schema.Row]:
    """Rows of three domains and several image sizes; every fourth is an ECG."""
    sizes = [(60, 60), (56, 112), (90, 70), (112, 112)]
    names = [write_image(root, f"{h}x{w}.png", h, w, seed=i) for i, (h, w) in enumerate(sizes)]
    signal = write_ecg(root, "ecg.npz")
    rows = []
    for i in range(count):
        if i % 4 == 3:
            rows.append(row(f"r{i}", domain="ecg", dataset="ptb-xl", **{"time-series": [signal]}))
        else:
            domain = ("chest_xray", "fundus")[i % 2]
            rows.append(row(f"r{i}", domain=domain, images=[names[i % 4]], bbox=[1, 2, 30, 40]))
    return rows
