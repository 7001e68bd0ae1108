"""Objects by URL: found, retried, fetched once, and told in one line when they cannot be read."""

from __future__ import annotations

import errno
import logging
import os
import pathlib
import subprocess
import sys
import types

import fsspec
import pytest
from etils import epath
from helpers import object_store

from qoq_jax.base import files, objects, storage
from qoq_jax.base.errors import CheckpointError, ConfigError, DataError, RetryError
from qoq_jax.cli import main


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """A cache of its own, an empty memory://, no waits."""
    monkeypatch.setenv("QOQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(objects, "FIRST_WAIT", 0.001)
    object_store.empty_memory()


@pytest.fixture(scope="module")
def s3():
    with object_store.s3_server():
        object_store.make_bucket("bucket")
        yield "s3://bucket"


@pytest.fixture(params=["memory", "s3"])
def folder(request):
    """A folder of objects with a, b/c and b/d/e."""
    root = (
        "memory://bucket/run"
        if request.param == "memory"
        else f"{request.getfixturevalue('s3')}/run"
    )
    objects.remove_tree(root)
    for name in ("a", "b/c", "b/d/e"):
        objects.write(f"{root}/{name}", name.encode() * 3)
    return root


def failing(monkeypatch, name, errors):
    """The method of memory:// raises these errors first, or does what they are when they are
    functions; returns the list of calls.
    """
    store, calls = objects.system("memory://x"), []
    real = getattr(store, name)

    def call(*args, **kwargs):
        calls.append(args)
        error = errors.pop(0) if errors else None
        if isinstance(error, Exception):
            raise error
        found = real(*args, **kwargs)
        return error(found) if error else found

    monkeypatch.setattr(store, name, call)
    return calls


def test_folders_of_objects_look_like_folders(folder):
    assert storage.names(folder) == ["a", "b"] and storage.names(f"{folder}/none") == []
    assert (
        storage.is_dir(folder) and storage.is_dir(f"{folder}/b") and storage.is_file(f"{folder}/a")
    )
    assert not storage.exists(f"{folder}/none") and not storage.is_dir(f"{folder}/a")
    assert list(storage.walk(folder)) == [
        (folder, ["a"]),
        (f"{folder}/b", ["c"]),
        (f"{folder}/b/d", ["e"]),
    ]
    assert [storage.size(f"{folder}/{name}") for name in ("a", "b/c", "none")] == [3, 9, -1]
    sizes = storage.sizes(folder)
    assert [sizes(name) for name in ("a", "b/c", "b/d/e", "none", "b/none")] == [3, 9, 15, -1, -1]
    storage.remove_tree(f"{folder}/b")
    assert storage.names(folder) == ["a"]


@pytest.mark.parametrize("key", ["../evil", "b/../../evil", "b/./evil", "b//evil", "b\\..\\evil"])
def test_a_key_that_leads_out_of_its_folder_is_refused(folder, key):
    with object_store.raw_key(folder, key):
        with pytest.raises(DataError, match="is no path below a folder") as caught:
            objects.tree(folder)
        assert "\n" not in str(caught.value) and folder in str(caught.value)
        with (
            pytest.raises(DataError, match="is no path below a folder"),
            storage.local_folder(folder),
        ):
            pass


def test_an_absolute_path_is_refused(folder):
    with object_store.raw_key(folder, "/tmp/evil"):
        with pytest.raises(DataError, match="'/tmp/evil' in it is no path below a folder"):
            objects.tree(folder)
        assert storage.names(folder) == ["a", "b"], "a marker of the folder has no name either"


@pytest.mark.parametrize("key", ["../evil", "./evil", "b\\evil"])
def test_a_name_that_leads_out_of_its_folder_is_refused(folder, key):
    with (
        object_store.raw_key(folder, key),
        pytest.raises(DataError, match="is no path below a folder"),
    ):
        storage.names(folder)


def test_a_key_with_a_nul_is_refused():
    refused = pytest.raises(DataError, match=r"'b\\x00evil' in it is no path below a folder")
    with object_store.raw_key("memory://bucket/run", "b\0evil"), refused:
        objects.tree("memory://bucket/run")


@pytest.mark.parametrize("key", ["b/..c", "...", "b/c..", "b/ d", "é"])
def test_dots_in_a_name_are_no_harm(folder, key):
    objects.write(f"{folder}/{key}", b"x")
    assert key in objects.tree(folder) and key.partition("/")[0] in objects.names(folder)
    with storage.local_folder(folder) as made:
        assert pathlib.Path(made, key).read_bytes() == b"x"


def test_one_of_several_creates_an_object(folder):
    assert objects.create(f"{folder}/lock", b"1") and not objects.create(f"{folder}/lock", b"2")
    assert objects.read(f"{folder}/lock") == b"1"


def test_of_two_that_create_the_same_content_one_succeeds(folder):
    assert objects.create(f"{folder}/lock", b"1") and not objects.create(f"{folder}/lock", b"1")


def test_an_answer_that_got_lost_is_still_a_success(monkeypatch):
    def lost(_):
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    failing(monkeypatch, "pipe_file", [lost])
    assert objects.create("memory://bucket/lock", b"mine")


def test_an_object_that_is_gone_again_was_not_created(monkeypatch):
    exists = FileExistsError(errno.EEXIST, "exists already")
    failing(monkeypatch, "pipe_file", [ConnectionResetError(errno.ECONNRESET, "reset"), exists])
    assert not objects.create("memory://bucket/lock", b"mine")


def test_errors_name_the_url_of_what_is_read_from_a_copy(folder):
    copy = objects.local(f"{folder}/b/c")
    error = DataError("line 3 is no JSON", where=copy, hint=f"see {copy}")
    assert str(error) == f"{folder}/b/c: line 3 is no JSON (hint: see {folder}/b/c)"
    with storage.local_folder(folder) as made:
        assert DataError("no", where=f"{made}/b/c").where == f"{folder}/b/c"


def test_a_library_does_not_log_what_is_tried_again(monkeypatch, caplog):
    memory = objects.system("memory://x")
    monkeypatch.setitem(sys.modules, "gcsfs", types.ModuleType("gcsfs"))
    monkeypatch.setattr(fsspec, "filesystem", lambda *_, **__: memory)
    monkeypatch.setattr(objects, "_systems", {})
    objects.system("gs://bucket")
    logging.getLogger("gcsfs.retry").error("_call out of retries", exc_info=OSError("503"))
    logging.getLogger("gcsfs").error("_call out of retries", exc_info=OSError("503"))
    assert not caplog.records


def test_files_are_written_whole_and_json_is_read_strictly(folder):
    files.write_json(f"{folder}/x.json", {"é": [1]})
    assert files.read_json(f"{folder}/x.json") == {"é": [1]}
    assert files.read_json(f"{folder}/none.json", 5) == 5
    with pytest.raises(DataError, match=r"none\.json: cannot be read \(no such object\)"):
        files.read_json(f"{folder}/none.json")
    with pytest.raises(OSError, match="full"), files.replacing(f"{folder}/a") as partial:
        pathlib.Path(partial).write_text("ha")
        raise OSError("full")
    assert objects.read(f"{folder}/a") == b"aaa"


def test_an_object_is_fetched_once_and_again_when_it_changes(folder, monkeypatch):
    fetched, download = [], objects.download
    monkeypatch.setattr(
        objects, "download", lambda *args: (fetched.append(args[0]), download(*args))
    )
    path = pathlib.Path(storage.local(f"{folder}/b/c"))
    assert path.read_bytes() == b"b/c" * 3 and path.name == "c"
    assert storage.local(f"{folder}/b/c") == str(path) and len(fetched) == 1
    objects.write(f"{folder}/b/c", b"other")
    storage.local(f"{folder}/b/c")
    assert path.read_bytes() == b"other" and len(fetched) == 2
    path.write_bytes(b"OTHER!")  # somebody wrote into the copy
    storage.local(f"{folder}/b/c")
    assert path.read_bytes() == b"other" and len(fetched) == 3


def test_the_cache_is_the_users_alone_and_keeps_no_part_of_a_version_that_is_gone(tmp_path):
    before = os.umask(0)
    try:
        objects.write("memory://bucket/a", b"1")
        copy = pathlib.Path(objects.local("memory://bucket/a"))
    finally:
        os.umask(before)
    for folder in (copy.parent, *copy.parent.parents[:2]):
        assert folder.stat().st_mode & 0o777 == 0o700
    (copy.parent / ".a.0123456789abcdef.partial").write_bytes(b"half of another version")
    objects.write("memory://bucket/a", b"22")
    assert pathlib.Path(objects.local("memory://bucket/a")).read_bytes() == b"22"
    assert not list(copy.parent.glob(".a.*.partial"))


def test_an_interrupted_download_goes_on_where_it_stopped(tmp_path, monkeypatch):
    content = os.urandom(100)
    objects.write("memory://bucket/big", content)
    monkeypatch.setattr(objects, "BLOCK", 10)
    monkeypatch.setattr(objects, "AT_ONCE", 1)
    calls = failing(monkeypatch, "cat_file", [None] * 4 + [PermissionError("no")])
    with pytest.raises(PermissionError):
        objects.download("memory://bucket/big", str(tmp_path / "big"))
    assert not (tmp_path / "big").exists() and len(calls) == 5
    objects.download("memory://bucket/big", str(tmp_path / "big"))
    assert (tmp_path / "big").read_bytes() == content and len(calls) == 5 + 6
    assert os.listdir(tmp_path) == ["big"]


@pytest.mark.parametrize(
    "passing",
    [OSError(errno.EBUSY, "SlowDown"), TimeoutError(), ConnectionResetError(), lambda x: x[:-1]],
    ids=["throttled", "timeout", "reset", "cut short"],
)
def test_what_may_pass_is_tried_again(passing, monkeypatch):
    objects.write("memory://bucket/a", b"content")
    calls = failing(monkeypatch, "cat_file", [passing] * 3)
    assert objects.read("memory://bucket/a") == b"content" and len(calls) == 4


def test_what_does_not_pass_is_one_line_that_names_the_object(monkeypatch):
    objects.write("memory://bucket/a.json", b"{}")
    calls = failing(monkeypatch, "cat_file", [lambda x: x[:-1]] * 100)
    with pytest.raises(
        RetryError,
        match=r"^memory://bucket/a\.json: cannot be read \(1 bytes came of 2\) \(hint: st",
    ):
        files.read_json("memory://bucket/a.json")
    assert len(calls) == objects.ATTEMPTS


def test_a_missing_object_and_a_refused_one_are_not_asked_for_again(monkeypatch):
    calls = failing(monkeypatch, "cat_file", [PermissionError("AccessDenied")])
    objects.write("memory://bucket/a", b"1")
    with pytest.raises(PermissionError, match=r"access denied: 'memory://bucket/a'"):
        objects.read("memory://bucket/a")
    assert len(calls) == 1
    with pytest.raises(FileNotFoundError, match=r"no such object: 'memory://bucket/b'"):
        objects.read("memory://bucket/b")


def test_a_mistake_of_the_program_keeps_its_traceback(monkeypatch):
    failing(monkeypatch, "cat_file", [TypeError("mistake")])
    objects.write("memory://bucket/a", b"1")
    with pytest.raises(TypeError, match="mistake"):
        objects.read("memory://bucket/a")


@pytest.mark.parametrize("status", [503, 429, 500])
def test_a_server_that_throttles_is_asked_again(s3, status, monkeypatch):
    """The real client against a real server, which refuses for a while."""
    objects.write(f"{s3}/a", b"content")
    with object_store.refusing(status, times=5):
        assert objects.read(f"{s3}/a") == b"content"


def test_the_clients_of_orbax_and_jax_see_what_others_write(s3):
    objects.write(f"{s3}/seen/a", b"1")
    folder = epath.Path(f"{s3}/seen")
    assert [one.name for one in folder.iterdir()] == ["a"]
    objects.write(f"{s3}/seen/b", b"2")
    assert sorted(one.name for one in folder.iterdir()) == ["a", "b"]


@pytest.mark.parametrize(
    "url, message",
    [
        ("ftp://host/x", r"scheme ftp:// is not known.*use gs://BUCKET/PATH"),
        ("s3://", r"names no bucket.*s3://BUCKET/PATH"),
    ],
)
def test_a_url_that_means_nothing_is_a_mistake(url, message):
    with pytest.raises(ConfigError, match=message):
        storage.exists(url)


@pytest.mark.parametrize("scheme, package, extra", [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs")])
def test_a_package_that_is_not_installed_is_named_with_its_command(
    scheme, package, extra, monkeypatch
):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(objects, "_systems", {})
    with pytest.raises(ConfigError) as caught:
        storage.exists(f"{scheme}://bucket/x")
    assert str(caught.value) == (
        f"{scheme}://bucket/x: {scheme}:// needs the package {package} "
        f'(hint: pip install "qoq_jax[{extra}]")'
    )


def test_a_new_folder_is_whole_or_refused(folder, tmp_path):
    order, upload = [], objects.upload
    with pytest.raises(CheckpointError, match="already exists"), storage.new_folder(folder):
        pass
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "upload", lambda path, url: (order.append(url), upload(path, url)))
        with storage.new_folder(f"{folder}/new", last="a") as made:
            for name in ("a", "b", "c"):
                pathlib.Path(made, name).write_text(name)
    assert order[-1] == f"{folder}/new/a" and storage.names(f"{folder}/new") == ["a", "b", "c"]
    with pytest.raises(ValueError), storage.new_folder(f"{folder}/failed") as made:
        pathlib.Path(made, "a").write_text("a")
        raise ValueError
    assert not storage.exists(f"{folder}/failed")


def test_a_folder_is_copied_for_reading(folder):
    with storage.local_folder(folder, leave_out=("b",)) as made:
        assert os.listdir(made) == ["a"]
    with storage.local_folder(folder) as made:
        assert pathlib.Path(made, "b", "d", "e").read_bytes() == b"b/d/e" * 3
    assert not os.path.exists(made)


def test_local_paths_import_nothing_of_object_stores(tmp_path):
    """fsspec, s3fs and gcsfs are slow to import, and of no use here."""
    script = (
        "import sys; from qoq_jax.base import append, files, lock, storage\n"
        f"files.write_json({str(tmp_path / 'a.json')!r}, 1); storage.names({str(tmp_path)!r})\n"
        "print([name for name in ('fsspec', 's3fs', 'gcsfs') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "download ham10000 --root gs://bucket/raw",
        "convert ham10000 gs://bucket/raw",
        "build gs://bucket/raw",
        "samples gs://bucket/raw",
    ],
)
def test_commands_that_make_files_refuse_a_url(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.main(["data", *command.split()]) == 2
    assert capsys.readouterr().err.startswith("qoq: gs://bucket/raw: this command makes files in")
    assert not list(tmp_path.iterdir())
