"""Which advantage keeps rare domains from falling onto one label? A model without a network.

    python benchmarks/bandits.py                     one minute on one core

Ten domains of climb-mini's sizes, drawn by size^power, have five findings each, and each finding
has its own right label. The policy is a softmax over a domain's labels whose logits are a bias of
the domain plus a weight of the finding: the bias is shared by all findings, as a decoder's habit
is, so it moves first, and a domain can fall onto one label. The policy starts at 0.22 for the right
label of five. A step samples six responses to each of 24 questions; reward 1 if right, else 0.2, as
a well-formed wrong response has. Adam, KL to the start in the loss, one update per step, ten seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats

from qoq_jax.rl import losses
from qoq_jax.rl.algorithms import ALGORITHMS
from qoq_jax.rl.batches import GroupBatch
from qoq_jax.rl.config import RlConfig

DOMAINS, FINDINGS, LABELS, QUESTIONS, ROLLOUTS = 10, 5, 5, 24, 6
SHARES = np.array([0.52, 0.09, 0.08, 0.065, 0.06, 0.055, 0.055, 0.037, 0.03, 0.008])
START, WRONG = 0.22, 0.2  # probability of the right label; reward of a wrong response

PLAIN = RlConfig()
RUNS = {
    "grpo": dataclasses.replace(PLAIN, algorithm="grpo"),
    "grpo, entropy bonus 0.01": dataclasses.replace(
        PLAIN, algorithm="grpo", entropy_coefficient=0.01
    ),
    "f_grpo": dataclasses.replace(PLAIN, algorithm="f_grpo"),
    "disco": dataclasses.replace(PLAIN, algorithm="disco"),
    "dr_grpo": dataclasses.replace(PLAIN, algorithm="dr_grpo"),
    "drpo, paper": PLAIN,
    "drpo, no damping": dataclasses.replace(
        PLAIN, drpo=dataclasses.replace(PLAIN.drpo, damping=False)
    ),
    "drpo, bounded": dataclasses.replace(
        PLAIN, drpo=dataclasses.replace(PLAIN.drpo, variant="bounded")
    ),
    "drpo, bounded, no clusters": dataclasses.replace(
        PLAIN, drpo=dataclasses.replace(PLAIN.drpo, variant="bounded", cluster=False)
    ),
}


def log_policy(params: dict[str, jax.Array]) -> jax.Array:
    """log π [domain, finding, label]."""
    return jax.nn.log_softmax(params["bias"][:, None] + params["weight"], axis=-1)


def start() -> dict[str, jax.Array]:
    """Logits with probability START for the right label, the others alike."""
    right = np.log(START / ((1 - START) / (LABELS - 1)))
    weight = np.broadcast_to(right * np.eye(FINDINGS, LABELS), (DOMAINS, FINDINGS, LABELS))
    return {"bias": jnp.zeros((DOMAINS, LABELS)), "weight": jnp.asarray(weight, jnp.float32)}


@functools.partial(jax.jit, static_argnames=("rl", "steps", "power"))
def train(key: jax.Array, rl: RlConfig, steps: int, power: float, lr: float, beta: float) -> Any:
    """Log-policy [domain, finding, label] after `steps` updates."""
    algorithm = ALGORITHMS[rl.algorithm]
    optimizer, reference = optax.adam(lr, b2=0.98), log_policy(start())
    shares = jnp.log(jnp.asarray(SHARES)) * power

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        params, state = carry
        keys = jax.random.split(key, 3)
        domains = jax.random.categorical(keys[0], shares, shape=(QUESTIONS,))
        findings = jax.random.randint(keys[1], (QUESTIONS,), 0, FINDINGS)
        before = log_policy(params)[domains, findings]  # [Q, labels]
        labels = jax.random.categorical(keys[2], before[:, None], shape=(QUESTIONS, ROLLOUTS))
        rewards = jnp.where(labels == findings[:, None], 1.0, WRONG)
        taken = jnp.take_along_axis(before, labels, axis=1)
        fixed = jnp.take_along_axis(reference[domains, findings], labels, axis=1)
        groups = GroupBatch(
            rewards=rewards,
            domains=domains,
            valid=jnp.ones(QUESTIONS, bool),
            mask=jnp.ones((QUESTIONS, ROLLOUTS, 1)),
            kl=losses.kl(taken, fixed, "low_var"),
        )
        advantages = algorithm.advantage(groups, rl).advantages

        def loss(params: dict[str, jax.Array]) -> jax.Array:
            now = log_policy(params)[domains, findings]
            new = jnp.take_along_axis(now, labels, axis=1)
            surrogate = -(advantages * jnp.exp(new - jax.lax.stop_gradient(new))).mean()
            entropy = -(jnp.exp(now) * now).sum(axis=-1).mean()
            return (
                surrogate
                + beta * losses.kl(new, fixed, "low_var").mean()
                - rl.entropy_coefficient * entropy
            )

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    first = start(), optimizer.init(start())
    (params, _), _ = jax.lax.scan(step, first, jax.random.split(key, steps))
    return log_policy(params)


def scores(policy: np.ndarray) -> dict[str, np.ndarray]:
    """Of log-policies [seed, domain, finding, label]: greedy accuracy of all domains and of the
    three rarest, expected accuracy, and the share of domains on one label for 4 of 5 findings.
    """
    greedy = policy.argmax(axis=-1)
    right = greedy == np.arange(FINDINGS)
    one = np.stack([(greedy == label).mean(axis=-1) for label in range(LABELS)]).max(axis=0)
    expected = np.exp(np.diagonal(policy, axis1=-2, axis2=-1))
    return {
        "accuracy": right.mean(axis=(1, 2)),
        "three rarest": right[:, -3:].mean(axis=(1, 2)),
        "expected accuracy": expected.mean(axis=(1, 2)),
        "on one label": (one >= 0.8).mean(axis=1),
    }


def interval(values: np.ndarray) -> str:
    """Mean and half width of the 95 % interval (Student's t)."""
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():+.3f} ± {half:.3f}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--power", type=float, default=0.5, help="domains drawn by share^power")
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--beta", type=float, default=0.03, help="KL coefficient")
    args = parser.parse_args()
    keys = jax.random.split(jax.random.key(0), args.seeds)
    rows, baseline = [], None
    for name, rl in RUNS.items():
        one_seed = functools.partial(
            train, rl=rl, steps=args.steps, power=args.power, lr=args.lr, beta=args.beta
        )
        found = jax.vmap(one_seed)(keys)
        result = scores(np.asarray(found))
        baseline = baseline or result
        gain = "" if result is baseline else interval(result["accuracy"] - baseline["accuracy"])
        rows.append([name, *(interval(values).lstrip("+") for values in result.values()), gain])
    heads = ["algorithm", *result, "accuracy less grpo (paired)"]
    for row in [heads, ["---"] * len(heads), *rows]:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
