"""Renderings of jobs: golden files, and what shells and YAML readers make of them.

After a deliberate change: `UPDATE_GOLDEN=1 python -m pytest tests/launch/test_renders.py`, and
read the difference.
"""

import dataclasses
import importlib
import os
import pathlib
import shlex
import subprocess
import sys

import pytest
import yaml
from helpers.jobs import GPU, RENDERED, SLICES, TPU

from qoq_jax.launch import check, place, process
from qoq_jax.launch.engines import gke, skypilot

REPOSITORY = pathlib.Path(__file__).parents[2]
GOLDEN = pathlib.Path(__file__).parent / "golden"
ELSEWHERE = "--exclude=SC1090,SC1091"  # files of the machine that the script runs on
# The extra dev has it: beside Python, also where the environment is not activated.
SHELLCHECK = pathlib.Path(sys.executable).parent / "shellcheck"
CANARY = "zqcanary7391"
IDS = [name for _, name, _ in RENDERED]


def module(engine):
    return importlib.import_module(f"qoq_jax.launch.engines.{engine.replace('-', '_')}")


def whole(engine, job):
    """The rendering and the commands of all actions."""
    of = module(engine)
    lines = [f"$ {shlex.join(x)}\n" for a in process.ACTIONS for x in of.commands(job, a)]
    return of.render(job) + "\n" + "".join(lines)


@pytest.mark.parametrize(("engine", "name", "job"), RENDERED, ids=IDS)
def test_golden(engine, name, job):
    path = GOLDEN / f"{name}.txt"
    found = whole(engine, job)
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(found)
    assert found == path.read_text()


@pytest.mark.parametrize(("engine", "name", "job"), RENDERED, ids=IDS)
def test_jobs_are_sound(engine, name, job):
    assert check.check(job, engine) == []


@pytest.mark.parametrize(("engine", "name", "job"), RENDERED, ids=IDS)
def test_no_secret_is_rendered(engine, name, job, monkeypatch):
    for secret in ("HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(secret, CANARY)
    text = whole(engine, job)
    assert CANARY not in text
    assert all(secret in text for secret in job.secrets)


SCRIPTS = [one for one in RENDERED if one[0] in ("tpu-vm", "slurm")]


@pytest.mark.parametrize(("engine", "name", "job"), SCRIPTS, ids=[one[1] for one in SCRIPTS])
def test_scripts_are_clean(engine, name, job, tmp_path):
    script = tmp_path / "script.sh"
    script.write_text(module(engine).render(job))
    for tool in (["bash", "-n"], [SHELLCHECK, "--severity=style"]):
        found = subprocess.run([*tool, script], capture_output=True, text=True)
        assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@pytest.mark.parametrize("job", [GPU, TPU])
def test_the_shell_parts_of_a_skypilot_task_are_clean(job, tmp_path):
    task = yaml.safe_load(skypilot.render(job))
    for part in {"setup", "run"} & {*task}:
        script = tmp_path / part
        script.write_text("#!/usr/bin/env bash\n" + task[part])
        found = subprocess.run([SHELLCHECK, ELSEWHERE, script], capture_output=True, text=True)
        assert (found.returncode, found.stdout) == (0, "")


def test_the_scripts_of_a_tpu_machine_are_clean(tmp_path):
    text = module("tpu-vm").render(TPU)
    for word in ("INSTALL", "RUN", "JOB"):
        inner = text.split(f"<<'{word}'\n")[1].split(f"\n{word}\n")[0]
        script = tmp_path / word
        script.write_text("#!/usr/bin/env bash\n" + inner + "\n")
        found = subprocess.run([SHELLCHECK, ELSEWHERE, script], capture_output=True, text=True)
        assert (found.returncode, found.stdout) == (0, "")


def test_the_scripts_of_the_repository_are_clean():
    scripts = sorted(path.name for path in (REPOSITORY / "launch").glob("*.sh"))
    assert "quickstart.sh" in scripts
    words = [SHELLCHECK, "--severity=style", "--external-sources", "--source-path=.."]
    found = subprocess.run(
        [*words, *scripts], cwd=REPOSITORY / "launch", capture_output=True, text=True
    )
    assert (found.returncode, found.stdout) == (0, "")


def test_values_reach_the_process_as_they_are():
    """Quotes and dollars of env survive the shell."""
    note = 'it\'s $HOME, `id` and "$(id)"'
    script = process.exports(dataclasses.replace(TPU, env={"NOTE": note})) + 'printf %s "$NOTE"'
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert found.stdout == note


@pytest.mark.parametrize("job", [GPU, TPU])
def test_a_skypilot_task_has_these_fields(job):
    task = yaml.safe_load(skypilot.render(job))
    at = place.of(job)
    assert task["name"] == job.name
    assert task["secrets"] == dict.fromkeys(job.secrets)
    assert task["envs"] == dict(job.env)
    assert task["num_nodes"] == (at.hosts if at.kind == "gpu" else 1)
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [42, 134, 143]


def test_slurm_mounts_the_workdir_that_the_run_has():
    job = dataclasses.replace(GPU, workdir="", command=f"{GPU.command} --config.workdir=/s/run")
    assert ",/s/run:/s/run" in module("slurm").render(job)


def test_slurm_starts_one_process_a_node_for_a_sweep_that_shares_out_its_runs():
    text = module("slurm").render(dataclasses.replace(GPU, command="qoq sweep s.py --jobs 8"))
    assert "--ntasks-per-node=1\n" in text and "--distributed" not in text
    assert f"  qoq sweep s.py --jobs 8 --out={GPU.workdir} &\n" in text


@pytest.mark.parametrize(
    ("topology", "words"),
    [
        ("v4:2x2x4", "--accelerator-type=v4-32"),
        ("v5p:4x4x4", "--accelerator-type=v5p-128"),
        ("v5p:4x4x16", "--type=v5p --topology=4x4x16"),
        ("v4:4x8x8", "--type=v4 --topology=4x8x8"),
        ("v6e:16x16", "--accelerator-type=v6e-256"),
    ],
)
def test_a_slice_is_asked_for_by_its_shape_where_several_have_as_many_chips(topology, words):
    text = module("tpu-vm").render(dataclasses.replace(TPU, topology=topology))
    assert f"{words} --runtime-version=" in text
    assert text.count("--accelerator-type=") + text.count("--topology=") == 1


def test_names_of_slices():
    assert "nodes=(qoq-med-7b-0 qoq-med-7b-1)" in module("tpu-vm").render(SLICES)


def test_yaml_keeps_order_and_lines():
    assert gke.to_yaml({"b": "one\ntwo\n", "a": [1]}) == "b: |\n  one\n  two\na:\n  - 1\n"
