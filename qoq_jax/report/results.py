"""The responses of an evaluation in a notebook: `qoq_jax.results`.

    results = qoq_jax.results("runs/quickstart")
    results.to_frame().groupby("domain").right.mean()
    next(case for case in results if not case.right).plot()

pandas and matplotlib are imported where they are used: pip install "qoq_jax[notebooks]".
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from qoq_jax.base import files, storage
from qoq_jax.base.errors import ConfigError
from qoq_jax.evaluation import saved
from qoq_jax.report import cases_page, gallery
from qoq_jax.report.shown import Library, Shown


class Case:
    """One response with its row.

    Attributes:
      record: as it is in the file (evaluation/metrics.py).
    """

    def __init__(self, record: dict[str, Any], library: Library):
        self.record, self._library = record, library

    def __repr__(self) -> str:
        gold, said = (", ".join(self.record[name]) for name in ("labels", "predicted"))
        return f"Case({self.record['domain']}: {gold!r}, answered {said!r})"

    @property
    def right(self) -> bool:
        """Whether the answer is the gold one."""
        return bool(self.record.get("exact", gallery.is_right(self.record)))

    def media(self) -> Shown:
        """Its pictures, ECG and question; empty where no data set has the row."""
        self._library.look_up([(self.record["source"], self.record["id"])])
        return self._library.of(self.record) or Shown(fault="no data set holds this row")

    def plot(self) -> list[Any]:
        """Draws pictures with gold (green) and predicted (orange) boxes, frames or slices, and the
        ECG on paper, beside question and response, in a figure of pyplot; returns its axes.

        Raises:
          ConfigError: matplotlib is not installed.
        """
        try:
            from qoq_jax.report import plot
        except ImportError as error:
            raise _missing("matplotlib") from error
        return plot.case(self.record, self.media(), self.right)


class Results(Sequence[Case]):
    """The cases of an evaluation in the order of its rows.

    Attributes:
      records: of the file. summary: what else is in it.
    """

    def __init__(self, content: Mapping[str, Any], library: Library):
        self.records: list[dict[str, Any]] = content["records"]
        self.summary = {name: value for name, value in content.items() if name != "records"}
        self._library = library

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return [Case(record, self._library) for record in self.records[place]]
        return Case(self.records[place], self._library)

    def __repr__(self) -> str:
        right = sum(case.right for case in self)
        return f"Results({len(self)} responses, {right} right)"

    def to_frame(self) -> Any:
        """A pandas.DataFrame with a row for each response: source, id, patient, dataset, domain,
        sample, labels, predicted, right, iou, confidence (probability of the likeliest label),
        reward, text. Several labels are joined by ", "; what an evaluation does not have is
        missing.

        Raises:
          ConfigError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise _missing("pandas") from error
        return pandas.DataFrame(
            {
                "source": r["source"],
                "id": r["id"],
                "patient": r.get("patient", ""),
                "dataset": r["dataset"],
                "domain": r["domain"],
                "sample": r.get("sample", 0),
                "labels": ", ".join(r["labels"]),
                "predicted": ", ".join(r["predicted"]),
                "right": case.right,
                "iou": r.get("iou"),
                "confidence": max((r.get("scores") or {}).values(), default=None),
                "reward": (r.get("reward") or {}).get("total"),
                "text": r.get("text", ""),
            }
            for case, r in zip(self, self.records, strict=True)
        )


def results(
    path: str | os.PathLike,
    data: Mapping[str, str] | str | os.PathLike | None = None,
    split: str = "test",
) -> Results:
    """The responses of an evaluation.

    Args:
      path: the workdir of a run (its last evaluation of the test split), or a file: eval/*.json of
        a run, records.json of `qoq evaluate --tasks`, cells/NAME/evaluation.json of a sweep.
      data: for the media: source -> folder of rows, or the workdir of the run that read them.
      split: of the rows, where the file does not say it.

    Raises:
      DataError: there is no evaluation, or it cannot be read. ConfigError: `data` has a source that
        no row is of, or a folder that is not there.
    """
    path = os.fspath(path)
    file, content = saved.find(path), saved.read(path)
    saved.check(content["records"])
    workdir = path if storage.is_dir(path) else ""
    roots = dict(data) if isinstance(data, Mapping) else {}
    cases_page.check_roots({r["source"] for r in content["records"]}, roots)
    read_by = workdir or (os.fspath(data) if isinstance(data, (str, os.PathLike)) else "")
    if read_by:
        if not storage.is_dir(read_by):
            raise ConfigError("no such folder", where=read_by, hint="data is a run's workdir")
        roots = cases_page.known_roots(read_by, roots)
    config = {}
    if workdir:
        config = files.read_json(os.path.join(workdir, "config.json"), {}, finite=False)
    stage = os.path.splitext(os.path.basename(file))[0]
    kept = pathlib.Path(workdir, "gallery", stage)
    return Results(
        content,
        Library(
            [kept] if workdir and not storage.is_url(workdir) else [],
            roots,
            content.get("split", split),
            config.get("data", {}).get("ecg_length", "refuse") if workdir else "refuse",
        ),
    )


def _missing(package: str) -> ConfigError:
    return ConfigError(f"needs the package {package}", hint='pip install "qoq_jax[notebooks]"')
