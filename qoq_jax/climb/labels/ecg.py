"""ECG statements to CLIMB's seven classes.

    snomed_classes(["426783006", "164865005"])        # ("MI",)
    scp_classes({"NORM": 100.0, "SR": 0.0})           # ("Normal",)

"Normal" yields to CD, HYP, MI, STTC and A. Fib/Aflutter, and stays beside "Other": sinus rhythm is
written beside every other finding, so the released code's "Normal" covers records with infarctions.
An unknown code is an error and never a silent "no label"; the released code drew a class at random
for such records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from qoq_jax.base.errors import DataError
from qoq_jax.climb.labels.read import column

CLASSES = ("Normal", "CD", "HYP", "MI", "STTC", "A. Fib/Aflutter", "Other")


def snomed_classes(codes: Iterable[str | int], where: str = "#Dx") -> tuple[str, ...]:
    """Classes of SNOMED CT codes, as of the #Dx line of a Challenge header, in order of `CLASSES`.

    Raises:
      DataError: no code, or one that tables/ecg_snomed.csv does not have.
    """
    return _classes((str(code).strip() for code in codes), "ecg_snomed", where)


def scp_classes(codes: Mapping[str, float], where: str = "scp_codes") -> tuple[str, ...]:
    """Classes of PTB-XL's SCP-ECG statements, in order of `CLASSES`.

    Every statement counts, whatever its likelihood (0 to 100): 0 means that none was given, as for
    rhythm and form statements, atrial fibrillation among them. The benchmark of Strodthoff et al.
    (https://github.com/helme/ecg_ptbxl_benchmarking, code/utils/utils.py) does the same.

    Raises:
      DataError: no statement, or one that tables/ecg_scp.csv does not have.
    """
    return _classes((code.strip() for code in codes), "ecg_scp", where)


def _classes(codes: Iterable[str], table: str, where: str) -> tuple[str, ...]:
    known, found = column(table, "code", "label"), set()
    for code in codes:
        if code not in known:
            raise DataError(
                f"unknown code {code[:40]!r}", where=where, hint=f"known codes: {table}.csv"
            )
        found.add(known[code])
    if not found:
        raise DataError("no code", where=where)
    if found - {"Normal", "Other"}:
        found.discard("Normal")
    return tuple(name for name in CLASSES if name in found)
