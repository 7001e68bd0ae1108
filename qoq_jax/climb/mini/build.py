"""climb-mini: a seeded clinical data set in nine domains plus multimodal cases, as CLIMB-QA rows.

    manifest = build("data/climb-mini", seed=0, size=4000)

A row is decided (labels, difficulty, appearance, place), described in words and rendered, in that
order; the picture and the words come from the same parameters, so the diagnosis is in the picture
and nowhere else. Training rows are as imbalanced as CLIMB's; the validation and test splits hold
the same number of rows of each domain, stratified over labels and difficulty. A patient keeps one
anatomy and one diagnosis, may have several rows, and is in one split only.

The same (seed, size, imbalance) gives the same bytes whatever the number of workers: every random
stream is keyed by data set and row or patient, never by worker. A build writes to a folder beside
the target and renames it at the end; a killed build continues where it was.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import glob
import hashlib
import json
import multiprocessing
import os
import shutil
import threading
import time
import zlib
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qoq_jax.base import files, terminal
from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.climb.mini import ecg_simulator
from qoq_jax.climb.mini.render import DATASETS, Dataset, Media, encode

SOURCE = "climb-mini"
SPLITS = ("train", "validation", "test")

# Shares of the imbalanced training splits: one domain has over half of the rows, the rarest under
# 1 %. In CLIMB the largest domain is CT (RSPECT); without RSPECT, chest X-rays.
SHARES = {
    "climb": {
        "pe-ct-mini": 0.45,
        "head-ct-mini": 0.07,
        "covid-cxr-mini": 0.045,
        "chexpert-mini": 0.045,
        "ecg-mini": 0.08,
        "brain-mri-mini": 0.065,
        "mammo-mini": 0.06,
        "derm-mini": 0.055,
        "path-mini": 0.055,
        "breast-us-mini": 0.037,
        "fundus-mini": 0.03,
        "icu-mini": 0.008,
    },
    "climb_without_rspect": {
        "pe-ct-mini": 0.05,
        "head-ct-mini": 0.03,
        "covid-cxr-mini": 0.03,
        "chexpert-mini": 0.50,
        "ecg-mini": 0.10,
        "brain-mri-mini": 0.012,
        "mammo-mini": 0.06,
        "derm-mini": 0.08,
        "path-mini": 0.06,
        "breast-us-mini": 0.03,
        "fundus-mini": 0.04,
        "icu-mini": 0.008,
    },
}
IMBALANCES = (*SHARES, "balanced")
#: Rows of a domain in the evaluation splits of a build of 9,000 or more; smaller builds have fewer.
#: With 200 the standard error of a domain's accuracy is about 0.03.
EVALUATION_ROWS = {"validation": 100, "test": 200}
DIFFICULTY_SHARES = (0.40, 0.35, 0.25)  # of the training rows
ROWS_PER_PATIENT = (0.70, 0.22, 0.08)  # probability of 1, 2, 3 rows
PAIR_SHARE = 0.15  # of the abnormal rows of a multi-label data set
_CHUNK = 40  # rows a task: also the most work that a kill can lose, for each worker


@dataclass(frozen=True)
class RowSpec:
    """A row before it is rendered: what to render, and the keys of its random streams."""

    id: str
    dataset: str
    split: str
    patient: str
    anatomy: int  # number of the patient
    number: int  # of the row within its data set
    labels: tuple[str, ...]
    difficulty: int


# --------------------------------------------------------------------------------------------------
# Deciding the rows
# --------------------------------------------------------------------------------------------------


def _rng(seed: int, *keys: str | int) -> np.random.Generator:
    """A random stream named by its keys."""
    words = [zlib.crc32(k.encode()) if isinstance(k, str) else k for k in keys]
    return np.random.default_rng([seed, *words])


def _split_evenly(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers with these shares that add up to total (largest remainders)."""
    exact = np.asarray(shares, float) / np.sum(shares) * total
    counts = np.floor(exact + 1e-9).astype(int)
    for i in np.argsort(counts - exact, kind="stable")[: total - counts.sum()]:
        counts[i] += 1
    return counts.tolist()


