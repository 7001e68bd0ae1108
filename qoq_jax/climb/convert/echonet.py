"""EchoNet-Dynamic: the ejection fraction of echocardiograms, in three classes."""

from __future__ import annotations

from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert.example import Converter, Dropped, Found, Record, Records
from qoq_jax.climb.convert.folder import Folder, choice, number
from qoq_jax.climb.labels import ultrasound as labels
from qoq_jax.climb.qa import Question

_SPLITS = {"TRAIN": "train", "VAL": "validation", "TEST": "test"}


def records(folder: Folder) -> Records:
    """Videos, each of one patient, in the source's own split."""
    table = "*FileList.csv"
    base = folder.parent(table)
    for row in folder.table(table, "FileName", "EF", "Split"):
        name = row["FileName"].removesuffix(".avi")
        yield Record(
            id=name,
            patient=name,
            split=choice(row, "Split", _SPLITS),
            facts={"fraction": number(row, "EF"), "video": f"{base}Videos/{name}.avi"},
        )


def examples(record: Record, folder: Folder) -> Found:
    """One question per video."""
    try:
        label = labels.ejection_fraction(record.facts["fraction"])
    except DataError as error:
        yield Dropped(record.id, error.what)
        return
    yield record.example((label,), videos=(record.facts["video"],))


CONVERTERS = (
    Converter(
        "echonet-dynamic",
        Question(
            "an echocardiogram of a patient, the apical four-chamber view",
            "the left ventricular ejection fraction (Reduced is 40 % or less, Mildly reduced is "
            "above 40 and below 50 %, Preserved is 50 % or more)",
        ),
        records,
        examples,
    ),
)
