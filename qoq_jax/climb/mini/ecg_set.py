"""The ECGs of climb-mini alone, as many as wanted: a data set folder for ECG pretraining and its
probe.

    folder = build("data_cache", rows=3000, seed=1000)      # data_cache/ecg-mini-3000-seed1000

Rows are those of climb-mini's ecg-mini, drawn by the same code; climb-mini itself has only some
hundred. A fifth of the patients is the test split. Every row has a patient of its own seed, so with
a seed other than climb-mini's nobody is in both.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil

import numpy as np

from qoq_jax.base import terminal
from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.climb.mini import build as synthetic

NAME = "ecg-mini"
TEST_SHARE = 0.2  # of the patients
MIN_ROWS = 50  # fewer leave labels without a row in the test split


def specs(rows: int, seed: int) -> list[synthetic.RowSpec]:
    """The rows of a build, split by patient: train, then test; labels are equally frequent."""
    if rows < MIN_ROWS:
        raise ConfigError(f"{rows} ECGs are too few", where=NAME, hint=f"use at least {MIN_ROWS}")
    size = rows
    # ecg-mini is about a tenth of a balanced climb-mini
    while synthetic.counts(size, "balanced")["train"][NAME] < rows:
        size += rows
    found = [
        s
        for s in synthetic.specs(seed, size, "balanced")
        if s.dataset == NAME and s.split == "train"
    ][:rows]
    patients = sorted({s.anatomy for s in found})
    drawn = np.random.default_rng([seed, len(patients)]).permutation(patients)
    held_out = set(drawn[: round(TEST_SHARE * len(patients))].tolist())
    split = lambda s: "test" if s.anatomy in held_out else "train"  # noqa: E731
    made = [
        dataclasses.replace(s, split=split(s), id=f"{NAME}-{split(s)}-{s.number:05d}")
        for s in found
    ]
    return sorted(made, key=lambda s: s.split != "train")


def build(root: str | os.PathLike, rows: int, seed: int) -> str:
    """Draws the data set unless it is there; returns its folder.

    Raises:
      ConfigError: too few rows. DataError: it cannot be written.
    """
    folder = pathlib.Path(root) / f"{NAME}-{rows}-seed{seed}"
    mark = synthetic.fingerprint(seed, rows, "ecg_set")
    facts = folder / "manifest.json"
    if facts.is_file() and json.loads(facts.read_text()).get("fingerprint") == mark:
        return str(folder)
    wanted, partial = specs(rows, seed), folder.with_name(folder.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "media" / "ecg").mkdir(parents=True)
        lines: dict[str, list[str]] = {"train": [], "test": []}
        with terminal.Bar(f"{NAME}: drawing", len(wanted)) as bar:
            for number, spec in enumerate(wanted):
                row, files = synthetic.render_row(spec, seed)
                for path, blob in files.items():
                    (partial / path).write_bytes(blob)
                lines[spec.split].append(json.dumps(row, ensure_ascii=False) + "\n")
                bar.update(number + 1)
        for name, texts in lines.items():
            (partial / f"{name}.jsonl").write_text("".join(texts), encoding="utf-8")
        counts = {name: len(texts) for name, texts in lines.items()}
        (partial / "manifest.json").write_text(
            json.dumps({"fingerprint": mark, "seed": seed, "rows": counts}, indent=1) + "\n"
        )
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    except OSError as error:
        raise DataError(
            f"cannot write {NAME}: {error.strerror or error}",
            where=str(error.filename or folder),
            hint="make room (about 60 KB an ECG) or choose another data.root",
        ) from error
    return str(folder)
