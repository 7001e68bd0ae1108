"""Shapes are budgets: images of any size and ECGs of any length compile nothing after the
warm-up.
"""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers.rows import write_image
from helpers.train import tiny_model

from qoq_jax.data import images
from qoq_jax.models import spec, vlm
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.train import config as config_lib
from qoq_jax.train import run as run_lib
from qoq_jax.train import setup as setup_lib

SIZES = [(30 + 7 * i, 211 - 3 * i) for i in range(50)]  # all different, upright to lying
SECONDS = (6, 10, 12.5, 17, 30)
STEPS = 20


def write_rows(root) -> None:
    """50 pictures of different sizes and 10 ECGs of different lengths and sampling rates."""
    root.mkdir()
    rows = []
    for i, (height, width) in enumerate(SIZES):
        name = write_image(root, f"{i}.png", height, width, seed=i)
        rows.append(
            {"domain": ("ct", "mri", "fundus")[i % 3], "images": [name], "bbox": [1, 2, 9, 9]}
        )
    leads = np.array(["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"])
    for i in range(10):
        fs = (250, 500)[i // 5]
        signal = np.random.default_rng(i).standard_normal((8, int(SECONDS[i % 5] * fs)))
        np.savez(root / f"{i}.npz", signal=signal.astype(np.float32), fs=float(fs), leads=leads)
        rows.append({"domain": "ecg", "time-series": [f"{i}.npz"]})
    every = {"dataset": "d", "problem": "One of: A, B.", "answer": "A", "labels": ["A", "B"]}
    lines = [json.dumps(every | {"id": str(i)} | row) for i, row in enumerate(rows)]
    (root / "train.jsonl").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    root = tmp_path_factory.mktemp("sizes")
    write_rows(root / "many")
    cfg = config_lib.parse(
        {
            "workdir": str(root / "run"),
            "data": {
                "extra": (str(root / "many"),),
                "mini_rows": 0,
                "real": False,
                "ecg_length": "repeat",
                "max_patches": 72,
                "mean_patches": 64,
                "media_rows": 2,
            },
            "sft": {"rows": 4, "steps": STEPS},
            "rl": {
                "questions": 4,
                "rollouts": 2,
                "response_tokens": 6,
                "steps": STEPS,
                "reward": {"accuracy": 0.0, "format": 0.0, "custom": "helpers.train:pseudo_reward"},
            },
            "log": {"tensorboard": False, "every": 1},
        }
    )
    (root / "run").mkdir()
    one = mesh_lib.make_mesh(1, 1, 1, jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup_lib.mesh_lib, "make_mesh", lambda *_: one)
        found = setup_lib.assemble(cfg)
    return dataclasses.replace(found, model=tiny_model())


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_images_of_50_sizes_and_ecgs_of_several_lengths_compile_nothing(setup, stage, monkeypatch):
    seen, smart_resize = set(), images.smart_resize

    def noted(height, width, **limits):
        seen.add((height, width))
        return smart_resize(height, width, **limits)

    monkeypatch.setattr(images, "smart_resize", noted)
    with jax.set_mesh(setup.mesh):
        start = spec.init_params(vlm.param_specs(setup.model), jax.random.key(1))
        run_lib.run_stage(setup, stage, start)
    with open(f"{setup.config.workdir}/metrics.jsonl", encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if row["stage"] == stage]
    assert seen == set(SIZES)
    assert len(rows) == STEPS and rows[-1]["ecgs_cut"] >= 6 and rows[-1]["ecgs_repeated"] >= 2
    assert [row["recompiles"] for row in rows] == [0] * STEPS
