"""The job files of launch/jobs, and their placeholders."""

import pathlib
import re

import pytest

from qoq_jax.cli import launch
from qoq_jax.cli.main import main
from qoq_jax.launch import check, placeholders

JOBS = sorted((pathlib.Path(__file__).parents[2] / "launch" / "jobs").glob("*.py"))


def engines(path):
    """As the file's docstring names them."""
    return re.search(r"^Engines: ([\w, -]+)\.", path.read_text(), re.M)[1].split(", ")


CASES = [(path, engine) for path in JOBS for engine in engines(path)]


@pytest.mark.parametrize(("path", "engine"), CASES, ids=lambda x: getattr(x, "stem", x))
def test_a_job_passes_the_checks_of_its_engines(path, engine):
    job = launch.load(str(path))
    assert check.check(job, engine) == []
    assert job.checkpoint_gib > 0, "the grace period is checked against it"


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_its_config_fits_its_accelerators(path):
    """Mesh, batch and memory, by the instant plan."""
    assert launch.check_config(launch.load(str(path))) == []


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_is_shown_but_not_sent_with_placeholders(path, capsys):
    engine = engines(path)[0]
    assert main(["launch", str(path), engine, "--dry-run"]) == 0
    assert main(["launch", str(path), engine]) == 2
    assert "has 'my-" in capsys.readouterr().err


def test_a_name_that_only_contains_a_placeholder_is_none():
    job = launch.load(str(JOBS[0]))
    fields = dict.fromkeys(("project", "cluster", "partition", "account"), "is-my-project-2")
    job = type(job)(**{**vars(job), **fields, "command": "x", "image": "i", "workdir": "gs://b"})
    assert placeholders.check(job) == []
