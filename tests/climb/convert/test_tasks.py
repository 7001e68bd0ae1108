"""Tasks of a conversion: the same bytes by any runner; what an ended conversion goes on with."""

import dataclasses
import errno
import os
import pathlib
import pickle
import signal
import subprocess
import sys

import apache_beam
import pytest
from helpers import original_layouts
from PIL import Image

from qoq_jax.base.errors import ConfigError, DataError, QoqError, RetryError
from qoq_jax.cli import main
from qoq_jax.climb import pipeline
from qoq_jax.climb.convert import sets, tasks, write
from qoq_jax.climb.convert.folder import Folder

ROOT = pathlib.Path(__file__).parents[3]
FAMILIES = (
    *("georgia", "mimic-iv-ecg", "mimic-cxr", "cmmd", "ham10000", "lndb"),
    *("hemorrhage", "covid-us", "echonet-dynamic", "brain-tumor-2", "bcss", "cholec80"),
)


@pytest.fixture
def tree(tmp_path):
    """Makes a data set in miniature."""
    return lambda name, folder="data": pathlib.Path(original_layouts.build(tmp_path / folder, name))


def convert(root, name, run=pipeline.here, at_once=1):
    """A conversion of small tasks."""
    converter = dataclasses.replace(sets.get(name), at_once=at_once)
    return write.convert(converter, root, 0, run)


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def made(monkeypatch):
    """Numbers of the tasks that are made from now on in this process."""
    numbers, make = [], tasks.make
    monkeypatch.setattr(tasks, "make", lambda n, work: (numbers.append(n), make(n, work))[1])
    return numbers


def test_a_set_of_each_file_of_converters_is_run_by_beam():
    for module in sets.MODULES:
        assert {one.name for one in module.CONVERTERS} & set(FAMILIES), module


@pytest.mark.parametrize("name", FAMILIES)
def test_beam_gives_the_bytes_of_one_process(tree, name):
    here, there = tree(name, "here"), tree(name, "there")
    convert(here, name, at_once=1000)
    convert(there, name, pipeline.beam("DirectRunner"))
    assert contents(here) == contents(there)


def test_tasks_ask_for_single_files_and_may_be_made_twice_in_any_order(tree, monkeypatch):
    def backwards(function, elements, *arguments):
        with monkeypatch.context() as patch:
            patch.setattr(Folder, "files", property(lambda _: pytest.fail("a walk in a task")))
            for element in [*elements, *reversed(elements)]:
                function(element, *arguments)

    for name in sets.CONVERTERS:
        here, there = tree(name, f"here/{name}"), tree(name, f"there/{name}")
        convert(here, name, at_once=1000)
        convert(there, name, backwards)
        assert contents(here) == contents(there)


def test_converters_can_be_sent_to_workers():
    for name, converter in sets.CONVERTERS.items():
        assert pickle.loads(pickle.dumps(converter)).name == name


def test_without_a_runner_beam_is_not_imported(tree):
    code = (
        "import sys\nfrom qoq_jax.cli import main\n"
        "assert main.main(sys.argv[1:]) == 0 and 'apache_beam' not in sys.modules"
    )
    arguments = ["data", "convert", "ham10000", str(tree("ham10000"))]
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, check=True, timeout=120)


KILLED = """
import dataclasses, os, signal, sys
from qoq_jax.climb import pipeline
from qoq_jax.climb.convert import example, sets, write
found, seen = example.Converter.found, []
def dying(self, record, folder):
    seen.append(record.id)
    if len(seen) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return found(self, record, folder)
example.Converter.found = dying
name, root, runner = sys.argv[1:]
run = pipeline.beam(runner) if runner else pipeline.here
write.convert(dataclasses.replace(sets.get(name), at_once=1), root, 0, run)
"""


@pytest.mark.parametrize("runner", ["", "DirectRunner"])
def test_a_killed_conversion_goes_on_and_ends_in_the_same_bytes(tree, made, runner):
    root = tree("mimic-cxr")
    arguments = [sys.executable, "-c", KILLED, "mimic-cxr", str(root), runner]
    ended = subprocess.run(arguments, cwd=ROOT, capture_output=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()[-500:]
    assert not list(root.glob("*.jsonl"))
    finished = {number for number in range(6) if part(root, number).exists()}
    assert len(finished) == 2
    convert(root, "mimic-cxr")
    assert made == sorted({*range(6)} - finished)
    assert contents(root) == contents_of(tree("mimic-cxr", "whole"), "mimic-cxr")


def contents_of(root, name):
    convert(root, name)
    return contents(root)


@pytest.fixture
def stopped(tree, monkeypatch):
    """LNDb with all parts made and nothing merged."""
    root = tree("lndb")
    stop(root, "lndb", monkeypatch)
    return root


def stop(root, name, monkeypatch):
    """A conversion that is ended before its merge."""
    with monkeypatch.context() as patch:
        patch.setattr(write, "_merge", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            convert(root, name)


def part(root, number):
    return root / tasks.FOLDER / f"{number:05d}.part"


def test_finished_parts_are_merged_without_any_task(stopped, tree, made):
    convert(stopped, "lndb")
    assert made == [] and not (stopped / tasks.FOLDER).exists()
    assert contents(stopped) == contents_of(tree("lndb", "whole"), "lndb")


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:-20], lambda content: content.replace(b"LNDb", b"LNDc"), bytes.strip],
)
def test_a_damaged_part_is_made_again(stopped, tree, made, damage):
    part(stopped, 1).write_bytes(damage(part(stopped, 1).read_bytes()))
    convert(stopped, "lndb")
    assert made == [1]
    assert contents(stopped) == contents_of(tree("lndb", "whole"), "lndb")


