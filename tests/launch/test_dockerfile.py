"""The image's own install, with pip replaced."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

REPOSITORY = pathlib.Path(__file__).parents[2]
TEXT = (REPOSITORY / "launch" / "Dockerfile").read_text()


@pytest.fixture
def install(tmp_path):
    """Runs the layer of the dependencies in a folder with what was copied before it; returns
    (exit code, arguments of pip).
    """
    before, run = re.search(r"^COPY (.+) \./\nRUN (.+?[^\\])$", TEXT, re.M | re.S).groups()
    for name in before.split():
        shutil.copy(REPOSITORY / name, tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    pip = programs / "pip"
    pip.write_text('#!/bin/sh\nls qoq_jax/__init__.py setup.py && echo "$*" > arguments\n')
    pip.chmod(0o755)

    def layer(extra):
        path = f"{programs}:{os.environ['PATH']}"
        environment = {"PATH": path, "EXTRA": extra}
        done = subprocess.run(["sh", "-c", run], cwd=tmp_path, env=environment)
        arguments = tmp_path / "arguments"
        return done.returncode, arguments.read_text().strip() if arguments.exists() else ""

    return layer


@pytest.mark.parametrize(
    ("extra", "extras"), [("tpu", "gcs,s3,tpu"), ("cuda", "gcs,s3,cuda"), ("none", "gcs,s3")]
)
def test_the_package_is_there_when_it_is_installed(extra, extras, install):
    """An editable install of an empty folder serves no package."""
    assert install(extra) == (0, f"install -c constraints.txt -e .[{extras}]")


def test_another_accelerator_is_refused(install):
    assert install("rocm") == (2, "")


def test_python_is_the_one_that_the_constraints_pin_jax_for():
    pinned = re.search(r'^jax==\S+; python_version < "3\.(\d+)"', _constraints(), re.M)[1]
    assert f"FROM python:3.{int(pinned) - 1}-slim" in TEXT


def _constraints():
    return (REPOSITORY / "constraints.txt").read_text()
