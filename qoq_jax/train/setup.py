"""From a Config to the objects a run works with: data sets, tokenizer, model configuration, mesh,
budgets.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import math
import os
from collections.abc import Iterable

import jax
import numpy as np

from qoq_jax import hf
from qoq_jax.base import interrupt
from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.data import answer_format as answers
from qoq_jax.data import pipeline, sources
from qoq_jax.data import rows as schema
from qoq_jax.data import tokenizer as tokenizer_lib
from qoq_jax.data.packing import Budget
from qoq_jax.data.sample import ProcessConfig
from qoq_jax.models import sizes as variants
from qoq_jax.parallel import hosts
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.train import datasets
from qoq_jax.train.config import Config


@dataclasses.dataclass
class Setup:
    """What every command needs.

    Attributes:
      config: the run's config.
      model: VlmConfig with the config's compute options.
      tokenizer: data.tokenizer.Tokenizer whose special ids agree with the model.
      mesh: device mesh.
      process: how rows become samples.
      domains: names behind the domain ids of DRPO, in the schema's order.
      prepared: the data sets, being built or fetched in the background; `roots` and `notes` wait
        for them.
      record: the data sets that the run began with; the rows are checked against it.
      quarantined: bad samples that were skipped, {"where", "reason"}, each once.
      banned: bool [V] on the mesh, tokens that are never sampled.
    """

    config: Config
    model: variants.VlmConfig
    tokenizer: tokenizer_lib.Tokenizer
    mesh: jax.sharding.Mesh
    process: ProcessConfig
    domains: tuple[str, ...]
    prepared: concurrent.futures.Future[tuple[dict[str, str], list[str]]]
    record: datasets.Record | None = None
    quarantined: list[dict[str, str]] = dataclasses.field(default_factory=list)

    @property
    def roots(self) -> dict[str, str]:
        """Source name -> folder of {split}.jsonl."""
        return self.prepared.result()[0]

    @property
    def notes(self) -> list[str]:
        """Plain sentences for the report (a source that could not be had, say)."""
        return self.prepared.result()[1]

    @property
    def banned(self) -> jax.Array:
        banned = np.zeros(self.model.decoder.vocab_size, bool)
        banned[list(self.tokenizer.banned_ids(self.model.decoder.vocab_size))] = True
        return jax.device_put(
            banned, jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())
        )

    def put(self, batch):
        """This process's arrays -> arrays of the mesh with rows (axis 0) over data and fsdp."""
        return hosts.to_global(batch, mesh_lib.batch_sharding(self.mesh))

    def budget(
        self, rows: int, tokens: int, samples: int | None = None, largest: bool = False
    ) -> Budget:
        """The fixed shapes of a batch.

        Args:
          rows, tokens: of the text.
          samples: how many samples the media budget is made for, packed into the rows; None = one
            sample a row.
          largest: room for the largest sample in every place (evaluation), not for the mean one.
        """
        data = self.config.data
        patches, ecgs = (
            (data.max_patches, max(1.0, data.mean_ecgs))
            if largest
            else (data.mean_patches, data.mean_ecgs)
        )
        ecgs = 0 if self.model.ecg is None else ecgs
        per_media_row = (samples or rows) / data.media_rows
        return Budget(
            rows=rows,
            tokens=tokens,
            media_rows=data.media_rows,
            pad_id=self.model.pad_id,
            patches=max(math.ceil(per_media_row * patches / 16) * 16, data.max_patches),
            ecgs=math.ceil(per_media_row * ecgs),
            max_per_row=1 if samples is None else 64,
            ecg_tokens=self.model.ecg_tokens,
            patch_dim=self.model.vision.patch_dim,
        )

    def rows(self, split: str) -> dict[str, list[schema.Row]]:
        """Rows of each source that has the split."""
        found, data = {}, self.config.data
        for name, root in self.roots.items():
            if os.path.exists(os.path.join(root, f"{split}.jsonl")):
                faults: list[str] | None = [] if data.on_error == "skip" else None
                found[name] = sources.load(root, split, faults)
                self._skip_rows(f"{name}/{split}.jsonl", faults or [], len(found[name]))
                if self.record:
                    self.record.check(name, split, found[name], root)
        if not found:
            raise datasets.no_split(split)
        return found

    def training_iterator(
        self, stage: str, answers: bool, domains: tuple[str, ...] = ()
    ) -> pipeline.BatchIterator:
        """Endless shuffled batches of the training split.

        Args:
          stage: sft, align or rl; it decides the shuffle. Stage sft packs several samples into a
            text row, the others put one prompt into each.
          answers: whether gold answers follow the prompts.
          domains: rows of other domains are left out; () = none.
        """
        cfg, data = self.config, self.config.data
        rows = self.rows("train")
        if stage == "sft":
            if cfg.sft.limit:
                rows = {
                    name: limited(found, cfg.sft.limit, cfg.seed) for name, found in rows.items()
                }
            if not cfg.sft.diagnoses:
                rows = {
                    name: [hide_diagnosis(row, cfg.seed) for row in found]
                    for name, found in rows.items()
                }
            if cfg.sft.box_shrink:
                rows = {
                    name: [shrink_boxes(row, cfg.sft.box_shrink, cfg.seed) for row in found]
                    for name, found in rows.items()
                }
        if domains:
            rows = {
                name: kept
                for name, found in rows.items()
                if (kept := [row for row in found if row.domain in domains])
            }
            if not rows:
                raise DataError(
                    f"no training row is of {', '.join(domains)}",
                    hint="change align.domains or the data",
                )
        counts = collections.Counter(row.domain for found in rows.values() for row in found)
        weights = (
            None
            if data.mixing_power == 1
            else {name: n**data.mixing_power for name, n in counts.items()}
        )
        if "real" in rows:
            rows["real"] = rows["real"] * data.real_repeat
        return pipeline.make_iterator(
            self._sources(rows),
            self.tokenizer,
            self.process,
            self.training_budget(stage, answers),
            seed=cfg.seed + {"sft": 0, "rl": 1, "align": 2}[stage],
            with_answer=answers,
            weights_by_domain=weights,
            on_error=data.on_error,
            max_bad=data.max_bad_fraction,
            process_index=hosts.process_index(),
            process_count=hosts.process_count(),
            cache=data.cache,
        )

    def training_budget(self, stage: str, answers: bool) -> Budget:
        """The shape of a stage's batches; see `training_iterator`."""
        cfg = self.config
        if stage == "sft":
            return self.budget(cfg.sft.rows, cfg.sft.tokens, cfg.sft.samples)
        return self.budget(
            cfg.rl.questions,
            cfg.data.max_prompt_tokens + (cfg.data.max_response_tokens if answers else 0),
        )

    def evaluation_iterator(self, split: str, limit: int) -> pipeline.BatchIterator:
        """One pass in fixed order over a split, over `limit` rows a domain of each source (0 =
        all).
        """
        cfg = self.config
        rows = self.rows(split)
        if limit:
            rows = {name: per_domain(found, limit) for name, found in rows.items()}
        return pipeline.make_eval_iterator(
            self._sources(rows),
            self.tokenizer,
            self.process,
            self.budget(cfg.eval.rows, cfg.data.max_prompt_tokens, largest=True),
            on_error=cfg.data.on_error,
            max_bad=cfg.data.max_bad_fraction,
            process_index=hosts.process_index(),
            process_count=hosts.process_count(),
        )

    def _sources(self, rows: dict[str, list[schema.Row]]) -> list[pipeline.Source]:
        return [pipeline.Source(name, self.roots[name], found) for name, found in rows.items()]

    def _skip_rows(self, where: str, faults: list[str], sound: int) -> None:
        """Counts the broken rows of a file among the skipped samples.

        Raises:
          DataError: there are more than data.max_bad_fraction of the rows (at least one may be
            bad).
        """
        if len(faults) > max(1, int(self.config.data.max_bad_fraction * (sound + len(faults)))):
            raise DataError(
                f"{len(faults)} of {sound + len(faults)} rows are broken; the first: {faults[0]}",
                where=where,
                hint="correct the rows (qoq data validate lists them), or raise data.max_bad_fraction",
            )
        self._remember({"where": where, "reason": fault} for fault in faults)

    def remember_quarantined(self, found: dict[str, str]) -> None:
        """Keeps skipped samples ("source/row id" -> reason) for the report."""
        self._remember({"where": where, "reason": reason} for where, reason in found.items())

    def _remember(self, entries: Iterable[dict[str, str]]) -> None:
        for entry in entries:
            if entry not in self.quarantined:  # rows are read more than once in a run
                self.quarantined.append(entry)


