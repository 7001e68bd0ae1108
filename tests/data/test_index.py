"""A row file behind an index: checked once, parsed when asked for, known when it is unchanged."""

from __future__ import annotations

import gzip
import json
import os
import pathlib

import numpy as np
import pytest
from helpers.rows import TOKENIZER, config

from qoq_jax.base.errors import DataError
from qoq_jax.data import edits, index, pipeline, sources
from qoq_jax.data import rows as schema
from qoq_jax.data.packing import Budget

DOMAINS = ("ct", "mri", "ecg")


def plain(number: int, **change) -> dict:
    return {
        "id": f"r{number}",
        "dataset": "d",
        "domain": DOMAINS[number % 3],
        "problem": "Answer with one of: A, B.",
        "answer": "A",
        "labels": ["A", "B"],
        "patient": f"p{number // 2}",
    } | change


def write(path: pathlib.Path, rows: list, newline: str = "\n") -> pathlib.Path:
    text = newline.join(map(json.dumps, rows)) + newline
    path.write_bytes(text.encode())
    return path


@pytest.fixture
def parses(monkeypatch):
    """The places of the rows that were parsed so far."""
    found, parse = [], schema.parse

    def counted(content, where):
        found.append(where)
        return parse(content, where)

    monkeypatch.setattr(schema, "parse", counted)
    return found


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "train.jsonl", [plain(i) for i in range(500)])


def test_the_second_opening_parses_nothing_and_a_row_is_parsed_when_asked_for(tmp_path, parses):
    file = write(tmp_path / "train.jsonl", [plain(i) for i in range(2000)])
    first = index.open_rows(file)
    assert len(parses) == 2000
    parses.clear()
    rows = index.open_rows(file)
    assert len(rows) == 2000 and rows.fingerprint == first.fingerprint and not parses
    assert rows[1234].id == "r1234" and rows[-1].id == "r1999"
    assert parses == ["train.jsonl:1235", "train.jsonl:2000"]


def test_rows_are_those_of_the_whole_file(file):
    rows, whole = index.open_rows(file), schema.read_jsonl(file)
    assert list(rows) == whole and rows[5:400:7] != whole[5:400:7]
    assert list(rows[5:400:7]) == whole[5:400:7]
    assert rows.fingerprint == sources.fingerprint(whole, file.parent)
    assert rows.column("domain").tolist() == [schema.DOMAINS.index(row.domain) for row in whole]
    with pytest.raises(IndexError):
        rows[500]


def test_subsets_weights_and_domains_parse_nothing(file, parses):
    rows = index.open_rows(file)
    parses.clear()
    few = rows.take(edits.limited(len(rows), 50, 0)).edited(edits.HideDiagnosis(0))
    ct = few.take(np.flatnonzero(few.column("domain") == schema.DOMAINS.index("ct")))
    repeated = ct.take(np.tile(np.arange(len(ct)), 3))
    marks = {one.fingerprint for one in (rows, few, ct, repeated)}
    assert sources.domains(few) == ("ecg", "ct", "mri") and len(repeated) == 3 * len(ct)
    assert len(marks) == 4 and not parses
    assert {row.domain for row in repeated} == {"ct"}


def test_a_view_has_another_fingerprint_with_another_seed_or_order(file):
    rows = index.open_rows(file)
    views = [
        rows.edited(edits.HideDiagnosis(0)),
        rows.edited(edits.HideDiagnosis(1)),
        rows.edited(edits.ShrinkBoxes(0.1, 0)),
        rows.take(np.arange(10)),
        rows.take(np.arange(10)[::-1]),
    ]
    assert len({view.fingerprint for view in views}) == 5
    assert views[3].fingerprint == rows.take(np.arange(10)).fingerprint


BUDGET = Budget(
    rows=4,
    tokens=224,
    media_rows=4,
    patches=16,
    ecgs=1,
    pad_id=TOKENIZER.token_to_id("<|endoftext|>"),
)


def batches(rows, weights=None):
    source = pipeline.Source("d", "nowhere", rows)
    recipe = pipeline.Recipe([source], TOKENIZER, config(), BUDGET, with_answer=True)
    return pipeline.make_iterator(recipe, pipeline.Shuffle(0, weights), pipeline.Reading(threads=0))


def ids(iterator, count):
    return [[place.meta.id for place in next(iterator)[1]] for _ in range(count)]


