"""Rows from a data set that tensorflow-datasets has prepared as ArrayRecord files.

`tfds:NAME` and `tfds:NAME@DIR` in data.extra name one: NAME as tensorflow-datasets has it, "name",
"name/config" or "name/config:version", and DIR the folder that it was prepared in (its data_dir; by
default ~/tensorflow_datasets or $TFDS_DATA_DIR). The data set is then the folder of that version,
where dataset_info.json is, and media paths are relative to it, as in a folder of JSON lines.

An element has the fields of a row as features of the same names (texts as Text, boxes as Sequence
of 4 floats). A prepared data set cannot hold a missing value, so "", 0 and empty sequences mean
absent. Nothing is downloaded or prepared, and TensorFlow is not needed.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any, Self

from qoq_jax.base.errors import ConfigError, DataError

PREFIX = "tfds:"
TRACES = "qoq_traces"  # name of data sets of responses (report/traces_tfds.py)
_FIRST = re.compile(r".+-(?P<split>[^-]+)\.array_record-00000-of-\d{5}")


def folder(entry: str) -> str:
    """The folder of an entry of data.extra; one without the prefix is a folder itself.

    Raises:
      ConfigError: no prepared data set of that name.
    """
    if not entry.startswith(PREFIX):
        return entry
    name, _, data_dir = entry.removeprefix(PREFIX).partition("@")
    from tensorflow_datasets.core import constants, read_only_builder  # slow to import

    data_dir = os.path.expanduser(data_dir or os.fspath(constants.DATA_DIR))
    try:
        builder = read_only_builder.builder_from_files(name, data_dir=data_dir)
    # It raises its own and any file error; all mean "not there or not readable".
    except Exception as error:
        raise ConfigError(
            f"tensorflow-datasets finds no prepared data set {name!r} ({type(error).__name__})",
            where=data_dir,
            hint='prepare it there with file_format="array_record", or name its folder: '
            "tfds:NAME@DIR",
        ) from None
    return os.fspath(builder.data_dir)


def source_name(entry: str) -> str:
    """What a run calls the data set of an entry of data.extra: the name of its folder, or NAME."""
    if not entry.startswith(PREFIX):
        return os.path.basename(os.path.normpath(entry))
    name = entry.removeprefix(PREFIX).partition("@")[0].partition(":")[0]
    return name.replace("/", "-")


def is_shard(path: pathlib.Path) -> bool:
    """Whether a file is the first of a split, NAME-SPLIT.array_record-00000-of-NNNNN."""
    return _FIRST.fullmatch(path.name) is not None


def split_of(path: str | os.PathLike) -> str:
    """The split of a prepared data set that a file is of, or what a row file is named after."""
    name = os.path.basename(path)
    shard = _FIRST.fullmatch(name)
    return shard["split"] if shard else name.split(".")[0]


def companions(names: Iterable[str], first: str) -> list[str]:
    """Of the files of a folder those that are read with the first file of a split."""
    stem = first[: -len("00000-of-00000")]
    return [name for name in names if name.startswith(stem) or name.endswith(".json")]


def find(root: str | os.PathLike, split: str) -> list[pathlib.Path]:
    """The first file of a split of a prepared data set; [] when there is none."""
    found = pathlib.Path(root).glob(f"*-{split}.array_record-00000-of-*")
    return [path for path in found if is_shard(path)]


def shards(path: pathlib.Path) -> list[pathlib.Path]:
    """All files of the split whose first one is `path`; of another file itself.

    Raises:
      DataError: one is missing.
    """
    if not is_shard(path):
        return [path]
    stem, count = path.name[: -len("00000-of-00000")], path.name[-5:]
    found = [path.with_name(f"{stem}{number:05d}-of-{count}") for number in range(int(count))]
    for one in found:
        if not one.is_file():
            raise DataError("is not there", where=str(one), hint="prepare the data set again")
    return found


class Elements:
    """Elements of a split by number, as JSON; safe to share between threads."""

    def __init__(self, path: pathlib.Path):
        import tensorflow_datasets as tfds  # slow to import

        self._where = str(path)
        split = _FIRST.fullmatch(path.name)["split"]
        try:
            builder = tfds.builder_from_directory(path.parent)
            self._source = builder.as_data_source(split)
        except Exception as error:  # its own, and any file error
            raise DataError(
                f"tensorflow-datasets cannot open it ({type(error).__name__}: {str(error)[:80]})",
                where=self._where,
                hint='prepare it again with file_format="array_record"',
            ) from None
        if builder.name == TRACES:
            raise DataError(
                "holds responses of a model (qoq report --traces), which are no rows",
                where=self._where,
                hint="read it with tfds.data_source",
            )

    def watch(self) -> None:
        """Nothing: records carry checksums."""

    def changed(self) -> bool:
        """False: a record that changed cannot be read."""
        return False

    def __len__(self) -> int:
        return len(self._source)

    def read(self, start: int, size: int) -> bytes:
        """The element of a number, as a JSON object; `size` plays no part."""
        del size
        try:
            element = self._source[start]
        except (RuntimeError, ValueError, IndexError) as error:
            raise DataError(
                f"element {start} cannot be read ({str(error)[:80]})",
                where=self._where,
                hint="prepare the data set again",
            ) from None
        row = {key: _plain(value) for key, value in element.items()}
        present = {key: value for key, value in row.items() if value not in ("", 0, [])}
        return json.dumps(present, ensure_ascii=False).encode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _plain(value: Any) -> Any:
    """numpy and bytes -> what JSON has."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
