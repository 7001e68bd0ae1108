"""Shards beside files: how fast they are written, and how fast samples are read from both.

    python benchmarks/shards.py --pictures 600

Needs pip install -e '.[beam]'. docs/convert.md has the result.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import numpy as np
from PIL import Image

from qoq_jax.climb.shards import pipeline
from qoq_jax.data import sources
from qoq_jax.data import tokenizer as tokenizer_lib
from qoq_jax.data.sample import ProcessConfig, process
from qoq_jax.models import sizes as variants


def build(root: pathlib.Path, count: int) -> int:
    """A training split of JPEGs of 1024 x 1280 pixels; returns their bytes."""
    (root / "media").mkdir(parents=True)
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 32, 40, 3), np.uint8)
    held, lines = 0, []
    for number, small in enumerate(coarse):
        path = root / "media" / f"{number}.jpg"
        Image.fromarray(small).resize((1280, 1024), Image.BICUBIC).save(path, quality=90)
        held += path.stat().st_size
        row = {"id": f"r{number}", "domain": "chest_xray", "images": [f"media/{number}.jpg"]}
        row |= {"problem": "Answer with one of the following: A, B.", "answer": "A"}
        lines.append(json.dumps(row) + "\n")
    (root / "train.jsonl").write_text("".join(lines))
    return held


def samples_per_second(root: pathlib.Path, order: np.ndarray) -> tuple[float, float]:
    """Rows to samples in one thread, at random: per second of the clock, and of CPU."""
    rows, tokenizer = sources.load(root, "train"), tokenizer_lib.load("nano")
    limits = ProcessConfig.for_model(
        variants.get("nano"), max_pixels=112 * 112, frame_max_pixels=112 * 112
    )
    process(rows[0], root, tokenizer, limits)
    start, used = time.monotonic(), time.process_time()
    for number in order:
        process(rows[int(number)], root, tokenizer, limits)
    used = time.process_time() - used
    return len(order) / (time.monotonic() - start), len(order) / used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--shard-bytes", type=int, default=16_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder, "files")
        held = build(root, arguments.pictures)
        print(f"{arguments.pictures} pictures, {held / 1e6:.0f} MB")
        workers = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
        for name, options in (("one", ()), ("two", workers)):
            out, start = pathlib.Path(folder, name), time.monotonic()
            found = pipeline.run(str(root), str(out), arguments.shard_bytes, options=options)
            seconds = time.monotonic() - start
            print(
                f"written by {name} process(es): {len(found['shards'])} shards in {seconds:.1f} s, "
                f"{held / 1e6 / seconds:.0f} MB/s"
            )
        one, two = (
            pathlib.Path(folder, name, "shards.json").read_text() for name in ("one", "two")
        )
        print("the same shards, by SHA-256:", one == two)
        order = np.random.default_rng(1).permutation(arguments.pictures)
        for again in range(2):
            for where in (root, pathlib.Path(folder, "one")):
                clock, cpu = samples_per_second(where, order)
                print(
                    f"read from {where.name} ({again}): {clock:.1f} samples/s, {cpu:.1f} per CPU s"
                )


if __name__ == "__main__":
    main()
