"""Seconds and skipped samples add up over restarts, each sample once."""

import json

from qoq_jax.train import run_record

A, B = {"where": "mine/a", "reason": "gone"}, {"where": "mine/b", "reason": "gone"}


def test_the_totals_go_on_after_a_restart(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(run_record.time, "monotonic", lambda: now[0])
    first = run_record.RunTotals(str(tmp_path))
    now[0] = 160.0
    first.keep([A])
    now[0] = 900.0  # killed: what came after the last `keep` is lost, and nothing says otherwise
    second = run_record.RunTotals(str(tmp_path))
    now[0] = 930.0
    second.keep([A, B])
    run_record.write_run(str(tmp_path), second, model="nano")
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["seconds"] == {"all": 90.0} and run["skipped"] == [A, B] and run["model"] == "nano"
    now[0] = 940.0  # once more, when all is done
    third = run_record.RunTotals(str(tmp_path))
    third.keep([])
    run_record.write_run(str(tmp_path), third, model="nano")
    again = json.loads((tmp_path / "run.json").read_text())
    assert (
        again["skipped"] == [A, B]
        and again["seconds"] == {"all": 90.0}
        and not list(tmp_path.glob("*.tmp"))
    )
