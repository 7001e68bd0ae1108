"""A model's responses to tasks over all devices, kept row by row.

OUTPUT/rows/TASK/   of an evaluation that was stopped: what it has (row_files.py)
"""

from __future__ import annotations

import dataclasses
import os
import shutil

import jax

from qoq_jax.base import files
from qoq_jax.evaluation import sharded
from qoq_jax.evaluation.row_files import DONE, RowFiles
from qoq_jax.evaluation.tasks import asked, evaluate
from qoq_jax.evaluation.tasks.evaluate import Evaluation
from qoq_jax.parallel import hosts, messages
from qoq_jax.sampling.model import Model
from qoq_jax.sampling.schedule import Settings, shards

_ROWS = "rows"


def run(
    evaluation: Evaluation, model: Model, mesh: jax.sharding.Mesh, output: str, scores: bool = False
) -> dict:
    """Asks the model greedily and writes the results on process 0, as `evaluate.write`; the same
    call goes on with the rows of one that was stopped. All processes must call it.

    Args:
      mesh: of the model's weights; rows are cut over data and fsdp.
      scores: the likelihood of each label too, of tasks of classification.

    Returns:
      The results; {} on other processes than 0.

    Raises:
      ConfigError: OUTPUT has rows of other weights or settings. DataError: see asked.Questions.
    """
    on_mesh, records = asked.OnMesh(model, mesh), {}
    asking = asked.Asking(
        model=model.cfg,
        tokenizer=model.tokenizer,
        process=model.process,
        share=on_mesh.share,
        ways=shards(mesh),
        limit=evaluation.limit,
        boxed=evaluation.boxed,
    )
    with jax.set_mesh(mesh):
        identity = {
            "weights": asked.digest(model.params),
            "process": dataclasses.asdict(model.process),
            "scores": scores,
        }
        for task in evaluation.tasks:
            questions = asked.Questions(task, evaluation.root, asking)
            folder = os.path.join(output, _ROWS, task.name)
            store = RowFiles(folder, hosts.process_index())
            which = identity | {"questions": questions.fingerprint()}

            def claim(store: RowFiles = store, which: dict = which) -> bool:
                return store.claim(which)

            if not messages.from_main("claim", claim):
                settings = Settings(model.process.max_response_tokens, rows=questions.budget.rows)
                work = sharded.Work(questions, settings, scores=scores)
                speed = sharded.evaluate(on_mesh, model.params, work, store)
                rate = speed.rows / max(speed.seconds, 1e-9)
                hosts.say(
                    f"{task.name}: {speed.rows} responses in {speed.seconds:.0f} s, "
                    f"{rate:.2f} per second on {mesh.size} devices"
                )
            if hosts.is_main():
                records[task.name] = files.read_json(os.path.join(folder, DONE))["records"]
    if not hosts.is_main():
        return {}
    for found in records.values():
        for record in found:
            del record["sample"]  # one each
    results = evaluate.write(evaluation, records, output)
    shutil.rmtree(os.path.join(output, _ROWS))
    return results