def hide_diagnosis(row: schema.Row, seed: int) -> schema.Row:
    """The row with a random diagnosis in the place of the gold one, for a warm start that must not
    learn diagnoses.

    The warm start then teaches the answer format, the boxes and the words of the findings, as
    reports without a coded diagnosis would; what they mean is left to RL. Labels that assert a
    finding are replaced by other such labels, so that the answer still fits its boxes; labels that
    deny one ("Normal") say no more than the empty list of boxes and stay.
    """
    asserting = [label for label in row.labels if not answers.denies_finding(label)]
    gold = [label for label in row.answers if label in asserting]
    rng = np.random.default_rng([seed, *row.id.encode()])
    drawn = dict(zip(gold, rng.permutation(asserting)))
    renamed = [str(drawn.get(label, label)) for label in row.answers]
    return dataclasses.replace(
        row,
        answer=", ".join(renamed),
        bbox_labels=tuple(str(drawn.get(label, label)) for label in row.bbox_labels),
    )


def shrink_boxes(row: schema.Row, share: float, seed: int) -> schema.Row:
    """The row with each edge of its boxes moved inward by U(0, share) of the side, for a warm start
    that knows where, not how far.

    As annotators who point at a finding without tracing it; its extent is left to RL, which is paid
    by the gold box or mask.
    """
    rng = np.random.default_rng([seed, 1, *row.id.encode()])

    def shrink(box):
        (x1, y1, x2, y2), (left, top, right, bottom) = box, rng.uniform(0, share, 4)
        width, height = x2 - x1, y2 - y1
        return x1 + left * width, y1 + top * height, x2 - right * width, y2 - bottom * height

    return dataclasses.replace(row, bbox=tuple(map(shrink, row.bbox)))


