"""Two evaluations of the same rows, compared row by row."""

from __future__ import annotations

from collections.abc import Sequence

from qoq_jax.base.errors import DataError
from qoq_jax.evaluation import metrics


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> dict:
    """Exact McNemar test of whether two models are right equally often on the same rows.

    Args:
      first, second: whether each model is right, row by row.

    Returns:
      {"lost": rows that only the first has right, "won": only the second, "p": two-sided}. Of the
      rows on which they differ half are won by chance: a binomial test (McNemar 1947; the exact
      form, since a domain may have a dozen such rows).
    """
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    won = sum(b and not a for a, b in zip(first, second, strict=True))
    if not lost + won:
        return {"lost": 0, "won": 0, "p": 1.0}
    from scipy import stats  # slow to import

    return {"lost": lost, "won": won, "p": float(stats.binomtest(won, lost + won).pvalue)}


def compare(first: Sequence[dict], second: Sequence[dict], draws: int = 1000) -> list[dict]:
    """A row for all domains, then one per domain, of the rows that both evaluations hold.

    Returns:
      [{"name": "all" or a domain, "count", "first" and "second": macro-F1, "gain", "interval": 95 %
      of the gain, paired bootstrap over rows, "lost", "won", "p": `mcnemar` of exact matches}].

    Raises:
      DataError: they share no row, or a shared row has other gold labels.
    """
    sides = [{(r["source"], r["id"]): r for r in rows} for rows in (first, second)]
    shared = sorted(sides[0].keys() & sides[1].keys())
    if not shared:
        raise DataError(
            "the two evaluations share no row", hint="evaluate both on the same data set and split"
        )
    for key in shared:
        if sides[0][key]["labels"] != sides[1][key]["labels"]:
            raise DataError(
                f"row {key[1]!r} of {key[0]} has other gold labels in the two evaluations",
                hint="evaluate both on the same version of the data set",
            )
    rows = [[side[key] for key in shared] for side in sides]
    domains = sorted({r["domain"] for r in rows[0]})
    found = []
    for name in ("all", *domains):
        pair = [[r for r in side if name in ("all", r["domain"])] for side in rows]
        gain = metrics.paired_gain(*pair, draws=draws)
        right = [[metrics.is_exact(r) for r in side] for side in pair]
        scores = [metrics.summarize_group(side, draws=0)["overall"]["macro_f1"] for side in pair]
        found.append(
            {"name": name, "count": gain["count"], "first": scores[0], "second": scores[1]}
            | {"gain": gain["gain"], "interval": gain["interval"]}
            | mcnemar(*right)
        )
    return found
