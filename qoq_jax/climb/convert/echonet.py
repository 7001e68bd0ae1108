"""EchoNet-Dynamic: the ejection fraction of echocardiograms, in three classes."""

from __future__ import annotations

from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert.example import Converter, Dropped, Example, Found
from qoq_jax.climb.convert.folder import Folder, choice, number
from qoq_jax.climb.labels import ultrasound as labels
from qoq_jax.climb.qa import Question

_SPLITS = {"TRAIN": "train", "VAL": "validation", "TEST": "test"}


def videos(folder: Folder) -> Found:
    """One question per video, which is one patient's, in the source's own split."""
    table = "*FileList.csv"
    base = folder.parent(table)
    for row in folder.table(table, "FileName", "EF", "Split"):
        name = row["FileName"].removesuffix(".avi")
        split, fraction = choice(row, "Split", _SPLITS), number(row, "EF")
        try:
            label = labels.ejection_fraction(fraction)
        except DataError as error:
            yield Dropped(name, error.what)
            continue
        yield Example(
            id=name,
            labels=(label,),
            patient=name,
            split=split,
            videos=(f"{base}Videos/{name}.avi",),
        )


CONVERTERS = (
    Converter(
        "echonet-dynamic",
        Question(
            "an echocardiogram of a patient, the apical four-chamber view",
            "the left ventricular ejection fraction (Reduced is 40 % or less, Mildly reduced is "
            "above 40 and below 50 %, Preserved is 50 % or more)",
        ),
        videos,
    ),
)
