"""Do the tests of the RL arithmetic notice a defect? Breaks one line at a time in a copy of the
sources and runs the tests on it.

    python benchmarks/mutations.py [NAME ...]   # all: some 10 minutes on one core; exit code 1 when
                                                a defect goes unnoticed
    python benchmarks/mutations.py --check      # only that each line and test is still there

Needs pip install -e '.[dev]': pytest, hypothesis.

Each mutation is one plausible mistake: a sort that is forgotten, a floor that is missing, a limit
that is not checked.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
DRPO, KMEANS, ANSWERS, REWARDS = (
    "rl/drpo.py",
    "rl/kmeans.py",
    "data/answer_format.py",
    "rewards/score.py",
)
LOSSES, ADVANTAGES = "rl/losses.py", "rl/advantages.py"

# name: (file, the line as it is, the line with the mistake, tests that must fail)
MUTATIONS = {
    "reward vectors unsorted": (
        DRPO,
        'rewards if cfg.variant == "released" else jnp.sort(rewards, axis=1)',
        "rewards",
        "rl/test_drpo.py",
    ),
    "no floor of the domain temperature": (
        DRPO,
        "jnp.maximum(jnp.sqrt(domain_count) * domain_mean, cfg.eps)",
        "jnp.sqrt(domain_count) * domain_mean",
        "rl/test_drpo.py",
    ),
    "no floor of the cluster temperature": (
        DRPO,
        "cluster_temperature = jnp.maximum(cluster_temperature, cfg.eps)",
        "pass",
        "rl/test_drpo.py",
    ),
    "quantile over questions without signal": (
        DRPO,
        "_damping(damped, kl, signal[:, None], cfg.quantile)",
        "_damping(damped, kl, valid[:, None], cfg.quantile)",
        "rl/test_drpo.py",
    ),
    "damping of bad responses": (
        DRPO,
        "jnp.maximum(products, 0.0), 0.0)",
        "jnp.abs(products), 0.0)",
        "rl/test_drpo.py",
    ),
    "no threshold, divided by": (
        DRPO,
        "jnp.where(threshold > 0, threshold / (threshold + excess), 1.0)",
        "threshold / (threshold + excess)",
        "rl/test_drpo.py",
    ),
    "divided by a spread of 0": (
        DRPO,
        "scores / jnp.where(spread > 0, spread, 1.0)",
        "scores / spread",
        "rl/test_drpo.py",
    ),
    "rewards not cut": (
        DRPO,
        "jnp.clip(rewards.astype(jnp.float32), -LARGEST, LARGEST)",
        "rewards.astype(jnp.float32)",
        "rl/test_drpo.py",
    ),
    "padding counted": (
        DRPO,
        "valid &= (domain_ids >= 0) & (domain_ids < cfg.num_domains)",
        "valid |= True",
        "rl/test_drpo.py",
    ),
    "ring written from its start": (
        DRPO,
        '(history.count.at[domains].get(mode="fill", fill_value=0) + order)',
        "order",
        "rl/test_drpo.py",
    ),
    "points clustered as they come": (
        KMEANS,
        "jax.lax.sort(columns, num_keys=len(columns) - 1)",
        "jax.lax.sort(columns, num_keys=1)",
        "rl/test_drpo.py rl/test_kmeans.py",
    ),
    "elbow at another share": (
        KMEANS,
        "ELBOW = 0.1",
        "ELBOW = 0.3",
        "rl/test_drpo.py rl/test_kmeans.py",
    ),
    "one start instead of four": (
        KMEANS,
        "CANDIDATES, STARTS = 32, 4",
        "CANDIDATES, STARTS = 1, 1",
        "rl/test_kmeans.py",
    ),
    "population std": (ADVANTAGES, "ddof=1", "ddof=0", "rl/test_advantages.py rl/test_drpo.py"),
    "long texts are read": (
        ANSWERS,
        "if len(text) > MAX_TEXT:",
        "if False:",
        "data/test_answer_format.py rewards/test_score.py",
    ),
    "deep JSON is read": (
        ANSWERS,
        "if len(block) > MAX_JSON or not _is_shallow(block):",
        "if False:",
        "data/test_answer_format.py rewards/test_score.py",
    ),
    "first box instead of the last": (
        ANSWERS,
        "text.rfind(BOXED)",
        "text.find(BOXED)",
        "data/test_answer_format.py",
    ),
    "braces not balanced": (
        ANSWERS,
        '(char == "{") - (char == "}")',
        '-(char == "}")',
        "data/test_answer_format.py",
    ),
    "coordinates without limit": (
        ANSWERS,
        "not abs(v) <= MAX_COORDINATE",
        "v != v",
        "data/test_answer_format.py rewards/test_score.py",
    ),
    "weights not renormalised": (
        REWARDS,
        " / sum(weight for weight, _ in present), 1.0\n",
        ", 1.0\n",
        "rewards/test_score.py",
    ),
    "recall instead of F1": (
        REWARDS,
        "(len(predicted) + len(gold))",
        "(2 * len(gold))",
        "rewards/test_score.py",
    ),
    "dual clip of good responses": (
        LOSSES,
        "jnp.where(advantages < 0, jnp.minimum(surrogate, -advantages * dual_clip), surrogate)",
        "jnp.minimum(surrogate, -advantages * dual_clip)",
        "rl/test_losses.py",
    ),
    "one clip range": (
        LOSSES,
        "math.log(1 + clip_high)",
        "math.log(1 + clip_low)",
        "rl/test_losses.py",
    ),
    "KL the wrong way round": (
        LOSSES,
        "jnp.expm1(-d) + d",
        "jnp.expm1(d) - d",
        "rl/test_losses.py",
    ),
    "importance weights without a cap": (
        LOSSES,
        "jnp.minimum(jnp.exp(jnp.minimum(difference, MAX_LOG_RATIO)), cap)",
        "jnp.exp(jnp.minimum(difference, MAX_LOG_RATIO))",
        "rl/test_losses.py",
    ),
}
NO_SHRINKING = """
import hypothesis
phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
hypothesis.settings.register_profile("once", phases=phases, database=None)
hypothesis.settings.load_profile("once")
"""


def stale(name: str) -> list[str]:
    """What of a mutation is not there any more: its file, its line (once), its tests."""
    file, line, _, tests = MUTATIONS[name]
    path = ROOT / "qoq_jax" / file
    count = path.read_text().count(line) if path.is_file() else 0
    faults = [] if count == 1 else [f"{name}: {file} has {line!r} {count} times"]
    return faults + [
        f"{name}: no tests/{test}"
        for test in tests.split()
        if not (ROOT / "tests" / test).is_file()
    ]


def broken(name: str, folder: pathlib.Path) -> subprocess.CompletedProcess:
    """Runs the tests of a mutation on a copy of the sources in `folder`."""
    file, line, mistake, tests = MUTATIONS[name]
    shutil.copytree(
        ROOT / "qoq_jax", folder / "qoq_jax", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    with open(folder / "tests" / "conftest.py", "a", encoding="utf-8") as conftest:
        # one failing case is enough here; finding the smallest takes minutes
        conftest.write(NO_SHRINKING)
    path = folder / "qoq_jax" / file
    path.write_text(path.read_text().replace(line, mistake))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        *(f"tests/{test}" for test in tests.split()),
    ]
    environment = os.environ | {"PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def main(names: list[str]) -> int:
    check = names == ["--check"]
    names = list(MUTATIONS) if check or not names else names
    faults = [fault for name in names for fault in stale(name)]
    if faults or check:
        print("\n".join(faults) or f"{len(names)} mutations are up to date")
        return 1 if faults else 0
    unnoticed = 0
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            done = broken(name, pathlib.Path(folder))
        failed = [
            row.split(" - ")[0].removeprefix("FAILED ")
            for row in done.stdout.splitlines()
            if row.startswith("FAILED")
        ]
        if done.returncode == 1 and failed:
            print(f"noticed    {name}: {failed[0]}", flush=True)
        else:
            unnoticed += 1
            print(
                f"UNNOTICED  {name} (exit code "
                f"{done.returncode})\n{done.stdout[-500:] if done.returncode > 1 else ''}",
                flush=True,
            )
    print(f"{unnoticed} unnoticed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
