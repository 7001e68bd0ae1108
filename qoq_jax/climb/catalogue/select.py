"""Chooses data sets of the catalogue, counts them, and says what their licences allow."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable

from qoq_jax.base.errors import ConfigError, did_you_mean
from qoq_jax.climb.catalogue.table import Dataset, licences, load

# Words for several kinds of access at once.
_GROUPS = {
    "open": ("physionet-open", "kaggle-dataset", "tcia", "zenodo", "isic", "git", "https"),
    "login": ("physionet-credentialed", "kaggle-competition"),
    "physionet": ("physionet-open", "physionet-credentialed"),
    "kaggle": ("kaggle-dataset", "kaggle-competition"),
}
# Words for a property of licences; others are identifiers.
_PERMISSIONS = ("commercial", "redistribution")


@dataclasses.dataclass(frozen=True)
class Filter:
    """What to list; "" for everything, several words of a field joined by commas.

    Attributes:
      domain: of `table.DOMAINS`.
      access: kinds of access, or "open" (no form and no training), "login", "physionet", "kaggle".
      modality: a part of the modality or the dimensionality, whatever its case.
      licence: "commercial" or "redistribution" for those that allow it, or an identifier.
      qoq_med: only QoQ-Med's thirty.
      companions: also the sets that CLIMB does not list itself.
    """

    domain: str = ""
    access: str = ""
    modality: str = ""
    licence: str = ""
    qoq_med: bool = False
    companions: bool = False


def select(which: Filter) -> tuple[Dataset, ...]:
    """The data sets that pass, in the catalogue's order.

    Raises:
      ConfigError: a word that nothing in the catalogue has.
    """
    rows = tuple(load().values())
    domains = _words("domain", which.domain, {row.domain for row in rows})
    kinds = _words("access", which.access, {*_GROUPS, *(row.access.kind for row in rows)})
    kinds = {kind for word in kinds for kind in _GROUPS.get(word, (word,))}
    terms = _words("licence", which.licence, {*_PERMISSIONS, *licences()})
    parts = [part.strip().lower() for part in which.modality.split(",") if part.strip()]
    return tuple(
        row
        for row in rows
        if (not domains or row.domain in domains)
        and (not kinds or row.access.kind in kinds)
        and (not terms or any(_allows(row, term) for term in terms))
        and (not parts or any(p in f"{row.modality} {row.dimensionality}".lower() for p in parts))
        and (row.qoq_med or not which.qoq_med)
        and (which.companions or not row.companion)
    )


def _words(field: str, given: str, known: Iterable[str]) -> set[str]:
    words = {word.strip() for word in given.split(",") if word.strip()}
    for word in sorted(words):
        if word not in (known := set(known)):
            raise ConfigError(
                f"--{field} {word!r} fits no data set", hint=did_you_mean(word, known)
            )
    return words


def _allows(row: Dataset, term: str) -> bool:
    return permission(row, term) == "yes" if term in _PERMISSIONS else row.licence == term


def permission(row: Dataset, what: str = "commercial") -> str:
    """Whether the licence allows "commercial" use (training a model that is sold) or
    "redistribution": "yes", "no", or "ask", which is also the answer where a licence that would
    allow it is itself uncertain (`unsure`).
    """
    answer = getattr(licences()[row.licence], what)
    return "ask" if answer == "yes" and "licence" in row.unsure else answer


def reason(row: Dataset) -> str:
    """What decides `permission`, in one line."""
    because = licences()[row.licence].reason
    return (
        f"{because}; not certain: {row.unsure['licence']}" if "licence" in row.unsure else because
    )


def records_by_domain(rows: Iterable[Dataset]) -> dict[str, int]:
    """Records as CLIMB counts them."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts[row.domain] += row.records or 0
    return dict(counts)
