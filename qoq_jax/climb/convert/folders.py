"""Data sets whose label is the name of a folder."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping

from qoq_jax.climb.convert.example import Converter, Dropped, Found, Record, Records
from qoq_jax.climb.convert.folder import Folder
from qoq_jax.climb.labels.read import values
from qoq_jax.climb.qa import Question

_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")

# The pneumonia pictures of Kermany et al. (Cell 2018), which several sets contain, name the person:
# person12_bacteria_46.jpeg, numbered for bacteria and viruses apart; normal ones IM-0115-0001.jpeg
# and NORMAL2-IM-0501-0001.jpeg.
_PERSON = re.compile(r"(person\d+_[a-z]+)_|((?:NORMAL2-)?IM-\d+)-")


def person(name: str) -> str:
    """The person of a picture of Kermany et al., or "" where its name says none."""
    found = _PERSON.match(name)
    return (found[1] or found[2]) if found else ""


def pictures(
    dataset: str,
    splits: Mapping[str, str] | None,
    patient: Callable[[str], str] | None,
    folder: Folder,
) -> Records:
    """Pictures in folders named after their label.

    Args:
      dataset: whose table of values has the names of the folders.
      splits: {name of a folder further up: split, "" for none}; pictures below none of them are
        other copies and are passed over. None: there is no such folder.
      patient: of a file's name, "" for one of its own. None: every picture is one of its own.
    """
    seen, labels = set(), values(dataset)
    for path in folder.match("*"):
        *above, name = path.split("/")
        if not name.lower().endswith(_PICTURES) or not above or above[-1] not in labels:
            continue
        split = ""
        if splits is not None:
            named = [part for part in above[:-1] if part in splits]
            if not named:
                continue
            split = splits[named[-1]]
        # Some archives hold the whole tree twice, once in a folder of its own.
        identity = "/".join([split, above[-1], name]).lstrip("/")
        if identity in seen:
            yield Dropped(path, "a second copy of the same picture")
            continue
        seen.add(identity)
        person = (patient(name) if patient else "") or identity
        facts = {"label": labels[above[-1]], "image": path}
        yield Record(id=identity, patient=person, split=split, facts=facts)


def examples(record: Record, folder: Folder) -> Found:
    """One question per picture."""
    yield record.example((record.facts["label"],), images=(record.facts["image"],))


def by_folder(
    dataset: str,
    question: Question,
    splits: Mapping[str, str] | None = None,
    patient: Callable[[str], str] | None = None,
) -> Converter:
    """The converter of a data set of `pictures`."""
    records = functools.partial(pictures, dataset, splits, patient)
    return Converter(dataset, question, records, examples)


CONVERTERS = (
    by_folder(
        "brain-tumor",
        Question("a brain MRI slice of a patient", "the type of tumor"),
        {"Training": "train", "Testing": "test"},
    ),
    by_folder(
        "brain-tumor-2",
        Question("a brain MRI slice of a patient", "the state of the finding 'tumor'"),
    ),
    by_folder(
        # 1,250 tiles augmented twentyfold without saying which copy is of which tile: copies of a
        # tile are in several splits, as in the released CLIMB.
        "lc25000",
        Question("a histopathology tile of a patient", "the type of tissue"),
    ),
    by_folder(
        # TrainData holds augmented copies; NonAugmentedTrain has the originals.
        "covid-19",
        Question("a chest X-ray of a patient"),
        {"NonAugmentedTrain": "train", "ValData": "test"},
        person,
    ),
)
