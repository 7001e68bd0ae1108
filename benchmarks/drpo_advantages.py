"""Time of DRPO's advantages and of rewards, and what refitting all past questions with scikit-learn
would take instead.

    python benchmarks/drpo_advantages.py                       # some minutes
    python benchmarks/drpo_advantages.py --step-seconds 4.1    # also the share of a training step
                                                               of so many seconds

Needs pip install -e '.[benchmarks]': scikit-learn, for the comparison.

512 questions x 8 rollouts x 9 domains, k_max 10, on the CPU; medians of 30 calls. "refit" is what
the released code does at every step: for each domain, k-means with k = 1 .. 11 on the vectors of
all past questions, as scikit-learn does it by default (10 starts for the random seeding, one for
k-means++; here n_init="auto", the cheaper one).
"""

from __future__ import annotations

import argparse
import json
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.data.meta import SampleMeta
from qoq_jax.rewards import score as rewards
from qoq_jax.rl import drpo

QUESTIONS, ROLLOUTS, DOMAINS, K_MAX = 512, 8, 9, 10
PAST = (1_000, 10_000, 100_000)


def batch(questions: int, seed: int = 0):
    """Rewards as rollouts have them (some levels, some noise), domain ids as unbalanced as CLIMB,
    KL.
    """
    rng = np.random.default_rng(seed)
    difficulty = rng.choice([0.15, 0.4, 0.6, 0.9], (questions, 1))
    correct = rng.random((questions, ROLLOUTS)) < difficulty
    rewards_ = (0.6 * correct + 0.2 * rng.random((questions, ROLLOUTS)) + 0.2).astype(np.float32)
    share = 0.6 ** np.arange(DOMAINS)
    domains = rng.choice(DOMAINS, questions, p=share / share.sum()).astype(np.int32)
    return rewards_, domains, rng.exponential(0.1, rewards_.shape).astype(np.float32)


def median_seconds(function, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def advantages_seconds(history_size: int, past: int) -> float:
    """One call after `past` questions have gone by; history_size = 0 keeps nothing of them."""
    cfg = drpo.DRPOConfig(num_domains=DOMAINS, k_max=K_MAX, history_size=history_size)
    arrays = [jnp.asarray(x) for x in batch(QUESTIONS)]
    history = drpo.init_history(cfg, ROLLOUTS) if history_size else None

    def call(past_questions):
        return drpo.advantages(*arrays, past_questions, cfg=cfg)

    for seed in range(min(past // QUESTIONS, 20) if history_size else 0):
        history = drpo.advantages(*map(jnp.asarray, batch(QUESTIONS, seed)), history, cfg=cfg)[1]
    jax.block_until_ready(call(history))
    return median_seconds(lambda: jax.block_until_ready(call(history)), 30)


def refit_seconds(past: int) -> float:
    """scikit-learn's k-means with k = 1 ..

    k_max + 1 in each domain over all past questions, once.
    """
    from sklearn.cluster import KMeans

    vectors, domains, _ = batch(past)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct vectors than clusters
        for domain in range(DOMAINS):
            mine = vectors[domains == domain]
            for k in range(1, min(K_MAX + 1, len(mine)) + 1):
                KMeans(k, random_state=0, n_init="auto").fit(mine)
    return time.perf_counter() - began


def reward_seconds(responses: int = 4096) -> float:
    """One process scores responses of 200 words with a box against a mask of 448 x 448 pixels."""

    mask = np.zeros((448, 448), bool)
    mask[60:400, 50:300] = True
    meta = SampleMeta(
        id="x",
        dataset="chest",
        domain="chest_xray",
        labels=("Pneumonia",),
        vocabulary=("Pneumonia", "Edema"),
        boxes=(),
        box_labels=(),
        box_images=(),
        mask=mask,
        frame_sizes=((448, 448),),
        source="benchmark",
        row=None,
    )
    texts = [
        f'```json\n[{{"bbox_2d": [40, 50, {200 + i % 90}, 390], "label": '
        f'"Pneumonia"}}]\n```\n<think>{"word " * 200}</think>\n'
        "\\boxed{Pneumonia}"
        for i in range(responses)
    ]
    return median_seconds(lambda: rewards.score_batch(texts, [meta] * responses), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step-seconds", type=float, help="of a training step, to print the share")
    parser.add_argument(
        "--no-refit", action="store_true", help="leave the comparison with scikit-learn out"
    )
    arguments = parser.parse_args()
    print(
        f"{jax.devices()[0].device_kind}, {QUESTIONS} questions x {ROLLOUTS} rollouts x "
        f"{DOMAINS} domains"
    )
    plain = advantages_seconds(0, 0)
    share = (
        f", {100 * plain / arguments.step_seconds:.3f} % of a step"
        if arguments.step_seconds
        else ""
    )
    print(f"advantages, statistics of the batch: {1e3 * plain:.1f} ms{share}")
    result = {"advantages_ms": 1e3 * plain, "past": {}}
    # The refits last: scikit-learn's threads would disturb what is timed after them.
    bounded = {past: advantages_seconds(256, past) for past in PAST}
    for past in PAST:
        row = {"history_256_ms": 1e3 * bounded[past]}
        line = f"{past:7d} past questions: ring of 256 per domain {1e3 * bounded[past]:.1f} ms"
        if not arguments.no_refit:
            refit = refit_seconds(past)
            row |= {
                "refit_ms": 1e3 * refit,
                "ratio": refit / plain,
                "ratio_history": refit / bounded[past],
            }
            line += (
                f", refit {1e3 * refit:.0f} ms = {refit / plain:.0f} x the batch, "
                f"{refit / bounded[past]:.1f} x the ring"
            )
        print(line, flush=True)
        result["past"][past] = row
    result["reward_4096_s"] = reward_seconds()
    print(f"reward of 4096 responses, one process: {result['reward_4096_s']:.2f} s")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