def counts(size: int, imbalance: str) -> dict[str, dict[str, int]]:
    """Rows of each split and data set: {split: {dataset: rows}}.

    Raises:
      ConfigError: unknown imbalance, or a size too small for every data set to have a row.
    """
    if imbalance not in IMBALANCES:
        raise ConfigError(
            f"imbalance={imbalance!r}",
            where="climb-mini",
            hint=f"use one of {', '.join(IMBALANCES)}",
        )
    if size < 2 * len(DATASETS):
        raise ConfigError(
            f"size={size} is too small",
            where="climb-mini",
            hint=f"use at least {2 * len(DATASETS)} rows",
        )
    domains = Counter(d.domain for d in DATASETS.values())
    fair = {name: 1.0 / domains[d.domain] for name, d in DATASETS.items()}
    shares = SHARES.get(imbalance, fair)
    train = {
        name: max(1, n)
        for name, n in zip(
            DATASETS, _split_evenly(size, [shares[n] for n in DATASETS]), strict=True
        )
    }
    largest = max(train, key=train.get)
    train[largest] -= sum(train.values()) - size  # what the rarest were lifted by
    out = {"train": train}
    for split, most in EVALUATION_ROWS.items():
        rows = max(6, round(most * min(1.0, size / 9000)))
        out[split] = {
            name: max(len(d.labels), round(rows * fair[name])) for name, d in DATASETS.items()
        }
    return out


def _label_sets(data: Dataset, rows: int, rng: np.random.Generator) -> list[tuple[str, ...]]:
    """The label set of each row; within a data set labels are equally frequent."""
    each = _split_evenly(rows, [1.0] * len(data.labels))
    out = []
    for label, count in zip(data.labels, each, strict=True):
        partners = [pair for pair in data.pairs if label in pair]
        for _ in range(count):
            paired = bool(partners) and rng.random() < PAIR_SHARE
            out.append(partners[int(rng.integers(len(partners)))] if paired else (label,))
    order = {label: i for i, label in enumerate(data.labels)}
    return [tuple(sorted(labels, key=order.get)) for labels in out]


def specs(seed: int, size: int, imbalance: str = "climb") -> list[RowSpec]:
    """All rows of a build, split by patient. Cheap: nothing is rendered."""
    out, patients = [], Counter()
    for split, per_dataset in counts(size, imbalance).items():
        for name, rows in per_dataset.items():
            rng = _rng(seed, "specs", split, name)
            sets = _label_sets(DATASETS[name], rows, rng)
            if split == "train":
                levels = rng.choice((1, 2, 3), rows, p=DIFFICULTY_SHARES).tolist()
            # sets are sorted by label: 1, 2, 3, 1, 2, 3 stratifies difficulty within each label
            else:
                levels = [1 + i % 3 for i in range(rows)]
            i, numbers = 0, rng.permutation(rows).tolist()
            while i < rows:
                patient = patients[name]
                patients[name] += 1
                visits = int(rng.choice((1, 2, 3), p=ROWS_PER_PATIENT))
                for j in range(i, min(i + visits, rows)):
                    if sets[j] != sets[i]:  # a patient has one diagnosis
                        break
                    number = numbers[j]
                    out.append(
                        RowSpec(
                            id=f"{name}-{split}-{number:05d}",
                            dataset=name,
                            split=split,
                            patient=f"{name}-p{patient:05d}",
                            anatomy=patient,
                            number=number,
                            labels=sets[j],
                            difficulty=levels[j],
                        )
                    )
                    i = j + 1
    out.sort(
        key=lambda s: (SPLITS.index(s.split), _rng(0, s.id).random())
    )  # a fixed shuffle: neighbours differ
    split_of = {s.patient: s.split for s in out}
    assert all(split_of[s.patient] == s.split for s in out), "a patient is in two splits"
    return out


# --------------------------------------------------------------------------------------------------
# Words
# --------------------------------------------------------------------------------------------------


def problem_text(data: Dataset, record: str) -> str:
    """The question of a row: record, task and the allowed labels."""
    several = "one or more of" if data.pairs else "one of"
    text = f"{data.question} Answer with {several}: {', '.join(data.labels)}."
    return f"{record} {text}" if record else text


def corpus(n: int, seed: int = 0) -> Iterator[tuple[str, str, str]]:
    """n texts (problem, answer, reasoning) over all data sets and labels alike, to train a
    tokenizer on. Renders nothing."""
    rng, names = _rng(seed, "corpus"), list(DATASETS)
    for i in range(n):
        data = DATASETS[names[i % len(names)]]
        labels = (data.labels[int(rng.integers(len(data.labels)))],)
        if data.pairs and rng.random() < PAIR_SHARE:
            labels = data.pairs[int(rng.integers(len(data.pairs)))]
        scene = data.plan(rng, labels, int(rng.integers(1, 4)))
        yield problem_text(data, scene.record), ", ".join(labels), scene.reasoning


# --------------------------------------------------------------------------------------------------
# Drawing and writing one row
# --------------------------------------------------------------------------------------------------


def box_of(mask: np.ndarray) -> list[int]:
    """[x1, y1, x2, y2] around a mask [h, w] or [n, h, w] (all slices), in pixels; x2 and y2 are
    exclusive.
    """
    flat = mask.any(0) if mask.ndim == 3 else mask
    xs, ys = np.flatnonzero(flat.any(0)), np.flatnonzero(flat.any(1))
    return [int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1]


