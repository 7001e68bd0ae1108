"""The notebooks run from start to end, and their first code cell installs what is needed."""

import glob
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest
from helpers.flags import OLD_EMITTERS

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
# quickstart.ipynb is of a clone: it installs the folder above it, and opens a run that is there
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb") if path.stem != "quickstart")
LAST = """
import matplotlib.pyplot as plt
assert plt.get_fignums() and all(plt.figure(n).get_axes() for n in plt.get_fignums())
"""


def cells(name):
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def code(name):
    return ["".join(cell["source"]) for cell in cells(name) if cell["cell_type"] == "code"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_draws(name, tmp_path):
    environment = dict(
        os.environ,
        PYTHONPATH=str(ROOT),
        MPLBACKEND="Agg",
        JAX_PLATFORMS="cpu",
        XLA_FLAGS=" ".join(OLD_EMITTERS),  # with optimisation: they train some hundred steps
    )
    environment.pop("PYTEST_CURRENT_TEST", None)
    script = tmp_path / "cells.py"
    script.write_text("\n\n".join([*code(name), LAST]), encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-4000:]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_stripped_and_begins_with_its_time(name):
    found = cells(name)
    assert "seconds on 2 CPU cores" in found[0]["source"][0]
    assert len({cell["id"] for cell in found}) == len(found)
    for cell in found:
        if cell["cell_type"] == "code":
            assert not cell["outputs"] and cell["execution_count"] is None


@pytest.mark.parametrize(
    ("devices", "extra"),
    [
        ((), ""),
        (("/dev/nvidia0",), "[cuda]"),
        (("/dev/accel0",), "[tpu]"),
        (("/dev/vfio/0",), "[tpu]"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_the_first_cell_installs_the_extra_of_the_runtime(name, devices, extra, monkeypatch):
    ran = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(glob, "glob", lambda pattern: [d for d in devices if d[:8] == pattern[:8]])
    monkeypatch.setattr(os.path, "exists", lambda path: path in devices)
    monkeypatch.setattr(subprocess, "run", lambda command, check: ran.append(command))
    exec(code(name)[0], {})
    assert ran[0][5].startswith(f"qoq_jax{extra} @ git+")


@pytest.mark.parametrize("name", NAMES)
def test_the_first_cell_does_nothing_where_the_package_is(name, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("it installs")

    monkeypatch.setattr(subprocess, "run", refuse)
    exec(code(name)[0], {})
