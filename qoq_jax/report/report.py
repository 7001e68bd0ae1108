"""The report of a run: one self-contained HTML file, made from the files in the run's working
directory.

  metrics.jsonl        one object per line: "step", "stage" ("sft" or "rl"), and numbers: "loss",
                       "reward/total", "reward/accuracy", "reward/iou", "reward/format",
                       "reward/domain/<domain>", "kl", "entropy", "tokens_per_second",
                       "seconds/<phase>" and more (sections.py); "domain/<domain>/entropy",
                       ... and "labels", counts per domain (by_domain.py)
  eval/sft.json        {"records": [...]} of the evaluation before RL; records are those of
                       metrics.py
  eval/rl.json         the same after RL (where there is none, eval/align.json); both may have
                       "temperature" (calibration.py) and "fairness" (subgroups.py)
  eval/*-validation.json, eval/align.json, eval/tasks/results.json   see evaluations.py
  gallery/STAGE/case_*.json  cases, see gallery.py; those of the last stage are shown
  config.json          the run's config
  goodput.json         "seconds": {part: s}, "starts", "lost_steps", see train/goodput.py
  run.json             "title", "name", "started", "model", "algorithm", "parameters", "command",
                       "notes": [text], "versions": {}, "hardware": text or {}, "seconds": {phase:
                       s}, "skipped": [{"where", "reason"} or text]

Any file and any key may be missing. The page has no script, asks for nothing from the network, and
all of its text is escaped.
"""

from __future__ import annotations

import datetime
import os
import pathlib

from qoq_jax.base import files, storage
from qoq_jax.evaluation import metrics
from qoq_jax.report import by_domain, calibration, evaluations, sections, style, subgroups
from qoq_jax.report import real as real_samples
from qoq_jax.report.charts import number, range_plot
from qoq_jax.report.gallery import escape
from qoq_jax.report.run import Run

MAX_BYTES = 8_000_000


def write_report(
    workdir: str | os.PathLike,
    out_html: str | os.PathLike | None = None,
    viewer: str = "",
) -> pathlib.Path | str:
    """Writes workdir/report.html (or out_html) and returns its path; what has no file is left out.

    Args:
      viewer: address of the case viewer that the page links to; "" where there is none.

    Raises:
      DataError: there is nothing to report on, or one of the files is damaged.
    """
    with storage.local_folder(workdir, leave_out=("checkpoints", "compile_cache")) as folder:
        page = render(Run.read(pathlib.Path(folder)), viewer)
    out = os.path.join(workdir, "report.html") if out_html is None else out_html
    files.write_text(out, page)
    return out if storage.is_url(out) else pathlib.Path(out)


def render(run: Run, viewer: str = "") -> str:
    """The whole page; `viewer`: as for `write_report`."""
    parts = {
        "results": ("Results by domain", sections.domains(run)),
        "curves": ("How training went", sections.curves(run)),
        "training": ("By domain over training", by_domain.over_training(run)),
        "iou": ("Where it looked", sections.localisation(run)),
        "confusion": ("What it mixes up", sections.confusion(run)),
        "calibration": ("How sure it is", calibration.calibration(run)),
        "selective": ("If it may keep silent", calibration.selective(run)),
        "fairness": ("Fairness by group", subgroups.fairness_by_group(run)),
        "real": ("Real samples", real_samples.real(run)),
        "others": ("Other data sets", sections.others(run)),
        "tasks": ("Published tasks", evaluations.tasks(run)),
        "evaluations": ("Every evaluation", evaluations.every(run)),
        "cases": ("Cases", ""),
        "skipped": ("Skipped samples", sections.skipped(run)),
        "facts": ("Run facts", sections.facts(run)),
    }
    headline, link = _headline(run), ""
    if viewer:
        link = f'<a class="page" href="{escape(viewer)}">Case viewer</a>'
        headline += f'<p class="note"><a href="{escape(viewer)}">Test rows, to look through</a>'
        headline += ": responses, boxes and media, to filter and to search.</p>"
    if run.cases:  # last, with the bytes that the rest leaves
        used = len(
            "".join([style.CSS, headline, *(content for _, content in parts.values())]).encode()
        )
        parts["cases"] = ("Cases", sections.cases(run, MAX_BYTES - used - 20_000))
    parts = {key: part for key, part in parts.items() if part[1]}
    nav = "".join(f'<a href="#{key}">{name}</a>' for key, (name, _) in parts.items())
    nav = link + nav
    made = datetime.datetime.now(datetime.UTC).strftime("%d %B %Y, %H:%M UTC")
    filled = (
        f'<section id="{key}"><h2>{name}</h2>{text}</section>'
        for key, (name, text) in parts.items()
    )
    body = (
        f"<header>{headline}</header><nav>{nav}</nav><main>{''.join(filled)}</main>"
        f"<footer>Made by qoq_jax on {made}. For research; not for diagnosis.</footer>"
    )
    return style.PAGE.format(title=escape(_title(run), 120), css=style.CSS, body=body)


