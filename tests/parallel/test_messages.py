"""Messages between processes: in one process nothing is sent; in several, errors and deaths end the
wait.
"""

from __future__ import annotations

import math
import textwrap
import threading
import time
from unittest import mock

import jax
import jax.numpy as jnp
import pytest
from helpers import processes

from qoq_jax.base.errors import DataError
from qoq_jax.parallel import leaving, messages

HEAD = """
import os, sys, time
from qoq_jax.base.errors import DataError
from qoq_jax.parallel import hosts, messages

hosts.join()
index = hosts.process_index()

"""


def program(body: str) -> list[str]:
    """`body` as the command of a process: its function `main` returns an exit code."""
    return ["-c", HEAD + textwrap.dedent(body) + "\nsys.exit(hosts.leave(main))"]


def test_one_process_sends_nothing():
    assert messages.exchange("alone", {"a": [math.inf]}) == [{"a": [math.inf]}]
    assert messages.to_main("alone", 3) == [3]
    assert messages.from_main("alone", lambda: (1, 2)) == (1, 2)


def test_an_error_of_the_only_process_is_raised():
    def fail():
        raise DataError("no rows")

    with pytest.raises(DataError, match="no rows"):
        messages.from_main("alone", fail)


@pytest.mark.slow
def test_values_and_errors_reach_all_processes():
    said = processes.run(
        program(
            """
            def broken():
                raise DataError("no rows", where="a folder", hint="look")

            def main():
                for turn in range(3):
                    found = messages.exchange("turn", [index, turn, float("nan")])
                    assert [x[:2] for x in found] == [[i, turn] for i in range(3)], found
                large = "x" * (9 << 20)
                assert messages.exchange("large", large) == [large] * 3
                found = messages.to_main("to main", index)
                assert found == ([0, 1, 2] if index == 0 else None)
                assert messages.from_main("main", lambda: [index, "said"]) == [0, "said"]
                try:
                    messages.from_main("broken", broken)
                except DataError as error:
                    assert str(error) == "a folder: no rows (hint: look)"
                    print("well")
                hosts.once_per_machine("made", lambda: print("made here"), 60)
                return 0
            """
        ),
        count=3,
        devices=1,
        limit=90,
    )
    assert all("well" in text for text in said)
    assert ["made here" in text for text in said] == [True, False, False]


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_a_process_that_fails_ends_those_that_wait_for_it(failing):
    body = f"""
        def main():
            if index == {failing}:
                print("I fail")
                return 1
            try:
                messages.exchange("never", index)
            except messages.PeerError as error:
                print(error)
                return 1
    """
    began = time.monotonic()
    with processes.Processes(program(body), count=2, devices=1) as started:
        found = started.wait(60)
    assert [code for code, _ in found] == [1, 1], found
    assert f"process {failing} has ended with exit code 1" in found[1 - failing][1]
    assert time.monotonic() - began < 50


COMPUTE = """
    import jax
    import numpy as np
    from qoq_jax.parallel.mesh import batch_sharding, make_mesh

    def compute(times):
        mesh = make_mesh(data=2)
        x = hosts.to_global(np.ones((1, 4), np.float32), batch_sharding(mesh))
        total = jax.jit(lambda x: x.sum())
        assert total(x) == 8
        for _ in range(times):
            total(x).block_until_ready()
"""


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_a_process_that_fails_ends_those_that_compute_with_it_with_its_code(failing):
    body = f"""
        def main():
            compute(0)
            if index == {failing}:
                raise ValueError("no such data")
            compute(1000)
            return 0
    """
    body = textwrap.dedent(COMPUTE) + textwrap.dedent(body)
    with processes.Processes(program(body), count=2, devices=1) as started:
        found = started.wait(60)
    assert [code for code, _ in found] == [1, 1], found
    assert "ValueError: no such data" in found[failing][1]
    text = found[1 - failing][1]
    assert f"process {failing} has ended with exit code 1" in text and "Traceback" not in text


@pytest.mark.slow
def test_a_process_that_is_gone_without_a_word_is_worth_another_try():
    body = """
        def main():
            compute(0)
            if index == 1:
                os._exit(9)
            compute(1000)
            return 0
    """
    body = textwrap.dedent(COMPUTE) + textwrap.dedent(body)
    with processes.Processes(program(body), count=2, devices=1) as started:
        code, text = started.wait(60)[0]
    ours = code == 42 and "another process of the run is gone" in text
    of_jax = code == -6 and "another task died" in text  # whichever notices first
    assert ours or of_jax, text
    assert of_jax or "Traceback" not in text


@pytest.mark.slow
def test_a_process_that_is_left_in_a_wait_without_end_leaves_with_the_code_of_the_failure():
    """As in a collective of GPUs or TPUs, which does not fail when a process is gone."""
    body = """
        def main():
            if index == 1:
                return 2
            time.sleep(600)
    """
    with processes.Processes(program(body), count=2, devices=1) as started:
        (code, text), _ = started.wait(30)
    assert code == 2 and "process 1 has ended with exit code 2" in text


