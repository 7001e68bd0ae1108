"""Slots with refill: the host's part of the decode loop.

`Schedule` hands the slots of sampling/loop.py their work: a row that has ended takes the next
sample of its prompt, and a slot without work takes the next prompt. So one long response occupies
one row and does not delay the batch. Where the prompts come from and how they are prefilled is the
caller's matter: sampling/engine.py (samples of any shape), sampling/sampler.py (packed batches).

Axis letters: P slots, G rows of a slot.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from qoq_jax.base import progress
from qoq_jax.parallel import hosts
from qoq_jax.sampling.loop import Decoded, Orders, Slots


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to sample.

    Attributes:
      max_new_tokens: most tokens of a response, the end token included.
      temperature: 0 = greedy. top_p: 1 = off. top_k: 0 = off.
      num_samples: responses to each prompt.
      rows: most responses that are sampled at the same time (rounded to whole slots); 0 = all.
      refill: False waits for all slots to end before the next prompts begin; for measurements.
      prefill_tokens: above 0: prompts are prefilled so many tokens at a time, one prompt (over a
        mesh one per device) after the other, and responses that run continue in between; 0 = whole.
      lookup: above 0: so many tokens are drafted in each step from the text so far (lookup.py).
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    num_samples: int = 1
    rows: int = 64
    refill: bool = True
    prefill_tokens: int = 0
    lookup: int = 0

    def slots(self, prompts: int, shards: int) -> tuple[int, int]:
        """(slots, rows of a slot) for so many prompts; slots are a multiple of `shards`."""
        rows = self.rows or prompts * self.num_samples
        width = min(self.num_samples, max(rows, 1))
        count = min(prompts, max(rows // width, 1))
        return -(-count // shards) * shards, width


@dataclasses.dataclass
class Response:
    """One row's response while it grows.

    Attributes:
      prompt, sample: it is response number `sample` to prompt number `prompt`.
      tokens, logprobs: int32 [n] and float32 [n] of each call of `decode`.
      length: tokens so far.
      reason: "eos", "length" or "stop" once it has ended.
    """

    prompt: int
    sample: int
    tokens: list[np.ndarray] = dataclasses.field(default_factory=list)
    logprobs: list[np.ndarray] = dataclasses.field(default_factory=list)
    length: int = 0
    reason: str = ""

    @property
    def token_ids(self) -> np.ndarray:
        """int32 [n], all tokens, the end token included."""
        return np.concatenate(self.tokens)

    def extend(self, tokens: np.ndarray, logprobs: np.ndarray) -> None:
        """Adds further tokens."""
        self.tokens.append(tokens)
        self.logprobs.append(logprobs)
        self.length += len(tokens)


# Called with (response, its new tokens, whether they are its last) after each call of `decode`;
# returns None, or how many of the new tokens to keep when the response is to end there.
Watch = Callable[[Response, np.ndarray, bool], int | None]


# {prompt number: slot} of prompts that are prefilled, and what puts them there.
Placing = tuple[dict[int, int], Callable[[Slots], Slots]]


def to_host(tree: Any) -> Any:
    """Device arrays -> numpy arrays: every decision of the host is taken on what this returns."""
    return hosts.gather(tree)


def to_device(tree: Any, mesh: jax.sharding.Mesh | None) -> Any:
    """Host arrays -> device arrays, whole on every device of the mesh."""
    if mesh is None:
        return jax.device_put(tree)
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return hosts.to_global(tree, whole)


def shards(mesh: jax.sharding.Mesh | None) -> int:
    """Over how many devices rows are cut."""
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def no_growth(slots: Slots, places: int) -> Slots:
    """`Device.grow` where all places are there from the beginning."""
    raise AssertionError(f"nothing grows to {places} places")


@dataclasses.dataclass(frozen=True)
class Device:
    """The device side of a schedule. Slots are donated.

    Attributes:
      admit: (slots, {prompt number: slot}) -> slots that hold these prompts.
      decode: (slots, orders) -> (slots, what was sampled).
      call: most tokens of one call of `decode`.
      places: response places of the slots to begin with.
      most_places: they double up to so many when a row outgrows them; 0 = never.
      grow: (slots, places) -> slots with so many places.
      prefill: {prompt number: slot} -> the same in parts, in the place of `admit`: each step of the
        iterator is one, after which running responses may continue; it yields None, or, with the
        last part of some prompts, what puts them into the slots. None = not in parts.
    """

    admit: Callable[[Slots, dict[int, int]], Slots]
    decode: Callable[[Slots, Orders], tuple[Slots, Decoded]]
    call: int
    places: int
    most_places: int = 0
    grow: Callable[[Slots, int], Slots] = no_growth
    prefill: Callable[[dict[int, int]], Iterator[Placing | None]] | None = None


class Schedule:
    """Which row of which slot works at which response.

    Args:
      prompts: the numbers of the prompts, in the order in which they are to begin; read one prompt
        ahead.
      slots, width: P and G.
      chunk: idle slots that are filled together, unless fewer prompts are left: one prefill for
        them all.
      end_tokens: ids that end a response.

    Attributes:
      steps: decode steps so far. admitted: prompts prefilled so far.
    """

    def __init__(
        self,
        prompts: Iterator[int],
        settings: Settings,
        slots: int,
        width: int,
        end_tokens: Sequence[int],
        chunk: int = 1,
    ):
        self._prompts, self._settings, self._chunk = prompts, settings, min(chunk, slots)
        self._end_tokens, self._limit = frozenset(end_tokens), settings.max_new_tokens
        self._next = next(prompts, None)
        # responses of each slot that have not begun, and the one that each of its rows works at
        self._todo: list[collections.deque[Response]] = [collections.deque() for _ in range(slots)]
        self._rows: list[list[Response | None]] = [[None] * width for _ in range(slots)]
        self._parts: Iterator[Placing | None] | None = None  # of prompts on their way
        self.steps = self.admitted = 0

    def run(
        self,
        device: Device,
        slots: Slots,
        keys: Callable[[int, int], np.ndarray],
        watch: Watch | None = None,
    ) -> Iterator[Response]:
        """Yields every response as soon as it has ended.

        Args:
          keys: (prompt, sample) -> key data of that response, uint32 [2].
        """
        places = device.places
        while True:
            slots = self._admit(device, slots)
            start = self._begin()
            working = [
                (p, g, response)
                for p, row in enumerate(self._rows)
                for g, response in enumerate(row)
                if response is not None
            ]
            if not working:
                if self._parts is None:
                    return
                continue
            longest = max(response.length for _, _, response in working)
            while places - longest < device.call and places < device.most_places:
                places = min(2 * places, device.most_places)
                slots = device.grow(slots, places)
            steps = min(device.call, places - longest)
            slots, decoded = device.decode(slots, self._orders(start, working, keys, steps))
            decoded = to_host(decoded)
            progress.beat()
            self.steps += int(decoded.steps)
            for p, g, response in working:
                count = decoded.count[p, g]
                self._extend(
                    response, decoded.tokens[p, g, :count], decoded.logprobs[p, g, :count], watch
                )
                if response.reason:
                    self._rows[p][g] = None
                    yield response

    def _admit(self, device: Device, slots: Slots) -> Slots:
        """Prefills arriving prompts: all of them, or the next part of one."""
        if self._parts is None and (arriving := self._arriving()):
            if device.prefill is None:
                self._place(arriving)
                return device.admit(slots, arriving)
            self._parts = device.prefill(arriving)
        if self._parts is not None:
            try:
                done = next(self._parts)
            except StopIteration:
                self._parts = None
                return self._admit(device, slots)
            if done is not None:
                self._place(done[0])
                slots = done[1](slots)
        return slots

    def _place(self, arriving: dict[int, int]) -> None:
        """Gives slots the responses to the prompts that they hold now."""
        self.admitted += len(arriving)
        for prompt, p in arriving.items():
            self._todo[p].extend(Response(prompt, g) for g in range(self._settings.num_samples))

    def _arriving(self) -> dict[int, int]:
        """The prompts that begin now, and the slot of each."""
        idle = [p for p, todo in enumerate(self._todo) if not todo and not any(self._rows[p])]
        enough = self._chunk if self._settings.refill else len(self._todo)
        arriving: dict[int, int] = {}
        if len(idle) >= enough:
            while idle and self._next is not None:
                arriving[self._next] = idle.pop(0)
                self._next = next(self._prompts, None)
        return arriving

    def _begin(self) -> np.ndarray:
        """Gives each free row the next response of its slot; bool [P, G], rows that begin one."""
        start = np.zeros((len(self._rows), len(self._rows[0])), bool)
        for p, (row, todo) in enumerate(zip(self._rows, self._todo)):
            for g, response in enumerate(row):
                if response is None and todo:
                    row[g], start[p, g] = todo.popleft(), True
        return start

    def _orders(
        self,
        start: np.ndarray,
        working: list[tuple[int, int, Response]],
        keys: Callable[[int, int], np.ndarray],
        steps: int,
    ) -> Orders:
        live, row_keys = np.zeros_like(start), np.zeros((*start.shape, 2), np.uint32)
        for p, g, response in working:
            live[p, g], row_keys[p, g] = True, keys(response.prompt, response.sample)
        # Slots that prompts are on their way to are idle too, and no reason to return.
        waits = self._next is not None and self._settings.refill and self._parts is None
        return Orders(
            start=start,
            live=live,
            keys=row_keys,
            limit=np.int32(self._limit),
            steps=np.int32(steps),
            more=np.array([bool(todo) for todo in self._todo]),
            wanted=np.int32(self._chunk if waits else len(self._rows) + 1),
        )

    def _extend(
        self, response: Response, tokens: np.ndarray, logprobs: np.ndarray, watch: Watch | None
    ) -> None:
        """Adds new tokens to a response, and the reason when it has ended."""
        if len(tokens) and int(tokens[-1]) in self._end_tokens:
            response.reason = "eos"
        elif response.length + len(tokens) >= self._limit:
            response.reason = "length"
        if watch is not None:
            kept = watch(response, tokens, bool(response.reason))
            if kept is not None:
                response.reason = "stop"
                tokens, logprobs = tokens[:kept], logprobs[:kept]
        response.extend(tokens, logprobs)