def render_row(spec: RowSpec, seed: int) -> tuple[dict, dict[str, bytes]]:
    """Render one row: the CLIMB-QA object and its media {path relative to the root: bytes}."""
    data = DATASETS[spec.dataset]
    # What a patient has, and where, is the patient's own; each visit is another acquisition.
    scene = data.plan(_rng(seed, "plan", spec.dataset, spec.anatomy), spec.labels, spec.difficulty)
    rng = _rng(seed, "row", spec.dataset, spec.split, spec.number)
    media: Media = data.draw(scene, _rng(seed, "patient", spec.dataset, spec.anatomy), rng)
    folder = f"media/{data.domain}/{spec.id}"
    row = {
        "id": spec.id,
        "dataset": data.name,
        "domain": data.domain,
        "patient": spec.patient,
        "split": spec.split,
        "problem": problem_text(data, scene.record),
        "answer": ", ".join(spec.labels),
        "labels": list(data.labels),
        "difficulty": spec.difficulty,
        "reasoning": scene.reasoning,
        "source": SOURCE,
    }
    files = {}
    if media.pixels is not None:
        path = f"{folder}{data.suffix}"
        if data.kind == "volume":
            row["videos"], files[path] = [path], encode.nifti(media.pixels)
        elif data.kind == "video":
            row["videos"], files[path] = [path], encode.npz(frames=media.pixels)
        else:
            row["images"], files[path] = [path], encode.image(media.pixels, data.suffix)
    if media.signal is not None:
        path = f"{folder}-ecg.npz"
        row["time-series"] = [path]
        files[path] = encode.npz(
            signal=media.signal, fs=np.float64(250.0), leads=np.array(ecg_simulator.LEADS)
        )
    if media.regions:
        row["bbox"] = [box_of(mask) for _, mask in media.regions]
        row["bbox_labels"] = [label for label, _ in media.regions]
        union = np.logical_or.reduce([mask for _, mask in media.regions]).astype(np.uint8)
        if data.kind == "image":
            path, blob = f"{folder}-mask.png", encode.image(union * 255, ".png")
        elif data.kind == "volume":
            path, blob = f"{folder}-mask.nii.gz", encode.nifti(union)
        else:
            path, blob = f"{folder}-mask.npz", encode.npz(mask=union)
        row["segmentation_path"], files[path] = path, blob
    return row, files


# --------------------------------------------------------------------------------------------------
# Building
# --------------------------------------------------------------------------------------------------


# Raise it when the same arguments give other rows or other pixels (a test holds both): caches of
# the number before are then built anew.
VERSION = 2


def fingerprint(seed: int, size: int, imbalance: str) -> str:
    """Names a build by its arguments and by the version of the generator."""
    arguments = json.dumps([VERSION, seed, size, imbalance])
    return hashlib.sha256(arguments.encode()).hexdigest()[:16]


def _watch_parent(parent: int) -> None:
    """End this worker when its parent is killed: an orphan would wait for work for ever."""

    def watch():
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _build_chunk(root: Path, index: int, rows: list[RowSpec], seed: int) -> int:
    """Render and write some rows. The chunk's file is written last: where it exists, all of its
    media do.
    """
    marker = root / "chunks" / f"{index:05d}.jsonl"
    if marker.exists():
        return len(rows)
    lines = []
    for spec in rows:
        row, media = render_row(spec, seed)
        for path, blob in media.items():
            (root / path).write_bytes(blob)
        lines.append(json.dumps(row, ensure_ascii=False))
    files.write_bytes(marker, ("\n".join(lines) + "\n").encode())
    return len(rows)


def _finish(partial: Path, rows: list[RowSpec], chunks: int, facts: dict) -> dict:
    """Join the chunks into the split files and write the manifest."""
    lines = [
        line
        for i in range(chunks)
        for line in (partial / "chunks" / f"{i:05d}.jsonl").read_text().splitlines()
    ]
    table = {split: Counter(s.dataset for s in rows if s.split == split) for split in SPLITS}
    digests = {}
    for split in SPLITS:
        mine = [line for line, spec in zip(lines, rows, strict=True) if spec.split == split]
        blob = ("\n".join(mine) + "\n").encode()
        files.write_bytes(partial / f"{split}.jsonl", blob)
        digests[f"{split}.jsonl"] = hashlib.sha256(blob).hexdigest()
    manifest = {
        **facts,
        "source": SOURCE,
        "rows": {split: sum(table[split].values()) for split in SPLITS},
        "domains": {
            split: dict(Counter(DATASETS[s.dataset].domain for s in rows if s.split == split))
            for split in SPLITS
        },
        "datasets": {
            name: {
                "domain": data.domain,
                "labels": list(data.labels),
                "multi_label": bool(data.pairs),
                "rows": {split: table[split][name] for split in SPLITS},
            }
            for name, data in DATASETS.items()
        },
        "sha256": digests,
    }
    shutil.rmtree(partial / "chunks")
    files.write_bytes(partial / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())
    return manifest


