"""The data half of a run's set-up: from its config and data sets to batches."""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data import edits, pipeline, sources
from qoq_jax.data import rows as schema
from qoq_jax.data import tokenizer as tokenizer_lib
from qoq_jax.data.index import Rows
from qoq_jax.data.packing import Budget
from qoq_jax.data.sample import ProcessConfig
from qoq_jax.models import sizes as variants
from qoq_jax.parallel import hosts, messages
from qoq_jax.train import budgets, datasets, stages
from qoq_jax.train.config import Config


@dataclasses.dataclass(kw_only=True)
class Batches:
    """Row files to batches, as a config says.

    Attributes:
      config: the run's config.
      model: VlmConfig with the config's compute options.
      tokenizer: data.tokenizer.Tokenizer whose special ids agree with the model.
      process: how rows become samples.
      prepared: the data sets, being built or fetched in the background; `roots` and `notes` wait
        for them.
      record: the data sets that the run began with; the rows are checked against it.
      share: the rows of each batch that this process makes.
      quarantined: bad samples that were skipped, {"where", "reason"}, each once.
    """

    config: Config
    model: variants.VlmConfig
    tokenizer: tokenizer_lib.Tokenizer
    process: ProcessConfig
    prepared: concurrent.futures.Future[tuple[dict[str, str], list[str]]]
    record: datasets.Record | None = None
    share: hosts.Share = hosts.WHOLE
    quarantined: list[dict[str, str]] = dataclasses.field(default_factory=list)

    @property
    def roots(self) -> dict[str, str]:
        """Source name -> folder of {split}.jsonl."""
        return self.prepared.result()[0]

    @property
    def notes(self) -> list[str]:
        """Plain sentences for the report (as that a source could not be fetched)."""
        return self.prepared.result()[1]

    def budget(
        self, rows: int, tokens: int, samples: int | None = None, largest: bool = False
    ) -> Budget:
        """The fixed shapes of a batch; see budgets.budget."""
        return budgets.budget(self.config, self.model, rows, tokens, samples, largest)

    def rows(self, split: str) -> dict[str, Rows]:
        """Rows of each source that has the split."""
        found, data = {}, self.config.data
        for name, root in self.roots.items():
            path = sources.find(root, split)
            if path is None:
                continue
            faults: list[str] | None = [] if data.on_error == "skip" else None
            found[name] = sources.load(root, split, faults)
            if faults:
                count = found[name].index.fault_count
                self._skip_rows(f"{name}/{path.name}", faults, count, len(found[name]))
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
        if stages.get(stage).packed:
            rows = {name: self._edited(found) for name, found in rows.items()}
        if domains:
            rows = _of_domains(rows, domains)
        weights = None if data.mixing_power == 1 else _weights(rows, data.mixing_power)
        if "real" in rows:
            real = rows["real"]
            rows["real"] = real.take(np.tile(np.arange(len(real)), data.real_repeat))
        return pipeline.make_iterator(
            self._recipe(rows, self.training_budget(stage, answers), answers),
            pipeline.Shuffle(cfg.seed + stages.get(stage).data_seed, weights),
            dataclasses.replace(self._reading(), cache=data.cache),
        )

    def training_budget(self, stage: str, answers: bool) -> Budget:
        """The shape of a stage's batches; see `training_iterator`."""
        return budgets.training_budget(self.config, self.model, stage, answers)

    def evaluation_iterator(self, split: str, limit: int) -> pipeline.BatchIterator:
        """One pass in fixed order over a split, over `limit` rows per domain of each source (0 =
        all). All processes must ask for it.

        Raises:
          DataError: they have other rows than each other.
        """
        return self.one_pass(self.evaluation_rows(split, limit))

    def evaluation_rows(self, split: str, limit: int) -> dict[str, Rows]:
        """The rows of `evaluation_iterator`, by source."""
        rows = self.rows(split)
        if not limit:
            return rows
        return {
            name: found.take(edits.per_domain(found.column("domain"), limit))
            for name, found in rows.items()
        }

    def one_pass(self, rows: Mapping[str, Rows]) -> pipeline.BatchIterator:
        """One pass in fixed order over rows of the run's sources, at least one. All processes must
        ask for it.

        Raises:
          DataError: they have other rows than each other.
        """
        data = pipeline.make_eval_iterator(
            self._recipe(rows, self.evaluation_budget(), answers=False), self._reading()
        )
        check_same_rows(data.fingerprint)
        return data

    def evaluation_budget(self) -> Budget:
        """The shape of the batches of `evaluation_iterator`."""
        cfg = self.config
        return self.budget(cfg.eval.rows, cfg.data.max_prompt_tokens, largest=True)

    def _edited(self, rows: Rows) -> Rows:
        """The rows of supervised fine-tuning, as the config limits and changes them."""
        sft, seed = self.config.sft, self.config.seed
        if sft.limit:
            rows = rows.take(edits.limited(len(rows), sft.limit, seed))
        if not sft.diagnoses:
            rows = rows.edited(edits.HideDiagnosis(seed))
        if sft.label_noise:
            rows = rows.edited(edits.NoisyLabels(seed, sft.label_noise))
        if sft.box_shrink:
            rows = rows.edited(edits.ShrinkBoxes(sft.box_shrink, seed))
        return rows

    def _recipe(self, rows: Mapping[str, Rows], budget: Budget, answers: bool) -> pipeline.Recipe:
        found = [pipeline.Source(name, self.roots[name], of_it) for name, of_it in rows.items()]
        return pipeline.Recipe(found, self.tokenizer, self.process, budget, answers)

    def _reading(self) -> pipeline.Reading:
        data = self.config.data
        return pipeline.Reading(
            process_index=self.share.index,
            process_count=self.share.count,
            on_error=data.on_error,
            max_bad=data.max_bad_fraction,
        )

    def _skip_rows(self, where: str, faults: list[str], count: int, sound: int) -> None:
        """Counts the broken rows of a file among the skipped samples.

        Raises:
          DataError: there are more than data.max_bad_fraction of the rows (at least one may be
            bad).
        """
        if count > max(1, int(self.config.data.max_bad_fraction * (sound + count))):
            raise DataError(
                f"{count} of {sound + count} rows are broken; the first: {faults[0]}",
                where=where,
                hint="correct the rows (qoq data validate lists them), or raise "
                "data.max_bad_fraction",
            )
        self._remember({"where": where, "reason": fault} for fault in faults)

    def remember_quarantined(self, found: dict[str, str]) -> None:
        """Keeps skipped samples ("source/row id" -> reason) for the report."""
        self._remember({"where": where, "reason": reason} for where, reason in found.items())

    def _remember(self, entries: Iterable[dict[str, str]]) -> None:
        known = {(entry["where"], entry["reason"]) for entry in self.quarantined}
        for entry in entries:  # rows are read more than once in a run
            key = entry["where"], entry["reason"]
            if key not in known:
                known.add(key)
                self.quarantined.append(entry)


