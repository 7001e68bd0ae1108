"""A run directory of the first released layout loads, resumes and evaluates to the same digits.

golden/old_run/run is a run (LoRA in both stages, so that it is small) stopped after RL step 2 of 4;
golden/old_run/expected holds what the code that made it printed for steps 3 and 4 and for the test
split, and names and shapes of the quickstart's whole checkpoints.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from qoq_jax.data.rows import DOMAINS
from qoq_jax.train import config as config_lib
from qoq_jax.train.plan import plan
from qoq_jax.train.setup import assemble
from qoq_jax.train.stage_run import state_layout

OLD = pathlib.Path(__file__).parents[1] / "golden" / "old_run"
# Seconds and rates differ from machine to machine; the rest is numbers of the method.
NOT_COMPARED = ("time", "seconds/", "tokens_per_second", "recompiles")


GO_ON = """
import json, sys
from qoq_jax.train import config, run
sys.exit(run.run(config.parse(json.load(open(sys.argv[1])))))
"""


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """The workdir in which the old run was gone on with, to its end: on one device, as it began."""
    folder = tmp_path_factory.mktemp("old")
    shutil.copytree(OLD / "run", folder / "runs" / "old")
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    paths = os.pathsep.join([str(pathlib.Path(__file__).parents[2]), str(OLD)])
    done = subprocess.run(
        [sys.executable, "-c", GO_ON, str(OLD / "run" / "config.json")],
        cwd=folder,
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "old"


def test_an_old_config_is_read_with_every_field():
    stored = json.loads((OLD / "expected" / "quickstart_config.json").read_text())
    assert config_lib.differences(config_lib.parse(stored), stored) == []


@pytest.mark.slow
def test_an_old_run_goes_on_with_the_same_numbers(resumed):
    def numbers(path: pathlib.Path) -> list[dict]:
        return [json.loads(line) for line in path.read_text().splitlines()]

    rows = [r for r in numbers(resumed / "metrics.jsonl") if r["stage"] == "rl" and r["step"] > 2]
    wanted = numbers(OLD / "expected" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [row["step"] for row in wanted]
    for row, old in zip(rows, wanted, strict=True):
        names = [n for n in old if not n.startswith(NOT_COMPARED)]
        for name in names:
            if name == "stage" or name.startswith("logprob_difference") or name == "policy/kl":
                continue  # rounding itself
            assert row[name] == pytest.approx(old[name], rel=1e-4, abs=1e-6), name


@pytest.mark.slow
def test_an_old_run_evaluates_to_the_same_answers(resumed):
    ours = json.loads((resumed / "eval" / "rl.json").read_text())
    theirs = json.loads((OLD / "expected" / "eval_rl.json").read_text())
    assert ours["summary"] == theirs["summary"]
    assert [row["text"] for row in ours["records"]] == [row["text"] for row in theirs["records"]]


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_the_tree_of_a_whole_checkpoint_is_the_old_one(stage, tmp_path):
    stored = json.loads((OLD / "expected" / "quickstart_config.json").read_text())
    config = config_lib.parse(stored | {"workdir": str(tmp_path)})
    setup = assemble(config, prepare=False)
    with jax.set_mesh(setup.mesh):
        layout = state_layout(setup, plan(config, stage))
    shapes = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(layout)[0]:
        keys = [str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k)))) for k in path]
        shapes["/".join(keys)] = list(np.shape(leaf))
    wanted = json.loads((OLD / "expected" / f"quickstart_{stage}_tree.json").read_text())
    for name in ("history/count", "history/vectors"):  # a restore extends those of ten domains
        if name in wanted:
            assert wanted[name][0] == 10
            wanted[name][0] = len(DOMAINS)
    assert shapes == wanted
