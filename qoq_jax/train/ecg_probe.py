"""Linear probe of ECG encoders on labelled ECGs of held-out patients: before and after pretraining,
and of untrained ones.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from qoq_jax.base import files
from qoq_jax.base.errors import DataError
from qoq_jax.climb.mini import ecg_simulator
from qoq_jax.data import ecgs
from qoq_jax.evaluation.probe import linear_probe
from qoq_jax.models import sizes as variants
from qoq_jax.models.encoders import ecg as model
from qoq_jax.parallel import hosts
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.train.config import Config
from qoq_jax.train.log import open_writer

SCORES = ("auroc", "macro_f1")


def run(
    cfg: Config,
    sizes: variants.EcgConfig,
    mesh: jax.sharding.Mesh,
    found: Mapping[str, Sequence[ecgs.Recording]],
    encoders: Mapping[str, Any],
) -> None:
    """Probes the seven classes of climb-mini; writes WORKDIR/eval/ecg.json and a row of
    metrics.jsonl.

    Args:
      cfg, sizes, mesh: of the run.
      found: {"train", "test"} -> recordings.
      encoders: {"before", "after"} -> weights, "random" -> list of weights.

    Raises:
      DataError: a patient is in both splits.
    """
    names = ecg_simulator.LABELS
    labelled = {
        split: [r for r in rows if set(r.vocabulary) == set(names)] for split, rows in found.items()
    }
    if not labelled["train"] or not labelled["test"]:
        hosts.say(
            "ecg probe: left out, since no labelled train and test ECGs of the seven classes "
            "are there (ecg.rows is 0)"
        )
        return
    _check_patients(labelled)
    length = cfg.data.ecg_length
    signals = {split: ecgs.read_all(rows, length) for split, rows in labelled.items()}
    gold = {
        split: np.array([[name in r.labels for name in names] for r in rows])
        for split, rows in labelled.items()
    }

    def score(encoder: Any) -> dict[str, Any]:
        seen, held_out = (
            features(encoder, sizes, signals[split], mesh, cfg.ecg.batch)
            for split in ("train", "test")
        )
        return linear_probe(seen, gold["train"], held_out, gold["test"], names)

    result = {
        "before": score(encoders["before"]),
        "after": score(encoders["after"]),
        "random": [score(encoder) for encoder in encoders["random"]],
        "train_ecgs": len(labelled["train"]),
        "test_ecgs": len(labelled["test"]),
        "test_patients": len({r.patient for r in labelled["test"]}),
    }
    _write(cfg, result)


def _check_patients(labelled: Mapping[str, Sequence[ecgs.Recording]]) -> None:
    train, test = ({r.patient for r in labelled[split]} for split in ("train", "test"))
    if shared := train & test - {""}:
        raise DataError(
            f"{len(shared)} patients are in both train and test",
            where="linear probe",
            hint="split by patient",
        )


def _write(cfg: Config, result: dict[str, Any]) -> None:
    """The files, and a line on the terminal."""
    row = {
        f"probe/{when}/{name}": result[when][name]
        for when in ("before", "after")
        for name in SCORES
    }
    row |= {
        f"probe/random/{name}": float(np.mean([one[name] for one in result["random"]]))
        for name in SCORES
    }
    if hosts.is_main():
        writer = open_writer(cfg)
        writer.resume("ecg_probe", -1)
        writer.write("ecg_probe", cfg.ecg.steps, row)
        writer.close()
        files.write_json(os.path.join(cfg.workdir, "eval", "ecg.json"), result)
    hosts.say(
        f"ecg probe, {result['test_ecgs']} held-out ECGs of {result['test_patients']} patients: "
        "macro AUROC "
        f"{row['probe/before/auroc']:.3f} before, {row['probe/after/auroc']:.3f} after; macro-F1 "
        f"{row['probe/before/macro_f1']:.3f} before, {row['probe/after/macro_f1']:.3f} after "
        f"({len(result['random'])} other random encoders: {row['probe/random/auroc']:.3f}, "
        f"{row['probe/random/macro_f1']:.3f})"
    )


def features(
    params: Any, sizes: variants.EcgConfig, signals: np.ndarray, mesh: jax.sharding.Mesh, batch: int
) -> np.ndarray:
    """float32 [n, W]: the pooled representation of ECGs [n, 8, 2500], `batch` at a time on all
    devices.
    """
    encode = _encoder(sizes)
    sharding, made = mesh_lib.batch_sharding(mesh), []
    for first in range(0, len(signals), batch):
        part = signals[first : first + batch]
        # one shape, one compilation
        whole = np.concatenate([part, np.zeros((batch - len(part), *part.shape[1:]), part.dtype)])
        made.append(hosts.gather(encode(params, hosts.place(whole, sharding)))[: len(part)])
    return np.concatenate(made)


@functools.cache
def _encoder(sizes: variants.EcgConfig) -> Callable:
    return jax.jit(lambda params, ecg: model.represent(params, sizes, ecg))
