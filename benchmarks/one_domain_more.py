"""Whether DRPO's advantages keep their bits when a domain is added that no question is of, as when
a run of ten domains goes on with eleven.

    python benchmarks/one_domain_more.py     # two minutes of one core, most of it compilation

Made-up rewards of 2 to 10 levels, domains as unbalanced as CLIMB's, six batches per case, with the
history carried from batch to batch.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from qoq_jax.rl import drpo, drpo_bounded

# variant: (history, rollouts, questions) of each case; the sizes of tiles in k-means differ between
# ten and eleven domains for 340 and 172 questions
CASES = {
    "paper": ((0, 8, 24), (256, 4, 16), (32, 8, 512), (0, 8, 340)),
    "released": ((0, 8, 24), (256, 4, 16), (32, 8, 512), (0, 8, 172)),
    "bounded": ((0, 8, 24), (256, 4, 16), (32, 8, 512), (0, 8, 340)),
}
DOMAINS, BATCHES = 10, 6


def case(variant: str, history: int, rollouts: int, questions: int) -> tuple[int, float]:
    """(batches whose advantages differ, largest difference as a share of the largest advantage)."""
    rng = np.random.default_rng(0)
    share = 0.6 ** np.arange(DOMAINS)
    compute = drpo_bounded.advantages if variant == "bounded" else drpo.advantages
    few = drpo.DRPOConfig(num_domains=DOMAINS, variant=variant, history_size=history)
    more = dataclasses.replace(few, num_domains=DOMAINS + 1)
    kept: dict[drpo.DRPOConfig, Any] = {few: None, more: None}
    differ, largest = 0, 0.0
    for batch in range(BATCHES):
        levels = rng.integers(2, 11)
        rewards = (rng.integers(0, levels, (questions, rollouts)) / (levels - 1)).astype(np.float32)
        domains = rng.choice(DOMAINS, questions, p=share / share.sum()).astype(np.int32)
        kl = rng.random((questions, rollouts), np.float32) * np.float32(0.1)
        if batch == 1 and history:  # as a restored checkpoint
            kept[more] = drpo.extend_history(kept[few], DOMAINS + 1)
        found = {}
        for cfg in kept:
            found[cfg], kept[cfg], _ = compute(rewards, domains, kl, kept[cfg], cfg=cfg)
        a, b = (np.asarray(found[cfg]) for cfg in (few, more))
        differ += a.tobytes() != b.tobytes()
        largest = max(largest, float(np.abs(a - b).max() / np.abs(a).max()))
    return differ, largest


def main() -> None:
    """Prints a line per case."""
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}")
    for variant, sizes in CASES.items():
        for history, rollouts, questions in sizes:
            differ, largest = case(variant, history, rollouts, questions)
            print(
                f"{variant:9}{questions:4} questions x {rollouts}, history {history:3}: "
                f"{differ} of {BATCHES} batches differ, by {largest:.1e} at most"
            )


if __name__ == "__main__":
    main()
