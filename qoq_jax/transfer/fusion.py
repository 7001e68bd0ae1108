"""RQ3 of CLIMB (arXiv 2503.07667): which fusion, and does pretraining on single modalities help it?

    WORKDIR/los.json, ihm.json      scores of each task
    WORKDIR/fusion.md, fusion.csv   all of them as a table

Encoders are frozen. Compared are the record alone, each medium alone, and all modalities by each
fusion, with random and with pretrained encoders. Seed s of "random" has encoders of its own, drawn
by s; "pretrained" has the same ones for all seeds. Admissions without a medium take part.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from qoq_jax.base import files, lock, storage
from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.climb.mimic import admissions, convert, synthetic
from qoq_jax.climb.mimic.admissions import Admissions
from qoq_jax.models import spec
from qoq_jax.models.encoders import registry
from qoq_jax.models.encoders.encoder import Params
from qoq_jax.models.fusion import FusionConfig, Inputs, Modality
from qoq_jax.train import config as train_config
from qoq_jax.transfer import fusion_fit, fusion_inputs, fusion_table, weights
from qoq_jax.transfer.fusion_config import FusionDataConfig, FusionRunConfig, PretrainedConfig
from qoq_jax.transfer.fusion_scores import Area, HeldOut

RANDOM, PRETRAINED = "random", "pretrained"
_MEDIA = ("ecg", "xray")


def run(cfg: FusionRunConfig) -> int:
    """`qoq train` of such a config; a task that is finished is not done again. Returns the exit
    code.

    Raises:
      ConfigError: several processes, or the workdir is of another config.
      CheckpointError: weights cannot be read.
      DataError: the admissions cannot be read, or are too few.
    """
    if jax.process_count() > 1:
        raise ConfigError("fusions are compared by one process", hint="start one")
    storage.make_folder(cfg.workdir)
    with lock.hold(cfg.workdir):
        _claim(cfg)
        for name in _MEDIA:  # a wrong file is said before anything is fitted
            _pretrained(getattr(cfg, name))
        results = {task: _of_task(cfg, task) for task in cfg.tasks}
        fusion_table.write(cfg.workdir, results)
    return 0


def _claim(cfg: FusionRunConfig) -> None:
    path = os.path.join(cfg.workdir, "config.json")
    if not storage.exists(path):
        files.write_json(path, train_config.as_json(cfg))
    elif other := train_config.differences(cfg, files.read_json(path)):
        raise ConfigError(
            f"was begun with other {', '.join(other)}", where=cfg.workdir, hint="name a new workdir"
        )


def _of_task(cfg: FusionRunConfig, task: str) -> dict[str, Any]:
    path = os.path.join(cfg.workdir, f"{task}.json")
    if storage.exists(path):
        return files.read_json(path)
    found = admissions.read(_folder(cfg.data), task)
    print(f"{task}: {len(found.ids)} admissions, {len(found.columns)} columns of the record")
    result = compare(cfg, found)
    files.write_json(path, result)
    return result


def _folder(cfg: FusionDataConfig) -> str:
    """The folder of the admissions; made-up ones are built where they are not there yet."""
    if cfg.mimic:
        return cfg.mimic
    folder = os.path.join(
        cfg.root, f"mimic_made_up_{cfg.patients}_{cfg.with_media}_{cfg.data_seed}"
    )
    if not os.path.exists(os.path.join(folder, "conversion.json")):
        synthetic.build(folder, cfg.patients, cfg.data_seed, cfg.with_media)
        convert.convert(folder)
    return folder


def compare(cfg: FusionRunConfig, found: Admissions) -> dict[str, Any]:
    """Scores of all fusions of a task; see the head of the file.

    Returns:
      {"counts", "rows": [{"inputs", "method", "encoders", "all", "complete", ...}]}, each with
      {"value", "interval"} of the macro AUROC on all test admissions and on those that have every
      medium; "over_record" and "over_random" are paired gains on the latter.
    """
    train = found.rows_of("train")
    media = {
        name: np.array([bool(path) for path in getattr(found, name)])
        for name in _MEDIA
        if getattr(cfg, name).name
    }
    for name, there in media.items():
        if not there[train].any():
            raise DataError(f"no training admission has an {name}", hint=f"set {name}.name to ''")
    everything = np.ones(len(found.ids), bool)
    complete = np.logical_and.reduce([everything, *media.values()])
    tests = {"all": HeldOut(found, everything), "complete": HeldOut(found, complete)}
    priors = np.bincount(found.labels[train], minlength=len(found.classes)) / len(train)
    rows: list[dict[str, Any]] = []
    areas: dict[tuple[str, str, str], Area | None] = {}

    def add(inputs: str, method: str, encoders: str, scores: np.ndarray) -> None:
        areas[inputs, method, encoders] = tests["complete"].area(scores)
        row: dict[str, Any] = {"inputs": inputs, "method": method, "encoders": encoders}
        # a medium alone says nothing of admissions without it
        for name in ("complete",) if inputs in media else ("all", "complete"):
            if area := tests[name].area(scores):
                row[name] = area.told()
        row |= tests["complete"].sensitivity_and_specificity(scores, priors)
        gains = {"over_record": areas.get(("record", "concat", ""))}
        if encoders == PRETRAINED:
            gains["over_random"] = areas.get((inputs, method, RANDOM))
        for name, other in gains.items():
            if (area := areas[inputs, method, encoders]) and other and area is not other:
                row[name] = area.over(other)
        rows.append(row)

    table = fusion_inputs.table(found)
    seeds = range(cfg.seeds)
    add("record", "concat", "", _fit(cfg, found, "concat", [table], seeds)["fused"])
    starts = [RANDOM, PRETRAINED] if any(getattr(cfg, name).weights for name in media) else [RANDOM]
    # random encoders differ from seed to seed, pretrained ones do not
    groups = {RANDOM: [[seed] for seed in seeds], PRETRAINED: [list(seeds)]}
    encoded = [_encoded(cfg, found, name, starts) for name in media]
    for start in starts if media else []:
        first = 0 if start == RANDOM else cfg.seeds
        features = [
            [table, *((sizes, made[first + n]) for sizes, made in encoded)]
            for n in range(len(groups[start]))
        ]
        for method in cfg.methods:
            made = [
                _fit(cfg, found, method, parts, group)
                for parts, group in zip(features, groups[start], strict=True)
            ]
            scores = {name: np.concatenate([one[name] for one in made]) for name in made[0]}
            add("all", method, start, scores.pop("fused"))
            for name in media:
                # the heads of late fusion; without pretrained weights the head is the random one
                if name in scores and (start == RANDOM or getattr(cfg, name).weights):
                    add(name, "head", start, scores[name])
    counts = {name: len(test.rows) for name, test in tests.items()}
    return {
        "counts": {"train": len(train), **counts},
        "classes": list(found.classes),
        "seeds": cfg.seeds,
        "rows": rows,
    }


def _encoded(
    cfg: FusionRunConfig, found: Admissions, name: str, starts: Sequence[str]
) -> tuple[Inputs, list[Modality]]:
    """A medium by random encoders, one per seed, and then by the pretrained one if it is a start;
    where only other media have pretrained weights, that one is the random one of seed 0.
    """
    about: PretrainedConfig = getattr(cfg, name)
    encoder = registry.get(about.name)
    specs = encoder.param_specs(encoder.cfg)
    params = [spec.init_params(specs, jax.random.key(seed)) for seed in range(cfg.seeds)]
    if PRETRAINED in starts:
        params.append(_pretrained(about) or params[0])
    paths, train = getattr(found, name), found.rows_of("train")
    return fusion_inputs.medium(name, encoder, params, paths, train, cfg.tokens, cfg.batch)


def _pretrained(about: PretrainedConfig) -> Params | None:
    """The pretrained weights of a medium, None of one that has none."""
    if not (about.name and about.weights):
        return None
    return weights.load_encoder(registry.get(about.name), about.weights)


def _fit(
    cfg: FusionRunConfig, found: Admissions, method: Any, parts: Any, seeds: Sequence[int]
) -> dict[str, np.ndarray]:
    sizes = FusionConfig(
        method, tuple(inputs for inputs, _ in parts), len(found.classes), cfg.width
    )
    patients = {inputs.name: modality for inputs, modality in parts}
    rows = fusion_fit.Rows(found.rows_of("train"), found.rows_of("validation"))
    return fusion_fit.fit(sizes, cfg.fit, patients, found.labels, rows, seeds)
