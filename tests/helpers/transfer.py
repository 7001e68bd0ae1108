"""A data set folder of tiny pictures and clips, and an encoder of a few weights that reads them."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import jax.numpy as jnp
import numpy as np
from PIL import Image

from qoq_jax.models.encoders.encoder import Encoder
from qoq_jax.models.spec import ParamSpec

SIZE, WIDTH = 8, 6
SETS = {
    # name: (domain, labels, several labels a row, clips, rows of each split)
    "skin": ("dermoscopy", ("Benign", "Malignant"), False, False, (24, 4, 12)),
    "chest": ("chest_xray", ("No Finding", "Edema", "Fracture"), True, False, (12, 3, 12)),
    "heart": ("ultrasound", ("Benign", "Malignant", "Normal"), False, True, (12, 3, 12)),
}


@dataclasses.dataclass(frozen=True)
class Config:
    image_size: int = SIZE
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)


def param_specs(cfg):
    return {"kernel": ParamSpec((cfg.image_size**2 * 3, WIDTH), ("embed", None), 0.05)}


def pooled(params, cfg, batch):
    """Mean over the valid slices of tanh(pixels @ kernel)."""
    flat = batch["pixels"].reshape(*batch["pixels"].shape[:2], -1)
    each = jnp.tanh(jnp.einsum("bzi,iw->bzw", flat, params["kernel"]))
    valid = batch["slice_valid"][..., None].astype(each.dtype)
    return (each * valid).sum(axis=1) / valid.sum(axis=1)


def tokens(params, cfg, batch):
    found = pooled(params, cfg, batch)[:, None]
    return found, jnp.ones(found.shape[:2], bool)


ENCODER = Encoder("tiny", "image", Config(), WIDTH, param_specs, tokens, pooled)


def write_sets(root: pathlib.Path, names=tuple(SETS), patients=None) -> str:
    """Rows of the sets in one folder: a label is a bright band of its own; two rows a patient."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {}
    for name in names:
        domain, labels, several, clips, counts = SETS[name]
        for split, count in zip(("train", "validation", "test"), counts, strict=True):
            for i in range(count):
                mine = {i % len(labels)} | ({1 + i % 2} if several and i % 3 == 2 else set())
                pixels = rng.integers(0, 60, (5, SIZE, SIZE, 3)).astype(np.uint8)
                for k in mine:
                    pixels[:, 2 * k : 2 * k + 2] += 150
                stem = f"{name}-{split}-{i}"
                if clips:
                    np.savez(root / f"{stem}.npz", frames=pixels)
                    files = {"videos": [f"{stem}.npz"]}
                else:
                    Image.fromarray(pixels[0]).save(root / f"{stem}.png")
                    files = {"images": [f"{stem}.png"]}
                patient = f"{name}-{split}-{i // 2}"
                row = {
                    "id": stem,
                    "dataset": name,
                    "domain": domain,
                    "patient": (patients or {}).get(stem, patient),
                    "split": split,
                    "problem": "What is it?",
                    "answer": ", ".join(labels[k] for k in sorted(mine)),
                    "labels": list(labels),
                    **files,
                }
                lines.setdefault(split, []).append(json.dumps(row) + "\n")
    for split, texts in lines.items():
        (root / f"{split}.jsonl").write_text("".join(texts))
    return str(root)
