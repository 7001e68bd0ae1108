"""What a run's working directory holds, for the report."""

from __future__ import annotations

import json
import pathlib

from qoq_jax.base.errors import DataError
from qoq_jax.evaluation import metrics
from qoq_jax.report.gallery import read_cases, read_json


class Run:
    """What a working directory holds.

    curves, cases, config, facts, goodput: contents of metrics.jsonl, the gallery, config.json,
      run.json and goodput.json.
    records: {"before": [...], "after": [...]}, the records before and after RL.
    main_source: where most rows that are not real come from; the headline and the charts are about
      those.
    groups: {"before", "after"}: metrics of the main source's rows, or None.
    """

    def __init__(
        self,
        curves: list[dict],
        records: dict[str, list[dict]],
        cases: list[dict],
        config: dict,
        facts: dict,
        goodput: dict | None = None,
    ) -> None:
        self.curves, self.cases, self.config, self.facts = curves, cases, config, facts
        self.records, self.goodput = records, goodput or {}
        rows = records["after"] or records["before"]
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
        sft, rl = (optional(f"eval/{name}.json", {}).get("records", []) for name in ("sft", "rl"))
        cases = next(
            filter(
                None, (read_cases(folder / "gallery" / stage) for stage in ("rl", "align", "sft"))
            ),
            [],
        )
        if not (curves or sft or rl or cases):
            raise DataError(
                "nothing to report on",
                where=str(folder),
                hint="give the working directory of a run",
            )
        records = {"before": sft, "after": rl}
        known = (optional(name, {}) for name in ("config.json", "run.json", "goodput.json"))
        return cls(curves, records, cases, *known)

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