def test_a_part_of_other_records_is_made_again(stopped, made):
    table = next(stopped.glob("**/trainNodules.csv"))
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(line for line in lines if not line.startswith("1,")))
    report = convert(stopped, "lndb")
    assert made == [0]
    assert {label for found in report["labels"].values() for label in found} == {"non-nodule"}


def test_a_part_whose_medium_has_come_or_gone_is_made_again(tree, made, monkeypatch):
    root = tree("aptos2019")
    pictures = sorted((root / "train_images").iterdir())
    whole = contents_of(tree("aptos2019", "whole"), "aptos2019")
    content = pictures[0].read_bytes()
    pictures[0].unlink()
    for change in (lambda: pictures[0].write_bytes(content), pictures[1].unlink):
        stop(root, "aptos2019", monkeypatch)
        made.clear()
        change()
        stop(root, "aptos2019", monkeypatch)
        assert len(made) == 1
    pictures[1].write_bytes(content)
    convert(root, "aptos2019")
    assert contents(root) == whole


def replace(path, content):
    """Another file under its name, with the times of the first one."""
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(content)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    os.replace(other, path)


def test_a_header_that_was_replaced_under_its_name_is_read_again(tree, made, monkeypatch):
    root = tree("georgia")
    stop(root, "georgia", monkeypatch)
    made.clear()
    header = next(root.rglob("E00001.hea"))
    replace(header, header.read_bytes().replace(b"426783006", b"164889003"))
    convert(root, "georgia")
    assert made == [0]
    rows = "".join(path.read_text() for path in root.glob("*.jsonl"))
    assert '"answer": "A. Fib/Aflutter"' in rows


@pytest.mark.parametrize(
    ("name", "source", "cut"),
    [
        ("lndb", "**/LNDb-0001.raw", "windows/LNDb-0001/0000.npz"),
        ("bcss", "images/TCGA-A1*.png", "patches/TCGA-A1*/00000_00000.png"),
    ],
)
def test_media_are_cut_again_from_a_file_that_was_replaced(
    tree, made, monkeypatch, name, source, cut
):
    root = tree(name)
    stop(root, name, monkeypatch)
    made.clear()
    (source,), before = root.glob(source), next(root.glob(cut)).read_bytes()
    content = source.read_bytes()
    if name == "lndb":
        content = content[::-1]
    else:
        with Image.open(source) as picture:
            picture.point(lambda level: 255 - level).save(root / "inverted.png")
        content = (root / "inverted.png").read_bytes()
        (root / "inverted.png").unlink()
    replace(source, content)
    convert(root, name)
    assert made == [0] and next(root.glob(cut)).read_bytes() != before


def test_parts_of_another_version_are_made_again(stopped, made, monkeypatch):
    monkeypatch.setattr(tasks, "_version", lambda: "another")
    convert(stopped, "lndb")
    assert made == [0, 1, 2]


def test_an_error_of_a_task_comes_after_the_other_tasks_and_names_the_file(tree, made, capsys):
    root = tree("bcss")
    mask = min((root / "masks").iterdir())
    whole = mask.read_bytes()
    Image.new("L", (10, 20)).save(mask)
    for runner in ([], ["--runner", "DirectRunner"]):
        assert main.main(["data", "convert", "bcss", str(root), *runner]) == 1
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(f"qoq: {mask}: has 10 x 20 pixels") and "is kept" in line
    mask.write_bytes(whole)
    made.clear()
    convert(root, "bcss")
    assert made == [0]
    assert contents(root) == contents_of(tree("bcss", "whole"), "bcss")


def test_a_file_that_the_system_refuses_is_an_error_of_its_task(tree, monkeypatch):
    def refused(work, content):
        raise PermissionError(errno.EACCES, "Permission denied", "g1/E00001.hea")

    monkeypatch.setattr(tasks, "_converted", refused)
    with pytest.raises(DataError, match=r"^g1/E00001\.hea: Permission denied .*is kept"):
        convert(tree("georgia"), "georgia")


def test_storage_that_may_answer_later_ends_the_task_without_a_part(tree, monkeypatch):
    def gone(work, content):
        raise OSError(errno.ESTALE, "Stale file handle", "g1/E00001.hea")

    monkeypatch.setattr(tasks, "_converted", gone)
    root = tree("georgia")
    with pytest.raises(OSError, match="Stale"):
        convert(root, "georgia")
    assert not list(root.glob(f"{tasks.FOLDER}/*.part"))


