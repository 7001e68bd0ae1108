"""Train, validation and test of a converted data set: by patient, fixed by a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from qoq_jax.climb.convert.example import Example

#: Shares of validation and test where the source has no split of its own; CLIMB's sets have a test
#: split of a fifth.
VALIDATION, TEST = 0.1, 0.2
_ORDER = ("train", "validation", "test")


def assign(examples: Iterable[Example], dataset: str, seed: int) -> dict[str, str]:
    """{id of an example: split}.

    A patient is in one split. The source's own split is kept: a patient whom it has in several goes
    to the last of train, validation, test. Where the source has no validation split, a tenth of the
    training patients becomes it. A patient's place depends on (seed, data set, patient) alone, so
    it stays when other records come or go.
    """
    patients, own = {}, {}
    for example in examples:
        patients[example.id] = example.patient
        if example.split:
            before = own.get(example.patient, "train")
            own[example.patient] = max(before, example.split, key=_ORDER.index)
    carves = "validation" not in own.values()
    chosen = {}
    for patient in set(patients.values()):
        place = _place(seed, dataset, patient)
        split = own.get(patient, "")
        if not split:
            split = "test" if place >= 1 - TEST else "train"
        if split == "train" and carves and place < VALIDATION:
            split = "validation"
        chosen[patient] = split
    return {identity: chosen[patient] for identity, patient in patients.items()}


def fingerprint(splits: dict[str, str]) -> str:
    """SHA-256 of the assignment, whatever its order: what two people compare who want the same."""
    lines = "".join(f"{identity}\t{split}\n" for identity, split in sorted(splits.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _place(seed: int, dataset: str, patient: str) -> float:
    """A number in [0, 1) that the patient keeps."""
    digest = hashlib.sha256(f"{seed}\t{dataset}\t{patient}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