@pytest.mark.parametrize("weights", [None, dict.fromkeys(DOMAINS, 1.0)])
def test_batches_of_lazy_rows_are_those_of_a_list(file, weights):
    lazy, eager = index.open_rows(file), schema.read_jsonl(file)
    assert ids(batches(lazy, weights), 5) == ids(batches(eager, weights), 5)


def test_a_run_resumed_in_the_middle_reads_only_what_comes(file, parses):
    rows = index.open_rows(file)
    straight = batches(rows)
    ids(straight, 12)
    state = json.loads(json.dumps(straight.get_state()))
    expected = ids(straight, 2)
    resumed = batches(rows)
    parses.clear()
    resumed.set_state(state)
    assert ids(resumed, 2) == expected
    taken = sum(map(len, expected))
    assert taken <= len(parses) <= taken + 2 * BUDGET.media_rows  # and what did not fit any more


def test_a_state_with_a_fingerprint_of_each_row_is_accepted_once_it_is_checked(file):
    rows, eager = index.open_rows(file), schema.read_jsonl(file)
    straight = batches(rows)
    expected = ids(straight, 1)
    state = straight.get_state()
    state["fingerprint"] = batches(eager).get_state()["fingerprint"].removeprefix("2:")
    resumed = batches(rows)
    resumed.set_state(state)
    assert resumed.get_state()["fingerprint"].startswith("2:") and expected
    with pytest.raises(DataError, match="other rows"):
        batches(rows[:-1]).set_state(state)


# ---------------------------------------------------------------------------- what is read, and how


def same_rows(path: pathlib.Path, count: int = 4) -> bool:
    expected = [schema.validate_row(plain(i), "") for i in range(count)]
    return list(index.open_rows(path)) == expected == list(index.open_rows(path))


def test_windows_line_ends_and_byte_order_mark(tmp_path):
    path = write(tmp_path / "train.jsonl", [plain(i) for i in range(4)], "\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert same_rows(path)
    assert [row.id for row in schema.read_jsonl(path)] == ["r0", "r1", "r2", "r3"]


def test_gzip_lines_are_a_split(tmp_path):
    path = write(tmp_path / "train.jsonl", [plain(i) for i in range(4)])
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert same_rows(sources.find(tmp_path, "train"))
    assert len(schema.read_jsonl(tmp_path / "train.jsonl.gz")) == 4


def test_a_cut_gzip_file_is_named(tmp_path):
    whole = gzip.compress(os.urandom(1000) + b"\n" * 1000)
    (tmp_path / "train.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train\.jsonl\.gz: the gzip data are damaged or cut"):
        sources.load(tmp_path, "train")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_json_list_plain_or_gzip(tmp_path, pack):
    path = tmp_path / "train.jsonl"
    path.write_bytes(pack(json.dumps([plain(i) for i in range(4)]).encode()))
    assert same_rows(path)
    assert index.open_rows(path).index.where(2) == "train.jsonl[2]"


def test_array_record(tmp_path):
    from array_record.python.array_record_module import ArrayRecordWriter

    path = tmp_path / "train.array_record"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for i in range(4):
        writer.write(json.dumps(plain(i)).encode())
    writer.close()
    assert same_rows(sources.find(tmp_path, "train"))


def test_array_record_without_the_package_or_of_other_bytes(tmp_path, monkeypatch):
    path = tmp_path / "train.array_record"
    path.write_bytes(b"no records" * 9000)
    with pytest.raises(DataError, match="not a readable ArrayRecord file"):
        index.open_rows(path)
    monkeypatch.setitem(__import__("sys").modules, "array_record.python", None)
    with pytest.raises(DataError, match="the package that reads it is not installed"):
        index.open_rows(path)


def test_two_files_for_one_split(tmp_path):
    path = write(tmp_path / "train.jsonl", [plain(0)])
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match=r"train\.jsonl and train\.jsonl\.gz are both there"):
        sources.load(tmp_path, "train")


