"""The questions of a task for sharded.py: cut over all devices of all processes, in batches of one
shape, the smallest that holds each question of the task.

A question's files are read by the process that asks it, and once more at the beginning by one
process, for the shape. No more than two batches of them are in memory.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data.meta import SampleMeta
from qoq_jax.data.packing import Budget, GroupPacker, write_groups
from qoq_jax.data.sample import ProcessConfig
from qoq_jax.data.tokenizer import Tokenizer
from qoq_jax.evaluation.sharded import Batch
from qoq_jax.evaluation.tasks import evaluate, read, scores
from qoq_jax.evaluation.tasks.question import Question, prompt
from qoq_jax.evaluation.tasks.table import Task
from qoq_jax.models.sizes import VlmConfig
from qoq_jax.parallel import hosts, messages
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.sampling import batches as shapes
from qoq_jax.sampling import inputs
from qoq_jax.sampling.model import Model

ROWS = 32  # questions that a device is asked at the same time
_THREADS = 4


class OnMesh:
    """A model of `qoq_jax.load` on a mesh, as sharded.evaluate takes it."""

    def __init__(self, model: Model, mesh: jax.sharding.Mesh):
        self.model, self.tokenizer, self.process = model.cfg, model.tokenizer, model.process
        self.mesh, self.share = mesh, hosts.Share.of(mesh)
        banned = np.zeros(model.cfg.decoder.vocab_size, bool)
        banned[[i for i in model.banned_ids() if i < len(banned)]] = True
        whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        self.banned = hosts.place(banned, whole)

    def put(self, batch: Any) -> Any:
        return hosts.to_global(batch, mesh_lib.batch_sharding(self.mesh))

    def own(self, tree: Any) -> Any:
        return hosts.own_rows(tree, mesh_lib.batch_sharding(self.mesh))


@dataclasses.dataclass(frozen=True)
class Asking:
    """How questions become samples.

    Attributes:
      model, tokenizer, process: of what is asked.
      share: the rows of this process. ways: devices that the rows are cut over.
      rows: questions of a device in a batch, at most.
      limit: the first questions of the task; 0 = all.
      boxed: answers are asked for in \\boxed{} (question.py).
    """

    model: VlmConfig
    tokenizer: Tokenizer
    process: ProcessConfig
    share: hosts.Share
    ways: int
    rows: int = ROWS
    limit: int = 0
    boxed: bool = False


class Questions:
    """The questions of a task, as sharded.Asked.

    Args:
      root: the folder in which each task has its own.

    Raises:
      DataError: a file is not there or not in the published layout, an id is there twice, or
        processes have other questions than each other.
    """

    def __init__(self, task: Task, root: str, asking: Asking):
        self._task, self._root, self._asking = task, root, asking
        self._known: dict[str, Question] = {}  # by id, without the bytes of pictures
        digest = hashlib.sha256()
        with contextlib.closing(read.questions(task, root)) as found:
            for question in self._limited(found):
                if question.id in self._known:
                    raise DataError(f"the id {question.id!r} is there twice", where=task.name)
                digest.update(self._said(question).encode())
                paths = tuple(one for one in question.images if isinstance(one, str))
                self._known[question.id] = dataclasses.replace(question, images=paths)
        if not self._known:
            raise read.no_questions(task)
        self._digest = digest.hexdigest()
        if len(set(messages.exchange(f"questions of {task.name}", self._digest))) > 1:
            raise DataError(
                "processes have other questions than each other",
                where=task.name,
                hint="give all machines the same files",
            )
        self.ids = {task.name: tuple(self._known)}

    def fingerprint(self) -> dict[str, str]:
        return {self._task.name: self._digest}

    @functools.cached_property
    def budget(self) -> Budget:
        asking, share, most = self._asking, self._asking.share, [1, 0, 0]
        mine = range(share.index, len(self._known), share.count)
        for sample in self._samples(np.array(mine), block=_THREADS):
            most = list(map(max, most, shapes.shape_of(sample)))
        tokens, patches, ecgs = np.max(share.join("shape", most), axis=0).tolist()
        # As many as a prefill of sampling/engine.py takes, and twice their patches; of no device's
        # number, so that each has programs of the same shapes.
        room = min(shapes.PREFILL_TOKENS // tokens, 2 * shapes.PREFILL_PATCHES // max(patches, 1))
        rows = max(1, min(asking.rows, room, len(self._known))) * asking.ways
        return Budget(
            rows=rows,
            tokens=tokens,
            media_rows=rows,
            patches=patches,
            ecgs=ecgs,
            max_per_row=1,
            ecg_tokens=asking.model.ecg_tokens,
            pad_id=asking.model.pad_id,
            patch_dim=asking.model.vision.patch_dim,
        )

    def batches(self, places: Mapping[str, np.ndarray]) -> Iterator[Batch]:
        wanted, share = places[self._task.name], self._asking.share
        whole = self.budget.rows
        own = self.budget.part(share.count)
        first = share.index * own.rows
        blocks = [
            wanted[at : at + whole][first : first + own.rows] for at in range(0, len(wanted), whole)
        ]
        samples = self._samples(np.concatenate(blocks), own.rows)
        for block in blocks:
            groups = [GroupPacker(own) for _ in range(own.media_rows)]
            for group, sample in zip(groups, itertools.islice(samples, len(block))):
                group.add(sample)
            yield write_groups(groups, own)

    def record(self, text: str, meta: SampleMeta) -> dict:
        return evaluate.record(self._known[meta.id], text, meta)

    def content(self, records: list[dict], several: bool) -> dict[str, Any]:
        """{"results"}: scores.of_task by subtask."""
        return {"results": scores.of_task(records)}

    def _samples(self, places: np.ndarray, block: int) -> Iterator[dict[str, Any]]:
        """The samples at these places, ascending, in order; so many are made ahead."""
        wanted = set(places.tolist())
        with (
            contextlib.closing(read.questions(self._task, self._root)) as found,
            concurrent.futures.ThreadPoolExecutor(_THREADS) as pool,
        ):
            mine = (question for i, question in enumerate(found) if i in wanted)
            # No more are asked for than there are: at the end of `found` its media are gone.
            left, waiting = len(wanted), []
            while left or waiting:
                count = min(left, block)
                left -= count
                ahead = [pool.submit(self._sample, one) for one in itertools.islice(mine, count)]
                for future in waiting:
                    yield future.result()
                waiting = ahead

    def _sample(self, question: Question) -> dict[str, Any]:
        asking = self._asking
        given = {
            "prompt": prompt(question, asking.boxed),
            "images": [_picture(one) for one in question.images],
            "videos": list(question.videos),
            "ecg": list(question.ecgs),
        }
        where = f"{self._task.name}, question {question.id!r}"
        try:
            (made,) = inputs.prepare([given], asking.model, asking.process, asking.tokenizer)
            sizes, coordinates = made["meta"].frame_sizes, asking.process.box_coordinates
            meta = evaluate.meta_of(question, self._task.name, sizes, coordinates)
        except DataError as error:
            place = (error.where or "").removeprefix("sample 0").removeprefix(", ")
            named = f"{where}: {place}" if place else where
            raise DataError(error.what, where=named, hint=error.hint) from error
        return made | {"meta": meta}

    def _said(self, question: Question) -> str:
        """What decides the question, its media by name and size."""
        media = [
            hashlib.sha256(one).hexdigest() if isinstance(one, bytes) else _named(one, self._root)
            for one in (*question.images, *question.videos, *question.ecgs)
        ]
        about = (question.id, question.kind, prompt(question, self._asking.boxed))
        return json.dumps([*about, question.answers, question.options, question.group, media])

    def _limited(self, questions: Iterable[Question]) -> Iterator[Question]:
        return itertools.islice(questions, self._asking.limit or None)


def digest(params: Any) -> str:
    """Stands for weights: the sum of the bits of each array, modulo 2^32, which no mesh changes."""

    def bits(x: jax.Array) -> jax.Array:
        kind = {1: np.uint8, 2: np.uint16, 4: np.uint32}[x.dtype.itemsize]
        return jax.lax.bitcast_convert_type(x, kind).astype(np.uint32).sum(dtype=np.uint32)

    found = hosts.gather(jax.jit(lambda tree: jax.tree.map(bits, tree))(params))
    named = [[jax.tree_util.keystr(k), int(v)] for k, v in jax.tree.leaves_with_path(found)]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()


def _named(path: str, root: str) -> list[Any]:
    size = os.path.getsize(path) if os.path.isfile(path) else None
    return [os.path.relpath(path, root) if size is not None else os.path.basename(path), size]


def _picture(one: str | bytes) -> Any:
    if isinstance(one, str):
        return one
    from PIL import Image

    return Image.open(io.BytesIO(one))
