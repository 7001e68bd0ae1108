"""The training loop and its hooks around a step of a few numbers: order, windows, stops."""

from __future__ import annotations

import contextlib
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qoq_jax.base.errors import QoqError
from qoq_jax.train import hooks
from qoq_jax.train.log import MetricWriter
from qoq_jax.train.loop import Hook, Loop, StepResult, run


def count(state, number):
    """A step: its number is its loss and the state counts up; from step 3 on nothing is finite."""
    metrics = {"loss": np.float32(number), "update_finite": np.float32(number < 3)}
    skipped = 0 if number < 3 else state.skipped + 1
    state = types.SimpleNamespace(total=state.total + 1, skipped=skipped)
    return StepResult(state, metrics, {"tokens": 2.0}, [f"row{number}"])


def loop_of(steps, start=0):
    return Loop("sft", start, steps, types.SimpleNamespace(total=start, skipped=0))


class Noting(Hook):
    """Writes down when it is called."""

    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def begin(self, loop):
        self.calls.append(f"begin {self.name}")

    @contextlib.contextmanager
    def around_step(self, loop):
        self.calls.append(f"enter {self.name} {loop.done}")
        yield
        self.calls.append(f"leave {self.name} {loop.done}")

    def after_step(self, loop):
        self.calls.append(f"after {self.name} {loop.done}")

    def end(self, loop):
        self.calls.append(f"end {self.name}")


def test_hooks_are_called_in_their_order_and_wrap_the_step_from_the_outside_in():
    calls = []
    run(loop_of(1), count, [Noting("a", calls), Noting("b", calls)])
    inside = ["enter a 0", "enter b 0", "leave b 0", "leave a 0"]
    assert calls == ["begin a", "begin b", *inside, "after a 1", "after b 1", "end a", "end b"]


def test_a_loop_goes_on_from_its_start_and_gives_the_state_reached():
    assert run(loop_of(5, start=3), count, []).total == 5


def test_a_hook_that_stops_ends_the_loop_after_the_step():
    class Stop(Hook):
        def after_step(self, loop):
            loop.stop = loop.done == 2

    calls = []
    assert run(loop_of(5), count, [Stop(), Noting("a", calls)]).total == 2
    assert calls[-2:] == ["after a 2", "end a"]


def test_a_step_that_raises_ends_the_loop_without_end():
    calls = []

    def broken(state, number):
        raise QoqError("the power went out")

    with pytest.raises(QoqError, match="power"):
        run(loop_of(2), broken, [Noting("a", calls)])
    assert calls == ["begin a", "enter a 0"]


def test_the_state_is_held_by_nothing_but_the_loop():
    """A step donates its state: a second reference would be to deleted arrays."""
    seen = []

    class Look(Hook):
        def after_step(self, loop):
            seen.append(loop.last.state)

    run(loop_of(2), count, [Look()])
    assert seen == [None, None]


def rows_of(loop, *listed):
    """The row of every step, after these hooks."""
    rows = []

    class Keep(Hook):
        def after_step(self, loop):
            rows.append(loop.row)

    run(loop, count, [*listed, Keep()])
    return rows


def test_a_row_is_the_mean_of_the_steps_since_the_one_before():
    def summarise(steps, seconds):
        assert seconds >= 0
        return hooks.mean_of_steps(steps, maxima=("loss", "absent"))

    rows = rows_of(loop_of(7, start=1), hooks.MeanRow(3, summarise))
    assert [None if row is None else row["loss"] for row in rows] == [1, 2, None, None, 5, 6]
    assert all(row["absent"] == 0 and row["tokens"] == 2 for row in rows if row)
    assert rows[4]["update_finite"] == 0


def test_a_row_is_made_when_something_else_is_due():
    due = hooks.MeanRow(100, lambda steps, seconds: {}, also_due=lambda loop: loop.done == 3)
    assert [row is not None for row in rows_of(loop_of(5), due)] == [True, False, True, False, True]


def test_dropped_updates_are_counted_and_their_rows_named(tmp_path):
    rows = rows_of(
        loop_of(5),
        hooks.MeanRow(2, lambda steps, seconds: {}),
        hooks.CountSkippedUpdates(str(tmp_path)),
    )
    assert [row and row["skipped_updates"] for row in rows] == [0, 0, None, 1, 1]
    lines = (tmp_path / "skipped_updates.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"stage": "sft", "step": 4, "ids": ["row3"]},
        {"stage": "sft", "step": 5, "ids": ["row4"]},
    ]


def test_too_many_dropped_updates_stop_the_run():
    each = hooks.MeanRow(1, lambda steps, seconds: {})
    with pytest.raises(QoqError, match="sft step 5: 2 updates in a row were not finite"):
        run(loop_of(9), count, [each, hooks.StopWhenNotFinite(2)])


def test_compilations_count_inside_late_steps_alone():
    def step(state, number):
        if number in (0, 3):  # a new shape
            jax.jit(lambda x: x * 2 + number)(jnp.ones(number + 40))
        return count(state, number)

    class Compiles(Hook):
        def after_step(self, loop):
            jax.jit(lambda x: x - loop.done)(jnp.ones(loop.done + 80))

    counts = []

    class Keep(Hook):
        def after_step(self, loop):
            counts.append(loop.row["recompiles"])

    row = hooks.MeanRow(1, lambda steps, seconds: {})
    run(loop_of(5), step, [row, hooks.CountCompilations(), Compiles(), Keep()])
    assert counts[:3] == [0, 0, 0] and counts[3] == counts[4] > 0


def test_a_number_that_slips_to_the_device_unseen_is_an_error():
    add = jax.jit(lambda x: x + 1)
    add(np.ones(3))  # compiled, and outside of the guard it may
    with (
        hooks.GuardTransfers().around_step(loop_of(1)),
        pytest.raises(Exception, match="isallowed"),
    ):
        add(np.ones(3))


class Checkpoints:
    """What `SaveCheckpoints` asks of a Checkpointer."""

    def __init__(self):
        self.saved, self.is_saving, self.speed = [], False, None

    def save(self, step, state, data_state, score=None):
        self.saved.append((step, state, data_state))

    def check(self):
        pass

    def wait(self):
        self.saved.append("committed")

    def close(self):
        self.saved.append("closed")


def test_checkpoints_are_saved_every_n_steps_and_after_the_last():
    kept, data = (
        Checkpoints(),
        types.SimpleNamespace(position=lambda: 1, state_of=lambda position: {"at": position}),
    )
    save = hooks.SaveCheckpoints(kept, 2, data, to_save=lambda state: state.total)
    run(loop_of(5), count, [save])
    assert kept.saved == [(n, n, {"at": 1}) for n in (2, 4, 5)] + ["closed"]


def test_rows_are_written_once_each_when_a_process_goes_on(tmp_path):
    def writing():
        options = {"tensorboard": False, "wandb": False, "config": {}}
        each = hooks.MeanRow(1, lambda steps, seconds: hooks.mean_of_steps(steps))
        return [each, hooks.WriteRow(lambda: MetricWriter(str(tmp_path), **options))]

    run(loop_of(4), count, writing())
    run(loop_of(5, start=2), count, writing())  # the checkpoint was that of step 2
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]
