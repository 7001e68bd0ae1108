"""From a host to training, once per kind of access: download, convert and shards by Beam,
validate, stats, ten steps; on data sets in miniature in their published layouts.
"""

import dataclasses
import json
import os
import pathlib
import typing

import jax
import nibabel
import numpy as np
import pytest
from helpers import hosts, original_layouts
from helpers.http_server import Server
from helpers.train import tiny_model

from qoq_jax.cli import main
from qoq_jax.climb.access import access as access_module
from qoq_jax.climb.catalogue import table
from qoq_jax.climb.catalogue.table import Check
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.train import config as config_lib
from qoq_jax.train import run
from qoq_jax.train import setup as setup_lib
from qoq_jax.train import weights as weights_lib

# kind of access: (data set, seed of the conversion by which there are training rows).
SETS = {
    "physionet-open": ("ptb-xl", 0),
    "physionet-credentialed": ("mimic-cxr", 0),
    "kaggle-dataset": ("busi", 0),
    "kaggle-competition": ("aptos2019", 0),
    "tcia": ("cmmd", 2),
    "zenodo": ("lndb", 0),
    "isic": ("ham10000", 0),
    "git": ("kits23", 0),
    "https": ("jichi", 1),
    "request": ("chexpert", 0),
}
# What the steps of the catalogue have the user put there: it is no part of the download.
BY_HAND = {
    "cmmd": ("CMMD_clinicaldata_revision.csv",),
    "kits23": ("dataset/case_00000/imaging.nii.gz", "dataset/case_00001/imaging.nii.gz"),
    "lndb": ("data0/", "data5/"),
    "chexpert": ("",),
}


def test_every_kind_of_access_has_a_set():
    assert set(SETS) == set(typing.get_args(table.Access))


def files_of(name, folder):
    """{path: content} of a data set in miniature whose media can be opened."""
    root = pathlib.Path(original_layouts.build(folder, name))
    found = {}
    for path in sorted(root.rglob("*")):
        if path.name == "imaging.nii.gz":
            volume = np.arange(12 * 14 * 6, dtype=np.int16).reshape(12, 14, 6)
            nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)
        if path.is_file():
            found[path.relative_to(root).as_posix()] = path.read_bytes()
    return found


def access_to(kind, name, files):
    """The catalogue's way to a data set, complete when it is as small as this one."""
    found = dataclasses.replace(access_module.access_of(name), checks=(), bytes=0)
    if kind == "request":
        found = dataclasses.replace(found, checks=tuple(Check(path) for path in files))
    return found


@pytest.fixture
def server():
    with Server() as one:
        yield one


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A compile cache that the runs share: their shapes are the same."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def one_device(*sizes, make=mesh_lib.make_mesh):
    """A mesh for the smallest batches: compiling for eight devices takes most of the time."""
    return make(devices=jax.devices()[:1])


def qoq(*arguments):
    assert main.main(list(map(str, arguments))) == 0


def train(root, workdir, monkeypatch):
    """Ten steps of a tiny model; the metrics of each."""
    for module in (setup_lib, weights_lib):
        monkeypatch.setattr(module, "model_config", lambda cfg: tiny_model())
    monkeypatch.setattr(setup_lib.mesh_lib, "make_mesh", one_device)
    config = config_lib.default()
    config.workdir, config.stages = str(workdir), ("sft",)
    config.data.mini_rows, config.data.real, config.data.extra = 0, False, (str(root),)
    config.data.max_prompt_tokens, config.data.max_response_tokens = 160, 90
    config.data.max_pixels = config.data.frame_max_pixels = 56 * 56
    config.data.max_patches = config.data.mean_patches = 48
    config.data.mean_ecgs, config.model.ecg_weights = 1.0, ""
    config.sft.steps, config.sft.rows, config.sft.tokens, config.sft.samples = 10, 2, 256, 2
    config.sft.warmup, config.sft.lr, config.log.every, config.log.tensorboard = 1, 3e-3, 1, False
    setup = setup_lib.assemble(config_lib.parse(config))
    os.makedirs(workdir, exist_ok=True)
    with jax.set_mesh(setup.mesh):
        run.run_stage(setup, "sft", weights_lib.start_weights(setup))
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("kind", SETS)
def test_from_a_host_to_ten_steps(kind, tmp_path, server, monkeypatch, compiled, capsys):
    name, seed = SETS[kind]
    files = files_of(name, tmp_path / "published")
    hand = BY_HAND.get(name, ())
    by_hand = {path for path in files if any(path.startswith(one) for one in hand)}
    served = {path: body for path, body in files.items() if path not in by_hand}
    access = access_to(kind, name, files)
    if served:
        access = hosts.serve(server, monkeypatch, access, served)
    monkeypatch.setattr(access_module, "access_of", lambda _: access)
    root, out = tmp_path / name, tmp_path / "shards"
    for path in by_hand:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(files[path])

    qoq("data", "download", name, "--root", root)
    qoq("data", "download", name, "--root", root, "--check")
    qoq("data", "convert", name, root, "--seed", seed, "--runner", "DirectRunner")
    qoq("data", "shards", root, out, "--shard-size", 1000)
    for path in out.glob("*.jsonl"):
        qoq("data", "validate", path)
    capsys.readouterr()
    qoq("data", "stats", out)
    assert name in capsys.readouterr().out
    steps = train(out, tmp_path / "run", monkeypatch)
    assert [one["step"] for one in steps] == list(range(1, 11))
    assert all(np.isfinite(one["loss"]) for one in steps)
    assert steps[-1]["loss"] < steps[0]["loss"]
