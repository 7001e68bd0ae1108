"""The command: what it says before, during and after; killed and continued; checked."""

import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys

import pytest

from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.cli import main
from qoq_jax.climb.access import access as access_module
from qoq_jax.climb.access import check, get
from qoq_jax.climb.access.access import Access
from qoq_jax.climb.access.errors import LoginError
from qoq_jax.climb.access.hosts import kaggle, physionet
from qoq_jax.climb.catalogue.table import Check

BODY = random.Random(1).randbytes(2_000_000)
ROOT = pathlib.Path(__file__).parents[3]


def plain(server, **options):
    server.put("/a.bin", BODY)
    server.put("/b.csv", b"1,2\n")
    return Access("a-set", "https", f"{server.base}/", files=("a.bin", "b.csv"), **options)


@pytest.fixture
def qoq(monkeypatch, capsys, fast):
    """`qoq data download` of one Access: its exit code, output and errors."""

    def run(access, *arguments):
        monkeypatch.setattr(access_module, "access_of", lambda name: access)
        code = main.main(["data", "download", access.name, *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


# ----------------------------------------------------------------------------------- the command


def test_the_command(server, tmp_path, qoq):
    access = plain(server, licence="CC-BY-4.0", homepage="https://a.example")
    code, out, err = qoq(access, "--root", tmp_path / "x")
    assert (code, err) == (0, "")
    assert "licence: CC-BY-4.0 (https://a.example)" in out
    assert f"a-set: 2 files, 2.0 MB, in {tmp_path / 'x'}" in out
    assert (tmp_path / "x" / "a.bin").read_bytes() == BODY


def test_some_files_by_the_command(server, tmp_path, qoq):
    code, _, _ = qoq(plain(server), "--root", tmp_path / "x", "--files", "*.csv", "*.tsv")
    assert code == 0
    assert sorted(os.listdir(tmp_path / "x")) == ["b.csv", "manifest.json"]


def test_an_error_of_the_command_is_one_line(server, tmp_path, qoq):
    access = plain(server)
    server.pages.pop("/b.csv")
    code, _, err = qoq(access, "--root", tmp_path / "x")
    assert code == 1
    assert err.startswith("qoq: b.csv: ") and err.count("\n") == 1


def test_a_mistake_in_the_arguments_has_code_2(server, tmp_path, qoq):
    assert qoq(plain(server), "--root", tmp_path / "x", "--files", "*.txt")[0] == 2


def test_a_name_that_is_not_in_the_catalogue(tmp_path, capsys):
    assert main.main(["data", "download", "no-such-set", "--root", str(tmp_path)]) == 2
    assert "no-such-set" in capsys.readouterr().err


# --------------------------------------------------------------------------------------- dry run


def test_a_dry_run_says_all_and_writes_nothing(server, tmp_path, qoq):
    access = plain(server, licence="CC0", version="2")
    code, out, _ = qoq(access, "--root", tmp_path / "x", "--dry-run")
    assert code == 0
    for line in ("a-set 2: https", "licence: CC0", "a.bin  2.0 MB", "files: 2", "not needed"):
        assert line in out
    assert re.search(r"disk: about 2\.0 MB, \d+\.\d [GM]B free at ", out)
    assert not (tmp_path / "x").exists()
    assert len(server.asked("/a.bin")) == 1, "its headers"


def test_a_dry_run_without_a_login_says_where_it_is_looked_for(tmp_path, qoq, nobody):
    access = Access("a-set", "kaggle-competition", "race", bytes=3_000_000_000)
    code, out, _ = qoq(access, "--root", tmp_path, "--dry-run")
    assert code == 0
    assert "login: environment variables KAGGLE_USERNAME and KAGGLE_KEY" in out
    assert f"login: {nobody}/.kaggle/kaggle.json" in out
    assert "login: none found; needed" in out
    assert "files: not listed" in out and "disk: about 3.0 GB" in out


def test_a_dry_run_says_where_a_login_was_found_and_not_what_it_is(
    server, tmp_path, qoq, monkeypatch
):
    monkeypatch.setattr(kaggle, "BASE", server.base)
    monkeypatch.setenv("KAGGLE_USERNAME", "me")
    monkeypatch.setenv("KAGGLE_KEY", "canary-1")
    _, out, err = qoq(Access("a-set", "kaggle-dataset", "o/n"), "--root", tmp_path, "--dry-run")
    assert "login: found in the environment; needed" in out
    assert "canary-1" not in out + err


# --------------------------------------------------------------------------- killed and continued

PROGRAM = """
import sys, pathlib
from qoq_jax.climb.access import get
from qoq_jax.climb.access.access import Access
get.download(
    Access("a-set", "https", sys.argv[1], files=tuple(sys.argv[3:])), pathlib.Path(sys.argv[2])
)
"""


def start(server, root, *files):
    command = [sys.executable, "-c", PROGRAM, f"{server.base}/", str(root), *files]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})


