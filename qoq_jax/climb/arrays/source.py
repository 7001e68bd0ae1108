"""Written records for Grain: a random-access source.

source = ArraySource("data/tuab/arrays", "train")
dataset = grain.MapDataset.source(source).seed(0).shuffle().map(to_example).batch(32)
"""

from __future__ import annotations

import functools
import json
import os
import struct
from typing import Any

from qoq_jax.base import files
from qoq_jax.base.errors import DataError, did_you_mean
from qoq_jax.climb.arrays.record import Record
from qoq_jax.climb.arrays.write import FORMAT, REPORT

_HINT = "write it again: qoq data arrays"


class ArraySource:
    """Records of a split by number, as `qoq data arrays` wrote them.

    It is a `grain.sources.RandomAccessDataSource`: len(source), source[i], safe to share between
    threads and to send to worker processes. Opening it reads the report alone.

    Args:
      folder: where arrays.json is.
      split: train, validation or test.

    Raises:
      DataError: the folder is not complete or damaged, or has no such split.
    """

    def __init__(self, folder: str | os.PathLike, split: str):
        import grain  # slow to import

        self.folder, self.split = os.fspath(folder), split
        where = os.path.join(self.folder, REPORT)
        #: what `write.write` returned: the vocabulary, the form of the arrays, counts.
        self.report: dict[str, Any] = files.read_json(where, hint=_HINT)
        if not isinstance(self.report, dict) or self.report.get("format") != FORMAT:
            raise DataError(f"is not of format {FORMAT}", where=where, hint=_HINT)
        if split not in self.report["splits"]:
            hint = did_you_mean(split, self.report["splits"])
            raise DataError(f"there is no split {split!r}", where=where, hint=hint)
        mine = self.report["splits"][split]
        paths = [os.path.join(self.folder, shard["file"]) for shard in mine["shards"]]
        for path in paths:
            if not os.path.isfile(path):
                raise DataError("is not there", where=path, hint=_HINT)
        try:
            self._source = grain.sources.ArrayRecordDataSource(paths)
            count = len(self._source)
        except (RuntimeError, ValueError) as error:
            raise DataError(
                f"has a shard that cannot be read ({str(error)[:80]})", where=where, hint=_HINT
            ) from None
        if count != mine["records"]:
            what = f"says {mine['records']} records, the shards hold {count}"
            raise DataError(what, where=where, hint=_HINT)
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Record:
        """The record of a number from 0 on; of a negative one from the end."""
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        try:
            data = self._source[int(number) % len(self)]
        except (RuntimeError, ValueError) as error:
            what = f"record {number} of {self.split} cannot be read ({str(error)[:80]})"
            raise DataError(what, where=self.folder, hint=_HINT) from None
        return unpack(data, self.folder)

    def __repr__(self) -> str:
        return f"ArraySource({self.folder!r}, {self.split!r})"

    @functools.cached_property
    def index(self) -> list[dict[str, Any]]:
        """{"id", "patient", "labels"} of each record by number: what sampling by label or by
        patient needs, without opening arrays.
        """
        path = os.path.join(self.folder, f"{self.split}.index.jsonl")
        try:
            with open(path, encoding="utf-8") as file:
                found = [json.loads(line) for line in file]
        except (OSError, ValueError) as error:
            what = f"cannot be read ({type(error).__name__})"
            raise DataError(what, where=path, hint=_HINT) from None
        if len(found) != len(self):
            what = f"has {len(found)} lines for {len(self)} records"
            raise DataError(what, where=path, hint=_HINT)
        return found


def unpack(data: bytes, folder: str) -> Record:
    """The record of the bytes that `write.pack` made; names come from OUT/names."""
    from safetensors.numpy import load

    arrays = load(data)
    (length,) = struct.unpack_from("<Q", data)
    about = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["record"])
    names = {axis: _names(folder, digest) for axis, digest in about["names"].items()}
    return Record(
        about["id"],
        about["patient"],
        tuple(about["labels"]),
        arrays,
        names,
        about["metadata"],
        about["split"],
    )


@functools.lru_cache(256)
def _names(folder: str, digest: str) -> tuple[str, ...]:
    found = files.read_json(os.path.join(folder, "names", f"{digest}.json"), hint=_HINT)
    return tuple(found)
