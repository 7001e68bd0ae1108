"""Seconds and skipped samples add up over restarts, each sample once."""

import json

from qoq_jax.train import run_record as facts

A, B = {"where": "mine/a", "reason": "gone"}, {"where": "mine/b", "reason": "gone"}


def test_the_tally_goes_on_after_a_restart(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(facts.time, "monotonic", lambda: now[0])
    first = facts.Tally(str(tmp_path))
    now[0] = 160.0
    first.keep([A])
    now[0] = 900.0  # killed: what came after the last `keep` is lost, and nothing says otherwise
    second = facts.Tally(str(tmp_path))
    now[0] = 930.0
    second.keep([A, B])
    facts.write_run(str(tmp_path), second, model="nano")
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["seconds"] == {"all": 90.0} and run["skipped"] == [A, B] and run["model"] == "nano"
    now[0] = 940.0  # once more, when all is done
    third = facts.Tally(str(tmp_path))
    third.keep([])
    facts.write_run(str(tmp_path), third, model="nano")
    again = json.loads((tmp_path / "run.json").read_text())
    assert (
        again["skipped"] == [A, B]
        and again["seconds"] == {"all": 90.0}
        and not list(tmp_path.glob("*.tmp"))
    )