class Iterator(Protocol):
    """What `WholeData` asks of the data iterator of a process: pipeline.BatchIterator or
    ecgs.EcgBatches.
    """

    quarantined: dict[str, str]
    ecg_lengths: dict[str, str]

    def check_limit(self, quarantined: Mapping[str, str]) -> None: ...

    def get_state(self) -> dict[str, Any]: ...


class WholeData:
    """The data of a stage as the run sees it, out of what its processes know of theirs; for the
    hooks of the loop (hooks.Batches). All processes must ask the same at the same time.
    """

    def __init__(self, data: Iterator, share: hosts.Share):
        self._data, self._share = data, share
        self._found: dict[str, dict[str, str]] = {"quarantined": {}, "ecg_lengths": {}}
        self._told: dict[str, set[str]] = {name: set() for name in self._found}

    @property
    def quarantined(self) -> dict[str, str]:
        """Bad samples that were left out, name -> reason.

        Raises:
          DataError: there are more than a run may skip.
        """
        found = self._all("quarantined")
        self._data.check_limit(found)
        return found

    def count_ecg_lengths(self) -> dict[str, int]:
        """{"ecgs_cut": n, "ecgs_repeated": n}, since these processes began."""
        return pipeline.count_ecg_lengths(self._all("ecg_lengths"))

    def position(self) -> dict[str, Any]:
        """Where the data of this process stands; JSON."""
        return self._data.get_state()

    def state_of(self, position: dict[str, Any]) -> dict[str, Any]:
        """The state to continue from there, on any number of processes; JSON."""
        return pipeline.merge_states(self._share.join("data state", position))

    def _all(self, name: str) -> dict[str, str]:
        """One of the two dicts of all processes; each tells what is new since the last time."""
        mine, told = getattr(self._data, name), self._told[name]
        new = {key: text for key, text in mine.items() if key not in told}
        told.update(new)
        for part in self._share.join(name, new):
            self._found[name] |= part
        return dict(self._found[name])


def check_same_rows(fingerprint: str) -> None:
    """Checks that all processes read the same rows: each may have a folder of its own, and of rows
    that differ some would be read twice and others never.

    Args:
      fingerprint: of what this process is about to read its share of.

    Raises:
      DataError: they do not.
    """
    prints = messages.exchange("fingerprint", fingerprint)
    for index, theirs in enumerate(prints):
        if theirs != prints[0]:
            raise DataError(
                f"process {index} has other rows, media or tokenizers than process 0",
                hint="give all machines the same data, or one shared folder as data.root",
            )


def _of_domains(rows: Mapping[str, Rows], domains: tuple[str, ...]) -> dict[str, Rows]:
    """The rows of some domains, without the sources that have none."""
    wanted = [schema.DOMAINS.index(domain) for domain in domains if domain in schema.DOMAINS]
    kept = {
        name: found.take(np.flatnonzero(np.isin(found.column("domain"), wanted)))
        for name, found in rows.items()
    }
    kept = {name: found for name, found in kept.items() if len(found)}
    if not kept:
        raise DataError(
            f"no training row is of {', '.join(domains)}",
            hint="change align.domains or the data",
        )
    return kept


def _weights(rows: Mapping[str, Rows], power: float) -> dict[str, float]:
    """rows^power of each domain that occurs."""
    counts = sum(
        np.bincount(found.column("domain"), minlength=len(schema.DOMAINS))
        for found in rows.values()
    )
    return {name: int(n) ** power for name, n in zip(schema.DOMAINS, counts, strict=True) if n}
