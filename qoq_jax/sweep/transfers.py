"""`qoq sweep` of encoders: the runs of transfer_plan.py one after the other, and one table.

    OUT/cells/NAME/          a run (transfer/run.py); finished when it has run.json
    OUT/table.json, .csv, .md   of the runs that are finished (transfer_tables.py)

All runs are made in this process, which reads the data once; on a pod all processes call it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Sequence

from qoq_jax.base import files, lock, storage, terminal
from qoq_jax.base.errors import ConfigError
from qoq_jax.parallel import hosts, messages
from qoq_jax.sweep import transfer_tables
from qoq_jax.sweep.transfer_plan import MULTITASK, Cell, TransferSweep, cells
from qoq_jax.train import config as train_config
from qoq_jax.transfer import config as transfer_config
from qoq_jax.transfer import run as transfer


def is_of_encoders(path: str) -> bool:
    """Whether SWEEP of a config file (FILE or FILE:ARG) is a TransferSweep.

    Raises:
      ConfigError: no such file.
    """
    module = train_config.load_module(path.partition(":")[0])
    return isinstance(getattr(module, "SWEEP", None), TransferSweep)


def load(path: str, overrides: Sequence[str] = (), seeds: int | None = None) -> tuple:
    """(TransferSweep, TransferConfig) of FILE or FILE:ARG.

    Raises:
      ConfigError: either says nothing that can be done, or an override is what the sweep decides.
    """
    for text in overrides:
        if text.startswith(("--config.workdir=", "--config.compile_cache=")):
            raise ConfigError(f"{text} in a sweep, whose runs are in OUT/cells", hint="use --out")
    sweep: TransferSweep = train_config.load_module(path.partition(":")[0]).SWEEP
    sweep = dataclasses.replace(sweep, seeds=sweep.seeds if seeds is None else seeds)
    sweep.check(path)
    raw = train_config.override(train_config.load(path), overrides)
    base = transfer_config.parse(raw)
    if base.target and sweep.experiment == MULTITASK:
        raise ConfigError(
            f"target = {base.target!r} in a sweep that leaves no set out",
            where=path,
            hint="configs/climb_few_shot.py transfers to a target",
        )
    return sweep, base


def run(sweep: TransferSweep, base: transfer_config.TransferConfig, out: str) -> int:
    """Does what is not finished and writes the table after each run; returns the exit code.

    Raises:
      ConfigError: a finished run in OUT was made with another config.
    """
    found = transfer.find_sets(base)
    wanted = cells(sweep, base, found, out)
    with contextlib.ExitStack() as held:

        def claim() -> None:
            storage.make_folder(out)
            held.enter_context(lock.hold(out))

        messages.from_main("sweep", claim)
        bar = held.enter_context(terminal.Bar("sweep: encoders", len(wanted)))
        for number, cell in enumerate(wanted, 1):
            if not messages.from_main("finished", lambda cell=cell: is_finished(cell)):
                transfer.run_on(cell.config, found)
            if hosts.is_main():
                transfer_tables.write(sweep, wanted, out)
                print(f"{cell.name}: {number} of {len(wanted)}", flush=True)
                bar.update(number)
    if hosts.is_main():
        transfer_tables.show(sweep, wanted)
        print(f"table: {os.path.join(out, transfer_tables.MARKDOWN)}")
    return 0


def dry_run(sweep: TransferSweep, base: transfer_config.TransferConfig, out: str) -> int:
    """Prints the runs and what is there of them. The data sets are made, since they decide which
    runs there are.
    """
    rows = []
    for cell in cells(sweep, base, transfer.find_sets(base), out):
        begun = "begun" if os.path.isdir(cell.config.workdir) else "to do"
        done = "finished" if is_finished(cell) else begun
        rows.append([cell.name, str(cell.config.training.steps), done])
    title = f"{len(rows)} runs in {out}"
    terminal.table(title, ("run", "steps", "state"), rows, plain=(title, *map("  ".join, rows)))
    return 0


def is_finished(cell: Cell) -> bool:
    """Whether the run of a cell is there.

    Raises:
      ConfigError: it was made with another config.
    """
    folder = cell.config.workdir
    if not storage.exists(os.path.join(folder, "run.json")):
        return False
    theirs = files.read_json(os.path.join(folder, "config.json"), finite=False)
    if changed := train_config.differences(cell.config, theirs):
        raise ConfigError(
            f"this run was made with another {', '.join(changed[:5])}",
            where=folder,
            hint="give another --out, or move the run away",
        )
    return True