# ----------------------------------------------------------------------------------------- headline


def _title(run: Run) -> str:
    return (
        run.facts.get("title")
        or f"{str(run.facts.get('algorithm', 'qoq')).upper()} training report"
    )


def _headline(run: Run) -> str:
    """What was trained, and macro-F1 before and after with intervals; then four more metrics."""
    before, after = run.groups["before"], run.groups["after"]
    model, algorithm, parameters = (
        run.facts.get(key) for key in ("model", "algorithm", "parameters")
    )
    trained = f"A {escape(model, 40)} model" if model else "A model"
    if sections.is_number(parameters):
        trained += f" of {number(parameters / 1e6)} M parameters"
    if algorithm and after:
        trained += f", {escape(str(algorithm).upper(), 40)} from a supervised warm start"
    out = (
        f'<div class="kicker">{escape(_kicker(run), 160)}</div><h1>{escape(_title(run), 160)}</h1>'
    )
    group = after or before
    if group is None:
        return out + f'<p class="lead">{trained}. Not evaluated yet.</p>'
    where = (
        f"{group['count']:,} held-out {escape(run.main_source, 40)} rows of "
        f"{len(group['domains'])} domains"
    )
    out += f'<p class="lead">{trained}, tested on {where}.</p>'
    values = [f'<span class="from">{before["overall"]["macro_f1"]:.2f}</span>'] if before else []
    values += [f'<span class="to">{after["overall"]["macro_f1"]:.2f}</span>'] if after else []
    words = "macro-F1, the mean over domains"
    gain = metrics.paired_gain(
        *(run.of_source(side, run.main_source) for side in ("before", "after"))
    )
    if gain:
        low, high = gain["interval"]
        words += (
            f"; gain {gain['gain']:+.2f}, 95 % interval {low:+.2f} to {high:+.2f} on the same rows"
        )
    dots = [
        g and (g["overall"]["macro_f1"], g["overall"].get("macro_f1_interval"))
        for g in (before, after)
    ]
    stats = {
        "exact_match": "answers exactly right",
        "balanced_accuracy": "balanced accuracy (mean recall)",
        "iou": "mean IoU with the gold region",
        "format": "format reward",
    }
    cells = (
        f"<b>{_change(before, after, name)}</b><span>{label}</span>"
        for name, label in stats.items()
    )
    return (
        f'{out}<div class="hero"><div><div '
        f'class="big">{"<span class=arrow>→</span>".join(values)}</div>'
        f'<p class="note">{words}.</p></div><figure>{range_plot(*dots)}<figcaption>Dots: macro-F1. '
        'Bars: 95 % bootstrap intervals over rows.</figcaption></figure></div><div class="stats">'
        + "".join(f'<div class="stat">{cell}</div>' for cell in cells)
        + "</div>"
    )


def _kicker(run: Run) -> str:
    started = str(run.facts.get("started", ""))[:10]
    return " · ".join(p for p in ("qoq_jax", str(run.facts.get("name", "")), started) if p)


def _change(before: dict | None, after: dict | None, name: str) -> str:
    """“0.31 → 0.52”, or the one that there is."""
    then, now = (g["overall"].get(name) if g else None for g in (before, after))
    if then is None or now is None:
        value = then if now is None else now
        return "–" if value is None else f"{value:.2f}"
    return f"<i>{then:.2f} →</i> {now:.2f}"


# ------------------------------------------------------------------------------------------- inputs
