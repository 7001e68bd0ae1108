"""Prepared samples of any shape through the slots, for `qoq_jax.load`.

Shapes are rounded up to a few sizes, so that prefill and decode compile once for each: prompt
tokens, patches, and the places for response tokens, which double when a row outgrows them. The
state is donated to every step; nothing of the size of the cache is copied.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.models import cache as cache_lib
from qoq_jax.models import decoder, vlm
from qoq_jax.models.sizes import VlmConfig
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.sampling import batches, lookup, loop
from qoq_jax.sampling import tokens as sampling
from qoq_jax.sampling.loop import Decoded, Draw, Orders, Slots
from qoq_jax.sampling.schedule import (
    Device,
    Placing,
    Response,
    Schedule,
    Settings,
    Watch,
    shards,
    to_device,
    to_host,
)

CALL = 16  # most tokens of one call of `decode`; the host looks at the responses between calls
FIRST_PLACES = 128  # response places to begin with; they double on demand


@functools.cache
def compiled(cfg: VlmConfig) -> dict[str, Callable]:
    """The jitted functions of a model; each compiles once for a shape."""

    def logits(params: Any, batch: loop.Batch) -> jax.Array:
        return vlm.logits(params, cfg, batch)

    def apart(layers: dict) -> tuple[dict, ...]:
        return decoder.layers_apart({"layers": layers}, cfg)["layers"]

    def grow(slots: Slots, places: int) -> Slots:
        more, cache = places - slots.cache.places, cache_lib.grow(slots.cache, places)
        if slots.context is None:
            return slots.replace(cache=cache)
        context = jnp.pad(slots.context, [(0, 0), (0, 0), (0, more)])
        return slots.replace(cache=cache_lib.at_length(cache, cache.length), context=context)

    return {
        "logits": jax.jit(logits),
        "empty": jax.jit(functools.partial(loop.empty_slots, cfg), static_argnums=(0, 1, 2, 3, 4)),
        "admit": jax.jit(functools.partial(loop.admit, cfg), donate_argnums=1),
        "begin": jax.jit(functools.partial(loop.begin_prefill, cfg), static_argnames="part"),
        "part": jax.jit(
            functools.partial(loop.prefill_part, cfg), donate_argnums=1, static_argnames="part"
        ),
        "end": jax.jit(
            functools.partial(loop.end_prefill, cfg), donate_argnums=0, static_argnames="tokens"
        ),
        "grow": jax.jit(grow, static_argnums=1),
        "apart": jax.jit(apart),
        "decode": jax.jit(
            functools.partial(loop.decode, cfg), donate_argnums=1, static_argnames=("length",)
        ),
        "lookup": jax.jit(
            functools.partial(lookup.decode, cfg),
            donate_argnums=1,
            static_argnames=("length", "drafts"),
        ),
    }


class Engine:
    """Runs prepared samples through the slots.

    Attributes:
      steps: decode steps so far. prefills: prompts prefilled so far.
    """

    def __init__(
        self, params: Any, cfg: VlmConfig, mesh: jax.sharding.Mesh | None, banned: Sequence[int]
    ):
        self._params = vlm.layer_views(params, cfg, decoder.UNROLL_LAYERS)
        self._cfg, self._mesh, self._shards = cfg, mesh, shards(mesh)
        self._run = compiled(cfg)
        mask = np.zeros(cfg.decoder.vocab_size, bool)
        mask[[i for i in banned if i < len(mask)]] = True
        self._banned = to_device(mask, mesh)
        self.steps = self.prefills = 0

    def logits(self, samples: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
        """Float32 [T, V] of each sample: one full forward pass, no cache."""
        out: list[Any] = [None] * len(samples)
        for shape, group in batches.by_shape(range(len(samples)), samples):
            most = max((1 << 28) // (shape[0] * self._cfg.decoder.vocab_size), 1)
            for part, rows in self._parts(group, shape, most):
                batch = self._batch([samples[i] for i in part], shape, rows)
                with self._on_mesh():
                    values = to_host(self._run["logits"](self._params, batch))
                for row, i in enumerate(part):
                    out[i] = values[row, : len(samples[i]["input_ids"])].copy()
        return out

    def generate(
        self,
        samples: Sequence[Mapping[str, Any]],
        settings: Settings,
        seeds: Sequence[tuple[int, int]],
        watch: Watch | None = None,
    ) -> list[list[Response]]:
        """Responses to each sample.

        Args:
          samples: what sampling/inputs.py prepares.
          seeds: (seed, number) of each sample; its responses depend on them and the sample alone.
          watch: called after each call of `decode`; see `Watch`.
        """
        count, width = settings.slots(len(samples), self._shards)
        most_places, drafts = batches.bucket(settings.max_new_tokens, 32), settings.lookup
        places = min(most_places, FIRST_PLACES)
        prompt = max(batches.shape_of(sample)[0] for sample in samples)
        with self._on_mesh():
            slots = self._run["empty"](count, width, prompt, places, drafts)
            weights = self._decode_params()  # once for all calls of `decode`
        run, more = self._run["decode"], drafts + 1 if drafts else 0
        if drafts:
            run = functools.partial(self._run["lookup"], drafts=drafts)
        draw = _traced(settings, self._banned, self._mesh)
        keys = _keys(seeds, settings.num_samples)

        def admit(slots: Slots, arriving: dict[int, int]) -> Slots:
            return self._admit(slots, samples, arriving, count)

        def prefill(arriving: dict[int, int]) -> Iterator[Placing | None]:
            return self._in_parts(samples, arriving, count, weights, settings.prefill_tokens)

        def decode(slots: Slots, orders: Orders) -> tuple[Slots, Decoded]:
            with self._on_mesh():
                orders = to_device(orders, self._mesh)
                return run(weights, slots, orders, draw, length=CALL + more)

        def grow(slots: Slots, places: int) -> Slots:
            with self._on_mesh():
                return self._run["grow"](slots, places + more)

        def key(prompt: int, sample: int) -> np.ndarray:
            return keys[prompt, sample]

        schedule = Schedule(iter(range(len(samples))), settings, count, width, self._cfg.eos_ids)
        responses: list[list[Any]] = [[None] * settings.num_samples for _ in samples]
        in_parts = prefill if settings.prefill_tokens else None
        device = Device(admit, decode, CALL, places, most_places, grow, in_parts)
        for response in schedule.run(device, slots, key, watch):
            responses[response.prompt][response.sample] = response
        self.steps += schedule.steps
        self.prefills += schedule.admitted
        return responses

    def _admit(
        self,
        slots: Slots,
        samples: Sequence[Mapping[str, Any]],
        arriving: dict[int, int],
        count: int,
    ) -> Slots:
        """Prefills the arriving prompts (sample -> slot), those of one shape together."""
        for shape, group in batches.by_shape(arriving, samples):
            for part, rows in self._parts(group, shape):
                at = np.full(rows, count, np.int32)
                at[: len(part)] = [arriving[i] for i in part]
                batch = self._batch([samples[i] for i in part], shape, rows)
                with self._on_mesh():
                    at = to_device(at, self._mesh)
                    slots = self._run["admit"](self._params, slots, batch, at)
        return slots

    def _in_parts(
        self,
        samples: Sequence[Mapping[str, Any]],
        arriving: dict[int, int],
        count: int,
        weights: dict,
        length: int,
    ) -> Iterator[Placing | None]:
        """`_admit` in parts of `length` tokens, as `Device.prefill`; towers and embeddings are a
        part of their own. weights: those of `decode`.
        """
        for shape, group in batches.by_shape(arriving, samples):
            for part, rows in self._parts(group, shape, self._shards):
                batch = self._batch([samples[i] for i in part], shape, rows)
                at = np.full(rows, count, np.int32)
                at[: len(part)] = [arriving[i] for i in part]
                with self._on_mesh():
                    state = self._run["begin"](self._params, batch, part=length)
                for _ in range(0, shape[0], length):
                    yield None
                    with self._on_mesh():
                        state = self._run["part"](weights, state, part=length)

                with self._on_mesh():
                    where = to_device(at, self._mesh)
                place = functools.partial(self._place, state, where, shape[0])
                yield {i: arriving[i] for i in part}, place

    def _place(self, state: loop.Prefill, at: jax.Array, tokens: int, slots: Slots) -> Slots:
        with self._on_mesh():
            return self._run["end"](slots, state, at, tokens=tokens)

    def _decode_params(self) -> dict:
        """The decoder with each layer apart: views where that copies nothing, else a second copy of
        the layers.
        """
        mine = vlm.layer_views(self._params, self._cfg)["decoder"]
        apart = isinstance(mine["layers"], tuple)
        return {"decoder": mine if apart else mine | {"layers": self._run["apart"](mine["layers"])}}

    def _on_mesh(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh)

    def _parts(
        self, group: list[int], shape: batches.Shape, most: int = 1 << 30
    ) -> Iterator[tuple[list[int], int]]:
        """`batches.parts` for the devices that there are."""
        return batches.parts(group, shape, self._shards, most, jax.default_backend())

    def _batch(
        self, samples: Sequence[Mapping[str, Any]], shape: batches.Shape, rows: int
    ) -> loop.Batch:
        batch = batches.make_batch(samples, shape, rows, self._cfg)
        if self._mesh is None:
            return batch
        return jax.device_put(batch, mesh_lib.batch_sharding(self._mesh))


def _traced(settings: Settings, banned: jax.Array, mesh: jax.sharding.Mesh | None) -> Draw:
    """The settings as scalars on the device: another temperature compiles nothing."""
    numbers: dict[str, np.generic] = {}
    if settings.temperature > 0:
        numbers["temperature"] = np.float32(settings.temperature)
        if settings.top_p < 1:
            numbers["top_p"] = np.float32(settings.top_p)
        if settings.top_k > 0:
            numbers["top_k"] = np.int32(settings.top_k)
    return Draw(banned, **to_device(numbers, mesh))


def _keys(seeds: Sequence[tuple[int, int]], samples: int) -> np.ndarray:
    """uint32 [len(seeds), samples, 2]."""

    def one(seed: jax.Array, number: jax.Array) -> jax.Array:
        return sampling.row_keys(jax.random.fold_in(jax.random.key(seed), number), 1, samples)[0]

    pairs = jnp.asarray(np.array(seeds, np.uint32))
    return to_host(jax.random.key_data(jax.vmap(one)(pairs[:, 0], pairs[:, 1])))
