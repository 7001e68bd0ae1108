"""`qoq train`: every stage of a config."""

from __future__ import annotations

import argparse

from qoq_jax.cli.parser import Commands, command, may_be_distributed


def add(commands: Commands) -> None:
    """Adds the command to the parser of `qoq`."""
    train = command(
        commands,
        "train",
        run,
        "Prepare the data, train all stages of a config, evaluate them and write the report.",
    )
    train.add_argument(
        "--config",
        required=True,
        help="configs/NAME.py or configs/NAME.py:ARG; override fields with "
        "--config.section.field=value",
    )
    may_be_distributed(train)


def run(arguments: argparse.Namespace) -> int:
    """Trains; see train/run.py, and for the configs of CLIMB's experiments transfer/run.py and
    transfer/fusion.py.
    """
    from qoq_jax.train import config
    from qoq_jax.train import run as training
    from qoq_jax.transfer import config as transfer_config
    from qoq_jax.transfer import fusion, fusion_config
    from qoq_jax.transfer import run as transfer

    raw = config.override(config.load(arguments.config), arguments.overrides)
    kind = config.kind_of(arguments.config)
    if kind == transfer_config.KIND:
        return transfer.run(transfer_config.parse(raw))
    if kind == fusion_config.KIND:
        return fusion.run(fusion_config.parse(raw))
    return training.run(config.parse(raw))