def limited(rows: list, count: int, seed: int) -> list:
    """A fixed random subset of `count` rows."""
    order = np.random.default_rng(seed).permutation(len(rows))[:count]
    return [rows[i] for i in sorted(order)]


def per_domain(rows: list, count: int) -> list:
    """The first `count` rows of each domain."""
    seen: dict[str, int] = {}
    kept = []
    for row in rows:
        seen[row.domain] = seen.get(row.domain, 0) + 1
        if seen[row.domain] <= count:
            kept.append(row)
    return kept


def model_config(cfg: Config) -> variants.VlmConfig:
    """The model of a config with its compute options.

    A published model without an ECG encoder gets one of the size of the published ECG-JEPA, unless
    model.ecg_tokens is 0.

    Raises:
      ConfigError: an unknown variant, or a published model that is not supported or does not fit
        model.ecg_tokens.
      CheckpointError: the directory or hub id cannot be read.
    """
    chosen = cfg.model
    options = {"compute_dtype": chosen.compute_dtype, "remat": chosen.remat}
    if not is_published(chosen.variant):
        model = variants.get(chosen.variant)
    else:
        directory = hf.resolve(chosen.variant)
        model = hf.read_config(directory)
        if model.ecg is not None and chosen.ecg_tokens not in (0, model.ecg_tokens):
            raise ConfigError(
                f"its ECGs take {model.ecg_tokens} token(s), model.ecg_tokens = "
                f"{chosen.ecg_tokens}",
                where=directory,
                hint=f"set model.ecg_tokens={model.ecg_tokens}, or 0 to leave the ECG encoder out",
            )
        if model.ecg is None and chosen.ecg_tokens:
            if model.ecg_token_id >= model.decoder.vocab_size:
                raise ConfigError(
                    f"no room for an ECG encoder: the vocabulary of {model.decoder.vocab_size} "
                    "ends before the ECG "
                    f"token {model.ecg_token_id}",
                    where=directory,
                    hint="set model.ecg_tokens=0, or give time_series_token_id in its config.json",
                )
            options["ecg"] = variants.BASE_ECG
    if not chosen.ecg_tokens:
        return dataclasses.replace(model, ecg=None, **options)
    return dataclasses.replace(model, ecg_tokens=chosen.ecg_tokens, **options)


