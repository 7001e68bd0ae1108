"""Text that grows by lines: at once in a file, at the next flush in an object."""

from __future__ import annotations

import pathlib

import pytest
from helpers import object_store

from qoq_jax.base import append, objects

URL = "memory://bucket/run/metrics.jsonl"


@pytest.fixture(autouse=True)
def empty():
    object_store.empty_memory()


def test_a_local_file_has_each_line_at_once(tmp_path):
    lines = append.Lines(str(tmp_path / "a"))
    lines.write("1\n")
    assert (tmp_path / "a").read_text() == "1\n"
    lines.write("2\n3\n")
    assert (tmp_path / "a").read_text() == "1\n2\n3\n"


def test_an_object_has_all_lines_after_a_flush_and_those_of_before(monkeypatch):
    writes, write = [], objects.write
    monkeypatch.setattr(objects, "write", lambda *args: (writes.append(args), write(*args)))
    for first in (0, 100):
        lines = append.Lines(URL)
        for number in range(first, first + 100):
            lines.write(f"{number}\n")
        append.flush_all()
    assert objects.read(URL) == "".join(f"{number}\n" for number in range(200)).encode()
    assert len(writes) <= 4, "not a write for each line"


def test_a_failed_write_is_raised_and_loses_nothing(monkeypatch):
    lines = append.Lines(URL)
    with monkeypatch.context() as patch:

        def refuse(url, content):
            raise PermissionError(13, "access denied", url)

        patch.setattr(objects, "write", refuse)
        lines.write("1\n")
        with pytest.raises(PermissionError, match="access denied"):
            lines.flush()
    lines.flush()
    assert objects.read(URL) == b"1\n"


def test_files_of_a_library_are_uploaded_when_they_have_grown(tmp_path, monkeypatch):
    sent, upload = [], objects.upload
    monkeypatch.setattr(objects, "upload", lambda *args: (sent.append(args[1]), upload(*args)))
    folder = append.Folder("memory://bucket/run/events")
    for name in ("a", "b"):
        pathlib.Path(folder.path, name).write_text(name)
    folder.flush()
    pathlib.Path(folder.path, "b").write_text("more")
    folder.flush()
    assert objects.read("memory://bucket/run/events/b") == b"more" and len(sent) == 3
    assert append.Folder(str(tmp_path)).path == str(tmp_path)
