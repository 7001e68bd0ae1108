"""Checkpoints in an object store: committed by their mark, read on another machine, kept and set
aside as on a disk. The store is a real S3 server.
"""

from __future__ import annotations

import os
import shutil
import time

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers import object_store

from qoq_jax.base import append, objects, storage
from qoq_jax.base.errors import CheckpointError, ConfigError, DataError
from qoq_jax.models import sizes as variants
from qoq_jax.parallel import hosts
from qoq_jax.train import checkpoint_store, checksums
from qoq_jax.train.checkpoint import Checkpointer, has_checkpoint
from qoq_jax.train.checksums import damage, write_checksums, write_seal

NANO = variants.get("nano")


@pytest.fixture(scope="module")
def bucket():
    with object_store.s3_server():
        object_store.make_bucket("bucket")
        yield "s3://bucket"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QOQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(bucket, request):
    """The checkpoints of steps 1, 2 and 3; step n holds n."""
    url = f"{bucket}/{request.node.name}/sft"
    save(url, 1, 2, 3)
    return url


def state(number):
    return {"a": jnp.full(1000, number, jnp.float32)}


def save(url, *steps):
    checkpoints = Checkpointer(url, NANO)
    for step in steps:
        checkpoints.save(step, state(step), {"step": step})
    checkpoints.close()


def restored(url, resume=False):
    """(step, number that its state holds, its data state)"""
    checkpoints = Checkpointer(url, NANO)
    found, data, step = checkpoints.restore(state(0), resume)
    checkpoints.close()
    return step, float(np.unique(found["a"]).item()), data


@pytest.mark.parametrize("key", ["1/../../../evil", "1//tmp/evil", "1/state/../../../evil"])
def test_a_key_that_leads_out_of_its_step_is_refused(bucket, cache, key):
    url = f"{bucket}/{key.replace('/', '-')}"
    for name in (checksums.COMMIT, checksums.CHECKSUMS):
        objects.write(f"{url}/1/{name}", b"{}")
    refused = pytest.raises(DataError, match="is no path below a folder")
    with object_store.raw_key(url, key), refused:
        checkpoint_store.place(url, read_only=True)
    assert not [path for path in cache.rglob("*") if path.name == "evil"]
    checkpoint_store.place(url, read_only=True).close()


def test_another_machine_continues_from_the_last_step_and_two_are_kept(folder, cache):
    assert storage.names(folder) == ["2", "3"] and has_checkpoint(folder)
    for empty in (False, True):
        if empty:
            shutil.rmtree(cache)
        assert restored(folder) == (3, 3.0, {"step": 3})
    save(folder, 4)
    assert storage.names(folder) == ["3", "4"]


def test_a_step_without_its_mark_is_none(folder, cache):
    """What a process leaves that is killed while it uploads."""
    objects.remove(f"{folder}/3/{checksums.COMMIT}")
    shutil.rmtree(cache)
    assert restored(folder)[0] == 2
    save(folder, 3)
    shutil.rmtree(cache)
    assert restored(folder) == (3, 3.0, {"step": 3})


def test_the_mark_comes_last(bucket, monkeypatch):
    order, write, upload = [], objects.write, objects.upload
    monkeypatch.setattr(objects, "write", lambda url, x: (order.append(url), write(url, x)))
    monkeypatch.setattr(objects, "upload", lambda x, url: (order.append(url), upload(x, url)))
    save(f"{bucket}/last", 1)
    assert order[-1] == f"{bucket}/last/1/{checksums.COMMIT}" and len(order) > 5


def test_the_rows_of_a_step_are_there_before_its_checkpoint(bucket, monkeypatch):
    lines = append.Lines(f"{bucket}/rows/metrics.jsonl")
    lines.write("1\n")
    lines.write("2\n")
    uploads = []
    upload_tree = objects.upload_tree

    def watched(*args):
        uploads.append(objects.read(f"{bucket}/rows/metrics.jsonl"))
        upload_tree(*args)

    monkeypatch.setattr(objects, "upload_tree", watched)
    save(f"{bucket}/rows/checkpoints", 1)
    assert uploads == [b"1\n2\n"]


@pytest.mark.parametrize("damaged", ["changed", "lost"])
def test_a_damaged_step_is_set_aside_and_the_one_before_is_used(folder, cache, damaged, capfd):
    name = next(one for one in objects.tree(f"{folder}/3") if one.startswith("state/d/"))
    content = bytearray(objects.read(f"{folder}/3/{name}"))
    content[len(content) // 2] ^= 1
    if damaged == "changed":
        objects.write(f"{folder}/3/{name}", bytes(content))
    else:
        objects.remove(f"{folder}/3/{name}")
    shutil.rmtree(cache)
    assert restored(folder, resume=True) == (2, 2.0, {"step": 2})
    said = capfd.readouterr().err
    assert f"qoq: {folder}/damaged-3: the checkpoint is damaged ({name} " in said
    assert storage.names(folder) == ["2", "damaged-3"]
    assert f"{name}" in objects.tree(f"{folder}/damaged-3") or damaged == "lost"


@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "seal.txt", "commit_success.txt"])
def test_a_damaged_file_of_the_commit_is_seen(folder, cache, name, capfd):
    content = bytearray(objects.read(f"{folder}/3/{name}"))
    content[5] ^= 4
    objects.write(f"{folder}/3/{name}", bytes(content))
    for _ in range(2):  # on this machine, where Orbax's own file still lies, and on another
        assert restored(folder) == (2, 2.0, {"step": 2})
        assert f"the checkpoint is damaged ({name} has changed" in capfd.readouterr().err
        shutil.rmtree(cache)