def test_a_part_that_no_worker_has_written_is_named(tree):
    root = tree("lndb")
    with pytest.raises(DataError, match=r"00000\.part: is not the part of these records"):
        convert(root, "lndb", run=lambda *_: None)


def test_two_records_of_one_id_are_an_error(tree):
    root = tree("aptos2019")
    table = root / "train.csv"
    table.write_text(table.read_text() + "000c,0\n")
    with pytest.raises(DataError, match="two records have the id '000c'"):
        convert(root, "aptos2019")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mimic-iv", "--runner", "DirectRunner"], "MIMIC-IV are read by one process"),
        (["lndb", "--runner-options=--direct_num_workers=2"], "no runner"),
        (["lndb", "--runner", "NoSuchRunner"], "refuses the runner 'NoSuchRunner'"),
        (
            ["lndb", "--runner", "DirectRunner", "--runner-options=direct_num_workers=2"],
            "'direct_num_workers=2' belongs to no option",
        ),
        (
            ["lndb", "--runner", "DirectRunner", "--runner-options=--direct_num_workrs=2"],
            "no option --direct_num_workrs (hint: did you mean '--direct_num_workers'?)",
        ),
        (
            ["lndb", "--runner", "DirectRunner", "--runner-options=--direct_num_workers=two"],
            "argument --direct_num_workers: invalid int value: 'two'",
        ),
    ],
)
def test_options_that_say_nothing_are_one_line(tmp_path, capsys, arguments, said):
    name, *options = arguments
    assert main.main(["data", "convert", name, str(tmp_path), *options]) == 2
    shown = capsys.readouterr().err
    assert said in shown and "usage:" not in shown
    assert os.listdir(tmp_path) == []


def stale(number):
    raise OSError(errno.ESTALE, "Stale file handle", "g1/E00001.hea")


def interrupted(number):
    raise KeyboardInterrupt


def broken(number):
    raise KeyError("a bug")


@pytest.mark.parametrize(
    ("function", "error", "said"),
    [
        (stale, RetryError, r"DirectRunner has failed \(OSError: \[Errno 116\] Stale"),
        (interrupted, KeyboardInterrupt, "^$"),
        (broken, KeyError, "a bug"),
    ],
)
def test_beam_raises_in_one_line_what_is_no_bug_of_a_task(function, error, said):
    with pytest.raises(error, match=said):
        pipeline.beam("DirectRunner")(function, [0])


def test_a_runner_that_cannot_work_is_one_line(monkeypatch):
    def unreachable(self):
        raise RuntimeError("Unable to fetch\njob server")

    monkeypatch.setattr(apache_beam.Pipeline, "run", unreachable)
    with pytest.raises(QoqError, match=r"^DirectRunner has failed \(Unable to fetch job server\)"):
        pipeline.beam("DirectRunner")(broken, [0])


def test_one_process_at_a_time_converts_in_a_folder(tree):
    root = tree("aptos2019")

    def second(function, elements, *arguments):
        with pytest.raises(ConfigError, match=r"is in use by process \d+"):
            convert(root, "aptos2019")
        pipeline.here(function, elements, *arguments)

    assert convert(root, "aptos2019", second)["rows"]["train"] == 2
    assert not (root / tasks.FOLDER).exists()


def test_what_a_killed_process_left_half_written_is_removed(tree):
    root = tree("aptos2019")
    (root / tasks.FOLDER).mkdir()
    (root / tasks.FOLDER / ".00000.part.1-2.partial").write_text("{")
    convert(root, "aptos2019")
    assert not (root / tasks.FOLDER).exists()


def test_media_behind_a_link_that_leads_out_are_left_out_until_they_are_there(tree, tmp_path):
    root, whole = tree("aptos2019"), contents_of(tree("aptos2019", "whole"), "aptos2019")
    (root / "train_images").rename(tmp_path / "elsewhere")
    (root / "train_images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="2 a file is behind a link that leads out"):
        convert(root, "aptos2019")
    (root / "train_images").unlink()
    (tmp_path / "elsewhere").rename(root / "train_images")
    convert(root, "aptos2019")
    assert contents(root) == whole


def test_a_name_that_is_not_utf_8_is_shown(tree):
    root = tree("brain-tumor-2")
    picture = next(root.rglob("*.jpg"))
    picture.rename(os.fsdecode(bytes(picture.parent) + b"/Tum\xf6r.jpg"))
    with pytest.raises(DataError, match=r"not UTF-8: '.*Tum\\udcf6r.jpg'"):
        convert(root, "brain-tumor-2")


def test_a_folder_that_cannot_be_read_is_an_error(tree, monkeypatch):
    def walk(top, onerror, followlinks):
        onerror(PermissionError(errno.EACCES, "Permission denied", f"{top}/train_images"))
        return iter(())

    monkeypatch.setattr(os, "walk", walk)
    with pytest.raises(PermissionError, match="train_images"):
        convert(tree("aptos2019"), "aptos2019")
