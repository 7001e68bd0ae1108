"""Labels of EEG sets that are votes of raters."""

from __future__ import annotations

from collections.abc import Sequence

from qoq_jax.base.errors import DataError

IIIC = ("SZ", "LPD", "GPD", "LRDA", "GRDA", "Other")


def iiic(votes: Sequence[float]) -> str:
    """The pattern with most votes; of several, the first in order of `IIIC`, as argmax takes it.

    Args:
      votes: raters, or shares of them, for each of `IIIC`.
    """
    if len(votes) != len(IIIC) or not all(vote >= 0 for vote in votes) or not sum(votes):
        raise DataError(f"{list(votes)!r} are no votes for six patterns", where="votes")
    return IIIC[max(range(len(votes)), key=lambda i: votes[i])]
