"""`qoq sweep` of evaluations: checkpoints x tasks x ways of decoding x seeds, each over all
devices, and one table.

    OUT/cells/NAME/evaluation.json   a finished evaluation, as `qoq evaluate` writes it
    OUT/cells/NAME/rows-*.jsonl      of one that was stopped: the rows that it has
    OUT/cells/NAME/table.json        its rows of the table
    OUT/table.csv, .parquet, .html   the table of all that are finished (result_table.py)
    OUT/speed.jsonl                  rows/s of each evaluation, and what the devices could do

The table is computed on the host from the records alone, in the order of the rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import jax

from qoq_jax.base import files, lock, storage, terminal
from qoq_jax.base.errors import ConfigError
from qoq_jax.evaluation import sharded
from qoq_jax.evaluation.row_files import RowFiles
from qoq_jax.evaluation.tasks import table
from qoq_jax.evaluation.tasks.asked import Asking, Questions
from qoq_jax.parallel import hosts, messages
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.sampling.schedule import Settings, shards
from qoq_jax.sweep import result_table, speed
from qoq_jax.sweep.evaluation_plan import ALL, LAST, SPLITS, Cell, EvaluationSweep, cells_of
from qoq_jax.train import checkpoint_store, run_config, stages
from qoq_jax.train.config import Config
from qoq_jax.train.setup import assemble
from qoq_jax.train.weights import weights_after


def run(
    sweep: EvaluationSweep,
    out: str,
    only: Sequence[str] = (),
    devices: Sequence[jax.Device] | None = None,
) -> int:
    """Does what is not finished and writes the table after each evaluation; returns the exit code.

    All processes call it (docs/pods.md); OUT is a folder that all of them see.

    Args:
      only: names of runs; () = all.
      devices: to use; None = all.

    Raises:
      ConfigError: an unknown run, or an evaluation in OUT was begun with another config.
      CheckpointError: a run has no such checkpoint.
    """
    wanted = messages.from_main("cells", lambda: where_all(sweep, only))
    cells = [cell for found in wanted for cell in cells_of(sweep, *found)]
    if jax.config.jax_compilation_cache_dir is None:
        cache = storage.absolute(os.path.join(out, "compile_cache"))
        jax.config.update("jax_compilation_cache_dir", cache)
    with contextlib.ExitStack() as held:

        def claim() -> None:
            os.makedirs(out, exist_ok=True)
            held.enter_context(lock.hold(out))

        messages.from_main("sweep", claim)
        bar = held.enter_context(terminal.Bar("sweep: evaluations", len(cells)))
        done = 0
        for name, stage, steps in wanted:
            one = _Run(sweep, name, stage, devices)
            for step in steps:
                for cell in cells_of(sweep, name, stage, [step]):
                    said = one.evaluate(cell, out)
                    done += 1
                    if hosts.is_main():
                        result_table.write(cells, out)
                        print(f"{cell.name}: {said} ({done} of {len(cells)})", flush=True)
                        bar.update(done)
    if hosts.is_main():
        result_table.show(cells, out)
    return 0


def dry_run(sweep: EvaluationSweep, out: str, only: Sequence[str] = ()) -> int:
    """Prints the evaluations and what is there of them; asks for no device."""
    rows = []
    for cell in (cell for found in where_all(sweep, only) for cell in cells_of(sweep, *found)):
        folder = cell.folder(out)
        begun = "begun" if os.path.isdir(folder) else "to do"
        rows.append([cell.name, "finished" if result_table.is_there(folder) else begun])
    title = f"{len(rows)} evaluations in {out}"
    terminal.table(title, ("evaluation", "state"), rows, plain=(title, *map("  ".join, rows)))
    return 0


def where_all(sweep: EvaluationSweep, only: Sequence[str]) -> list[tuple[str, str, list[int]]]:
    """[(run, stage, steps of its checkpoints)] to evaluate.

    Raises:
      ConfigError: `only` names a run that the sweep does not have, or a run has no such stage.
      CheckpointError: a run, or a checkpoint, is not there. See also `EvaluationSweep.check`.
    """
    sweep.check("EvaluationSweep")
    unknown = [name for name in only if name not in sweep.runs]
    if unknown:
        raise ConfigError(
            f"no run {', '.join(unknown)} in the sweep", hint=f"it has {', '.join(sweep.runs)}"
        )
    return [(name, *_where(sweep, name)) for name in sweep.runs if not only or name in only]


def _where(sweep: EvaluationSweep, name: str) -> tuple[str, list[int]]:
    workdir = sweep.runs[name]
    cfg = run_config.read(workdir)
    if stages.is_alone(cfg.stages) or (sweep.stage and sweep.stage not in cfg.stages):
        raise ConfigError(
            f"the run has no stage {sweep.stage or 'that answers questions'}",
            where=workdir,
            hint=f"it has {', '.join(cfg.stages)}",
        )
    stage = sweep.stage or run_config.last_trained_stage(cfg)
    kept = checkpoint_store.committed(_checkpoints(workdir, stage))
    if sweep.checkpoints not in (ALL, LAST):
        return stage, sorted(sweep.checkpoints)
    return stage, kept if sweep.checkpoints == ALL else kept[-1:]


class _Run:
    """One run of the sweep, over all devices, whatever it was trained on."""

    def __init__(
        self,
        sweep: EvaluationSweep,
        name: str,
        stage: str,
        devices: Sequence[jax.Device] | None,
    ):
        self._sweep, self._stage = sweep, stage
        cfg = _over_devices(sweep, run_config.read(sweep.runs[name]), devices)
        self._setup = assemble(cfg, prepare=bool(sweep.splits()), devices=devices)
        self._weights: dict[int, Any] = {}  # step -> weights, of one step
        self._asked: dict[str, sharded.Asked] = {}  # by task

    def evaluate(self, cell: Cell, out: str) -> str:
        """Evaluates what is not evaluated yet; returns what to say of it."""
        setup, folder = self._setup, cell.folder(out)
        store = RowFiles(folder, hosts.process_index())
        with jax.set_mesh(setup.mesh):
            work = self._work(cell)
            identity = self._identity(cell, work)
            said = "is there"
            if not messages.from_main("claim", lambda: store.claim(identity)):
                found = sharded.evaluate(setup, self._params(cell.step), work, store)
                said = speed.note(out, cell.name, setup, work, found)
        if hosts.is_main():
            result_table.summarise(cell, folder)
        return said

    def _work(self, cell: Cell) -> sharded.Work:
        if cell.task not in self._asked:
            self._asked[cell.task] = self._questions(cell.task)
        how, cfg = cell.how, self._setup.config
        # Whole slots for each device, whatever their number: its programs are always the same.
        ways = shards(self._setup.mesh)
        slots = max(cfg.eval.rows // ways // how.samples, 1)
        settings = Settings(
            max_new_tokens=cfg.data.max_response_tokens,
            temperature=how.temperature,
            top_p=how.top_p,
            top_k=how.top_k,
            num_samples=how.samples,
            rows=slots * how.samples * ways,
        )
        return sharded.Work(self._asked[cell.task], settings, cell.seed, self._sweep.scores)

    def _questions(self, task: str) -> sharded.Asked:
        setup, sweep = self._setup, self._sweep
        if task in SPLITS:
            return sharded.SplitRows(setup, setup.evaluation_rows(task, sweep.limit))
        asking = Asking(
            model=setup.model,
            tokenizer=setup.tokenizer,
            process=setup.process,
            share=setup.share,
            ways=shards(setup.mesh),
            rows=setup.config.eval.rows // shards(setup.mesh),
            limit=sweep.limit,
            boxed=sweep.boxed,
        )
        return Questions(table.load()[task], sweep.data_root, asking)

    def _identity(self, cell: Cell, work: sharded.Work) -> dict[str, Any]:
        """All that decides the records, beside the code; JSON."""
        folder = os.path.join(_checkpoints(cell.workdir, cell.stage), str(cell.step))
        sums = os.path.join(folder, checkpoint_store.CHECKSUMS)

        def digest() -> str:
            return (
                hashlib.sha256(files.read_bytes(sums)).hexdigest() if storage.exists(sums) else ""
            )

        return {
            "checkpoint": messages.from_main("checkpoint", digest),
            "rows": work.asked.fingerprint(),
            "decoding": dataclasses.asdict(cell.how),
            "max_new_tokens": work.settings.max_new_tokens,
            "seed": cell.seed,
            "scores": work.scores,
        }

    def _params(self, step: int) -> Any:
        if step not in self._weights:
            self._weights.clear()  # before the next ones are read
            self._weights[step] = weights_after(self._setup, self._stage, step)
        return self._weights[step]


def _over_devices(
    sweep: EvaluationSweep, cfg: Config, devices: Sequence[jax.Device] | None
) -> Config:
    """The config of a run for evaluations on other devices than it was trained on.

    The shapes that a device sees do not depend on their number: rows, and the rows of media, of
    which each holds the media of as many text rows as in the run's own evaluation, or of the next
    fewer that divide the rows.
    """
    count = jax.device_count() if devices is None else len(devices)
    mesh = sweep.mesh
    data, fsdp, *_ = mesh_lib.resolved_sizes(mesh.sizes, count)
    rows = sweep.rows or cfg.eval.rows
    together = max(cfg.eval.rows // cfg.data.media_rows, 1)
    together = next(n for n in range(min(together, rows), 0, -1) if rows % n == 0)
    ways = data * fsdp
    return dataclasses.replace(
        cfg,
        mesh=mesh,
        eval=dataclasses.replace(cfg.eval, rows=rows * ways),
        data=dataclasses.replace(cfg.data, media_rows=rows // together * ways),
        # No micro-batches: they would have to divide the rows of media.
        sft=dataclasses.replace(cfg.sft, accumulate=1),
        rl=dataclasses.replace(cfg.rl, accumulate=1, minibatches=1),
    )


def _checkpoints(workdir: str, stage: str) -> str:
    return os.path.join(workdir, "checkpoints", stage)