def test_a_store_that_refuses_is_one_line_and_leaves_the_last_step(folder, monkeypatch):
    monkeypatch.setattr(objects, "FIRST_WAIT", 0.001)

    def refused(path, url):
        raise PermissionError(13, "access denied", url)

    with monkeypatch.context() as patch:
        patch.setattr(objects, "upload", refused)
        with pytest.raises(CheckpointError, match=r"cannot write .*access denied"):
            save(folder, 4)
    assert restored(folder)[0] == 3


def test_a_folder_that_another_run_left_on_this_machine_is_not_mistaken_for_it(folder, cache):
    kept = checkpoint_store.place(folder).folder
    objects.remove_tree(folder)
    save(f"{folder}-other", 3)
    assert not has_checkpoint(folder)
    assert Checkpointer(folder, NANO).latest() is None and not storage.names(kept)


def test_whoever_reads_leaves_the_run_beside_it_alone(folder, cache):
    writer = Checkpointer(folder, NANO)
    unfinished = cache / "checkpoints" / storage.names(str(cache / "checkpoints"))[0] / "5.tmp"
    unfinished.mkdir()
    reader = Checkpointer(folder, NANO, read_only=True)
    writer.save(4, state(4), {"step": 4})
    writer.wait()
    assert reader.restore(state(0))[2] == 3
    reader.close()
    assert unfinished.is_dir() and storage.names(folder) == ["3", "4"]
    assert not list((cache / "checkpoints").glob("reading-*"))
    writer.close()


def test_what_a_killed_reader_left_is_removed_when_it_is_old(folder, cache):
    for name, age in (("reading-old", 100_000), ("reading-new", 100)):
        (cache / "checkpoints" / name).mkdir()
        os.utime(cache / "checkpoints" / name, (time.time() - age,) * 2)
    Checkpointer(folder, NANO, read_only=True).close()
    left = [path.name for path in (cache / "checkpoints").glob("reading-*")]
    assert left == ["reading-new"]


def test_messages_name_the_url_and_not_the_copy(folder, cache):
    for step in (2, 3):
        objects.write(f"{folder}/{step}/record/metadata", b"{")
    shutil.rmtree(cache)
    with pytest.raises(CheckpointError) as error:
        Checkpointer(folder, NANO).restore(state(0))
    assert f"{folder}/2: " in str(error.value) and f"or delete {folder} and" in str(error.value)
    assert str(cache) not in str(error.value)
    with pytest.raises(CheckpointError, match=f"{folder}-none: no checkpoint"):
        Checkpointer(f"{folder}-none", NANO).restore(state(0))


def test_single_checkpoints_are_whole_and_their_damage_is_seen(bucket):
    url = f"{bucket}/best/7"
    with checkpoint_store.writing(url) as made:
        with ocp.StandardCheckpointer() as saver:
            saver.save(made, state(7), force=True)
        write_checksums(made)
        write_seal(made)
    with checkpoint_store.reading(url) as read, ocp.StandardCheckpointer() as saver:
        assert damage(read) is None
        assert float(saver.restore(read, state(0))["a"][5]) == 7.0
    objects.remove(f"{url}/manifest.ocdbt")
    with checkpoint_store.reading(url) as read:
        assert damage(read) == "manifest.ocdbt is missing"


def test_what_the_store_says_of_objects_shows_their_change():
    """As it is on gs://, where Orbax writes itself and nothing is read back."""
    object_store.empty_memory()
    for name in ("state/d/x", "_CHECKPOINT_METADATA"):
        objects.write(f"memory://bucket/1/{name}", b"1")
    write_checksums("memory://bucket/1")
    objects.write("memory://bucket/1/_CHECKPOINT_METADATA", b"changed at the commit")
    assert damage("memory://bucket/1") is None
    write_seal("memory://bucket/1")
    assert damage("memory://bucket/1") is None
    objects.write("memory://bucket/1/state/d/x", b"2")
    assert damage("memory://bucket/1") == "state/d/x has changed since it was written"
    objects.remove("memory://bucket/1/state/d/x")
    assert damage("memory://bucket/1") == "state/d/x is missing"
    objects.write("memory://bucket/1/_CHECKPOINT_METADATA", b"changed after the commit")
    wrong = "_CHECKPOINT_METADATA has changed since it was written"
    assert damage("memory://bucket/1") == wrong


def test_several_processes_are_refused_where_orbax_cannot_write(monkeypatch):
    monkeypatch.setattr(hosts, "process_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"2 processes cannot write checkpoints there.*use gs://"):
        checkpoint_store.check("s3://bucket/run")
    checkpoint_store.check("gs://bucket/run")
    checkpoint_store.check("runs/a")
