"""The terminal of a run, as SVG: what was seen when a part of a stage was done, from metrics.jsonl.

    qoq train --config=configs/quickstart.py --config.workdir=runs/short \\
        --config.sft.steps=200 --config.rl.steps=50 --config.log.every=1
    python benchmarks/terminal_picture.py runs/short docs/images/terminal.svg --memory "host 1.7 GB"

made docs/images/terminal.svg. Memory is not in metrics.jsonl: it is what the run's terminal said.
"""

from __future__ import annotations

import argparse
import io
import json
import pathlib
import re

from rich.console import Console
from rich.terminal_theme import MONOKAI

from qoq_jax.base import terminal
from qoq_jax.train import log, rl, sft
from qoq_jax.train.stage_run import speed

HEADLINES = {"sft": sft.headline, "rl": rl.headline}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("workdir", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--stage", default="rl", choices=HEADLINES)
    parser.add_argument("--share", type=float, default=0.7, help="of the steps that are done")
    parser.add_argument("--memory", default="", help="of the run, in words")
    parser.add_argument("--width", type=int, default=90, help="columns")
    arguments = parser.parse_args()
    config = json.loads((arguments.workdir / "config.json").read_text())
    lines = (arguments.workdir / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["stage"] == arguments.stage]
    steps = config[arguments.stage]["steps"]
    what = "reward" if arguments.stage == "rl" else "loss"
    prefix = f"{what}/domain/"
    now = rows[0]["time"] - rows[0]["seconds/step"]
    console = Console(file=io.StringIO(), record=True, width=arguments.width)
    with terminal.off_screen(lambda: now):
        progress = log.Progress(arguments.stage, steps)
        for row in rows:
            if row["step"] > arguments.share * steps:
                break
            now = row["time"]
            domains = {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}
            said = HEADLINES[arguments.stage](row) | speed(row)
            about = f"{log.rate(row['seconds/step'])}  {arguments.memory}"
            progress.show(row["step"], said, domains, what, about)
        console.print(terminal.picture())
    svg = console.export_svg(title="qoq train", theme=MONOKAI)
    # Fonts of another site would be asked for by whoever looks at it.
    arguments.out.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL))


if __name__ == "__main__":
    main()