def wait_for_part(server, process, root, size):
    """Until so many bytes are on the disk."""
    assert server.reached.wait(60)
    while not any(one.stat().st_size >= size for one in (root / ".download").glob("*.part")):
        assert process.poll() is None


def test_killed_in_the_middle_and_continued(server, tmp_path, fast):
    """SIGKILL leaves no time for anything."""
    server.put("/done.bin", b"done")
    page = server.put("/a.bin", BODY, faults=[("none",), ("gate", 1_500_000)])
    process = start(server, tmp_path / "x", "done.bin", "a.bin")
    wait_for_part(server, process, tmp_path / "x", 1_500_000)
    while not (tmp_path / "x" / "done.bin").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "x" / "a.bin").exists()
    assert not page.faults
    before = len(server.asked("/done.bin"))
    access = Access("a-set", "https", f"{server.base}/", files=("done.bin", "a.bin"))
    get.download(access, tmp_path / "x", policy=fast)
    assert (tmp_path / "x" / "a.bin").read_bytes() == BODY
    assert server.asked("/a.bin")[-1]["Range"] == f"bytes={1_500_000}-"
    assert len(server.asked("/done.bin")) == before + 1, "only its size"
    assert sorted(os.listdir(tmp_path / "x")) == ["a.bin", "done.bin", "manifest.json"]


