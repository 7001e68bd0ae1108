"""The full-size configs: each topology is planned, and the nano model runs through them."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from helpers.flags import FASTER

from qoq_jax.plan import cost, devices, instant
from qoq_jax.train import config as config_lib

REPOSITORY = pathlib.Path(__file__).parents[2]
FILES = [REPOSITORY / "configs" / f"qoq_med_{size}.py" for size in ("7b", "32b")]
LAYOUTS = [(file, name) for file in FILES for name in config_lib.load_module(str(file)).TOPOLOGIES]


def load(file, name):
    return config_lib.parse(config_lib.load(f"{file}:{name}"))


@pytest.mark.parametrize(("file", "name"), LAYOUTS, ids=lambda x: getattr(x, "stem", x))
def test_each_topology_fits(file, name):
    plans = instant.plan(load(file, name), devices.parse(name.replace("-", ":", 1)))
    assert [one.case.stage.name for one in plans] == ["align", "rl"]
    assert [one.verdict for one in plans] == ["fits", "fits"]


@pytest.mark.parametrize(("file", "name"), LAYOUTS, ids=lambda x: getattr(x, "stem", x))
def test_the_figures_of_the_documentation(file, name):
    """Peak and step of stage 2, and the hours of both stages, in docs/plan.md."""
    text = (REPOSITORY / "docs" / "plan.md").read_text()
    (line,) = (one for one in text.splitlines() if one.startswith(f"| {file.name}:{name} |"))
    _, _, _, peak, step, parts, hours, _ = (cell.strip() for cell in line.split("|"))
    plans = instant.plan(load(file, name), devices.parse(name.replace("-", ":", 1)))
    last, whole = plans[-1], cost.cost(plans, 0.4, None)
    assert peak == f"{last.peak / 2**30:.1f} of {last.capacity / 2**30:.1f}"
    assert step == f"{last.step_seconds:.0f}"
    assert hours == f"{whole.hours:,.0f}"
    seconds = {one.name: one.calls * one.bound for one in last.programs}
    updates, scoring = seconds.pop("update"), seconds.pop("scorer")
    assert parts == f"{sum(seconds.values()):.0f} / {scoring:.0f} / {updates:.0f}"


@pytest.mark.parametrize(("file", "name"), LAYOUTS, ids=lambda x: getattr(x, "stem", x))
def test_the_published_hyper_parameters(file, name):
    """arXiv 2506.00711v2; v5e-4x4 alone has smaller batches."""
    cfg = load(file, name)
    rl, optimizer = cfg.rl, cfg.optimizer
    batch = (64, 1) if name == "v5e-4x4" else (512, 4)
    assert (rl.questions, rl.minibatches) == batch
    assert (rl.rollouts, rl.response_tokens, rl.temperature, rl.top_p) == (5, 4000, 1.0, 0.99)
    assert (rl.lr, rl.schedule, rl.warmup, cfg.align.lr) == (1e-6, "constant", 0, 1e-6)
    assert (rl.kl_coefficient, rl.kl_estimator, rl.kl_in) == (1e-4, "low_var", "loss")
    assert (rl.clip_low, rl.clip_high, rl.clip_dual) == (0.2, 0.3, 3.0)
    assert (rl.algorithm, rl.drpo.variant, rl.drpo.k_max) == ("drpo", "paper", 10)
    assert (optimizer.b1, optimizer.b2, optimizer.weight_decay) == (0.9, 0.999, 1e-2)
    assert optimizer.clip_norm == 1.0
    assert (cfg.data.min_pixels, cfg.data.max_pixels) == (65_536, 524_288)
    assert (cfg.align.domains, cfg.align.frozen) == (("ecg",), ("vision",))
    assert rl.steps * rl.questions == pytest.approx(2_610_000, rel=1e-3)


def nano_overrides(root, workdir):
    values = {
        "workdir": workdir,
        "data.root": root,
        "model.variant": "nano",
        "model.ecg_weights": "climb-mini",
        "mesh.fsdp": 1,
        "mesh.rollout_tensor": 1,
        "data.mini_rows": 80,
        "data.min_pixels": 28 * 28,
        "data.max_pixels": 112 * 112,
        "data.frame_max_pixels": 84 * 84,
        "data.max_patches": 72,
        "data.mean_patches": 64,
        "data.max_prompt_tokens": 80,
        "data.max_response_tokens": 64,
        "data.media_rows": 4,
        "sft.rows": 4,
        "sft.samples": 4,
        "eval.rows": 4,
        "eval.limit_per_domain": 2,
        "eval.gallery": 4,
        "align.steps": 2,
        "rl.steps": 2,
        "rl.save_every": 2,
        "rl.questions": 4,
        "rl.rollouts": 2,
        "rl.rollout_rows": 4,
        "rl.response_tokens": 8,
        "rl.reward_workers": 0,
    }
    return [f"--config.{name}={value}" for name, value in values.items()]


@pytest.mark.slow
def test_the_nano_model_runs_through_both_stages(tmp_path):
    """Micro-batches, offloading, slots with refill and the layout of sampling are the 7B's."""
    workdir = tmp_path / "run"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "qoq_jax.cli.main", "train"),
            f"--config={FILES[0]}:v5e-4x4",
            *nano_overrides(tmp_path / "data", workdir),
        ],
        env=os.environ
        | {
            "XLA_FLAGS": " ".join(FASTER),
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(REPOSITORY),
        },
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [(row["stage"], row["step"]) for row in rows if "loss" in row]
    assert steps == [("align", 1), ("align", 2), ("rl", 1), ("rl", 2)]
    assert (workdir / "report.html").exists()
