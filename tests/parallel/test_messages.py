"""Messages between processes: in one process nothing is sent; in several, errors and deaths end the
wait.
"""

from __future__ import annotations

import math
import textwrap
import time

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


@pytest.mark.parametrize("kind", [ValueError, RuntimeError])
def test_a_collective_that_failed_is_known_by_its_text(kind):
    gone = "[external/gloo/transport/tcp/pair.cc:547] Read error: Connection closed by peer"
    assert leaving.is_lost_peer(kind(f"UNKNOWN: Gloo all-reduce failed: {gone}"))
    assert not leaving.is_lost_peer(kind("no such data"))


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