@pytest.mark.parametrize("kind", [ValueError, jax.errors.JaxRuntimeError])
def test_a_collective_that_failed_is_known_by_its_text(kind):
    gone = "[external/gloo/transport/tcp/pair.cc:547] Read error: Connection closed by peer"
    assert leaving.is_lost_peer(kind(f"UNKNOWN: Gloo all-reduce failed: {gone}"))
    assert not leaving.is_lost_peer(kind("no such data"))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("record 100 has no heartbeat annotations"),
        KeyError("heartbeat"),
        ValueError("Gloomy"),
        ValueError("label ABORTED is not allowed"),
        RuntimeError("reward service UNAVAILABLE"),
        ConnectionResetError("connection closed by peer"),
    ],
    ids=repr,
)
def test_an_error_that_only_uses_such_words_is_no_lost_process(error):
    assert not leaving.is_lost_peer(error)


@pytest.mark.parametrize(
    "said",
    [
        "UNAVAILABLE: failed to connect to all addresses",
        "ABORTED: task 1 was aborted",
        "INTERNAL: the coordination service has seen no heartbeat",
    ],
)
def test_an_error_of_the_runtime_is_known_by_its_words(said):
    error = jax.errors.JaxRuntimeError(said)
    assert leaving.is_lost_peer(error)
    of_orbax = TimeoutError("Timed out while waiting for a barrier.")
    assert not leaving.is_lost_peer(of_orbax)
    of_orbax.__cause__ = error
    assert leaving.is_lost_peer(of_orbax)


def test_what_a_callback_from_the_device_raises_is_no_lost_process():
    def fail(_):
        raise KeyError("heartbeat")

    wanted = jax.ShapeDtypeStruct((), jnp.float32)
    with pytest.raises(jax.errors.JaxRuntimeError, match="heartbeat") as caught:
        jax.jit(lambda x: jax.pure_callback(fail, wanted, x))(1.0).block_until_ready()
    assert not leaving.is_lost_peer(caught.value)


def test_the_error_of_a_process_of_several_keeps_its_traceback_and_code(monkeypatch, capfd):
    monkeypatch.setattr(messages, "are_several", lambda: True)
    monkeypatch.setattr(leaving, "_leaving", threading.Event())
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(messages, "process_index", lambda: 1)
    told, ended = [], []
    monkeypatch.setattr(messages, "report_failure", told.append)
    monkeypatch.setattr(leaving.threading, "Timer", mock.Mock())
    monkeypatch.setattr(leaving.os, "_exit", ended.append)

    def fail():
        raise ValueError("record 100 has no heartbeat annotations")

    leaving.leave(fail)
    assert told == ended == [1]
    said = capfd.readouterr().err
    assert "Traceback" in said and "ValueError: record 100 has no heartbeat annotations" in said


LEFT_EARLY = """
import sys
import jax
from jax._src import xla_bridge
from qoq_jax.parallel import hosts, leaving, messages

hosts.join()
leaving._exit = leaving.os._exit

def ended(code):
    print("ended, with backends", sorted(xla_bridge._backends), flush=True)
    leaving._exit(code)

leaving.os._exit = ended

def main():
    if messages.process_index():
        raise ValueError("no such data")
    return 1

hosts.leave(main)
"""


@pytest.mark.slow
def test_leaving_starts_no_device():
    """Which waits for the other processes: one that has failed before must not."""
    with processes.Processes(["-c", LEFT_EARLY], count=2, devices=1) as started:
        found = started.wait(60)
    assert [code for code, _ in found] == [1, 1], found
    assert all("ended, with backends []" in text for _, text in found), found


@pytest.fixture
def watched(monkeypatch):
    """Runs the thread that looks after the others, on these answers; what it ended this process
    with. An answer that is an exception is raised.
    """
    monkeypatch.setattr(leaving, "_leaving", threading.Event())
    monkeypatch.setattr(messages, "LOOK", 1e-4)
    ended = []
    monkeypatch.setattr(leaving.interrupt, "leave", lambda *of_it: ended.append(of_it))

    def watch(answers):
        monkeypatch.setattr(messages, "failure", mock.Mock(side_effect=answers))
        leaving._watch()
        return ended

    return watch


GONE = jax.errors.JaxRuntimeError("UNAVAILABLE: no answer")


def test_a_look_at_the_others_that_fails_is_repeated(watched, capfd):
    few = [GONE] * (leaving._LOOKS - 1)
    ended = watched([*few, None, *few, (3, 2)])
    assert [code for code, _ in ended] == [2] and "process 3" in ended[0][1]
    assert not capfd.readouterr().err


def test_looks_that_all_fail_end_with_one_line(watched, capfd):
    assert watched([GONE] * leaving._LOOKS) == []
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "process 0 does not answer (UNAVAILABLE: no answer)" in said


@pytest.mark.slow
@pytest.mark.parametrize("dying", [0, 1])
def test_a_process_that_is_killed_ends_the_others(dying):
    """Within the heartbeat, which is ten seconds here, while they wait for data sets that it was to
    make.
    """
    body = f"""
        import signal

        def make():
            if index == {dying}:
                os.kill(os.getpid(), signal.SIGKILL)

        def main():
            if {dying}:
                make()
            hosts.once_per_machine("data sets", make, 600)
            return 0
    """
    with processes.Processes(program(body), count=2, devices=1) as started:
        found = started.wait(60)
    assert found[dying][0] == -9
    code, text = found[1 - dying]
    assert code in (42, -6), text  # our line, or JAX's own end of the process
    assert "Traceback" not in text or "another task died" in text, text
    assert "Timeout" not in text


def test_nobody_has_failed_for_a_process_that_has_left_the_run(monkeypatch):
    """The thread that looks may do so once more while JAX shuts down."""
    monkeypatch.setattr(messages, "_client", lambda: None)
    assert messages.failure() is None
