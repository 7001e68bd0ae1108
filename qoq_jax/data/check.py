"""`qoq data validate` and `qoq data stats`: is a data set sound, and what is in it."""

from __future__ import annotations

import os

import numpy as np

from qoq_jax.base import storage, terminal
from qoq_jax.base.errors import DataError
from qoq_jax.data import attributes, sources, tfds_rows
from qoq_jax.data import rows as schema
from qoq_jax.data import tokenizer as tokenizer_lib
from qoq_jax.data.index import Rows, open_rows
from qoq_jax.data.sample import ProcessConfig, process
from qoq_jax.models import sizes as variants

_SHOWN = 20


def run(data: str) -> int:
    """Checks every row and turns it into a sample as training would, gold answer included; prints
    each fault. Returns the exit code, 1 when there is one.

    Args:
      data: a row file, or a folder of row files or an entry of data.extra, whose splits are all
        checked.

    Raises:
      DataError: there is no such file, or no row file in the folder.
      ConfigError: no prepared data set of the name of an entry.
    """
    data = tfds_rows.folder(data)
    if not storage.is_dir(data):
        return _check(data)
    found = [path for split in schema.SPLITS if (path := sources.find(data, split))]
    if not found:
        raise _no_rows(data)
    return max(_check(os.fspath(path)) for path in found)


def _no_rows(root: str) -> DataError:
    return DataError(
        "no train.jsonl, validation.jsonl or test.jsonl there",
        where=root,
        hint="name a data set folder",
    )


def _check(file: str) -> int:
    """Checks a row file.

    A file that is named after a split must agree with the rows' `split`, and share no `patient`
    with its sibling files. Pictures are read whole but made small, and no length of text is too
    long: budgets belong to a config, not to a data set.
    """
    rows = open_rows(file)
    faults = [str(fault) for fault in rows.index.faults]
    unlisted = rows.index.fault_count - len(faults)  # of very many, the first are described
    root, tokenizer = os.path.dirname(storage.absolute(file)), tokenizer_lib.load("nano")
    small = ProcessConfig.for_model(
        variants.get("nano"),
        min_pixels=56 * 56,
        max_pixels=112 * 112,
        frame_max_pixels=84 * 84,
        max_prompt_tokens=10**9,
        max_response_tokens=10**9,
    )
    total = len(rows) + rows.index.fault_count
    with terminal.Bar("checking rows", len(rows)) as bar:
        for number, row in enumerate(rows):
            try:
                process(row, root, tokenizer, small, with_answer=True)
            except DataError as error:
                faults.append(str(error))
            bar.update(number + 1)
    faults += [*attributes.faults(rows), *_split_faults(file, rows)]
    for fault in faults[:_SHOWN]:
        print(fault)
    count = len(faults) + unlisted
    if count > _SHOWN:
        print(f"... and {count - _SHOWN} more")
    print(f"{file}: {total} rows, {count} faults")
    return 1 if faults else 0


def _split_faults(file: str, rows: Rows) -> list[str]:
    """Rows of another split, and patients that are in a sibling file too."""
    folder, name = os.path.split(storage.absolute(file))
    split = tfds_rows.split_of(name)
    if split not in schema.SPLITS or sources.find(folder, split) is None:
        return []
    faults = [
        f"row {row.id!r}, split: {row.split!r} in {name} (hint: move it to {row.split}.jsonl)"
        for row in (rows[place] for place in sources.other_split(rows, split))
    ]
    patients = rows.column("patient")
    for other in schema.SPLITS:
        path = sources.find(folder, other)
        if other == split or path is None:
            continue
        # Faults of that file are for its own check.
        shared = np.intersect1d(patients[patients != 0], open_rows(path).column("patient"))
        named = (rows[int(np.flatnonzero(patients == patient)[0])].patient for patient in shared)
        faults += [
            f"patient {patient!r} is in {os.path.basename(path)} too (hint: keep all rows of a "
            "patient in one split)"
            for patient in sorted(named)
        ]
    return faults


def describe(root: str) -> int:
    """Prints the rows of a data set folder by split, domain, data set and label.

    Args:
      root: the folder, or an entry of data.extra.
    """
    root = tfds_rows.folder(root)
    if not sources.has_rows(root):
        raise _no_rows(root)
    for split in schema.SPLITS:
        if sources.find(root, split) is None:
            continue
        rows = sources.load(root, split)
        lines, cells = [], []
        for domain in sources.domains(rows):
            of_it = rows.column("domain") == schema.DOMAINS.index(domain)
            of_domain = rows.take(np.flatnonzero(of_it))
            count, share = str(len(of_domain)), f"{len(of_domain) / len(rows):.1%}"
            lines.append(f"  {domain}: {count} ({share})")
            counts = sources.describe(of_domain)
            for number, dataset in enumerate(counts["dataset"]):
                labels = ", ".join(
                    f"{name.removeprefix(dataset + '/')} {n}"
                    for name, n in counts["label"].items()
                    if name.startswith(dataset + "/")
                )
                lines.append(f"    {dataset}: {labels}")
                cells.append(["" if number else cell for cell in (domain, count, share)])
                cells[-1] += [dataset, labels]
        head = f"{split}: {len(rows)} rows"
        columns = ("domain", "rows", "share", "data set", "labels")
        terminal.table(head, columns, cells, plain=(head, *lines))
    return 0