@pytest.mark.parametrize(
    "line, said",
    [
        (rb'{"id": "x", "problem": "\ud83d", "answer": "A"}', "problem: holds half of a surrogate"),
        (rb'{"id": "x", "\udc00": "?"}', r"\\udc00: holds half"),
        (b'{"id": "\xff"}', "not UTF-8"),
        (b'{"id": "' + b"x" * (3 << 20) + b'"}', "over 1 MiB"),
        (json.dumps(plain(0)).encode(), "'r0' is used by train.jsonl:1"),
        (b"{", "not valid JSON"),
    ],
)
def test_a_broken_row_is_one_fault_and_the_rest_is_read(tmp_path, line, said):
    path = tmp_path / "train.jsonl"
    lines = [json.dumps(plain(i)).encode() for i in range(2)]
    path.write_bytes(b"\n".join([*lines, line, b"", json.dumps(plain(2)).encode()]))
    for _ in range(2):  # as it is built, and as it is kept
        faults = []
        rows = sources.load(tmp_path, "train", faults)
        assert [row.id for row in rows] == ["r0", "r1", "r2"] and len(faults) == 1
        assert faults[0].startswith("train.jsonl:3") and said.replace("\\\\", "\\") in faults[0]
        with pytest.raises(DataError, match=r"train\.jsonl:3"):
            sources.load(tmp_path, "train")


def test_a_whole_emoji_is_text(tmp_path):
    write(tmp_path / "train.jsonl", [plain(0, problem="\U0001f600?")])
    assert sources.load(tmp_path, "train")[0].problem == "\U0001f600?"


# ---------------------------------------------------------------------- when an index holds no more


def rebuilt(file: pathlib.Path, parses: list) -> bool:
    parses.clear()
    index.open_rows(file)
    return bool(parses)


def test_a_touched_file_keeps_its_index_and_a_changed_one_does_not(file, parses):
    assert rebuilt(file, parses) and not rebuilt(file, parses)
    os.utime(file, ns=(1, 1))
    assert not rebuilt(file, parses)
    text = file.read_bytes()
    file.write_bytes(text.replace(b'"r7"', b'"x7"'))
    assert rebuilt(file, parses) and index.open_rows(file)[7].id == "x7"
    file.write_bytes(text + json.dumps(plain(500)).encode())
    assert rebuilt(file, parses)


def test_another_content_of_the_same_size_and_time_is_noticed_in_a_small_file(tmp_path, parses):
    file = write(tmp_path / "train.jsonl", [plain(i) for i in range(100)])
    index.open_rows(file)
    found = file.stat()
    file.write_bytes(file.read_bytes().replace(b'"r77"', b'"x77"'))
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert rebuilt(file, parses)


def test_media_of_another_size_give_another_fingerprint(tmp_path, parses):
    (tmp_path / "a.png").write_bytes(b"123")
    path = write(tmp_path / "train.jsonl", [plain(0, images=["a.png"])])
    before = index.open_rows(path).fingerprint
    (tmp_path / "a.png").write_bytes(b"1234")
    assert rebuilt(path, parses) and index.open_rows(path).fingerprint != before


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" + b])
def test_a_cut_or_foreign_index_is_made_anew(file, parses, damage):
    index.open_rows(file)
    kept = file.with_name(".train.jsonl.index")
    kept.write_bytes(damage(kept.read_bytes()))
    assert rebuilt(file, parses) and not rebuilt(file, parses)


def test_a_read_only_folder_has_its_index_in_the_cache(file, parses, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    writable = index._writable
    monkeypatch.setattr(index, "_writable", lambda f: f != file.parent and writable(f))
    assert rebuilt(file, parses) and not rebuilt(file, parses)
    assert not file.with_name(".train.jsonl.index").exists()
    assert list((tmp_path / "cache").rglob(".train.jsonl.index"))


def test_without_any_place_for_an_index_rows_are_read_all_the_same(tmp_path, monkeypatch):
    path = tmp_path / "train.jsonl"
    path.write_bytes(gzip.compress(json.dumps(plain(0)).encode()))
    monkeypatch.setattr(index, "_writable", lambda folder: False)
    assert index.open_rows(path)[0].id == "r0"
    assert [p.name for p in tmp_path.iterdir()] == ["train.jsonl"]


def test_a_file_that_is_written_into_while_it_is_used_is_an_error(file):
    rows = index.open_rows(file)
    with open(file, "ab") as stream:
        stream.write(b"\n")
    with pytest.raises(DataError, match="has changed since it was opened"):
        rows[3]


def test_a_file_that_another_one_replaced_stays_what_it_was(file):
    rows = index.open_rows(file)
    os.replace(write(file.with_name("new"), [plain(9)]), file)
    assert rows[3].id == "r3" and index.open_rows(file)[0].id == "r9"
