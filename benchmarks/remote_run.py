"""A run whose data and workdir are on S3, killed and continued on an empty machine, against a local
run: the same bits.

    PYTHONPATH=.:tests python benchmarks/remote_run.py       some 10 minutes on two cores

The server is moto's, on this machine (the extra dev). Command and result: docs/remote.md.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from helpers import object_store

from qoq_jax.base import files, objects, storage

ROOT = pathlib.Path(__file__).parents[1]
SETTINGS = (
    "--config.data.mini_rows=60",
    "--config.data.real=false",
    "--config.stages=('sft',)",
    "--config.sft.steps=6",
    "--config.sft.save_every=1",
    "--config.eval.gallery=3",
    "--config.log.every=1",
)


def qoq(*arguments):
    command = [sys.executable, "-m", "qoq_jax.cli.main", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def training(root, workdir):
    places = (f"--config.data.root={root}", f"--config.workdir={workdir}")
    return ("train", "--config=configs/quickstart.py:smoke", *places, *SETTINGS)


def rows(content):
    """What of metrics.jsonl does not depend on the clock."""
    left_out = ("time", "seconds", "per_second", "recompiles")
    return [
        {key: x for key, x in json.loads(line).items() if not any(word in key for word in left_out)}
        for line in content.decode().splitlines()
    ]


def main():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="qoq_remote_"))
    os.environ["QOQ_CACHE"] = str(folder / "cache")
    local, bucket = str(folder / "local"), "s3://bucket"
    began = time.monotonic()
    qoq(*training(folder / "data", local))
    print(f"local run: {time.monotonic() - began:.0f} s", flush=True)
    with object_store.s3_server():
        object_store.make_bucket("bucket")
        objects.upload_tree(str(folder / "data"), f"{bucket}/data")
        began, run = time.monotonic(), f"{bucket}/run"
        command = [sys.executable, "-m", "qoq_jax.cli.main", *training(f"{bucket}/data", run)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            while not storage.exists(f"{run}/checkpoints/sft/2/commit_success.txt"):
                assert process.poll() is None, "it ended before it was killed"
                time.sleep(0.05)
            process.kill()
        steps = storage.names(f"{run}/checkpoints/sft")
        print(f"killed after {time.monotonic() - began:.0f} s, steps there: {steps}", flush=True)
        shutil.rmtree(folder / "cache")  # another machine
        said = qoq(*training(f"{bucket}/data", run))
        print(f"{said.splitlines()[0]}; done after {time.monotonic() - began:.0f} s", flush=True)
        qoq("evaluate", run, "--split", "validation")
        qoq("report", run)
        qoq("convert", run, f"{bucket}/exported")
        qoq("convert", local, str(folder / "exported"))
        qoq("evaluate", local, "--split", "validation")
        for name in ("eval/sft.json", "eval/sft-validation.json"):
            same = files.read_bytes(f"{run}/{name}") == files.read_bytes(f"{local}/{name}")
            print(f"{name} equal: {same}")
        weights = files.read_bytes(f"{bucket}/exported/model.safetensors")
        print("weights equal:", weights == files.read_bytes(folder / "exported/model.safetensors"))
        metrics = [rows(files.read_bytes(f"{one}/metrics.jsonl")) for one in (run, local)]
        print("metrics equal:", metrics[0] == metrics[1], len(metrics[0]), "rows")
        sources = [files.read_json(f"{one}/data.json")["sources"] for one in (run, local)]
        splits = [{name: one["splits"] for name, one in found.items()} for found in sources]
        print("fingerprints of the data equal:", splits[0] == splits[1])
        print("report:", storage.size(f"{run}/report.html"), "bytes")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
