"""Single flipped bits in the files of a checkpoint: each is noticed, the step before restored.

    python benchmarks/bit_flips.py /tmp/flips --flips 200

Half of the bits are taken from all bytes alike, which is from the arrays, the others from a file
that is taken from all files alike, which is from the small ones. docs/reliability.md has the
result.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import pathlib
import random
import sys
from collections import Counter

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import numpy as np

from qoq_jax.base.errors import CheckpointError
from qoq_jax.models import sizes
from qoq_jax.train.checkpoint import Checkpointer
from qoq_jax.train.sections import CheckpointConfig

KEEP = CheckpointConfig(keep_best=1)  # with the file of the validation's score
SHAPES = {"weights": (300, 400), "moments": (300, 400), "history": (64,)}


def state(step: int) -> dict[str, jax.Array]:
    """Random numbers: nothing of them can be guessed from the rest."""
    rng = np.random.default_rng(step)
    return {name: jax.numpy.asarray(rng.normal(size=s), "float32") for name, s in SHAPES.items()}


def flips(folder: pathlib.Path, count: int, seed: int = 0) -> Counter[str]:
    """{"detected": step 2 was restored, "missed": step 4 as it was, "wrong": all else}."""
    rng, found = random.Random(seed), Counter()
    checkpoints = Checkpointer(str(folder), sizes.get("nano"), KEEP)
    for step in (2, 4):
        checkpoints.save(step, state(step), {"at": step}, score=step / 7)
    checkpoints.close()
    files = sorted(
        path for path in (folder / "4").rglob("*") if path.stat().st_size and path.is_file()
    )
    sizes_of = [path.stat().st_size for path in files]
    for number in range(count):
        path = rng.choices(files, sizes_of if number % 2 == 0 else None)[0]
        before = path.read_bytes()
        changed, at = bytearray(before), rng.randrange(len(before))
        changed[at] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        found[_outcome(folder)] += 1
        path.write_bytes(before)
    return found


def _outcome(folder: pathlib.Path) -> str:
    checkpoints = Checkpointer(str(folder), sizes.get("nano"), KEEP)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            restored, data, step = checkpoints.restore(state(0))
    except CheckpointError:
        return "wrong"
    finally:
        checkpoints.close()
    same = all(np.array_equal(restored[name], x) for name, x in state(step).items())
    if not same or data != {"at": step}:
        return "wrong"
    return "detected" if step == 2 else "missed"


def main() -> int:
    """Prints the counts; 1 when a flip was not detected."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=pathlib.Path, help="a new folder")
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    found = flips(arguments.folder, arguments.flips, arguments.seed)
    print(json.dumps(found))
    return 0 if set(found) == {"detected"} else 1


if __name__ == "__main__":
    sys.exit(main())
