"""Where the time of a run went: goodput over all restarts, and the phases of a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qoq_jax.report.gallery import escape
from qoq_jax.report.run import Run

# Rows of the table: keys of metrics.jsonl "seconds/KEY", heading. Of the phases that a run has.
PHASES = {
    "data": "input wait",
    "reshard": "weights to the rollout's mesh",
    "rollout": "rollout",
    "greedy": "greedy rollout",
    "reward": "reward",
    "score": "log-probabilities",
    "advantages": "advantages",
    "update": "update",
    "validation": "validation",
    "save": "save",
    "step": "whole step",
}
STAGES = ("sft", "align", "rl", "ecg")


def goodput(run: Run) -> str:
    """The parts of all seconds as bars; docs/reliability.md says what they are."""
    seconds = {name: value for name, value in run.goodput.get("seconds", {}).items() if value > 0}
    total = sum(seconds.values())
    if not total:
        return ""
    rows = "".join(_row(name, value, total) for name, value in seconds.items())
    starts, lost = run.goodput.get("starts", 1), run.goodput.get("lost_steps", 0)
    note = f"{starts} start(s), {lost} steps done again after a restart"
    share = seconds.get("useful", 0.0) / total
    return (
        f"<h3>Goodput {share:.0%}</h3><table>{rows}</table>"
        f'<p class="note">Share of all seconds that went into steps which were kept; {note}.</p>'
    )


def steps(run: Run) -> str:
    """Mean seconds of each phase of a step, by stage; the first row of a stage is left out, which
    compiles.
    """
    found = {
        stage: means
        for stage in STAGES
        if (means := _means([row for row in run.curves if row.get("stage") == stage]))
    }
    if not found:
        return ""
    out = ""
    for stage, means in found.items():
        whole = means.get("step", 0.0) or sum(means.values())
        rows = "".join(
            _row(PHASES[key], means[key], whole) for key in PHASES if means.get(key, 0.0) > 0
        )
        out += f"<div><h3>One step of {escape(stage, 20)}, mean</h3><table>{rows}</table></div>"
    return out


def _means(rows: Sequence[dict]) -> dict[str, float]:
    """Means over the rows after the first one; phases that are not known here are left out."""
    rows = rows[1:] or rows
    return {
        key: float(np.mean(values))
        for key in PHASES
        if (
            values := [
                value
                for row in rows
                if isinstance(value := row.get(f"seconds/{key}"), (int, float))
                and np.isfinite(value)
            ]
        )
    }


def _row(name: str, value: float, total: float) -> str:
    share = min(value / max(total, 1e-9), 1.0)
    bar = f'<div style="background:var(--after);height:9px;width:{100 * share:.1f}px"></div>'
    text = f"{value:,.1f} s" if value >= 10 else f"{value:.3f} s"
    return f'<tr><td>{escape(name, 40)}</td><td class="n">{text}</td><td>{bar}</td></tr>'
