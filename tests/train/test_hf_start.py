"""Training from a Hugging Face directory: architecture, tokenizer and weights are its own, and the
run goes back into one.
"""

from __future__ import annotations

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from helpers.train import tiny_model
from PIL import Image

from qoq_jax import hf
from qoq_jax.base.errors import ConfigError
from qoq_jax.cli import convert
from qoq_jax.cli import main as cli
from qoq_jax.data import chat
from qoq_jax.data import sample as transforms
from qoq_jax.hf import safetensors as files
from qoq_jax.models import sizes as variants
from qoq_jax.models import spec, vlm
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.sampling import model
from qoq_jax.train import config as config_lib
from qoq_jax.train import run as loop
from qoq_jax.train import setup as setup_lib

ECG_TOKEN = tiny_model().ecg_token_id


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    mesh = mesh_lib.make_mesh(1, 1, 1, jax.devices()[:1])
    monkeypatch.setattr(setup_lib.mesh_lib, "make_mesh", lambda *sizes: mesh)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """{"with", "without" an ECG encoder: directory}."""
    root = tmp_path_factory.mktemp("published")
    (root / "files").mkdir()
    cfg, source = tiny_model(), str(root / "files")
    convert.files_of_run(
        "nano",
        source,
        cfg,
        transforms.ProcessConfig.for_model(cfg, max_pixels=112 * 112, frame_max_pixels=56 * 56),
    )
    params = jax.jit(lambda key: spec.init_params(vlm.param_specs(cfg), key))(jax.random.key(7))
    hf.save(str(root / "with"), cfg, params, source)
    plain = {name: params[name] for name in ("decoder", "vision")}
    hf.save(str(root / "without"), dataclasses.replace(cfg, ecg=None), plain, source)
    return {name: str(root / name) for name in ("with", "without")}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A folder with eight training rows of one image each."""
    folder, rng = tmp_path_factory.mktemp("rows"), np.random.default_rng(0)
    lines = []
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (56, 56, 3), np.uint8)).save(folder / f"{i}.png")
        lines.append(
            {
                "id": f"r{i}",
                "dataset": "d",
                "domain": "dermoscopy",
                "patient": f"p{i}",
                "split": "train",
                "problem": "Is it a nevus?",
                "answer": "NV",
                "labels": ["MEL", "NV"],
                "images": [f"{i}.png"],
            }
        )
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return str(folder)


def configured(directory, rows, workdir, **model):
    return config_lib.parse(
        {
            "workdir": str(workdir),
            "stages": ("sft",),
            "model": {"variant": directory, **model},
            "data": {
                "real": False,
                "mini_rows": 0,
                "extra": (rows,),
                "max_patches": 16,
                "mean_patches": 16,
                "max_pixels": 56 * 56,
                "frame_max_pixels": 56 * 56,
            },
            "sft": {"steps": 2, "rows": 2, "tokens": 176, "samples": 4, "lr": 0.0, "warmup": 0},
            "log": {"every": 1, "tensorboard": False},
        }
    )


def arrays(directory):
    return {
        name: np.array(tensor.map())
        for name, tensor in files.open_directory(str(directory)).items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name, ecg_tokens", [("with", 1), ("without", 0)])
def test_two_steps_at_rate_zero_give_the_directory_back(
    published, rows, tmp_path, name, ecg_tokens
):
    cfg = configured(published[name], rows, tmp_path / "run", ecg_tokens=ecg_tokens)
    setup = setup_lib.assemble(cfg)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(dataclasses.asdict(cfg)))
    with jax.set_mesh(setup.mesh):
        loop.run_stage(setup, "sft", loop.start_weights(setup))
    steps = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert len(steps) == 2 and all(
        np.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in steps
    )
    assert cli.main(["convert", str(tmp_path / "run"), str(tmp_path / "back")]) == 0
    back, start = arrays(tmp_path / "back"), arrays(published[name])
    assert back.keys() == start.keys()
    for key, tensor in start.items():
        np.testing.assert_array_equal(back[key], tensor, err_msg=key)
    assert (tmp_path / "back" / "tokenizer.json").exists()
    # Prompts and sizes of images are those of the training, not those of the directory that it
    # started from.
    again = model.process_config(hf.read_config(str(tmp_path / "back")), str(tmp_path / "back"))
    assert (again.system, again.min_pixels, again.max_pixels) == (
        "",
        setup.process.min_pixels,
        56 * 56,
    )
    assert model.process_config(setup.model, published[name]).system == chat.SYSTEM
    assert hf.read_config(str(tmp_path / "back")) == hf.read_config(published[name])


def test_an_ecg_encoder_is_added_beside_the_published_weights(
    published, rows, tmp_path, monkeypatch
):
    monkeypatch.setattr(variants, "BASE_ECG", tiny_model().ecg)
    cfg = configured(published["without"], rows, tmp_path, ecg_tokens=50)
    with pytest.raises(
        ConfigError,
        match=r"no room for an ECG encoder: the vocabulary of 1024.*151665.*model.ecg_tokens=0",
    ):
        setup_lib.assemble(cfg, prepare=False)
    roomy = tmp_path / "roomy"
    shutil.copytree(published["without"], roomy)
    content = json.loads((roomy / "config.json").read_text())
    (roomy / "config.json").write_text(json.dumps(content | {"time_series_token_id": ECG_TOKEN}))
    setup = setup_lib.assemble(configured(str(roomy), rows, tmp_path, ecg_tokens=50), prepare=False)
    assert (setup.model.ecg, setup.model.ecg_tokens, setup.process.ecg_token_id) == (
        tiny_model().ecg,
        50,
        ECG_TOKEN,
    )
    with jax.set_mesh(setup.mesh):
        weights = loop.start_weights(setup)
    assert (
        weights.keys()
        == vlm.param_specs(setup.model).keys()
        == {"decoder", "vision", "ecg", "ecg_proj"}
    )
    assert float(np.abs(weights["ecg_proj"]["kernel"]).max()) > 0
    own = dict(hf.to_tensors(vlm.param_specs(setup.model), weights))
    for key, tensor in arrays(published["without"]).items():
        np.testing.assert_array_equal(own[key], tensor, err_msg=key)


def test_what_does_not_fit_is_named(published, rows, tmp_path):
    with pytest.raises(
        ConfigError,
        match="its ECGs take 1 token.*model.ecg_tokens = 50.*hint: set model.ecg_tokens=1, or 0",
    ):
        setup_lib.assemble(
            configured(published["with"], rows, tmp_path, ecg_tokens=50), prepare=False
        )
    setup = setup_lib.assemble(
        configured(published["with"], rows, tmp_path, ecg_tokens=0), prepare=False
    )
    assert (
        setup.model.ecg is None
        and setup.process.ecg_token_id is None
        and setup.budget(8, 32).ecgs == 0
    )
    with jax.set_mesh(setup.mesh):
        assert loop.start_weights(setup).keys() == {"decoder", "vision"}
    with pytest.raises(ConfigError, match="model.ecg_weights for a model without an ECG encoder"):
        configured(published["with"], rows, tmp_path, ecg_tokens=0, ecg_weights="ecg.safetensors")
    with pytest.raises(ConfigError, match="this is a Hugging Face model, not a run.*model.variant"):
        loop.restore_run(published["with"])