def is_published(variant: str) -> bool:
    """Whether model.variant names a Hugging Face directory or hub id, and not a size of
    models/sizes.py.
    """
    return variant not in variants.NAMES and (os.path.isdir(variant) or "/" in variant)


def tokenizer_source(cfg: Config) -> str:
    """What data.tokenizer.load reads: model.tokenizer, or else the model's own."""
    if cfg.model.tokenizer:
        return cfg.model.tokenizer
    if is_published(cfg.model.variant):
        return hf.resolve(cfg.model.variant)
    if cfg.model.variant == "nano":
        return tokenizer_lib.NANO
    raise ConfigError(
        f"model.variant = {cfg.model.variant!r} has no tokenizer of its own",
        hint="set model.tokenizer to a directory with tokenizer.json, or model.variant to a "
        "Hugging Face model",
    )


def assemble(cfg: Config, prepare: bool = True, training: bool = False) -> Setup:
    """Checks that tokenizer, model, mesh and budgets fit each other, and starts to prepare the data
    sets when asked.

    Args:
      training: for `qoq train`: the data sets must be those that the run began with, with all
        splits that it will need.

    Raises:
      ConfigError: parts that do not fit. A data set that cannot be made or read is a DataError
        where it is first used.
    """
    model = model_config(cfg)
    tokenizer = tokenizer_lib.load(tokenizer_source(cfg))
    mesh = mesh_lib.make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor)
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    micro = {
        "sft": cfg.sft.accumulate,
        "align": cfg.rl.minibatches * cfg.rl.accumulate,
        "rl": cfg.rl.minibatches * cfg.rl.accumulate,
    }
    for parts, what in [
        (1, ""),
        *(
            (micro[name], f" in {micro[name]} parts (stage {name})")
            for name in cfg.stages
            if name in micro
        ),
    ]:
        if prepare and cfg.data.media_rows % (shards * parts):
            raise ConfigError(
                f"data.media_rows = {cfg.data.media_rows} does not divide over {shards} data x "
                f"fsdp devices{what}",
                hint=f"set data.media_rows to a multiple of {shards * parts}",
            )
    process = ProcessConfig.for_model(
        model,
        min_pixels=cfg.data.min_pixels,
        max_pixels=cfg.data.max_pixels,
        frame_max_pixels=cfg.data.frame_max_pixels,
        max_prompt_tokens=cfg.data.max_prompt_tokens,
        max_response_tokens=cfg.data.max_response_tokens,
        system=cfg.data.system,
        answer_only=cfg.rl.reward.answer_only,
        ecg_length=cfg.data.ecg_length,
        box_coordinates=cfg.model.box_coordinates,
    )
    tokenizer.check(process.token_ids())
    datasets.check_extra(cfg.data)
    # In the background, so that the first step compiles while files are drawn and fetched.
    pool = concurrent.futures.ThreadPoolExecutor(1, initializer=interrupt.block)
    record = datasets.Record(cfg.workdir, training) if prepare else None
    splits = (
        ("train", cfg.eval.split, *(("validation",) if cfg.eval.every else ())) if training else ()
    )
    prepared = (
        pool.submit(datasets.prepare, cfg, record, splits)
        if prepare
        else pool.submit(lambda: ({}, []))
    )
    pool.shutdown(wait=False)
    return Setup(cfg, model, tokenizer, mesh, process, schema.DOMAINS, prepared, record)
