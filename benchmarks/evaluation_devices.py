"""A sweep of evaluations of the tests' tiny model on 1 to 8 CPU devices of one and two processes:
the same responses and the same table? And how fast.

    python benchmarks/evaluation_devices.py      # the table of docs/evaluation.md; a few minutes

Two checkpoints, greedy and twice at temperature 1, ten rows, label likelihoods. Devices share the
cores of the machine, so rows per second say what a cut batch costs, not what devices bring.
"""

from __future__ import annotations

import json
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))

from helpers import evaluation_sweep, processes

from qoq_jax.train import setup

SHAPES = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 1), (2, 2), (2, 4))  # (processes, devices of each)


def responses(out: pathlib.Path) -> tuple[list, list[float]]:
    """(all records but for the probabilities of labels, those probabilities)."""
    records, scores = [], []
    for path in sorted(out.glob("cells/*/evaluation.json")):
        for record in json.loads(path.read_text())["records"]:
            scores += record.pop("scores").values()
            records.append((path.parent.name, record))
    return records, scores


def main() -> int:
    setup.model_config = evaluation_sweep.model
    print("| processes x devices | rows/s | responses, table.csv as of 1 x 1 | probabilities |")
    print("|---|---|---|---|")
    equal = True
    with tempfile.TemporaryDirectory(prefix="evaluation-devices-") as root:
        workdir = evaluation_sweep.make_run(pathlib.Path(root), steps=2)
        outs = []
        for count, devices in SHAPES:
            out = pathlib.Path(root, f"{count}x{devices}")
            outs.append(out)
            command = ["-m", "helpers.evaluation_sweep", workdir, str(out)]
            processes.run(command, count, devices, 1800, f"{root}/compiled")
            (first, scores), (found, others) = responses(outs[0]), responses(out)
            same = found == first
            table = (out / "table.csv").read_bytes() == (outs[0] / "table.csv").read_bytes()
            equal &= same and table
            apart = max(abs(a - b) for a, b in zip(scores, others, strict=True))
            speeds = [json.loads(x) for x in (out / "speed.jsonl").read_text().splitlines()]
            # the first cells compile
            rate = max(one["rows_per_second"] for one in speeds)
            words = f"{'equal' if same else 'NOT'}, {'equal' if table else 'NOT'}"
            print(f"| {count} x {devices} | {rate:.2f} | {words} | {apart:.1e} |", flush=True)
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
