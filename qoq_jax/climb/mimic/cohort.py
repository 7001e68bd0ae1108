"""Which admissions are asked about: the first of each patient, alive and in hospital at the
prediction time.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping

from qoq_jax.base.errors import DataError
from qoq_jax.climb.mimic import tables
from qoq_jax.climb.mimic.tables import Layout
from qoq_jax.climb.mimic.tasks import HOUR, MORTALITY_HOURS, Task, length_of_stay

_ADULT = 18
_OLDEST = 90  # ages over 89 are one group (they are shifted in the tables: anchor_age 91)


@dataclasses.dataclass(frozen=True)
class Stay:
    """A patient's first admission. Times are seconds since 1970 in the patient's shifted calendar.

    Attributes:
      subject, hadm: subject_id and hadm_id as the tables write them.
      sex: "female" or "male".
      age: in years at admission, 91 and more for all over 89.
      arrived: edregtime where it is before admittime, else admittime: inputs start here.
      admitted, discharged: admittime and dischtime.
      died: deathtime, None for who left the hospital alive.
      flagged: hospital_expire_flag: died in hospital, with or without a time.
      kind, place: admission_type and admission_location.
    """

    subject: str
    hadm: str
    sex: str
    age: int
    arrived: int
    admitted: int
    discharged: int
    died: int | None
    flagged: bool
    kind: str
    place: str

    def predicted(self, task: Task) -> int:
        """The prediction time: nothing that is known later is an input."""
        return self.admitted + task.hours * HOUR

    @property
    def age_group(self) -> str:
        """Ten years wide; all over 89 are one group."""
        low = min(self.age // 10 * 10, _OLDEST)
        return f"{_OLDEST} or older" if low == _OLDEST else f"{low}-{low + 9}"


def first_admissions(layout: Layout) -> tuple[list[Stay], Counter[str]]:
    """(the first admission of each patient by admittime, admissions left out by reason).

    The first one is taken whether or not it suits a task: a patient whose first admission does not
    is left out of the task, so that the choice rests on nothing that is known later.
    """
    people = _people(layout)
    first: dict[str, tuple[int, str, tuple[str, ...]]] = {}
    left_out: Counter[str] = Counter()
    columns = ["subject_id", "hadm_id", "admittime", "dischtime", "deathtime", "admission_type"]
    columns += ["admission_location", "edregtime", "hospital_expire_flag"]
    path = layout.table("hosp/admissions")
    for cells in tables.lines(path, *columns):
        admitted = _time(cells[2], path)
        if cells[0] not in people:
            left_out["subject_id is not in patients"] += 1
        elif admitted is None:
            left_out["no admittime"] += 1
        else:
            # Of two at the same time the smaller hadm_id, whatever the order of the file.
            found = (admitted, cells[1].zfill(12), cells)
            if cells[0] in first:
                left_out["a later admission of the same patient"] += 1
                found = min(found, first[cells[0]])
            first[cells[0]] = found
    stays = []
    for subject in sorted(first):
        stay = _stay(first[subject][2], people[subject], path)
        if isinstance(stay, str):
            left_out[stay] += 1
        else:
            stays.append(stay)
    return stays, left_out


def _people(layout: Layout) -> dict[str, tuple[str, int, int]]:
    """{subject_id: (sex, anchor_age, anchor_year)}. `dod` is not read."""
    path = layout.table("hosp/patients")
    columns = ("subject_id", "gender", "anchor_age", "anchor_year")
    found = {}
    for subject, gender, age, year in tables.lines(path, *columns):
        try:
            sex = {"F": "female", "M": "male"}[gender]
            found[subject] = (sex, int(age), int(year))
        except (KeyError, ValueError):
            raise DataError(
                "gender, anchor_age or anchor_year of a patient is not as published",
                where=path,
                hint="download the file again",
            ) from None
    return found


def _stay(cells: tuple[str, ...], person: tuple[str, int, int], path: str) -> Stay | str:
    """The stay of a line of admissions, or why there is none."""
    subject, hadm, _, _, _, kind, place, _, flag = cells
    admitted, discharged, died, registered = (_time(cells[n], path) for n in (2, 3, 4, 7))
    assert admitted is not None
    if not hadm.isascii() or not hadm.isdigit():
        raise DataError("a hadm_id is no number", where=path, hint="download the file again")
    if discharged is None:
        return "no dischtime"
    if discharged <= admitted or (died is not None and died < admitted):
        return "discharged or dead before admittime"
    sex, anchor_age, anchor_year = person
    age = anchor_age + int(cells[2][:4]) - anchor_year
    if age < _ADULT:
        return "under 18 years"
    arrived = admitted if registered is None else min(admitted, registered)
    return Stay(
        subject, hadm, sex, age, arrived, admitted, discharged, died, flag == "1", kind, place
    )


def _time(cell: str, path: str) -> int | None:
    try:
        return tables.seconds(cell)
    except DataError as error:
        raise DataError(error.what, where=path, hint=error.hint) from None


def label(stay: Stay, task: Task) -> tuple[str, str]:
    """(label, "") of a stay, or ("", why it is not asked about)."""
    predicted = stay.predicted(task)
    if stay.flagged and stay.died is None:
        return "", "died in hospital at an unknown time"
    if stay.died is not None and stay.died <= predicted:
        return "", "dead at the prediction time"
    if stay.discharged <= predicted:
        return "", "discharged at the prediction time"
    if task.name == "los":
        return length_of_stay(stay.admitted, stay.discharged), ""
    dies = stay.died is not None and stay.died <= stay.admitted + MORTALITY_HOURS * HOUR
    return task.labels[dies], ""


def care_units(layout: Layout, hadm_ids: Mapping[str, int]) -> dict[str, tuple[int, str]]:
    """{hadm_id: (intime, first_careunit)} of the first stay in intensive care; `outtime`, `los` and
    `last_careunit` are not read.
    """
    path, found = layout.table("icu/icustays"), {}
    for hadm, unit, entered in tables.lines(path, "hadm_id", "first_careunit", "intime"):
        at = _time(entered, path)
        if hadm in hadm_ids and at is not None:
            found[hadm] = min((at, unit), found.get(hadm, (at, unit)))
    return found
