"""What a run's working directory holds, for the report."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping

from qoq_jax.base.errors import DataError
from qoq_jax.evaluation import metrics, saved
from qoq_jax.report.gallery import read_cases, read_json

SPLITS = {"validation": "-validation", "test": ""}  # and what names of eval/*.json end with
SIDES = {"before": "before RL", "after": "after RL"}


@dataclasses.dataclass
class Run:
    """What a working directory holds.

    Attributes:
      curves, cases, config, facts, goodput: contents of metrics.jsonl, the gallery, config.json,
        run.json and goodput.json.
      records: {"before": [...], "after": [...]}, the records before and after RL (after alignment,
        where there was no other RL).
      evaluations: (stage, split) -> what eval/*.json has beside its records, by stage in order.
      tasks: content of eval/tasks/results.json (evaluation/tasks/evaluate.py).
      stages: {"before", "after"}: the stages of those two sides.
      main_source: where most rows that are not real come from; the headline and the charts are
        about those.
      groups: {"before", "after"}: metrics of the main source's rows, or None.
    """

    curves: list[dict]
    records: dict[str, list[dict]]
    cases: list[dict]
    config: dict
    facts: dict
    goodput: dict
    evaluations: dict[tuple[str, str], dict]
    tasks: dict
    stages: dict[str, str] = dataclasses.field(init=False)
    main_source: str | None = dataclasses.field(init=False)
    groups: dict[str, dict | None] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.stages = {"before": "sft", "after": _last(self.evaluations)}
        rows = self.records["after"] or self.records["before"]
        sources = [r["source"] for r in rows if r["source"] != "real"]
        self.main_source = (
            max(set(sources), key=sources.count) if sources else ("real" if rows else None)
        )
        self.groups = {side: self.group(side, self.main_source) for side in self.records}

    @classmethod
    def read(cls, folder: pathlib.Path) -> Run:
        def optional(name: str, default: dict) -> dict:
            return read_json(folder / name) if (folder / name).exists() else default

        curves = (
            _read_curves(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
        )
        found = {
            (stage, split): optional(f"eval/{stage}{ending}.json", {})
            for stage in reversed(saved.STAGES)
            for split, ending in SPLITS.items()
        }
        evaluations = {key: content for key, content in found.items() if content}
        rows = {key: content.pop("records", None) or [] for key, content in evaluations.items()}
        sides = {"before": ("sft", "test"), "after": (_last(evaluations), "test")}
        records = {side: rows.get(key, []) for side, key in sides.items()}
        cases = next(
            filter(
                None, (read_cases(folder / "gallery" / stage) for stage in ("rl", "align", "sft"))
            ),
            [],
        )
        tasks = optional("eval/tasks/results.json", {})
        if not (curves or any(records.values()) or cases or tasks):
            raise DataError(
                "nothing to report on",
                where=str(folder),
                hint="give the working directory of a run",
            )
        known = (optional(name, {}) for name in ("config.json", "run.json", "goodput.json"))
        return cls(curves, records, cases, *known, evaluations, tasks)

    def parts(self, name: str) -> dict[str, dict]:
        """Side -> this part of its evaluation, "temperature" for example, where it has one."""
        found = {
            side: self.evaluations.get((stage, "test"), {}).get(name)
            for side, stage in self.stages.items()
        }
        return {side: part for side, part in found.items() if part}

    @property
    def other_sources(self) -> list[str]:
        """All but the main one, by name."""
        return sorted(
            {r["source"] for rows in self.records.values() for r in rows} - {self.main_source}
        )

    def of_source(self, side: str, source: str | None) -> list[dict]:
        return [r for r in self.records[side] if r["source"] == source]

    def group(self, side: str, source: str | None) -> dict | None:
        rows = self.of_source(side, source)
        return metrics.summarize_group(rows) if rows else None


def _last(evaluations: Mapping[tuple[str, str], dict]) -> str:
    """The last stage of RL whose test rows were evaluated."""
    return next((stage for stage in ("rl", "align") if (stage, "test") in evaluations), "rl")


def _read_curves(path: pathlib.Path) -> list[dict]:
    """The lines of metrics.jsonl, without a last one that a kill left half-written."""
    lines = path.read_text(encoding="utf-8").splitlines()
    out = []
    for i, line in enumerate(lines):
        try:
            out.append(json.loads(line))
        except ValueError as error:
            if i + 1 < len(lines):
                raise DataError(
                    "is not a JSON object", where=f"{path}:{i + 1}", hint="delete that line"
                ) from error
    return [c for c in out if isinstance(c, dict)]
