"""Opens 2.61 million rows, the size of CLIMB-QA, and draws batches from them.

    python benchmarks/row_index.py [--rows 2610000] [--folder FOLDER] [--keep]

Needs no extra.

Writes CLIMB-like rows over a few tiny shared pictures (or takes the file that is there), then
measures in fresh processes: the first opening, which builds the index; opening with the index; the
first batch; random access; resuming in the middle. Prints a table. Aims: opened in under 10 s and
1 GiB of peak memory, first batch within 5 s after, a row in under 1 ms, and a resumed run reads
only the rows of its next batches.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

DATASETS = (
    # name, domain, share, labels
    ("mimic-cxr", "chest_xray", 0.30, ("No Finding", "Edema", "Pneumonia", "Atelectasis")),
    ("chexpert", "chest_xray", 0.08, ("No Finding", "Cardiomegaly", "Pleural Effusion")),
    ("rspect", "ct", 0.52, ("No PE", "Chronic PE", "Acute PE")),
    ("isic2020", "dermoscopy", 0.04, ("Malignant", "Benign")),
    ("vindr-mammo", "mammography", 0.03, tuple(f"BI-RADS {i}" for i in range(1, 6))),
    ("aptos", "fundus", 0.03, ("No DR", "Mild DR", "Moderate DR", "Severe DR")),
)
MEDIA = 64


def write(folder: pathlib.Path, count: int) -> None:
    """The row file and its pictures."""
    (folder / "media").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(MEDIA):
        pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "media" / f"{i}.png")
    drawn = rng.choice(len(DATASETS), count, p=[share for _, _, share, _ in DATASETS])
    answers = rng.integers(0, 60, count)
    partial = folder / "train.jsonl.partial"
    with open(partial, "w", encoding="utf-8") as file:
        for number, (which, answer) in enumerate(zip(drawn.tolist(), answers.tolist())):
            name, domain, _, labels = DATASETS[which]
            row = {
                "id": f"{name}-{number:07d}",
                "dataset": name,
                "domain": domain,
                "patient": f"{name}-p{number // 2}",
                "split": "train",
                "problem": "<image>\nAbove is a study of a patient. What is seen? Answer with one "
                "or more phrases from the following: " + ", ".join(labels),
                "answer": labels[answer % len(labels)],
                "labels": labels,
                "images": [f"media/{number % MEDIA}.png"],
                "source": "benchmark",
            }
            if answer % 5 == 0:
                row |= {"bbox": [[8, 8, 40, 40]], "bbox_labels": [row["answer"]]}
            file.write(json.dumps(row) + "\n")
    os.replace(partial, folder / "train.jsonl")


def measure(folder: str, what: str) -> dict:
    """One process's measurements."""
    began = time.perf_counter()
    from qoq_jax.data import sources

    imported = time.perf_counter()
    rows = sources.load(folder, "train")
    opened = time.perf_counter()
    found = {
        "rows": len(rows),
        "import": imported - began,
        "open": opened - imported,
        "open_rss": peak(),
    }
    if what == "open":
        return found
    from qoq_jax.data import pipeline, tokenizer
    from qoq_jax.data import rows as schema

    chosen = np.random.default_rng(1).integers(0, len(rows), 10_000)
    began = time.perf_counter()
    for number in chosen:
        rows[int(number)]
    found["row"] = (time.perf_counter() - began) / len(chosen)
    parsed = 0
    parse = schema.parse

    def counted(content, where):
        nonlocal parsed
        parsed += 1
        return parse(content, where)

    schema.parse = counted
    words, (process, budget) = tokenizer.load("nano"), shapes()
    domains = sources.domains(rows)

    def batches():
        recipe = pipeline.Recipe(
            [pipeline.Source("climb", folder, rows)], words, process, budget, with_answer=True
        )
        weights = dict.fromkeys(domains, 1.0)
        return pipeline.make_iterator(recipe, pipeline.Shuffle(seed=0, weights_by_domain=weights))

    began = time.perf_counter()
    straight = batches()
    next(straight)
    found["first"] = time.perf_counter() - began
    found["first_parsed"] = parsed
    # In the middle: the state of a run that has had half of the rows.
    state = straight.get_state()
    state["batches"] = len(rows) // (2 * budget.rows)
    for stream in state["streams"].values():
        stream["next_index"] = len(rows) // (2 * budget.media_rows)
    straight.close()
    parsed, before = 0, read_bytes()
    began = time.perf_counter()
    resumed = batches()
    resumed.set_state(state)
    next(resumed)
    found["resumed"], found["resumed_parsed"] = time.perf_counter() - began, parsed
    found["resumed_bytes"] = read_bytes() - before
    found["rss"] = peak()
    return found


