"""The tables and curves of a sweep: OUT/report.md, OUT/curves-N.svg and OUT/results.json.

Numbers are means over seeds with 95 % intervals of Student's t; differences to a baseline are
paired by seed. A run counts when its evaluation is there; a table says how many seeds it has.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
from collections.abc import Sequence

from scipy import stats

from qoq_jax.base import files, terminal
from qoq_jax.report import charts
from qoq_jax.sweep.plan import Sweep

COLOURS = (
    "#0b7285",
    "#b3bdc7",
    "#2563a8",
    "#a8792a",
    "#8452a8",
    "#c2410c",
    "#4d7c0f",
    "#be185d",
    "#475569",
    "#0891b2",
)
COLUMNS = (
    "run",
    "seeds",
    "accuracy",
    "macro-F1",
    "compared with",
    "macro-F1 less that",
    "IoU",
    "IoU less that",
    "area",
    "area less that",
    "s per step",
    "rewards' share",
)
# IoU where responses have boxes
METRICS = (("exact_match", "accuracy"), ("macro_f1", "macro-F1"), ("iou", "IoU"))


def write(sweep: Sweep, out: str) -> None:
    """Writes the report of the runs that are finished."""
    found = collect_all(sweep, out)
    files.write_json(os.path.join(out, "results.json"), found)
    starts = sweep.starts()
    compared = {name: runs for name, runs in found.items() if name not in starts}
    parts = [overall_table(sweep, found)]
    parts += [domain_table(found, key, title) for key, title in METRICS]
    parts.append(gains_table(sweep, found))
    for i, (title, names) in enumerate((sweep.charts or {"All runs": tuple(compared)}).items()):
        chart = curves(title, {name: compared[name] for name in names if name in compared})
        if chart:
            files.write_text(os.path.join(out, f"curves-{i}.svg"), chart)
            parts.append(
                f"![{title}: macro-F1 on the validation split against steps, mean over "
                f"seeds](curves-{i}.svg)\n"
            )
    files.write_text(os.path.join(out, "report.md"), "\n".join(parts))


def show(sweep: Sweep, out: str) -> None:
    """Prints the table of all runs on a terminal; it is in the report too."""
    rows = overall(sweep, collect_all(sweep, out))
    terminal.table("Overall", COLUMNS, rows, plain=())


def collect_all(sweep: Sweep, out: str) -> dict[str, dict[str, dict]]:
    """{arg: `collect`} of the args that have a finished run."""
    starts = sweep.starts()
    found = {name: collect(out, name, start, name in starts) for name, start in sweep.runs.items()}
    return {name: runs for name, runs in found.items() if runs}


def collect(out: str, name: str, start: str, once: bool) -> dict[str, dict]:
    """{seed: {"overall", "domains", "curve", "area", "reward_share", "seconds"}} of the finished
    runs of an arg.

    Args:
      start: the run that it starts from, "" = none.
      once: it is a start itself, run once and with stage sft alone.
    """
    if once:
        folders = {"0": os.path.join(out, name)}
    else:
        parent = os.path.join(out, name)
        names = sorted(os.listdir(parent)) if os.path.isdir(parent) else []
        folders = {
            n.removeprefix("seed"): os.path.join(parent, n)
            for n in names
            if n.startswith("seed") and n[4:].isdigit()
        }
    return {
        seed: one
        for seed, folder in folders.items()
        if (
            one := read_run(
                folder, "sft" if once else "rl", os.path.join(out, start) if start else ""
            )
        )
    }


def learning_curve(folder: str, stage: str) -> list:
    """[[step, validation macro-F1], ...] of a stage; [] when nothing was validated."""
    return files.read_json(os.path.join(folder, f"validation-{stage}.json"), [], finite=False)


def validated_on(folder: str) -> list:
    """What decides which rows a run was validated on."""
    config = files.read_json(os.path.join(folder, "config.json"), finite=False)
    data = [
        config["data"][key] for key in ("mini_rows", "mini_seed", "mini_imbalance", "real", "extra")
    ]
    return [*data, config["eval"]["validation_rows"]]


def read_run(folder: str, stage: str, start: str) -> dict | None:
    """What the report says of a run, or None when it is not finished.

    Its curve begins with the last point of the folder `start`, if that was validated on the same
    rows.
    """
    path = os.path.join(folder, "eval", f"{stage}.json")
    # run.json, which comes last, is asked for first: what another host has not written yet, an NFS
    # client would go on to miss for a while.
    if not os.path.exists(os.path.join(folder, "run.json")) or not os.path.exists(path):
        return None
    group = files.read_json(path, finite=False)["summary"]["sources"]["climb-mini"]
    domains = {name: _metrics(of) for name, of in group["domains"].items()}
    same = start and validated_on(start) == validated_on(folder)
    curve = [
        [0, score] for _, score in (learning_curve(start, "sft")[-1:] if same else [])
    ] + learning_curve(folder, stage)
    rows = []
    with open(os.path.join(folder, "metrics.jsonl"), encoding="utf-8") as f:
        rows = [row for row in map(json.loads, f) if row["stage"] == stage]
    timed = [row for row in rows if "seconds/step" in row][1:]  # the first window compiles
    shares = [
        row["seconds/reward"] / row["seconds/step"] for row in timed if "seconds/reward" in row
    ]
    return {
        "overall": _metrics(group["overall"]),
        "domains": domains,
        "curve": curve,
        "area": area(curve),
        # Medians: on a shared machine a run may stand still for minutes.
        "seconds_a_step": statistics.median(row["seconds/step"] for row in timed)
        if timed
        else None,
        "reward_share": statistics.median(shares) if shares else None,
    }


def _metrics(of: dict) -> dict[str, float]:
    return {key: of[key] for key, _ in METRICS if of.get(key) is not None}


def area(curve: list) -> float | None:
    """Mean height of a learning curve [[step, score], ...] over its steps (trapezoids); None with
    less than two points.
    """
    if len(curve) < 2:
        return None
    total = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(curve))
    return total / (curve[-1][0] - curve[0][0])


def interval(values: list[float]) -> tuple[float, float]:
    """(mean, half width of its 95 % interval by Student's t); the half width of a single value is
    infinite.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.inf
    return mean, float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(
        len(values)
    )


def shown(values: list[float], signed: bool = False) -> str:
    """ "0.412 ± 0.020"; without the interval for a single value."""
    if not values:
        return ""
    mean, half = interval(values)
    text = f"{mean:+.3f}" if signed else f"{mean:.3f}"
    return text if math.isinf(half) else f"{text} ± {half:.3f}"


def paired(runs: dict, baseline: dict, key: str) -> list[float]:
    """Differences of an overall metric to the baseline, seed by seed, over the seeds that both
    have.
    """

    def value(run: dict) -> float | None:
        return run["area"] if key == "area" else run["overall"].get(key)

    both = [(value(runs[seed]), value(baseline[seed])) for seed in runs if seed in baseline]
    return [a - b for a, b in both if a is not None and b is not None]


def overall(sweep: Sweep, found: dict) -> list[list[str]]:
    """Cells of COLUMNS: accuracy, macro-F1, the area under the learning curve, and differences to
    each run's baseline.
    """
    rows = []
    for name, runs in found.items():
        scores = {
            key: [run["overall"][key] for run in runs.values() if key in run["overall"]]
            for key, _ in METRICS
        }
        known = {
            key: [run[key] for run in runs.values() if run[key] is not None]
            for key in ("area", "seconds_a_step", "reward_share")
        }
        seconds, share = known["seconds_a_step"], known["reward_share"]
        other = sweep.baseline_of(name)
        differences = [
            shown(paired(runs, found.get(other, {}), key), signed=True) if other else ""
            for key in ("macro_f1", "iou", "area")
        ]
        rows.append(
            [
                name,
                str(len(runs)),
                shown(scores["exact_match"]),
                shown(scores["macro_f1"]),
                other,
                differences[0],
                shown(scores["iou"]),
                differences[1],
                shown(known["area"]),
                differences[2],
                f"{statistics.fmean(seconds):.2f}" if seconds else "",
                f"{statistics.fmean(share):.1%}" if share else "",
            ]
        )
    return rows


def overall_table(sweep: Sweep, found: dict) -> str:
    """The same as Markdown."""
    return "## Overall\n\n" + _markdown(COLUMNS, overall(sweep, found))


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (columns, *rows)]
    return "\n".join([lines[0], "|---" * len(columns) + "|", *lines[1:]]) + "\n"


