"""One vocabulary over data sets: labels of one meaning are one class (CLIMB, arXiv 2503.07667).

A class is (domain, label). Labels that are spelled alike within a domain are one class; "Malignant"
of a breast and of a skin lesion are two. What is spelled otherwise and means the same, or alike and
means something else, stands in tables/union.csv by data set.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from qoq_jax.base.errors import DataError
from qoq_jax.climb.labels.read import rows
from qoq_jax.data.answer_format import fold


@functools.cache
def _table() -> Mapping[tuple[str, str], str]:
    return {(row["dataset"], fold(row["label"])): row["class"] for row in rows("union")}


def classes(dataset: str, domain: str, labels: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The class of each label of a data set: (domain, folded label).

    Raises:
      DataError: two of its labels would be one class.
    """
    found = [(domain, fold(_table().get((dataset, fold(label)), label))) for label in labels]
    for i, one in enumerate(found):
        if one in found[:i]:
            first = labels[found.index(one)]
            raise DataError(
                f"{first!r} and {labels[i]!r} are one class",
                where=dataset,
                hint="change tables/union.csv, or the labels",
            )
    return tuple(found)