def shapes() -> tuple:
    """(ProcessConfig, Budget) of the batches that are made."""
    from qoq_jax.data import sample
    from qoq_jax.data.packing import Budget
    from qoq_jax.models import sizes

    model = sizes.get("nano")
    process = sample.ProcessConfig.for_model(
        model,
        min_pixels=56 * 56,
        max_pixels=112 * 112,
        frame_max_pixels=56 * 56,
        max_prompt_tokens=512,
        max_response_tokens=64,
    )
    budget = Budget(
        rows=8,
        tokens=640,
        media_rows=4,
        patches=256,
        ecgs=1,
        pad_id=model.pad_id,
        max_per_row=1,
        ecg_tokens=model.ecg_tokens,
        patch_dim=model.vision.patch_dim,
    )
    return process, budget


def peak() -> float:
    """Peak resident memory of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def read_bytes() -> int:
    """Bytes that this process has read so far (Linux), from the disk or its cache."""
    with open("/proc/self/io", encoding="ascii") as file:
        return int(file.readline().split()[1])


def fresh(folder: pathlib.Path, what: str) -> dict:
    """`measure` in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", what, "--folder", str(folder)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_610_000)
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--keep", action="store_true", help="leave the files there")
    parser.add_argument("--measure", choices=("open", "all"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(str(arguments.folder), arguments.measure)))
        return
    folder = arguments.folder or pathlib.Path(tempfile.mkdtemp(prefix="row_index_"))
    file = folder / "train.jsonl"
    try:
        if not file.exists():
            write(folder, arguments.rows)
        (folder / ".train.jsonl.index").unlink(missing_ok=True)
        built, opened, used = (fresh(folder, what) for what in ("open", "open", "all"))
        kept = (folder / ".train.jsonl.index").stat().st_size
        print(
            f"{built['rows']:,} rows, {file.stat().st_size / 1e9:.2f} GB, index {kept / 1e6:.0f} MB"
        )
        for name, value in (
            ("first opening, builds the index", f"{built['open']:.0f} s"),
            ("its peak memory", f"{built['open_rss']:.0f} MiB"),
            ("opening with the index", f"{opened['open']:.2f} s"),
            ("imports before that", f"{opened['import']:.2f} s"),
            ("peak memory, imports included", f"{opened['open_rss']:.0f} MiB"),
            ("first batch after that", f"{used['first']:.2f} s"),
            ("rows parsed until then", used["first_parsed"]),
            ("a random row", f"{used['row'] * 1e3:.3f} ms"),
            ("first batch after resuming in the middle", f"{used['resumed']:.2f} s"),
            ("rows parsed for it", used["resumed_parsed"]),
            ("bytes read for it", f"{used['resumed_bytes'] / 1e6:.2f} MB"),
            ("peak memory at the end", f"{used['rss']:.0f} MiB"),
        ):
            print(f"| {name} | {value} |")
    finally:
        if not arguments.keep:
            file.unlink(missing_ok=True)
            (folder / ".train.jsonl.index").unlink(missing_ok=True)
            if arguments.folder is None:
                shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
