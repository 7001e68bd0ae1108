"""Data sets of Hugging Face `datasets` to rows."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image

from qoq_jax.base import files
from qoq_jax.base.errors import ConfigError, DataError, did_you_mean
from qoq_jax.climb.convert.example import Dropped, Example
from qoq_jax.climb.convert.folder import Folder
from qoq_jax.climb.own import write as write_lib
from qoq_jax.climb.own.write import SPLIT_OF, Columns, Task

_KEPT_FORMATS = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "BMP": ".bmp", "WEBP": ".webp"}


def from_huggingface(
    dataset: Any, root: str | os.PathLike, task: Task, columns: Columns
) -> dict[str, Any]:
    """Rows of a data set of Hugging Face `datasets`, whose pictures are written below root/media.

    Pictures keep their bytes; those in a form that is not read become PNG.

    Args:
      dataset: `datasets.Dataset`, or a `DatasetDict` whose keys are splits.
      root: a folder for rows and pictures; made if it is not there.
      columns: `media` are columns of the feature Image; `label` is a ClassLabel, a text, or a list
        of either; `split` and `files` are not used.

    Returns:
      the content of import.json.

    Raises:
      DataError: no such column, nothing becomes a row, or the folder holds rows from elsewhere.
    """
    os.makedirs(root, exist_ok=True)
    write_lib.check_free(os.fspath(root))
    parts = dataset if isinstance(dataset, Mapping) else {"": dataset}
    examples = (
        example
        for split, part in parts.items()
        for example in _of_part(part, split, os.fspath(root), task, columns)
    )
    found = list(examples)  # the pictures are there before the folder is looked at
    return write_lib.write(Folder(root), task, found, bool(columns.patient))


def _of_part(
    part: Any, split: str, root: str, task: Task, columns: Columns
) -> Iterator[Example | Dropped]:
    import datasets

    for name in filter(None, (*columns.media, columns.label, columns.patient, columns.id)):
        if name not in part.features:
            raise DataError(
                f"there is no column {name!r}",
                where=split or root,
                hint=did_you_mean(name, part.features, "it has " + ", ".join(part.features)),
            )
    for name in columns.media:
        if not isinstance(part.features[name], datasets.Image):
            raise DataError(
                f"column {name!r} is no Image of datasets",
                where=split or root,
                hint="name columns with one picture each: --media",
            )
        part = part.cast_column(name, datasets.Image(decode=False))
    feature = part.features[columns.label]
    names = getattr(getattr(feature, "feature", feature), "names", None)
    for number, line in enumerate(part):
        identity = _text(line[columns.id]) if columns.id else f"{split or 'row'}-{number:07d}"
        patient = _text(line[columns.patient]) if columns.patient else ""
        value = line[columns.label]
        values = value if isinstance(value, list) else [value]
        if isinstance(value, list) and not task.many:
            raise DataError(
                f"column {columns.label!r} holds lists of labels",
                where=split or root,
                hint="several labels may be right: --many",
            )
        labels = [
            names[one] if names and one != -1 and one is not None else _text(one) for one in values
        ]
        reason = ""
        if split.lower() not in ("", *SPLIT_OF):
            reason = f"is of split {split}"
        elif not labels or "" in labels or -1 in values:
            reason = "has no label"
        elif columns.patient and not patient:
            reason = "names no patient"
        elif not identity:
            reason = "has no id"
        if reason:
            yield Dropped(identity or f"{split or 'row'}-{number:07d}", reason)
            continue
        images = []
        for place, name in enumerate(columns.media):
            if line[name] is not None:
                stem = f"media/{split or 'all'}/{number:07d}_{place}"
                images.append(_save_picture(line[name], root, stem))
        if None in images or not images:
            yield Dropped(identity, "has a picture that cannot be read" if images else "no picture")
            continue
        own = SPLIT_OF.get(split.lower(), "")
        yield Example(identity, tuple(dict.fromkeys(labels)), patient, own, tuple(images))


def _text(value: Any) -> str:
    """A cell without outer spaces; "" for None and NaN."""
    missing = value is None or (isinstance(value, float) and value != value)
    return "" if missing else str(value).strip()


def _save_picture(value: Mapping[str, Any], root: str, stem: str) -> str | None:
    """Path of the picture that was written, below the root; None: it cannot be read."""
    content = value.get("bytes")
    try:
        if content is None:
            with open(value["path"], "rb") as file:
                content = file.read()
        with Image.open(io.BytesIO(content)) as picture:
            suffix = _KEPT_FORMATS.get(picture.format)
            if suffix is None:
                out, suffix = io.BytesIO(), ".png"
                picture.convert("RGB").save(out, "PNG")
                content = out.getvalue()
    except (OSError, ValueError, TypeError, Image.DecompressionBombError):
        return None
    target = os.path.join(root, stem + suffix)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with files.replacing(target) as partial, open(partial, "wb") as file:
        file.write(content)
    return stem + suffix


def load_huggingface(source: str) -> Any:
    """The data set of a folder that `save_to_disk` wrote, or what `load_dataset` makes of a folder
    or hub id.

    Raises:
      ConfigError: the package `datasets` is not installed.
      DataError: it cannot be loaded.
    """
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            "needs the package datasets", hint='pip install "qoq_jax[datasets]"'
        ) from error
    saved = any(
        os.path.exists(os.path.join(source, name)) for name in ("state.json", "dataset_dict.json")
    )
    try:
        return datasets.load_from_disk(source) if saved else datasets.load_dataset(source)
    except Exception as error:  # of any of the package's many back ends
        raise DataError(
            f"cannot be loaded by datasets ({type(error).__name__}: {error})"[:300],
            where=source,
            hint="name a folder of save_to_disk, of parquet files or of pictures, or a hub id",
        ) from error
