"""Files are whole or not there, and JSON is read strictly."""

from __future__ import annotations

import hashlib

import pytest

from qoq_jax.base import files
from qoq_jax.base.errors import ConfigError, DataError


def test_a_file_takes_the_place_of_the_one_before(tmp_path):
    path = tmp_path / "new" / "a.json"
    files.write_json(path, {"é": 1})
    files.write_json(path, [2.5])
    assert path.read_text() == "[\n 2.5\n]"
    assert [one.name for one in path.parent.iterdir()] == ["a.json"]


def test_a_failed_write_leaves_the_file_before_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    files.write_text(path, "before")
    with pytest.raises(OSError, match="full"), files.replacing(path) as partial:
        with open(partial, "w") as file:
            file.write("ha")
        raise OSError("full")
    assert path.read_text() == "before"
    assert [one.name for one in tmp_path.iterdir()] == ["a"]


def test_a_value_without_a_json_form_leaves_the_file_before(tmp_path):
    files.write_json(tmp_path / "a", 1)
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "a", [object()])
    assert files.read_json(tmp_path / "a") == 1


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', "{", "[" * 100_000, ""])
def test_what_is_not_json_is_an_error_that_names_the_file(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json: cannot be read"):
        files.read_json(tmp_path / "a.json")


def test_bytes_that_are_not_text_are_an_error(tmp_path):
    (tmp_path / "a").write_bytes(b'"\xff\xfe"')
    with pytest.raises(DataError, match="cannot be read"):
        files.read_json(tmp_path / "a")


def test_the_files_of_a_run_may_hold_infinity(tmp_path):
    files.write_json(tmp_path / "a", {"clip_dual": float("inf")})
    assert files.read_json(tmp_path / "a", finite=False) == {"clip_dual": float("inf")}


def test_a_missing_file_is_an_error_or_what_the_caller_says(tmp_path):
    with pytest.raises(ConfigError, match=r"No such file.*hint: look elsewhere"):
        files.read_json(tmp_path / "a", error=ConfigError, hint="look elsewhere")
    assert files.read_json(tmp_path / "a", None) is None


def test_sha256(tmp_path):
    files.write_bytes(tmp_path / "a", b"abc" * 100_000)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
