"""The data sets of a run: built or fetched at its start, written down, and the same ones after
every restart.

    WORKDIR/data.json   {"sources": {name: {"root": folder, "splits": {split: {"rows", "sha256"}}}},
                        "notes": [text]}

A split is written down when it is first read. The record binds as soon as the run has a checkpoint.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from qoq_jax.base import files, storage
from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.climb.mini import build as synthetic
from qoq_jax.climb.samples import fetch as real_samples
from qoq_jax.data import sources, tfds_rows
from qoq_jax.data.index import Rows
from qoq_jax.parallel import hosts, messages
from qoq_jax.train.checkpoint import has_checkpoint
from qoq_jax.train.config import Config, DataConfig

LIMIT = 4 * 3600.0  # seconds that a process waits for another to build or fetch data sets


class Record:
    """What data sets a run began with.

    Args:
      workdir: of the run.
      training: this process trains: it writes the record, and what differs from it is an error.
        Else it is a line on stderr.
    """

    def __init__(self, workdir: str, training: bool):
        self._path, self._training = os.path.join(workdir, "data.json"), training
        stages = os.path.join(workdir, "checkpoints")
        began = any(has_checkpoint(os.path.join(stages, name)) for name in storage.names(stages))
        self._known = (files.read_json(self._path, None) if began else None) or {
            "sources": {},
            "notes": [],
        }
        self._checked: set[tuple[str, str]] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """The data sets that the run began with; () when it has not begun."""
        return tuple(self._known["sources"])

    @property
    def notes(self) -> list[str]:
        """What the run said about them then."""
        return list(self._known["notes"])

    def begin(self, roots: dict[str, str], notes: list[str]) -> None:
        """Checks that the data sets are those that the run began with; at its start writes them
        down.

        Raises:
          DataError: one is missing, or there is one more.
        """
        if not self.names:
            self._known = {
                "sources": {name: {"root": root, "splits": {}} for name, root in roots.items()},
                "notes": notes,
            }
            self._write()
        for name in self.names:
            if name not in roots:
                had = ", ".join(
                    f"{entry['rows']} {split} rows"
                    for split, entry in self._known["sources"][name]["splits"].items()
                )
                self._differs(
                    f"the run began with the data set {name} ({had or 'not read yet'}), which "
                    "is not there now",
                    f"make it available again under {self._known['sources'][name]['root']}",
                )
        for name in roots:
            if name not in self.names:
                self._differs(f"the run began without the data set {name}", "remove it")

    def check(self, name: str, split: str, rows: Rows, root: str) -> None:
        """Compares the rows of a split, and the sizes of their media, with the first time; the
        first time writes them down.

        Raises:
          DataError: they have changed.
        """
        if (name, split) in self._checked:
            return
        self._checked.add((name, split))
        found = {"rows": len(rows), "sha256": rows.fingerprint}
        splits = self._known["sources"].setdefault(name, {"root": root, "splits": {}})["splits"]
        if split not in splits:
            splits[split] = found
            self._write()
        elif splits[split] != found:
            had, has = splits[split]["rows"], len(rows)
            self._differs(
                f"{name}/{rows.index.path.name}: "
                + (
                    f"the run began with {had} rows, now there are {has}"
                    if had != has
                    else "the rows or their media have changed since the run began"
                ),
                f"put {root} back as it was",
            )

    def _write(self) -> None:
        if self._training and hosts.is_main():
            files.write_json(self._path, self._known)

    def _differs(self, what: str, hint: str) -> None:
        if self._training:
            raise DataError(
                what,
                where=os.path.dirname(self._path),
                hint=f"{hint}, or start a new run with another --config.workdir",
            )
        print(f"qoq: {what}: results are not comparable with those of the run", file=sys.stderr)


def check_extra(data: DataConfig) -> None:
    """The data sets of data.extra: there, with rows, and under names of their own.

    Raises:
      ConfigError: they are not.
    """
    names = ["real", "climb-mini"]
    for entry in data.extra:
        folder, name = tfds_rows.folder(entry), tfds_rows.source_name(entry)
        if not sources.has_rows(folder):
            raise ConfigError(
                "data.extra: no train.jsonl, validation.jsonl or test.jsonl there",
                where=folder,
                hint="name a folder of row files, or tfds:NAME@DIR (docs/data.md)",
            )
        if name in names:
            raise ConfigError(
                f"data.extra: two sources are called {name!r}",
                where=folder,
                hint="rename the folder",
            )
        names.append(name)


def prepare(
    cfg: Config, record: Record | None = None, splits: Sequence[str] = ()
) -> tuple[dict[str, str], list[str]]:
    """Builds climb-mini and fetches the real samples, side by side, unless they are there.

    Args:
      record: what the run began with. Real samples that it began without are not fetched later.
      splits: that must be there, each in one of the data sets at least.

    Of several processes the first makes them, then the first of every other machine: nothing is
    made twice where all see the same folder.

    Returns:
      (source name -> folder, notes). Real samples that cannot be fetched at the start of a run are
      a note, not an error.

    Raises:
      PeerError: another process has failed, or took over LIMIT.
    """
    roots, notes = messages.from_main("data sets", lambda: _make(cfg, record), LIMIT)
    if hosts.process_count() > 1:

        def again() -> None:
            """The same on another machine; its rows are indexed while the others wait."""
            if not hosts.is_main():
                _build(cfg, "real" in roots)
            for split, root in itertools.product(splits, roots.values()):
                # What is wrong with rows is said where they are used.
                with contextlib.suppress(DataError):
                    if sources.find(root, split):
                        sources.load(root, split, [])

        hosts.once_per_machine("data sets of a machine", again, LIMIT)
    if record:
        record.begin(roots, notes)
    for split in splits:
        if not any(sources.find(root, split) for root in roots.values()):
            raise no_split(split)
    return roots, notes


def _make(cfg: Config, record: Record | None) -> tuple[dict[str, str], list[str]]:
    """Builds and fetches on the main process, which decides what data sets the run has."""
    began_without_real = bool(record and record.names) and "real" not in record.names
    data, notes = cfg.data, record.notes if began_without_real else []
    roots, error = _build(cfg, data.real and not began_without_real, needed=False)
    if error:
        notes.append(
            f"The real samples could not be fetched, so this run used generated data alone: {error}"
        )
        print(notes[-1])
    for entry in data.extra:
        roots[tfds_rows.source_name(entry)] = tfds_rows.folder(entry)
    if not roots:
        raise DataError(
            "no data source", hint="set data.mini_rows above 0, data.real, or data.extra"
        )
    return roots, notes


def _build(cfg: Config, real: bool, needed: bool = True) -> tuple[dict[str, str], DataError | None]:
    """(source name -> folder, why the real samples could not be fetched). `needed`: then that is
    raised.
    """
    data, roots, failed = cfg.data, {}, None
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        folder = os.path.join(data.root, "real")
        fetching = pool.submit(_ready_or, real_samples.fetch, folder) if real else None
        if data.mini_rows:
            name = f"climb-mini-{data.mini_imbalance}-{data.mini_rows}-seed{data.mini_seed}"
            roots["climb-mini"] = os.path.join(data.root, name)
            _ready_or(
                synthetic.build,
                roots["climb-mini"],
                seed=data.mini_seed,
                size=data.mini_rows,
                imbalance=data.mini_imbalance,
            )
        if fetching:
            try:
                fetching.result()
                roots["real"] = folder
            except DataError as error:
                if needed:
                    raise
                failed = error
    return roots, failed


def _ready_or(make: Callable[..., Any], root: str, **arguments: Any) -> None:
    """Makes a data set; one at a URL must be there, since files are made on this machine alone."""
    if not storage.is_url(root):
        make(root, **arguments)
    elif not sources.has_rows(root):
        raise DataError(
            "no such data set there, and it is made on a disk alone",
            where=root,
            hint="make it with qoq data on this machine and copy the folder there",
        )


def no_split(split: str) -> DataError:
    """No data set has this split."""
    other = " or set eval.split=validation" if split == "test" else ""
    return DataError(
        f"no source has a {split} split",
        hint="set data.mini_rows above 0, add a folder to data.extra" + other,
    )
