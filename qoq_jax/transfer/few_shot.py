"""Few-shot transfer to a data set that the encoder has not seen (RQ2 of CLIMB, arXiv 2503.07667).

From each start (pretrained on all other sets, pretrained on one of them, random), with 1, 8, 32
samples of each label and several draws of them:

  probe      logistic regressions on the frozen encoder's vectors (evaluation/probe.py)
  fine-tune  all weights, with a head of zeros

both scored by macro AUROC on the target's test split.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.base import append, files, storage
from qoq_jax.base.errors import DataError
from qoq_jax.base.fields import check_choice
from qoq_jax.evaluation.probe import linear_probe
from qoq_jax.models.encoders.encoder import Params
from qoq_jax.parallel import hosts, messages
from qoq_jax.train import hooks, loop
from qoq_jax.transfer import predict, scores, training
from qoq_jax.transfer.batches import batch_of, labels_of
from qoq_jax.transfer.sets import LabelledSet, Split

FILE = "few_shot.jsonl"
ALL_OTHERS, ONE_OTHER, RANDOM = "multi-source", "single-source", "random"
PROBE, FINE_TUNE = "probe", "fine-tune"


def draw(split: Split, shots: int, seed: int, number: int, name: str) -> np.ndarray:
    """Samples of a draw, int [m], sorted: `shots` of each label, each of another patient; fewer
    where the label has fewer patients. A sample of several labels may be drawn for any of them.

    With fewer shots a draw begins with the same samples, and it depends on (seed, number, name of
    the set) alone.
    """
    rng = np.random.default_rng([seed, number, zlib.crc32(name.encode())])
    order = rng.permutation(len(split))
    left = [iter(order[split.gold[order, k]]) for k in range(split.gold.shape[1])]
    used: set[int] = set()
    found: list[int] = []
    # By turns, so that a draw of fewer shots is a part of one of more.
    for _ in range(shots):
        for samples in left:
            for i in map(int, samples):
                patient = int(split.patients[i]) or -i - 1  # not known: a patient of its own
                if patient not in used:
                    used.add(patient)
                    found.append(i)
                    break
    return np.array(sorted(found), int)


def source_of(target: LabelledSet, sets: Sequence[LabelledSet], named: str = "") -> LabelledSet:
    """The one set of "single-source": the named one, else the largest other of the target's domain,
    or of all.

    Raises:
      ConfigError: no other set has that name.
      DataError: there is no other set with a training split.
    """
    others = {one.name: one for one in sets if one.name != target.name and "train" in one.splits}
    if named:
        check_choice("few.source", named, others)
        return others[named]
    if not others:
        raise DataError("no other set has a training split", where=target.name)
    near = [one for one in others.values() if one.domain == target.domain]
    return max(near or others.values(), key=lambda one: len(one.splits["train"]))


def check_unseen(target: LabelledSet, trained_on: Sequence[LabelledSet]) -> list[str]:
    """Sentences on patients of the target that other sets name too. Ids of unrelated sets may be
    alike ("1"), so that is for the reader to judge.

    Raises:
      DataError: the target itself is among the sets that a start was trained on, it has no
        training or test split, or no label that can be learned in the one and scored in the other.
    """
    for split in ("train", "test"):
        if split not in target.splits:
            raise DataError(f"the target has no {split} split", where=target.name)
    both = [scores.sided(target.splits[split].gold) for split in ("train", "test")]
    if not (both[0] & both[1]).any():
        raise DataError(
            "no label is both present and absent in the target's training and test splits",
            where=target.name,
            hint="choose another target",
        )
    notes = []
    mine = np.unique(np.concatenate([split.patients for split in target.splits.values()]))
    for one in trained_on:
        if one.name == target.name:
            raise DataError(
                f"the target {target.name} is among the sets that were pretrained on",
                hint="leave it out, or choose another target",
            )
        theirs = np.concatenate([split.patients for split in one.splits.values()])
        if shared := len(np.setdiff1d(np.intersect1d(mine, theirs), [0])):
            notes.append(
                f"{shared} patients of {target.name} have the ids of patients of {one.name}"
            )
    return notes


def run(
    bench: training.Bench, target: LabelledSet, starts: Mapping[str, Callable[[], Params]]
) -> list[dict[str, Any]]:
    """All probes and fine-tunings that WORKDIR/few_shot.jsonl does not have yet; returns its lines:
    {"start", "method", "shots", "draw", "samples", "auroc"}.

    Args:
      starts: name -> weights on the mesh, made when they are needed.
    """
    cfg = bench.config
    path = os.path.join(cfg.workdir, FILE)
    done = messages.from_main("few-shot results", lambda: _read(path))
    have = {_key(line) for line in done}
    lines = append.Lines(path)
    tuned = _FineTuning(bench, target)
    for name, make in starts.items():
        wanted = [
            (method, shots, number)
            for method in (PROBE, FINE_TUNE)
            for shots in cfg.few.shots
            for number in range(cfg.few.draws)
            if (name, method, shots, number) not in have
        ]
        if not wanted:
            continue
        params = make()
        probe = _Probe(bench, target, params)
        for method, shots, number in wanted:
            train = target.splits["train"]
            picked = draw(train, shots, cfg.seed, number, target.name)
            area = probe.score(picked) if method == PROBE else tuned.score(params, picked, number)
            line = {
                "start": name,
                "method": method,
                "shots": shots,
                "draw": number,
                "samples": len(picked),
                "auroc": area,
            }
            done.append(line)
            if hosts.is_main():
                lines.write(json.dumps(line) + "\n")
        hosts.say(f"{target.name}: {len(wanted)} probes and fine-tunings from {name}")
    lines.flush()
    return done


def _key(line: Mapping[str, Any]) -> tuple[str, str, int, int]:
    return line["start"], line["method"], line["shots"], line["draw"]


def _read(path: str) -> list[dict[str, Any]]:
    """The lines of the file; a last one that a kill left half-written is taken out of it."""
    if not storage.exists(path):
        return []
    text = files.read_bytes(path).decode()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        files.write_text(path, whole)
    return [json.loads(line) for line in whole.splitlines()]


class _Probe:
    """The frozen encoder's vectors of the target's samples, made once."""

    def __init__(self, bench: training.Bench, target: LabelledSet, params: Params):
        self._bench, self._target, self._params = bench, target, params
        self._test = predict.features(bench, params, target.splits["test"])
        self._seen: dict[int, np.ndarray] = {}

    def score(self, picked: np.ndarray) -> float:
        train, test = self._target.splits["train"], self._target.splits["test"]
        if new := [int(i) for i in picked if int(i) not in self._seen]:
            made = predict.features(self._bench, self._params, train, new)
            self._seen |= dict(zip(new, made, strict=True))
        seen = np.stack([self._seen[int(i)] for i in picked])
        found = linear_probe(seen, train.gold[picked], self._test, test.gold, self._target.labels)
        return found["auroc"]


class _FineTuning:
    """Training of all weights on a few samples."""

    def __init__(self, bench: training.Bench, target: LabelledSet):
        self._bench, self._target = bench, target
        few = bench.config.few
        self._rates = bench.rates(few.lr, few.steps // 10, few.steps)

    def score(self, params: Params, picked: np.ndarray, number: int) -> float:
        bench, target, few = self._bench, self._target, self._bench.config.few
        weights = {
            "encoder": jax.tree.map(jnp.copy, params["encoder"]),  # a step donates them
            "head": jax.tree.map(jnp.zeros_like, params["head"]),
        }
        state = loop.run(
            loop.Loop("few_shot", 0, few.steps, bench.start(weights)),
            training.stepper(bench, self._batches(picked, number), self._rates),
            [
                hooks.GuardTransfers(),
                hooks.MeanRow(few.steps, lambda steps, seconds: hooks.mean_of_steps(steps)),
                hooks.StopWhenNotFinite(bench.config.optimizer.max_skipped),
            ],
        )
        found = predict.logits(bench, state.params, target.splits["test"])
        own = found[:, bench.vocabulary.columns(target)]
        return scores.of_set(target, own, draws=0)["auroc"]

    def _batches(self, picked: np.ndarray, number: int) -> Iterator[dict[str, Any]]:
        """Samples drawn with replacement, this process's share of each batch."""
        bench, train = self._bench, self._target.splits["train"]
        few, reading = bench.config.few, bench.reading
        rng = np.random.default_rng([bench.config.seed, number, len(picked)])
        share = few.batch // reading.process_count
        own = slice(reading.process_index * share, (reading.process_index + 1) * share)
        arrays = {int(i): train.read(int(i)) for i in picked}
        while True:
            mine = rng.choice(picked, few.batch)[own]
            labels = labels_of(self._target, bench.vocabulary, train.gold[mine])
            yield batch_of([arrays[int(i)] for i in mine], labels)