def domain_table(found: dict, key: str, title: str) -> str:
    """One metric by domain, mean ± half width of the interval; "" when no run has it."""
    domains = sorted(
        {d for runs in found.values() for of in by_domain(runs) for d in of if key in of[d]}
    )
    if not domains:
        return ""
    rows = [
        [
            name,
            *(
                shown([of[d][key] for of in by_domain(runs) if key in of.get(d, {})])
                for d in domains
            ),
        ]
        for name, runs in found.items()
    ]
    return f"## {title} by domain\n\n" + _markdown(("run", *domains), rows)


def gains_table(sweep: Sweep, found: dict) -> str:
    """Macro-F1 by domain less that of the baseline, paired by seed, mean ± half width of the
    interval; "" when there is nothing to compare.
    """
    domains = sorted({d for runs in found.values() for of in by_domain(runs) for d in of})
    rows = []
    for name, runs in found.items():
        other = found.get(sweep.baseline_of(name), {})
        seeds = [seed for seed in runs if seed in other]
        if seeds:
            both = [(runs[seed]["domains"], other[seed]["domains"]) for seed in seeds]
            rows.append(
                [
                    name,
                    *(
                        shown([a[d]["macro_f1"] - b[d]["macro_f1"] for a, b in both], signed=True)
                        for d in domains
                    ),
                ]
            )
    return (
        "## Macro-F1 by domain less the baseline's\n\n" + _markdown(("run", *domains), rows)
        if rows
        else ""
    )


def by_domain(runs: dict) -> list[dict[str, dict[str, float]]]:
    return [run["domains"] for run in runs.values()]


def curves(title: str, found: dict) -> str:
    """SVG of the mean learning curves over seeds; "" when there are none."""
    series = []
    for i, (name, runs) in enumerate(found.items()):
        by_step: dict[int, list[float]] = {}
        for run in runs.values():
            for step, score in run["curve"]:
                by_step.setdefault(step, []).append(score)
        steps = sorted(step for step, scores in by_step.items() if len(scores) == len(runs))
        if steps:
            series.append(
                charts.Series(
                    name,
                    steps,
                    [statistics.fmean(by_step[s]) for s in steps],
                    COLOURS[i % len(COLOURS)],
                )
            )
    return (
        charts.line_chart(f"{title}: macro-F1, validation split", series, width=760, height=420)
        if series
        else ""
    )
