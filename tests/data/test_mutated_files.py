"""Damaged files: a result, or one error that names the file; the long form is
benchmarks/mutated_files.py.
"""

import io
import json
import pathlib
import struct
import subprocess
import sys

import numpy as np
import pytest
import scipy.io

from benchmarks import mutated_files
from qoq_jax.base.errors import DataError
from qoq_jax.data import readers
from qoq_jax.data.readers import leads

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("kind", mutated_files.KINDS)
def test_a_mutated_file_is_read_or_refused_by_name(kind):
    found = []
    mutated_files.read_mutated(kind, range(24), 3, lambda *one: found.append(one))
    assert len(found) == 24
    assert [one for one in found if one[1] not in ("read", "refused")] == []
    assert max(seconds for _, _, seconds in found) < mutated_files.SECONDS


def test_what_is_wrong_with_a_reader_is_seen(tmp_path):
    def raising(error):
        def read(path):
            raise error

        return read

    path = tmp_path / "a.png"
    for error, said in (
        (ValueError("x"), "ValueError: x"),
        (DataError("x", hint="y"), "error without the file"),
        (DataError("x", where=str(path)), "error without the file"),
    ):
        assert mutated_files.outcome(raising(error), path, tmp_path).startswith(said)
    found = mutated_files.outcome(
        raising(DataError("x", where=str(path), hint="y")), path, tmp_path
    )
    assert found == "refused"


PROGRAM = """
import os, sys, time
from benchmarks import mutated_files as m
make, read = m.KINDS["bmp"]
calls = 0
def reader(path):
    global calls
    calls += 1
    if calls == 3:
        os.kill(os.getpid(), 11)
    if calls == 5:
        bytearray(3 << 30)
    return read(path)
m.KINDS = {"bmp": (make, reader)}
sys.argv = ["mutated_files.py", "--count", "4"]
sys.exit(m.main())
"""


def test_a_reader_that_dies_or_takes_memory_is_told_and_the_next_file_is_read():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    # Each process counts anew from the call for the sound file that main makes.
    assert done.returncode == 1
    assert "died: SIGSEGV (number 0)" in done.stderr and "(number 3)" in done.stderr


# ------------------------------------------------------------------- what such files have shown


def matlab(tmp_path, change):
    """An ECG in a struct of MATLAB 5, after `change` of its bytes."""
    times = np.arange(1000) / 100
    signal = np.stack([np.sin(times * (2 + lead)) for lead in range(12)])
    out = io.BytesIO()
    scipy.io.savemat(out, {"val": signal})
    body = bytearray(out.getvalue())
    change(body)
    path = tmp_path / "a.mat"
    path.write_bytes(bytes(body))
    facts = {"rate": 100, "unit": "mV", "leads": list(leads.STANDARD)}
    (tmp_path / "ecg.json").write_text(json.dumps(facts))
    return path


def put(at, *numbers):
    return lambda body: body.__setitem__(
        slice(at, at + 4 * len(numbers)), struct.pack(f"<{len(numbers)}I", *numbers)
    )


@pytest.mark.parametrize(
    "change",
    [
        put(176, 0, 0x02000000),  # an element of type 0, which ends the process in SciPy
        put(176, 8, 96000),
        put(176, 15, 96000),
        put(176, 0x000F0001, 0),  # a small element of 15 bytes
        put(160, 1 << 30, 1 << 30),  # lengths that no bytes stand behind
        put(160, 0xFFFFFFFF, 0xFFFFFFFF),
        put(136, 6, 1 << 20),  # flags without end
        put(128, 14, 1 << 31),
        put(128, 3, 64),
    ],
)
def test_a_matlab_file_that_would_end_the_process_is_refused(tmp_path, change):
    assert readers.read_ecg(matlab(tmp_path, lambda body: None)).shape == (8, 2500)
    path = matlab(tmp_path, change)
    with pytest.raises(DataError) as raised:
        readers.read_ecg(path)
    assert raised.value.where == str(path)
