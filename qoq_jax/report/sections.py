"""The report's sections: each takes the run and gives HTML, "" when there is nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from qoq_jax.report import charts, tables
from qoq_jax.report import seconds as seconds_of
from qoq_jax.report.gallery import case_html, choose, escape, is_right, title
from qoq_jax.report.run import SIDES, Run

MAX_CASES = 30
MAX_POINTS = 600  # of one curve; longer ones are averaged down
MAX_LISTED = 200  # rows of a list shown by name

# Curve titles and the keys of metrics.jsonl.
REWARDS = {"reward": "total", "accuracy": "accuracy", "IoU": "iou", "format": "format"}
RL_CURVES = {
    "KL to the reference": "kl",
    "Entropy, nats per token": "entropy",
    "Tokens per second": "tokens_per_second",
    "Response length, tokens": "response_length",
    "Gradient norm": "grad_norm",
    "Groups of equal rewards": "zero_variance_groups",
    "Sampler–trainer gap, nats": "logprob_difference_max",
}
SFT_CURVES = {
    "Loss on gold responses, nats per token": "loss",
    "Tokens per second": "tokens_per_second",
}
SHARE = (0.0, 1.001)  # axis of what lies in [0, 1]

# Columns of the metric tables: name in metrics.py, heading.
COLUMNS = {
    "macro_f1": "macro-F1",
    "exact_match": "exact match",
    "balanced_accuracy": "balanced acc.",
    "label_accuracy": "label acc.",
    "auroc": "AUROC",
    "iou": "IoU",
    "iou_over_half": "IoU &gt; 0.5",
    "format": "format",
    "unparseable": "unreadable",
}


# ------------------------------------------------------------------------------------------- curves


def curves(run: Run) -> str:
    """Reward and its parts, loss and other diagnostics, reward by domain, and the warm start's
    loss.
    """
    sft, rl = (
        [line for line in run.curves if line.get("stage") == stage] for stage in ("sft", "rl")
    )
    out = ""
    if rl:
        parts = [_series(rl, f"reward/{k}", name, charts.PARTS[k]) for name, k in REWARDS.items()]
        reward = charts.line_chart(
            "Reward and its parts, sampled responses", list(filter(None, parts)), y_range=SHARE
        )
        out += _grid("grid2", [reward, chart(rl, "Loss", "loss")])
        out += _grid("small", [chart(rl, name, key, (205, 135)) for name, key in RL_CURVES.items()])
        if by_domain := _by_domain(rl, "reward/domain/", SHARE):
            out += "<h3>Reward by domain</h3>" + by_domain
    if warm := _grid("grid2", [chart(sft, name, key) for name, key in SFT_CURVES.items()]):
        out += "<h3>Supervised warm start</h3>" + warm
        if by_domain := _by_domain(sft, "loss/domain/"):
            out += "<h3>Loss by domain</h3>" + by_domain
    note = "Faint: as logged. Strong: moving average; the number at the end is its last value."
    return out and f'<p class="note">{note}</p>{out}'


def _by_domain(
    lines: Sequence[dict], prefix: str, y_range: tuple[float, float] | None = None
) -> str:
    """A small chart of each key that begins so."""
    keys = sorted({key for line in lines for key in line if key.startswith(prefix)})
    names = {key: title(key.removeprefix(prefix)) for key in keys}
    return _grid("small", [chart(lines, names[key], key, (205, 125), y_range) for key in keys])


def _series(lines: Sequence[dict], key: str, name: str, colour: str) -> charts.Series | None:
    points = [
        (c["step"], c[key]) for c in lines if is_number(c.get(key)) and is_number(c.get("step"))
    ]
    if not points:
        return None
    chunks = np.array_split(np.array(points, float), min(len(points), MAX_POINTS))
    x, y = np.array([chunk.mean(0) for chunk in chunks]).T
    return charts.Series(name, x, y, colour)


def chart(
    lines: Sequence[dict],
    name: str,
    key: str,
    size: tuple[int, int] = (460, 230),
    y_range: tuple[float, float] | None = None,
) -> str:
    """A line chart of one key of metrics.jsonl, "" when no row has it."""
    series = _series(lines, key, name, charts.AFTER)
    return charts.line_chart(name, [series], *size, y_range) if series else ""


def _grid(css: str, figures: Sequence[str]) -> str:
    cells = "".join(f"<figure>{figure}</figure>" for figure in figures if figure)
    return cells and f'<div class="{css}">{cells}</div>'


# ------------------------------------------------------------------------------------------ results


def domains(run: Run) -> str:
    """Bars of macro-F1 by domain, and the table of all metrics."""
    sides = {side: group["domains"] for side, group in run.groups.items() if group}
    if not sides:
        return ""
    counts = {name: found["count"] for group in sides.values() for name, found in group.items()}
    rows = []
    for name in sorted(counts, key=counts.get, reverse=True):
        row = {"name": title(name), "note": f"{counts[name]:,} rows"}
        for side, group in sides.items():
            if name in group:
                row[side], row[f"{side}_interval"] = (
                    group[name].get(k) for k in ("macro_f1", "macro_f1_interval")
                )
        rows.append(row)
    return (
        f"<p>Macro-F1 on held-out {escape(run.main_source, 40)} rows. Thin lines are "
        "95 % intervals. Each domain counts the same in the mean, however rare.</p>"
        f"{keys()}{tables.figure(charts.paired_bars(rows))}"
        "<h3>Every metric under its own name</h3>"
        + _metric_table(run.groups["before"], run.groups["after"], "domains", "Domain", title)
    )


def _metric_table(
    before: dict | None, after: dict | None, level: str, heading: str, name_of: Callable[[str], str]
) -> str:
    """One row per domain or data set and one for their mean; values before RL in grey beside those
    after.
    """
    groups = [group for group in (before, after) if group]
    columns = [
        k for k in COLUMNS if any(k in found for group in groups for found in group[level].values())
    ]
    rows = {
        name_of(name): [g and g[level].get(name) for g in (before, after)]
        for g in groups
        for name in g[level]
    }
    rows["All, mean over domains"] = [g and g["overall"] for g in (before, after)]
    lines = []
    for name, (then, now) in rows.items():
        cells = "".join(f'<td class="n">{_cell(then, now, column)}</td>' for column in columns)
        count = (now or then)["count"]
        css = ' class="sum"' if len(lines) + 1 == len(rows) else ""
        lines.append(
            f'<tr{css}><td>{escape(name, 80)}</td><td class="n">{count:,}</td>{cells}</tr>'
        )
    head = "".join(f'<th class="n">{COLUMNS[column]}</th>' for column in columns)
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="table">'
        f"<table><tr><th>{heading}</th><th "
        f'class="n">rows</th>{head}</tr>{"".join(lines)}'
        '</table></div><p class="note">Grey: before RL. Balanced accuracy is mean recall over '
        "labels. Label "
        "accuracy is the mean one-vs-rest accuracy that the QoQ-Med paper calls balanced "
        "accuracy; it counts "
        "true negatives and flatters. IoU is over rows with a gold region.</p>"
    )


def _cell(then: dict | None, now: dict | None, key: str) -> str:
    values = [side[key] for side in (then, now) if side and key in side]
    was = f'<span class="was">{values[0]:.2f}</span> ' if len(values) == 2 else ""
    return was + (f"{values[-1]:.2f}" if values else "–")


def keys(sides: Iterable[str] = tuple(SIDES)) -> str:
    """The colours of the sides."""
    named = (
        f'<span><i class="key" style="background:var(--{side})"></i>{SIDES[side]}</span>'
        for side in sides
    )
    return f'<p class="keys">{"".join(named)}</p>'


def localisation(run: Run) -> str:
    """Histogram of IoU before and after."""
    rows = [run.of_source(side, run.main_source) for side in ("before", "after")]
    before, after = ([r["iou"] for r in side if r.get("iou") is not None] for side in rows)
    if not (before or after):
        return ""
    named = [
        (name, np.array(ious)) for name, ious in (("before", before), ("after", after)) if ious
    ]
    shares = ", ".join(f"{np.mean(ious > 0.5):.0%} {name}" for name, ious in named)
    return (
        "<p>Overlap (IoU) of the predicted box with the gold region, on the "
        f"{len(after or before):,} rows "
        f"that have one. Share of rows above 0.5: {shares}. Around a mask even the tightest box "
        "stays below "
        f"1.</p>{keys()}{tables.figure(charts.histogram(before, after))}"
    )


def confusion(run: Run) -> str:
    """One confusion matrix per data set."""
    group = run.groups["after"] or run.groups["before"]
    if not group:
        return ""
    tiles = []
    for name, found in group["datasets"].items():
        domain, dataset = name.split("/", 1)
        matrix = charts.confusion_matrix(found["confusion"]["labels"], found["confusion"]["matrix"])
        words = (
            f"{escape(dataset, 60)} · {found['count']:,} rows · macro-F1 {found['macro_f1']:.2f}"
        )
        caption = f"<h3>{escape(title(domain))}</h3><figcaption>{words}</figcaption>"
        tiles.append(f"<figure>{caption}{matrix}</figure>")
    return (
        "<p>Rows are the gold label, columns the answer; shading is the share of the row. “Not "
        "in list” is "
        "an answer outside of the allowed labels, or none.</p><div "
        f'class="tiles">{"".join(tiles)}</div>'
    )


def others(run: Run) -> str:
    """Metrics and rows of each further data set (data.extra)."""
    return "".join(
        f"<h3>{escape(name, 80)}</h3>{source_rows(run, name)}"
        for name in run.other_sources
        if name != "real"
    )


def source_rows(run: Run, name: str) -> str:
    """The metrics of one source, and its rows."""
    before, after = run.of_source("before", name), run.of_source("after", name)
    then, lines = {r["id"]: r for r in before}, []
    for r in after or before:
        was = then.get(r["id"]) if after else None
        cells = [
            escape(r["id"], 80),
            escape(title(r["domain"])),
            escape(", ".join(r["labels"]), 120),
            _verdict(was) if was else "–",
            _verdict(r),
            "–" if r.get("iou") is None else f"{r['iou']:.2f}",
        ]
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    groups = (run.group(side, name) for side in ("before", "after"))
    headings = ("row", "domain", "gold", "before", "after" if after else "answer", "IoU")
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    state = " open" if len(lines) <= 12 else ""
    listed = (
        f"All {len(lines)}"
        if len(lines) <= MAX_LISTED
        else f"The first {MAX_LISTED} of {len(lines):,}"
    )
    return (
        f"{_metric_table(*groups, 'datasets', 'Data set', _dataset)}"
        f"<details{state}><summary>{listed} {escape(name, 80)} rows</summary>"
        f'<div class="scroll" tabindex="0" role="group" aria-label="table">'
        f"<table><tr>{head}</tr>{''.join(lines[:MAX_LISTED])}</table></div>"
        "</details>"
    )


def _dataset(name: str) -> str:
    domain, dataset = name.split("/", 1)
    return f"{dataset} ({title(domain)})"


def _verdict(r: dict) -> str:
    said = escape(", ".join(r["predicted"]) or "nothing readable", 120)
    return f'<span class="{"ok" if is_right(r) else "no"}">{said}</span>'


def cases(run: Run, room: int) -> str:
    """The gallery, as many cases as fit into `room` bytes."""
    before = (
        {(r["source"], r["id"]): r for r in run.records["before"]} if run.records["after"] else {}
    )
    chosen, shown, size = choose(run.cases, MAX_CASES), [], 0
    for case in chosen:
        made = case_html(case, before.get((case["source"], case["id"])))
        size += len(made.encode())
        if size > room:
            break
        shown.append(made)
    right = sum(map(is_right, chosen[: len(shown)]))
    keys = "".join(
        f'<span><i class="key" style="background:var(--{name})"></i>{name} box</span>'
        for name in ("gold", "predicted")
    )
    return (
        f"<p>{len(shown)} of the test rows, right and wrong answers from every domain ({right} "
        "right, "
        f"{len(shown) - right} wrong: a selection to look at, not a sample to count).</p>"
        f'<p class="keys">{keys}</p>{"".join(shown)}'
    )


# -------------------------------------------------------------------------------------------- facts


def skipped(run: Run) -> str:
    """Rows that could not be read, each with its reason."""
    rows = run.facts.get("skipped")
    if rows is None:
        return ""
    if not rows:
        return "<p>None: every row was read.</p>"
    rows = [row if isinstance(row, dict) else {"reason": row} for row in rows]
    lines = "".join(
        f"<tr><td>{escape(row.get('where') or row.get('id') or '', 200)}</td>"
        f"<td>{escape(row.get('reason', ''), 300)}</td></tr>"
        for row in rows[:MAX_LISTED]
    )
    more = (
        f'<p class="note">and {len(rows) - MAX_LISTED:,} more</p>' if len(rows) > MAX_LISTED else ""
    )
    return (
        f"<p>Could not be read, and were left out: {len(rows):,}. Nothing was put in their "
        "place.</p>"
        f'<div class="scroll" tabindex="0" role="group" aria-label="table">'
        f"<table><tr><th>row</th><th>reason</th></tr>{lines}</table></div>"
        f"{more}"
    )


def facts(run: Run) -> str:
    """Command, versions, hardware, time and config."""
    known, out = dict(run.facts), ""
    if command := known.pop("command", None):
        out += f"<h3>Command</h3><pre>{escape(command)}</pre>"
    machine = known.pop("hardware", None)
    pairs = dict(known.pop("versions", None) or {})
    pairs |= machine if isinstance(machine, dict) else ({"hardware": machine} if machine else {})
    seconds = {k: v for k, v in (known.pop("seconds", None) or {}).items() if is_number(v)}
    pairs |= {k: v for k, v in known.items() if isinstance(v, (str, int, float)) and k != "title"}
    spent = {name: f"{value:,.1f} s" for name, value in seconds.items()}
    tables = (("Run", pairs), ("Time", spent))
    columns = "".join(
        f"<div><h3>{name}</h3>{_pairs(table)}</div>" for name, table in tables if table
    )
    times = seconds_of.goodput(run)
    columns += (times and f"<div>{times}</div>") + seconds_of.steps(run)
    out += columns and f'<div class="grid2">{columns}</div>'
    out += "".join(f'<p class="note">{escape(note)}</p>' for note in known.get("notes") or [])
    if run.config:
        pretty = escape(json.dumps(run.config, indent=2, sort_keys=True), 60_000)
        out += f"<details><summary>Config</summary><pre>{pretty}</pre></details>"
    return out


def _pairs(pairs: dict) -> str:
    rows = (
        f'<tr><td>{escape(k, 80)}</td><td class="n">{escape(v, 200)}</td></tr>'
        for k, v in pairs.items()
    )
    return f"<table>{''.join(rows)}</table>"


def is_number(value: object) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))
    )