def test_ctrl_c_ends_it_with_130_and_it_continues(server, tmp_path, fast, monkeypatch):
    page = server.put("/a.bin", BODY, faults=[("none",), ("gate", 1_500_000)])
    program = f"""
import sys
from qoq_jax.climb.access import access
access.access_of = lambda name: access.Access(name, "https", "{server.base}/", files=("a.bin",))
from qoq_jax.cli import main
sys.exit(main.main(["data", "download", "a-set", "--root", "{tmp_path}/x"]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_part(server, process, tmp_path / "x", 1_400_000)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command continues where it stopped" in err and "Traceback" not in err
    assert not page.faults
    access = Access("a-set", "https", f"{server.base}/", files=("a.bin",))
    get.download(access, tmp_path / "x", policy=fast)
    assert (tmp_path / "x" / "a.bin").read_bytes() == BODY
    assert "Range" in server.asked("/a.bin")[-1]


def test_two_at_a_time_in_one_folder_are_refused(server, tmp_path, fast):
    server.put("/a.bin", BODY, faults=[("none",), ("gate", 10)])
    process = start(server, tmp_path / "x", "a.bin")
    try:
        assert server.reached.wait(60)
        access = Access("a-set", "https", f"{server.base}/", files=("a.bin",))
        with pytest.raises(ConfigError, match=rf"in use by process {process.pid}.*another root"):
            get.download(access, tmp_path / "x", policy=fast)
        server.gate.set()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "x" / "a.bin").read_bytes() == BODY


def test_a_torn_line_of_the_journal_is_not_believed(server, tmp_path, fast):
    access = plain(server)
    get.download(access, tmp_path / "x", policy=fast)
    manifest = json.loads((tmp_path / "x" / "manifest.json").read_text())
    (tmp_path / "x" / "manifest.json").unlink()
    work = tmp_path / "x" / ".download"
    work.mkdir()
    lines = [json.dumps({"path": path, **one}) for path, one in manifest["files"].items()]
    (work / "journal.jsonl").write_text(lines[0] + "\n" + lines[1][:30])
    before = len(server.requests)
    get.download(access, tmp_path / "x", policy=fast)
    assert json.loads((tmp_path / "x" / "manifest.json").read_text()) == manifest
    assert len(server.requests) == before + 2, "sizes; both files were right"


# ----------------------------------------------------------------------------- request and check

ON_REQUEST = Access(
    "chexpert",
    "request",
    "https://a.example/form",
    steps=("Accept the agreement.", "Copy it with azcopy."),
    checks=(Check("train.csv", 1), Check("train/*/*.jpg", 3)),
    licence="research use",
)


def test_a_set_on_request_says_the_steps(tmp_path, qoq):
    code, out, err = qoq(ON_REQUEST, "--root", tmp_path / "x")
    assert code == 1
    assert "1. Open https://a.example/form\n2. Accept the agreement.\n3. Copy it" in out
    assert f"qoq data download chexpert --root {tmp_path / 'x'} --check" in err


def fill(root, count):
    (root / "train" / "p1").mkdir(parents=True)
    (root / "train.csv").write_text("Path\n")
    for i in range(count):
        (root / "train" / "p1" / f"{i}.jpg").write_bytes(b"x")


def test_a_set_on_request_that_is_complete(tmp_path, qoq):
    fill(tmp_path / "x", 3)
    assert qoq(ON_REQUEST, "--root", tmp_path / "x")[0] == 0
    code, out, _ = qoq(ON_REQUEST, "--root", tmp_path / "x", "--check")
    assert (code, out) == (0, "chexpert: complete: 0 files by hash, 2 patterns by count\n")


def test_a_set_on_request_that_is_not_complete(tmp_path, qoq):
    fill(tmp_path / "x", 2)
    code, out, err = qoq(ON_REQUEST, "--root", tmp_path / "x", "--check")
    assert (code, out) == (1, "train/*/*.jpg: 2 of 3 files\n")
    assert "1 problems" in err
    with pytest.raises(LoginError):
        get.download(ON_REQUEST, tmp_path / "x", log=lambda _: None)


def test_a_check_finds_what_changed_since_the_download(server, tmp_path, fast):
    access = plain(server)
    get.download(access, tmp_path / "x", policy=fast)
    said = []
    check.check(access, tmp_path / "x", said.append)
    assert said == ["a-set: complete: 2 files by hash, 0 patterns by count"]
    (tmp_path / "x" / "a.bin").write_bytes(BODY[:-1] + b"?")
    (tmp_path / "x" / "b.csv").unlink()
    said.clear()
    with pytest.raises(DataError, match="2 problems"):
        check.check(access, tmp_path / "x", said.append)
    assert said == [
        "a.bin: has another SHA-256 (manifest.json)",
        "b.csv: is missing (manifest.json)",
    ]


def test_a_copy_from_elsewhere_is_checked_by_physionets_list(tmp_path):
    root = tmp_path / "x"
    root.mkdir()
    digest = "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7"
    (root / physionet.SUMS).write_text(f"{digest} a\n{digest} b\n")
    (root / "a").write_bytes(b"data")
    (root / "b").write_bytes(b"date")
    access = Access("a-set", "physionet-open", "proj", "1.0")
    said = []
    with pytest.raises(DataError, match="1 problems"):
        check.check(access, root, said.append)
    assert said == [f"b: has another SHA-256 ({physionet.SUMS})"]


def test_nothing_to_check_against_is_an_error(tmp_path):
    with pytest.raises(DataError, match="nothing to check against"):
        check.check(Access("a-set", "zenodo", "1"), tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        check.check(Access("a-set", "zenodo", "1"), tmp_path / "none")


def test_what_a_download_leaves_to_be_done_by_hand_is_said(server, tmp_path, qoq):
    access = plain(server, steps=("Unpack it.",), checks=(Check("c.npy"),))
    code, out, _ = qoq(access, "--root", tmp_path / "x")
    assert code == 0
    assert "not complete yet: c.npy: 0 of 1 files\n1. Unpack it.\n" in out
