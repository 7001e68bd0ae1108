"""A run of this room: the sets of a config, training on them, their scores, and few-shot transfer.

    WORKDIR/sets.json       the sets: samples of each split, labels, share of the training stream
    WORKDIR/encoder.safetensors  what was trained, without the head (weights.py)
    WORKDIR/result.json     scores of the test split (scores.together)
    WORKDIR/few_shot.jsonl  with a target: one line per probe and fine-tuning (few_shot.py)

Whatever is finished is not done again.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from qoq_jax.base import files, storage
from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.models.encoders.encoder import Params
from qoq_jax.parallel import hosts, messages
from qoq_jax.train import datasets, run_record, session
from qoq_jax.transfer import batches, few_shot, inputs, predict, scores, training, weights
from qoq_jax.transfer.config import TransferConfig, encoder_of
from qoq_jax.transfer.sets import LabelledSet, Vocabulary, check_patients, chosen

STAGE, SOURCE = "pretrain", "source"
RESULT = "result.json"


def run(cfg: TransferConfig) -> int:
    """`qoq train` of such a config; returns the exit code."""
    return session.run(cfg, functools.partial(_run, found=None))


def run_on(cfg: TransferConfig, found: Mapping[str, LabelledSet]) -> int:
    """The same, on sets that were found already: several runs in one process share what they read.

    Args:
      found: `find_sets` of a config with the same data and encoder.
    """
    return session.run(cfg, functools.partial(_run, found=found))


def find_sets(cfg: TransferConfig) -> dict[str, LabelledSet]:
    """All sets of the encoder's kind, climb-mini built where it is not there.

    Raises:
      ConfigError: a folder of data.extra has no rows.
      DataError: there are none, or a patient is in two splits of one.
    """
    datasets.check_extra(cfg.data)
    roots: dict[str, str] = {}
    if cfg.data.mini_rows or cfg.data.real or cfg.data.extra:
        roots, _ = datasets.prepare(cfg)
    found = inputs.find(encoder_of(cfg), cfg.data, roots)
    check_patients(found.values())
    return found


def pretraining_sets(cfg: TransferConfig, found: Mapping[str, LabelledSet]) -> list[LabelledSet]:
    """Those that a config trains on: never the target.

    Raises:
      ConfigError: it names a set that there is not, or none is left.
    """
    chosen(found, (cfg.target,) if cfg.target else ())
    left = [one for one in chosen(found, cfg.sets) if one.name != cfg.target]
    if not left:
        raise ConfigError(
            "no data set is left to pretrain on",
            hint="name more in sets, data.extra or data.arrays",
        )
    return left


def _run(cfg: TransferConfig, found: Mapping[str, LabelledSet] | None) -> int:
    # ------------------------------------------------------------------------------ data and model
    totals = run_record.RunTotals(cfg.workdir)
    found = find_sets(cfg) if found is None else found
    sets = pretraining_sets(cfg, found)
    bench = training.bench_of(cfg, Vocabulary.of(found.values()))
    _check_scored(sets)
    facts, source = _facts(cfg, sets, bench), None
    if cfg.target:  # what is wrong with it is said before anything is trained
        target = found[cfg.target]
        source = few_shot.source_of(target, sets, cfg.few.source)
        for note in few_shot.check_unseen(target, sets):
            hosts.say(f"note: {note}")
        facts |= {"target": target.name, "target_domain": target.domain, "source": source.name}
    if hosts.is_main():
        files.write_json(os.path.join(cfg.workdir, "sets.json"), facts)

    def train(stage: str, sets: Sequence[LabelledSet]) -> Params:
        params, skipped = training.train(bench, stage, sets, cfg.training.steps)
        totals.keep({"where": name, "reason": reason} for name, reason in skipped.items())
        return params

    with jax.set_mesh(bench.mesh):
        # --------------------------------------------------------------------- training and scores
        params = train(STAGE, sets)
        path = os.path.join(cfg.workdir, RESULT)
        if not messages.from_main("evaluated", lambda: storage.exists(path)):
            result = evaluate(bench, params, sets)
            trained = hosts.gather(params["encoder"])
            if hosts.is_main():
                weights.save(bench.encoder, os.path.join(cfg.workdir, weights.FILE), trained)
                files.write_json(path, result)
                print(f"{cfg.workdir}: macro AUROC {result['auroc']:.3f} of {len(sets)} sets")
        # ------------------------------------------------------------------------ few-shot transfer
        if source is not None:
            starts = {
                few_shot.ALL_OTHERS: lambda: params,
                few_shot.ONE_OTHER: lambda: train(SOURCE, [source]),
                few_shot.RANDOM: lambda: bench.random_weights(cfg.seed),
            }
            few_shot.run(bench, found[cfg.target], starts)
    run_record.write_run(
        cfg.workdir,
        totals,
        title=f"{cfg.encoder} on {len(sets)} data sets",
        model=cfg.encoder,
    )
    return 0


def _check_scored(sets: Sequence[LabelledSet]) -> None:
    """Raises DataError where `evaluate` would, before anything is trained."""
    tested = [one for one in sets if "test" in one.splits]
    if not tested:
        raise DataError("no data set has a test split", hint="hold samples out for it")
    for one in tested:
        scores.check(one)


def evaluate(bench: training.Bench, params: Params, sets: Sequence[LabelledSet]) -> dict[str, Any]:
    """`scores.together` of the sets that have a test split."""
    made = {}
    for one in (one for one in sets if "test" in one.splits):
        found = predict.logits(bench, params, one.splits["test"])
        made[one.name] = scores.of_set(one, found[:, bench.vocabulary.columns(one)])
    return scores.together(made)


def _facts(
    cfg: TransferConfig, sets: Sequence[LabelledSet], bench: training.Bench
) -> dict[str, Any]:
    counts = {one.name: len(one.splits["train"]) for one in sets if "train" in one.splits}
    share = batches.shares(counts, cfg.training.temperature)
    return {
        "classes": bench.vocabulary.classes,
        "trained_on": {
            one.name: {
                "domain": one.domain,
                "labels": one.labels,
                "exclusive": one.exclusive,
                "samples": {split: len(part) for split, part in one.splits.items()},
                "share": share.get(one.name),
            }
            for one in sets
        },
    }


def replaced(cfg: TransferConfig, **changes: Any) -> TransferConfig:
    """The config with other fields; `steps` is that of section training."""
    if "steps" in changes:
        changes["training"] = dataclasses.replace(cfg.training, steps=changes.pop("steps"))
    return dataclasses.replace(cfg, **changes)
