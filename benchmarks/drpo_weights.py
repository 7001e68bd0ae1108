"""The weight that each algorithm gives to domains and questions, on the same responses of a trained
run.

    python benchmarks/drpo_weights.py runs/evidence/grpo/seed0 [--batches 8]

Needs no extra.

Makes the batches that the run began with, samples responses with the weights that it reached, and
computes the advantages of GRPO and of DRPO's variants from the same rewards and the same KL to the
run's start. By domain: share of the sum of |A|, and in brackets the sum of A over the sum of |A|
(0: good and bad responses balance). Effective questions: (sum w)^2 / (sum w^2) of a batch, with w
the norm of a question's advantages; with one question that outweighs all others it is 1.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import tempfile

import jax
import numpy as np

from qoq_jax.rl import advantages, drpo, losses
from qoq_jax.sampling.rollout import make_scorer
from qoq_jax.train import run as run_lib
from qoq_jax.train.log import Clock
from qoq_jax.train.plan import plan
from qoq_jax.train.rl import GroupSampler
from qoq_jax.train.stage_run import StageRun
from qoq_jax.train.weights import start_weights

VARIANTS = {
    "drpo": {},
    "drpo-symmetric": {"damping_symmetric": True},
    "drpo-no-kl": {"damping": False},
    "drpo-domain-no-kl": {"damping": False, "cluster": False},
}


def batches(workdir: str, count: int):
    """(setup, [(rewards [Q, G], KL [Q, G], domains [Q]), ...]) of `count` batches sampled by a
    run.
    """
    setup, reached, name = run_lib.restore_run(workdir)
    found = []
    with jax.set_mesh(setup.mesh), tempfile.TemporaryDirectory() as scratch:
        reference = start_weights(setup)
        one = plan(setup.config, name)
        # A workdir of its own: a stage continues from the checkpoints that it finds.
        fresh = dataclasses.replace(
            setup, config=dataclasses.replace(setup.config, workdir=scratch)
        )
        stage = StageRun(fresh, one, reached, keep=True)
        stage.feed(setup.training_iterator(one.name, answers=False, domains=one.domains))
        sampler = GroupSampler(stage)
        scorer = make_scorer(setup.model, one.rl.temperature)
        for step in range(count):
            host, prompts, responses = sampler.draw(reached, stage.key(step), Clock())
            ref_logprobs = scorer(reference, prompts, responses.tokens, responses.mask)
            kl = losses.kl(responses.logprobs, ref_logprobs, "low_var") * responses.mask
            domains, valid = host.domains(setup.domains), host.valid()
            rewards = host.by_row(host.terms["total"])
            found.append(tuple(np.asarray(x)[valid] for x in (rewards, kl.sum(axis=-1), domains)))
        sampler.close()
    return setup, found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir")
    parser.add_argument("--batches", type=int, default=8)
    args = parser.parse_args()
    setup, found = batches(args.workdir, args.batches)
    base = setup.config.rl.drpo
    methods = {"grpo": lambda rewards, kl, domains: advantages.grpo(rewards)}
    for name, changes in VARIANTS.items():
        cfg = dataclasses.replace(base, **{"damping": True, "cluster": True, **changes})
        methods[name] = lambda rewards, kl, domains, cfg=cfg: drpo.advantages(
            rewards, domains, kl, cfg=cfg
        )[0]
    total, net = collections.defaultdict(float), collections.defaultdict(float)
    effective, largest = collections.defaultdict(list), collections.defaultdict(list)
    for rewards, kl, domains in found:
        for name, method in methods.items():
            a = np.asarray(method(rewards, kl, domains), np.float64)
            weights = np.sqrt((a**2).sum(axis=1))
            effective[name].append(weights.sum() ** 2 / (weights**2).sum())
            largest[name].append(weights.max() / weights.sum())
            for place, domain in enumerate(setup.domains):
                total[name, domain] += abs(a[domains == place]).sum() / abs(a).sum() / len(found)
                net[name, domain] += a[domains == place].sum() / abs(a).sum() / len(found)
    counts = np.mean(
        [np.bincount(domains, minlength=len(setup.domains)) for *_, domains in found], axis=0
    )
    signal = np.mean(
        [np.bincount(d[r.max(1) > r.min(1)], minlength=len(setup.domains)) for r, _, d in found],
        axis=0,
    )
    print(f"mean KL per response {np.mean([kl.mean() for _, kl, _ in found]):.3f}\n")
    print(
        "| domain | questions | with unequal rewards | "
        + " | ".join(methods)
        + " |\n"
        + "|---" * (3 + len(methods))
        + "|"
    )
    for place, domain in enumerate(setup.domains):
        if counts[place]:
            cells = [
                f"{total[m, domain]:.0%} ({net[m, domain] / max(total[m, domain], 1e-9):+.2f})"
                for m in methods
            ]
            print(
                f"| {domain} | {counts[place]:.1f} | {signal[place]:.1f} | "
                + " | ".join(cells)
                + " |"
            )
    print(
        "| effective questions | | | "
        + " | ".join(f"{np.mean(effective[m]):.1f}" for m in methods)
        + " |"
    )
    print(
        "| share of the largest question | | | "
        + " | ".join(f"{np.mean(largest[m]):.0%}" for m in methods)
        + " |"
    )
    sums = [sum(net[m, d] for d in setup.domains) for m in methods]
    print("| sum of A over sum of abs(A) | | | " + " | ".join(f"{s:+.2f}" for s in sums) + " |")


if __name__ == "__main__":
    main()