def _finished(root: Path, mark: str) -> dict | None:
    """The manifest of a finished build with this fingerprint."""
    path = root / "manifest.json"
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text())
    except ValueError:
        return None
    return manifest if manifest.get("fingerprint") == mark else None


def _is_ours(root: Path) -> bool:
    """Whether a folder holds a climb-mini, of whatever arguments: another data set must not be
    replaced.
    """
    try:
        return "imbalance" in json.loads((root / "manifest.json").read_text())
    except (OSError, ValueError, TypeError):
        return False


@contextlib.contextmanager
def _only_one(root: Path):
    """Two builds of one folder take turns; the second finds the first one's result."""
    with open(root.with_name(f".{root.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(
    root: str | os.PathLike,
    *,
    seed: int = 0,
    size: int = 4000,
    workers: int | None = None,
    imbalance: str = "climb",
) -> dict:
    """Make climb-mini in `root`, or return at once when it is there.

    Args:
      root: folder to create; holds train.jsonl, validation.jsonl, test.jsonl, manifest.json and
        media/.
      seed: every picture and signal follows from it.
      size: training rows; validation and test rows come on top (3,000 for 9,000, in
        proportion below).
      workers: processes; 0 renders in this one. Default: one per core, at most 8.
      imbalance: "climb" (CT over half of the rows, the rarest domain under 1 %),
        "climb_without_rspect" (the same with chest X-rays) or "balanced".

    Returns:
      The manifest: fingerprint, seed, size, imbalance, rows, domains, datasets (labels, rows per
      split), sha256 of the row files.

    Raises:
      ConfigError: a bad argument.
      DataError: `root` holds something else, or cannot be written.
    """
    root = Path(root).absolute()
    rows = specs(seed, size, imbalance)
    mark = fingerprint(seed, size, imbalance)
    partial = root.with_name(f".{root.name}.partial-{mark}")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(root):
            done = _finished(root, mark)
            if done:
                return done
            if root.exists() and any(root.iterdir()) and not _is_ours(root):
                raise DataError(
                    "is not a climb-mini folder",
                    where=str(root),
                    hint="choose an empty or new folder",
                )
            manifest = _draw_all(partial, rows, seed, workers, mark, size, imbalance)
            if root.exists():
                shutil.rmtree(root)
            os.replace(partial, root)
            # left by a killed build of other arguments
            for old in root.parent.glob(f".{glob.escape(root.name)}.partial-*"):
                shutil.rmtree(old, ignore_errors=True)
            return manifest
    except OSError as error:
        raise DataError(
            f"cannot write climb-mini: {error.strerror or error}",
            where=str(error.filename or root),
            hint="make room (about 50 KB per row) or choose another folder",
        ) from error


def _build_chunks(
    partial: Path, chunks: list[list[RowSpec]], seed: int, workers: int
) -> Generator[int]:
    """Draws the chunks, in processes when there are several workers; yields the rows of each."""
    if workers <= 1:
        for i, chunk in enumerate(chunks):
            yield _build_chunk(partial, i, chunk, seed)
        return
    # spawn, not fork: the parent may hold JAX's threads. Workers import numpy, scipy and PIL only.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        workers, context, _watch_parent, (os.getpid(),)
    ) as pool:
        tasks = [
            pool.submit(_build_chunk, partial, i, chunk, seed) for i, chunk in enumerate(chunks)
        ]
        try:
            for task in concurrent.futures.as_completed(tasks):
                yield task.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _draw_all(
    partial: Path,
    rows: list[RowSpec],
    seed: int,
    workers: int | None,
    mark: str,
    size: int,
    imbalance: str,
) -> dict:
    chunks = [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]
    (partial / "chunks").mkdir(parents=True, exist_ok=True)
    for domain in {d.domain for d in DATASETS.values()}:
        (partial / "media" / domain).mkdir(parents=True, exist_ok=True)
    if workers is None:
        workers = min(8, os.cpu_count() or 1)
    with (
        terminal.Bar("climb-mini: drawing", len(rows)) as bar,
        contextlib.closing(_build_chunks(partial, chunks, seed, workers)) as counts,
    ):
        done = 0
        for count in counts:
            done += count
            bar.update(done)
    facts = {"fingerprint": mark, "seed": seed, "size": size, "imbalance": imbalance}
    return _finish(partial, rows, len(chunks), facts)
