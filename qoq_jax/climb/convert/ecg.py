"""12-lead ECGs: PTB-XL, and Chapman-Shaoxing, Georgia and CPSC 2018 in the form of the
PhysioNet/CinC Challenge 2021.
"""

from __future__ import annotations

import ast
import functools
import re

from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert.example import Converter, Dropped, Found, Record, Records
from qoq_jax.climb.convert.folder import Folder, whole
from qoq_jax.climb.labels import ecg as labels
from qoq_jax.climb.qa import Question
from qoq_jax.data.attributes import of_person

_SEX = {"0": "male", "1": "female"}  # of PTB-XL
_FOLDS = {9: "validation", 10: "test"}
_NAMES = {  # of recordings: the Challenge's folder of several sources holds them all
    "chapman-shaoxing": re.compile(r"JS\d{5}"),
    "georgia": re.compile(r"E\d{5}"),
    "cpsc2018": re.compile(r"A\d{4}"),
}
_MOST_HEADER = 1 << 16  # bytes; a header of 12 leads has about 1,000


def ptb_xl_records(folder: Folder) -> Records:
    """Recordings of 500 Hz; the recommended folds: 9 validates, 10 tests."""
    table = "*ptbxl_database.csv"
    base = folder.parent(table)
    columns = ("ecg_id", "patient_id", "scp_codes", "strat_fold", "filename_hr")
    for row in folder.table(table, *columns):
        fold = whole(row, "strat_fold")
        if not 1 <= fold <= 10:
            raise DataError(f"strat_fold is {fold}, not 1 to 10")
        yield Record(
            id=row["ecg_id"],
            patient=row["patient_id"].partition(".")[0],
            split=_FOLDS.get(fold, "train"),
            facts={
                "codes": row["scp_codes"],
                "header": f"{base}{row['filename_hr']}.hea",
                "sex": _SEX.get(row.get("sex", ""), ""),
                "age": row.get("age", ""),
            },
        )


def ptb_xl(record: Record, folder: Folder) -> Found:
    """One question per recording."""
    facts = record.facts
    try:
        found = labels.scp_classes(_statements(facts["codes"]), record.id)
    except DataError as error:
        yield Dropped(record.id, error.what)
        return
    person = of_person(facts["sex"], facts["age"])
    yield record.example(found, time_series=(facts["header"],), attributes=person)


def _statements(text: str) -> dict[str, float]:
    """{code: likelihood} of a cell as "{'NORM': 100.0, 'SR': 0.0}".

    Raises:
      DataError: it is none.
    """
    try:
        found = ast.literal_eval(text[:4096])
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(code, str) for code in found):
        raise DataError("scp_codes is not a dictionary of codes")
    return found


def challenge_records(folder: Folder) -> Records:
    """Headers of recordings, which name no patient."""
    for path in folder.match("*.hea"):
        name = path.rpartition("/")[2].removesuffix(".hea")
        yield Record(id=name, patient=name, facts={"header": path})


def challenge(names: re.Pattern[str], record: Record, folder: Folder) -> Found:
    """One question per recording; its diagnoses stand in the header, after "#Dx:".

    Args:
      names: what those of the set's own recordings look like.
    """
    path, name = record.facts["header"], record.id
    stem = path.removesuffix(".hea")
    if not names.fullmatch(name):
        yield Dropped(name, "its name is not that of a record of this set")
        return
    if not folder.has(f"{stem}.mat") and not folder.has(f"{stem}.dat"):
        yield Dropped(name, "its signals are not there")
        return
    try:
        found = labels.snomed_classes(_diagnoses(folder.medium(path)), name)
    except DataError as error:
        yield Dropped(name, error.what)
        return
    yield record.example(found, time_series=(path,))


def _diagnoses(path: str) -> list[str]:
    """SNOMED CT codes of a Challenge header."""
    with open(path, encoding="latin-1") as file:
        lines = file.read(_MOST_HEADER).splitlines()
    for line in lines:
        mark, _, codes = line.removeprefix("#").strip().partition(":")
        if mark.strip() == "Dx":
            return [code.strip() for code in codes.split(",") if code.strip()]
    return []


_ECG = Question("a 12-lead ECG of a patient", "the diagnosis, with all that applies", many=True)
CONVERTERS = (
    Converter("ptb-xl", _ECG, ptb_xl_records, ptb_xl),
    *(
        Converter(name, _ECG, challenge_records, functools.partial(challenge, names))
        for name, names in _NAMES.items()
    ),
)
