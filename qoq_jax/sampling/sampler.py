"""Packed batches through the slots: RL rollouts, and the greedy responses of evaluation.

    sampler = make_sampler(cfg, Settings(max_new_tokens=40, num_samples=6, rows=0), mesh)
    rollout = sampler(params, batch, key, banned)

With a place for every response at once (rows=0) a rollout is one compiled call, `rollout.sample`.
With fewer, and from batch to batch in evaluation, slots take the next prompts when they are free:
the media of a batch go through the towers once, its prompts are prefilled in chunks of one size.
The responses are the same, up to rounding of the logits.

Letters: Q questions, G responses per question, S response positions.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from qoq_jax.models import vlm
from qoq_jax.models.sizes import VlmConfig
from qoq_jax.parallel import hosts
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.sampling import loop, rollout
from qoq_jax.sampling import tokens as sampling
from qoq_jax.sampling.loop import Batch, Decoded, Orders, Prompts, Slots
from qoq_jax.sampling.rollout import Rollout
from qoq_jax.sampling.schedule import (
    Device,
    Response,
    Schedule,
    Settings,
    shards,
    to_device,
    to_host,
)

# A prefill fills a quarter of the slots: idle slots wait until they are so many, and no more than
# these are ever prefilled at once.
CHUNKS = 4

# A batch on the device, one prompt per row (contract of data/packing.py), and the rows that hold
# one.
PackedBatch = tuple[Batch, Sequence[int]]


@functools.cache
def make_sampler(cfg: VlmConfig, settings: Settings, mesh: jax.sharding.Mesh | None) -> Sampler:
    """The sampler of a model; one for each combination, so that nothing compiles twice."""
    return Sampler(cfg, settings, mesh)


class Sampler:
    """Responses to packed batches. Calls are made within `jax.set_mesh` of the mesh given.

    Args:
      settings: `rows` responses are sampled at the same time, 0 = all of a batch.
    """

    def __init__(self, cfg: VlmConfig, settings: Settings, mesh: jax.sharding.Mesh | None):
        self._cfg, self._settings, self._mesh = cfg, settings, mesh
        self._shards = shards(mesh)

        def at_once(params: Any, batch: Batch, key: jax.Array, banned: jax.Array) -> Rollout:
            return rollout.sample(params, cfg, batch, key, banned, settings)

        def decode(
            weights: Any, slots: Slots, orders: Orders, banned: jax.Array
        ) -> tuple[Slots, Decoded]:
            draw = rollout.static_draw(settings, banned)
            return loop.decode(cfg, weights, slots, orders, draw, length=settings.max_new_tokens)

        def keys(key: jax.Array, questions: int) -> jax.Array:
            return jax.random.key_data(sampling.row_keys(key, questions, settings.num_samples))

        def apart(params: Any) -> dict:
            return vlm.decode_params(params, cfg)

        self._at_once = jax.jit(at_once)
        self._decode = jax.jit(decode, donate_argnums=1)
        self._keys = jax.jit(keys, static_argnums=1)
        self._apart = jax.jit(apart)
        self._has_prompt = jax.jit(rollout.has_prompt)
        self._embed = jax.jit(functools.partial(loop.embed_prompts, cfg))
        self._admit = jax.jit(functools.partial(loop.admit_rows, cfg), donate_argnums=1)
        self._empty = jax.jit(functools.partial(loop.empty_slots, cfg), static_argnums=(0, 1, 2, 3))

    def __call__(self, params: Any, batch: Batch, key: jax.Array, banned: jax.Array) -> Rollout:
        """G responses to each prompt of a batch on the device, one prompt per row.

        Args:
          key: PRNG key; response g to the prompt of row q depends on it, on q and on g alone.
          banned: bool [V], tokens that are never sampled.
        """
        questions, settings = batch["tokens"].shape[0], self._settings
        responses = questions * settings.num_samples
        if not 0 < settings.rows < responses:
            return self._at_once(params, batch, key, banned)
        asked = np.flatnonzero(to_host(self._has_prompt(batch)))
        keys = to_host(self._keys(key, questions))

        def key_of(prompt: int, sample: int) -> np.ndarray:
            return keys[asked[prompt], sample]

        shape = (questions, settings.num_samples, settings.max_new_tokens)
        tokens = np.full(shape, self._cfg.pad_id, np.int32)
        mask, logprobs = np.zeros((2, *shape), np.float32)
        for response in self.through_slots(params, iter([(batch, asked)]), banned, key_of):
            at = (asked[response.prompt], response.sample, slice(response.length))
            tokens[at] = response.token_ids
            mask[at] = 1
            logprobs[at] = np.concatenate(response.logprobs)
        over_rows = None if self._mesh is None else mesh_lib.batch_sharding(self._mesh)
        return hosts.place(Rollout(tokens, mask, logprobs), over_rows)

    def greedy(
        self, params: Any, batches: Iterator[PackedBatch], banned: jax.Array
    ) -> Iterator[Response]:
        """The most likely response to each prompt, as soon as it has ended, from batch to batch
        without a stop.

        Yields responses whose `prompt` counts the prompts of all batches in order.
        """
        no_key = np.zeros(2, np.uint32)

        def key_of(prompt: int, sample: int) -> np.ndarray:
            return no_key

        return self.through_slots(params, batches, banned, key_of)

    def through_slots(
        self,
        params: Any,
        batches: Iterator[PackedBatch],
        banned: jax.Array,
        key_of: Callable[[int, int], np.ndarray],
    ) -> Iterator[Response]:
        """The responses to all prompts, in the order in which they end.

        Args:
          key_of: (prompt, sample) -> key data, uint32 [2], by which that response is drawn; prompts
            are counted over all batches.
        """
        first = next(batches, None)
        if first is None:
            return
        questions, length = first[0]["tokens"].shape
        places = self._settings.max_new_tokens
        count, width = self._settings.slots(questions, self._shards)
        chunk = -(-count // (CHUNKS * self._shards)) * self._shards
        weights = self._apart(params)  # once for all calls of `decode`
        queue = _Queue(functools.partial(self._embed, params), itertools.chain([first], batches))

        def admit(slots: Slots, arriving: dict[int, int]) -> Slots:
            for prompts, rows, at in queue.take(arriving, chunk):
                where = np.array([(0, count)] * chunk, np.int32)  # (row, slot); count = padding
                where[: len(rows), 0], where[: len(rows), 1] = rows, at
                where = to_device((where[:, 0], where[:, 1]), self._mesh)
                slots = self._admit(params, slots, prompts, *where)
            return slots

        def decode(slots: Slots, orders: Orders) -> tuple[Slots, Decoded]:
            return self._decode(weights, slots, to_device(orders, self._mesh), banned)

        schedule = Schedule(queue.numbers(), self._settings, count, width, self._cfg.eos_ids, chunk)
        device = Device(admit, decode, call=places, places=places)
        yield from schedule.run(device, self._empty(count, width, length, places), key_of)


class _Queue:
    """The prompts of packed batches on their way to the slots."""

    def __init__(self, embed: Callable[[Batch], Prompts], batches: Iterable[PackedBatch]):
        self._embed, self._batches = embed, batches
        self._waiting: dict[int, tuple[Prompts, int]] = {}  # number -> its batch, its row there

    def numbers(self) -> Iterator[int]:
        """Numbers the prompts of all batches; a batch is embedded when its first one is asked
        for.
        """
        number = 0
        for batch, rows in self._batches:
            prompts = self._embed(batch)
            for row in rows:
                self._waiting[number] = (prompts, int(row))
                yield number
                number += 1

    def take(
        self, arriving: dict[int, int], chunk: int
    ) -> list[tuple[Prompts, list[int], list[int]]]:
        """(batch, rows of it, slots) of the arriving prompts (number -> slot), at most `chunk`
        together.
        """
        found: list[tuple[Prompts, list[int], list[int]]] = []
        for number, slot in arriving.items():
            prompts, row = self._waiting.pop(number)
            if not found or found[-1][0] is not prompts or len(found[-1][1]) == chunk:
                found.append((prompts, [], []))
            found[-1][1].append(row)
            found[-1][2].append(slot)
        return found
