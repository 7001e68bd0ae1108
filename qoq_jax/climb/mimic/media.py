"""The last ECG and the last frontal chest X-ray of an admission before its prediction time."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence

from qoq_jax.base.errors import DataError
from qoq_jax.climb.mimic import tables
from qoq_jax.climb.mimic.cohort import Stay
from qoq_jax.climb.mimic.tables import Layout
from qoq_jax.climb.mimic.tasks import TASKS

ECG, XRAY = "mimic-iv-ecg/record_list", "mimic-cxr-jpg/metadata"
_FRONTAL = ("AP", "PA")
#: {(task, place of the stay): (time in seconds, path below the root)}.
Media = dict[tuple[str, int], tuple[int, str]]


def ecgs(layout: Layout, stays: Sequence[Stay]) -> tuple[Media, Counter[str]]:
    """(headers of the last ECGs, records of the patients that were left out by reason).

    ecg_time is the clock of the cart, which the publisher calls not synchronised.
    """
    return _last(layout, stays, _ecg_lines(layout), "ECG") if layout.ecg else ({}, Counter())


def pictures(layout: Layout, stays: Sequence[Stay]) -> tuple[Media, Counter[str]]:
    """(the last frontal pictures, frontal pictures of the patients that were left out)."""
    return _last(layout, stays, _xray_lines(layout), "X-ray") if layout.cxr else ({}, Counter())


def _ecg_lines(layout: Layout) -> Iterator[tuple[str, int | None, str]]:
    """(subject_id, time, path below the root) of each record."""
    for subject, at, path in tables.lines(layout.ecg_table, "subject_id", "ecg_time", "path"):
        yield subject, _seconds(at, layout.ecg_table), layout.below_root(layout.ecg, f"{path}.hea")


def _xray_lines(layout: Layout) -> Iterator[tuple[str, int | None, str]]:
    columns = ("subject_id", "study_id", "dicom_id", "ViewPosition", "StudyDate", "StudyTime")
    table = layout.cxr_table
    for subject, study, dicom, view, date, time in tables.lines(table, *columns):
        if view in _FRONTAL:
            path = f"files/p{subject[:2]}/p{subject}/s{study}/{dicom}.jpg"
            yield subject, _study_time(date, time, table), layout.below_root(layout.cxr, path)


def _study_time(date: str, time: str, path: str) -> int | None:
    """StudyDate (YYYYMMDD) and StudyTime (HHMMSS.fff, a number, so without zeros at its start)."""
    if not date or not time:
        return None
    clock = time.partition(".")[0].zfill(6)
    text = f"{date[:4]}-{date[4:6]}-{date[6:]} {clock[:2]}:{clock[2:4]}:{clock[4:]}"
    return _seconds(text, path)


def _seconds(text: str, path: str) -> int | None:
    try:
        return tables.seconds(text)
    except DataError as error:
        raise DataError(error.what, where=path, hint=error.hint) from None


def _last(
    layout: Layout,
    stays: Sequence[Stay],
    lines: Iterator[tuple[str, int | None, str]],
    name: str,
) -> tuple[Media, Counter[str]]:
    place_of = {stay.subject: place for place, stay in enumerate(stays)}
    found: Media = {}
    left_out: Counter[str] = Counter()
    for subject, at, path in lines:
        place = place_of.get(subject)
        if place is None:
            continue
        stay = stays[place]
        if at is None or not stay.arrived <= at <= max(map(stay.predicted, TASKS.values())):
            left_out[f"{name}: not between arrival and prediction time"] += 1
        elif not os.path.isfile(os.path.join(layout.root, *path.split("/"))):
            left_out[f"{name}: its file is not there"] += 1
        else:
            for task_name, task in TASKS.items():
                if at <= stay.predicted(task):
                    key = (task_name, place)
                    found[key] = max((at, path), found.get(key, (at, path)))
    return found, left_out
