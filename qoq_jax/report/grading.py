"""The grading sheet: grading.html, one page on which a clinician compares the responses of two
evaluations without knowing whose they are, and the key that says it.

The page has the texts, pictures and predicted boxes as the case viewer draws them. It names no
evaluation, data set, row or gold answer: ids and names of data sets often hold the diagnosis.
evaluation/grades.py reads what graders download.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import numpy as np

from qoq_jax.base import files
from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.data.answer_format import parse
from qoq_jax.evaluation import saved
from qoq_jax.report import gallery, viewer
from qoq_jax.report.shown import Library

Key = tuple[str, str]  # source and id of a row


def write(
    out: str | os.PathLike,
    sides: Sequence[viewer.Side],
    library: Library,
    count: int,
    seed: int = 0,
) -> str:
    """Writes the sheet and, beside it, its key ("grading.html": "grading-key.json").

    Args:
      out: the HTML file; may be a URL.
      sides: the two evaluations.
      library: media of the rows.
      count: rows of the sheet.
      seed: of the sample, its order, and which evaluation is A.

    Returns:
      The path of the key.

    Raises:
      DataError: there are not two evaluations, they share fewer rows than that, media of a row are
        not there, or the page would be over viewer.MAX_BYTES.
      ConfigError: the seed is negative.
    """
    if len(sides) != 2:
        raise DataError(
            "a grading sheet compares two evaluations of the test split",
            hint="name the other by --against",
        )
    if seed < 0:
        raise ConfigError(f"--seed {seed}", hint="0 or more")
    first, second = (saved.by_row(list(side.records)) for side in sides)
    shared = _shared(first, second, count)
    generator = np.random.default_rng(seed)
    keys = sample(shared, count, generator)
    # Each evaluation is A in half of the rows, so that a liking for what stands left favours none.
    is_a = (generator.permutation(count) + generator.integers(2)) % 2
    library.look_up(keys)
    cases, blocks, without = [], [], 0
    for key, place in zip(keys, is_a, strict=True):
        shown = library.of(second[key])
        if shown is None or shown.fault:
            without += 1
            continue
        block = viewer.media_of(second[key], shown)
        pair = [_response(side[key], block) for side in (first, second)]
        named = gallery.names_patient(second[key], shown.problem)
        case = {
            "domain": gallery.title(shared[key]),
            "prompt": "" if named else viewer.text_of(shown.problem),
            "responses": pair[::-1] if place else pair,
        }
        cases.append(case)
        blocks.append(viewer.to_json(block))
    if without:
        raise DataError(
            f"media of {without} of {count} rows of the sheet cannot be read",
            hint="name the data set by --data",
        )
    sheet = hashlib.sha256("\n".join([viewer.to_json(cases), *blocks]).encode()).hexdigest()
    content = viewer.to_json({"title": "Grading sheet", "sheet": sheet, "cases": cases})
    page = viewer.make_page("Grading sheet", content, blocks, name="grading")
    if len(page) > viewer.MAX_BYTES:
        raise DataError(
            f"the sheet would be {len(page) / 1e6:.0f} MB", hint="take fewer rows by --grading"
        )
    rows = [
        {"source": key[0], "id": key[1], "domain": shared[key], "A": int(place)}
        for key, place in zip(keys, is_a, strict=True)
    ]
    names = [side.name for side in sides]
    path = os.path.splitext(out)[0] + "-key.json"
    # The key first: a sheet without its key would be graded for nothing.
    files.write_json(path, {"sheet": sheet, "seed": seed, "evaluations": names, "rows": rows})
    files.write_text(out, page)
    return path


def sample(domains: dict[Key, str], count: int, generator: np.random.Generator) -> list[Key]:
    """`count` rows, of each domain as many as its share of all (largest remainders), in a random
    order.

    Args:
      domains: row -> domain.
    """
    strata: dict[str, list[Key]] = {}
    for key, domain in domains.items():
        strata.setdefault(domain, []).append(key)
    names = [str(name) for name in generator.permutation(sorted(strata))]  # ties fall by chance
    exact = {name: count * len(strata[name]) / len(domains) for name in names}
    sizes = {name: int(exact[name]) for name in names}
    most_left = sorted(names, key=lambda name: sizes[name] - exact[name])
    for name in most_left[: count - sum(sizes.values())]:
        sizes[name] += 1
    chosen = [
        strata[name][i]
        for name in names
        for i in generator.choice(len(strata[name]), sizes[name], replace=False)
    ]
    return [chosen[i] for i in generator.permutation(count)]


def _shared(first: dict[Key, dict], second: dict[Key, dict], count: int) -> dict[Key, str]:
    """Domains of the rows that both hold, without those in which a response names the patient.

    Raises:
      DataError: they are fewer than `count`.
    """
    shared = {
        key: second[key]["domain"]
        for key in sorted(first.keys() & second.keys())
        if not any(gallery.names_patient(second[key], _said(side[key])) for side in (first, second))
    }
    if not 0 < count <= len(shared):
        raise DataError(
            f"--grading {count}: the two evaluations share {len(shared)} rows, without those in "
            "which a response names the patient",
            hint="name evaluations of the same data, and at least one row",
        )
    return shared


def _said(record: dict) -> str:
    return "\n".join([str(record.get("text", "")), *map(str, record["predicted"])])


def _response(record: dict, block: dict) -> dict:
    """What a grader sees of one evaluation."""
    text = str(record.get("text", ""))
    return {
        "answer": viewer.labels_of(record["predicted"]),
        "reasoning": viewer.text_of(parse(text).think or text),
        "boxes": viewer.boxes_in(record, block),
    }
