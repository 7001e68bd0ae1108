"""25 DRPO steps of the tests' tiny model on four CPU devices, as 1, 2 and 4 processes, and once
with the number of processes changed twice on the way: the same bits?

    python benchmarks/many_hosts.py        # the table of docs/pods.md; some 15 minutes on two cores

A step has eight questions from climb-mini (images and ECGs), three responses each of at most six
tokens; the mesh is data=2, fsdp=2.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))

from helpers import processes

DEVICES = 4
RUNS = {
    "1 process": [(1, None)],
    "2 processes": [(2, None)],
    "4 processes": [(4, None)],
    "2, then 4 from step 8, then 1 from step 17": [(2, 8), (4, 17), (1, None)],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--limit", type=float, default=1800, help="seconds of a run")
    arguments = parser.parse_args()
    found: dict[str, tuple[str, list[float]]] = {}
    print("| run | loss of the last step | SHA-256 of the weights | losses and weights as of 1 |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="many-hosts-") as root:
        for number, (name, pieces) in enumerate(RUNS.items()):
            folder, began = pathlib.Path(root, str(number)), time.monotonic()
            folder.mkdir()
            for count, until in pieces:
                part = {"stage": "rl", "name": "drpo", "algorithm": "drpo", "until": until}
                command = ["-m", "helpers.many_hosts", str(folder)]
                command.append(json.dumps([part | {"steps": arguments.steps}]))
                processes.run(command, count, DEVICES // count, arguments.limit, f"{root}/compiled")
            result = json.loads((folder / "result.json").read_text())[0]
            losses = [row["loss"] for row in result["rows"]]
            assert len(losses) == arguments.steps
            found[name] = result["weights"], losses
            same = "yes" if found[name] == found["1 process"] else "NO"
            print(f"| {name} | {losses[-1]!r} | {result['weights'][:16]} | {same} |", flush=True)
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return 0 if len({(w, tuple(losses)) for w, losses in found.values()}) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
