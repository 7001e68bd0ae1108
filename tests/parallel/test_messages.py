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
from qoq_jax.parallel import messages

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


@pytest.mark.slow
def test_a_process_that_fails_ends_those_that_compute_with_it():
    """Within the heartbeat: a collective waits for it."""
    body = """
        import jax
        import numpy as np
        from qoq_jax.parallel.mesh import batch_sharding, make_mesh

        def main():
            mesh = make_mesh(data=2)
            x = hosts.to_global(np.ones((1, 4), np.float32), batch_sharding(mesh))
            total = jax.jit(lambda x: x.sum())
            assert total(x) == 8
            if index == 1:
                return 1
            total(x).block_until_ready()
            return 0
    """
    with processes.Processes(program(body), count=2, devices=1) as started:
        found = started.wait(60)
    assert found[1][0] == 1, found
    code, text = found[0]
    ours = code == 1 and "see the output of the other processes" in text
    of_jax = code == -6 and "another task died" in text  # whichever notices first
    assert ours or of_jax, text


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
    assert code in (1, -6), text  # our line, or JAX's own end of the process
    assert "Traceback" not in text or "another task died" in text, text
    assert "Timeout" not in text
