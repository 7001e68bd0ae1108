"""What the commands' parsers share: their form, and the examples under every help page."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import TypeAlias

from qoq_jax.base.errors import ConfigError

# What ArgumentParser.add_subparsers returns; argparse has no public name for it.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}

EXAMPLES = """examples:
  qoq train --config=configs/quickstart.py
  qoq train --config=configs/quickstart.py:grpo --config.rl.lr=1e-4 --config.workdir=runs/grpo
  qoq train --config=configs/ecg_jepa.py
  qoq evaluate runs/quickstart --split validation
  qoq evaluate runs/quickstart --tasks climb,vqa-rad --data-root data
  qoq compare runs/grpo runs/quickstart
  qoq generate runs/quickstart --image scan.png --ask "Answer with one of: Normal, Pneumonia."
  qoq data list --domain ecg,ct --licence commercial
  qoq data info ptb-xl
  qoq data build data_cache/climb-mini --rows 6000
  qoq data samples data_cache/real
  qoq data validate data_cache/climb-mini
  qoq data convert ham10000 data/ham10000
  qoq data convert lndb data/lndb --runner DirectRunner
  qoq data shards data/ham10000 shards/ham10000
  qoq data arrays tuab data/tuab
  qoq data import photos --domain dermoscopy --patient-pattern '(p\\d+)_'
  qoq data stats photos --html photos.html
  qoq report runs/quickstart
  qoq report runs/quickstart --grading 50
  qoq grade runs/quickstart/grading-key.json grading-AB.json grading-CD.json
  qoq plan --config=configs/qoq_med_7b.py:v5e-4x4 --topology v5e:4x4
  qoq launch launch/jobs/qoq_med_7b_v5e_4x4.py tpu-vm --dry-run
  qoq sweep configs/evidence.py --only grpo,drpo --seeds 2
  qoq convert runs/quickstart exported
  qoq convert Qwen/Qwen2.5-VL-7B-Instruct qoq-start --ecg multiblock_epoch100.pth --dtype float32
"""


def make() -> argparse.ArgumentParser:
    """The parser of `qoq`, without its commands."""
    return argparse.ArgumentParser(
        "qoq",
        description="Clinical multimodal models in JAX.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def may_be_distributed(parser: argparse.ArgumentParser) -> None:
    """Adds --distributed."""
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="one of several processes that JAX finds by itself (SLURM, Cloud TPU pods, "
        "Kubernetes); elsewhere set QOQ_COORDINATOR, QOQ_PROCESS_COUNT and QOQ_PROCESS_INDEX",
    )


def command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], summary: str
) -> argparse.ArgumentParser:
    """Adds a command; `run` gets the parsed arguments and returns the exit code."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def shard_bytes(text: str) -> int:
    """ "5GB" -> bytes."""
    found = re.fullmatch(r"(\d+)\s*([KMG]?B)?", text.strip().upper())
    if not found or not int(found[1]):
        raise ConfigError(f"--shard-size {text}", hint="write it like 5GB or 500MB")
    return int(found[1]) * _UNITS[found[2] or ""]
