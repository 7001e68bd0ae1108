"""The whole run at a tiny size: it starts, survives kill -9, ends with the same bits, reports."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers.flags import FASTER

import qoq_jax
from qoq_jax.cli import main as cli
from qoq_jax.data import rows as schema
from qoq_jax.models import spec
from qoq_jax.train import checksums
from qoq_jax.train import run as loop

REPOSITORY = pathlib.Path(__file__).parents[2]
TINY = [
    "--config.data.mini_rows=80",
    "--config.data.real=false",
    "--config.sft.steps=6",
    "--config.sft.rows=4",
    "--config.sft.samples=12",
    "--config.sft.save_every=2",
    "--config.rl.steps=6",
    "--config.rl.questions=4",
    "--config.rl.rollouts=2",
    "--config.rl.response_tokens=8",
    "--config.rl.save_every=2",
    "--config.eval.limit_per_domain=2",
    "--config.eval.rows=4",
    "--config.eval.gallery=4",
    "--config.log.every=1",
    "--config.data.max_response_tokens=64",
    "--config.rl.old_logprobs=trainer",
    "--config.rl.drpo.history_size=8",
]


def command(root, workdir, *more):
    """`qoq train`; all share one compile cache."""
    return [
        sys.executable,
        "-m",
        "qoq_jax.cli.main",
        "train",
        f"--config={REPOSITORY / 'configs/quickstart.py'}",
        f"--config.data.root={root}",
        f"--config.workdir={workdir}",
        f"--config.compile_cache={root / 'compile_cache'}",
        *TINY,
        *more,
    ]


def environment():
    # One device and no optimisation: compiling is nearly all of this run's time.
    return os.environ | {
        "XLA_FLAGS": " ".join(FASTER),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(REPOSITORY),
    }


def final_state(workdir):
    """Every array of the last checkpoint, read without the run's code."""
    folder = workdir / "checkpoints" / "rl"
    step = max(int(p.name) for p in folder.iterdir() if p.name.isdigit())
    tree = ocp.StandardCheckpointer().restore(folder / str(step) / "state")
    flat = {}

    def walk(node, path=""):
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{path}/{key}")
        elif isinstance(node, (list, tuple)):
            for i, value in enumerate(node):
                walk(value, f"{path}/{i}")
        elif node is not None:
            flat[path] = np.asarray(node)

    walk(tree)
    return step, flat


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def finished(data_root, tmp_path_factory):
    """An uninterrupted run."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    done = subprocess.run(
        command(data_root, workdir),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return workdir, done.stdout


@pytest.mark.slow
def test_a_run_leaves_everything(finished):
    workdir, output = finished
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [(r["stage"], r["step"]) for r in rows] == [("sft", i) for i in range(1, 7)] + [
        ("rl", i) for i in range(1, 7)
    ]
    assert rows[5]["loss"] < rows[0]["loss"]
    assert all(row["recompiles"] == 0 for row in rows)
    first, last = rows[0], rows[-1]
    by_domain = [x for name, x in first.items() if name.startswith("loss/domain/")]
    assert len(by_domain) > 1 and min(by_domain) <= first["loss"] <= max(by_domain)
    assert last["logprob_difference_max"] < 1e-4 and last["update_finite"] == 1
    assert {
        "reward/total",
        "kl",
        "entropy",
        "seconds/rollout",
        "drpo/damping_mean",
        "zero_variance_groups",
    } <= last.keys()
    for stage in ("sft", "rl"):
        result = json.loads((workdir / "eval" / f"{stage}.json").read_text())
        assert len(result["records"]) == 20 and "climb-mini" in result["summary"]["sources"]
        assert 1 <= len(list((workdir / "gallery" / stage).glob("case_*.json"))) <= 4
        assert checksums.damage(str(workdir / "checkpoints" / stage / "6")) is None
        for name in (checksums.CHECKSUMS, checksums.SEAL):
            assert (workdir / "checkpoints" / stage / "6" / name).exists()
    data = json.loads((workdir / "data.json").read_text())["sources"]["climb-mini"]["splits"]
    assert data["train"]["rows"] == 80 and data.keys() == {"train", "test"}
    assert 'href="cases.html"' in (workdir / "report.html").read_text()
    assert '"report":"report.html"' in (workdir / "cases.html").read_text()
    assert any((workdir / "tensorboard").iterdir())
    assert "left" in output and "recompiles 0" in output
    kernels = json.loads((workdir / "run.json").read_text())["kernels"]
    assert kernels == {"attention": "einsum", "decode_attention": "einsum"}
    assert "attention=einsum, decode_attention=einsum" in output


@pytest.mark.slow
def test_killed_three_times_the_run_ends_with_the_same_bits(finished, data_root, tmp_path):
    workdir = tmp_path / "killed"
    rng = np.random.default_rng(int.from_bytes(os.urandom(4), "little"))
    for target in ("sft", "rl", "rl"):
        process = subprocess.Popen(
            command(data_root, workdir), env=environment(), stdout=subprocess.PIPE, text=True
        )
        # kill somewhere after the first step of the stage that this process makes
        for line in process.stdout:
            if line.startswith(f"{target} ") and "/6" in line:
                time.sleep(rng.uniform(0, 1.0))
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    done = subprocess.run(
        command(data_root, workdir),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (step_a, whole), (step_b, killed) = final_state(finished[0]), final_state(workdir)
    assert step_a == step_b == 6 and whole.keys() == killed.keys()
    assert any("history" in path for path in whole)
    for path, value in whole.items():
        np.testing.assert_array_equal(value, killed[path], err_msg=path)


@pytest.mark.slow
def test_the_same_command_again_ends_at_once_and_changes_nothing(finished, data_root):
    workdir, _ = finished
    before = (workdir / "metrics.jsonl").read_bytes()
    done = subprocess.run(
        command(data_root, workdir),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0 and "report:" in done.stdout
    assert (workdir / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_another_config_or_model_in_the_same_workdir_is_refused(finished, data_root):
    workdir, _ = finished
    done = subprocess.run(
        command(data_root, workdir, "--config.rl.lr=0.5"),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (
        done.returncode == 2 and "another rl.lr" in done.stderr and "Traceback" not in done.stderr
    )


@pytest.mark.slow
def test_a_stage_that_the_run_has_not_is_one_line_and_leaves_no_folder(finished, capsys):
    assert cli.main(["evaluate", str(finished[0]), "--stage", "align"]) == 2
    error = capsys.readouterr().err.strip()
    assert "no stage align (hint: it has sft, rl)" in error and len(error.splitlines()) == 1
    assert not (finished[0] / "checkpoints" / "align").exists()


@pytest.mark.slow
def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(finished, tmp_path, capfd):
    copy = tmp_path / "run"
    shutil.copytree(finished[0], copy)
    largest = max((copy / "checkpoints/rl/6").rglob("*"), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1] + b"x")
    assert cli.main(["convert", str(copy), str(tmp_path / "exported")]) == 0
    error = capfd.readouterr().err
    assert (
        f"{copy}/checkpoints/rl/6: the checkpoint is damaged" in error
        and "the one of step 4 is used" in error
    )
    shutil.rmtree(copy / "checkpoints/rl/4")
    assert cli.main(["convert", str(copy), str(tmp_path / "again")]) == 1
    error = capfd.readouterr().err.strip()
    assert (
        "no intact one before it" in error
        and "hint: restore" in error
        and len(error.splitlines()) == 1
    )


@pytest.mark.slow
def test_ctrl_c_while_data_are_built_ends_at_once_and_the_workdir_goes_on(tmp_path):
    arguments = command(tmp_path / "data", tmp_path / "run", "--config.data.mini_rows=6000")
    process = subprocess.Popen(
        arguments,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list(tmp_path.glob("data/.climb-mini*.partial-*/chunks/*.jsonl")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does: to all processes of the command
    _, error = process.communicate(timeout=60)
    assert time.monotonic() - began < 4 and process.returncode == 130
    assert error.strip() == "stopped; the same command resumes from the last checkpoint"
    assert (tmp_path / "run/config.json").exists() and not (tmp_path / "run/run.json").exists()


@pytest.mark.slow
def test_generate_answers_about_a_file(finished, data_root, capsys, tmp_path):
    rows = schema.read_jsonl(next(data_root.glob("climb-mini*")) / "test.jsonl")
    row = next(r for r in rows if r.domain == "chest_xray")
    image = next(data_root.glob("climb-mini*")) / row.images[0]
    picture = tmp_path / "boxes.png"
    code = cli.main(
        [
            "generate",
            str(finished[0]),
            "--image",
            str(image),
            "--ask",
            row.problem,
            "--samples",
            "2",
            "--json",
            "--picture",
            str(picture),
        ]
    )
    out = capsys.readouterr().out
    answers = json.loads(out.splitlines()[0])["answers"]
    assert code == 0 and len(answers) == 2 and picture.stat().st_size > 500
    assert all(np.isfinite(a["logprob"]) for a in answers)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["report", "nowhere"], 1, "nothing to report"),
        (["evaluate", "nowhere"], 2, "nowhere: is no workdir of a run"),
        (["data", "validate", "nowhere.jsonl"], 1, "nowhere.jsonl"),
    ],
)
def test_mistakes_are_one_clear_line(arguments, code, message, capsys):
    assert cli.main(arguments) == code
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1


def test_a_full_disk_is_one_clear_line(monkeypatch, capsys):
    def full(config):
        raise OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl")

    monkeypatch.setattr(loop, "run", full)
    assert cli.main(["train", f"--config={REPOSITORY / 'configs/quickstart.py'}"]) == 1
    error = capsys.readouterr().err.strip()
    assert (
        error.startswith("qoq: metrics.jsonl: No space left")
        and "hint:" in error
        and len(error.splitlines()) == 1
    )


@pytest.mark.slow
def test_convert_writes_the_last_checkpoint_as_a_hugging_face_directory(finished, tmp_path, capsys):
    dest = tmp_path / "exported"
    assert cli.main(
        ["convert", str(finished[0]), str(dest)]
    ) == 0 and capsys.readouterr().out.strip() == str(dest)
    model, (_, state) = qoq_jax.load(str(dest)), final_state(finished[0])
    exported, kept = (
        spec.flatten(model.params),
        {path: x for path, x in state.items() if path.startswith("/params/")},
    )
    assert {f"/params/{path}" for path in exported} == kept.keys()
    for path, weight in exported.items():
        np.testing.assert_array_equal(weight, kept[f"/params/{path}"], err_msg=path)
    run = qoq_jax.load(str(finished[0]))
    assert (
        model.tokenizer.fingerprint == run.tokenizer.fingerprint
        and model.cfg.eos_ids == run.cfg.eos_ids
    )
    assert model.cfg.ecg_tokens == run.cfg.ecg_tokens == 1 and model.cfg.decoder == run.cfg.decoder
