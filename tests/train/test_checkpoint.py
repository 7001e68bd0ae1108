"""Checkpoints that cannot be written or read: one clear line, exit code 1, the last sound step is
used.
"""

import errno
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qoq_jax.base.errors import CheckpointError, RetryError
from qoq_jax.data.rows import DOMAINS
from qoq_jax.models import sizes as variants
from qoq_jax.parallel import hosts, messages
from qoq_jax.rl import drpo
from qoq_jax.train import checksums
from qoq_jax.train.checkpoint import Checkpointer
from qoq_jax.train.checksums import CHECKSUMS, SEAL, damage, raise_what_may_pass
from qoq_jax.train.config import EvalConfig
from qoq_jax.train.sections import CheckpointConfig
from qoq_jax.train.state import start
from qoq_jax.train.validation import Validation

# A limit on file size stands for a full disk: the write fails in Orbax's own threads in the same
# way.
SCRIPT = """
import resource, sys
import jax
from qoq_jax.base.errors import QoqError
from qoq_jax.models import sizes as variants
from qoq_jax.train.checkpoint import Checkpointer

folder = sys.argv[1]
small, large = jax.numpy.ones(10), jax.random.normal(jax.random.key(0), (1000, 1000))
checkpoints = Checkpointer(folder, variants.get("nano"))
checkpoints.save(1, {"a": small}, {})
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    checkpoints.save(2, {"a": large}, {})
    checkpoints.close()
except QoqError as error:
    print(f"qoq: {error}", file=sys.stderr)
    again = Checkpointer(folder, variants.get("nano"))
    assert again.latest() == 1 and again.restore({"a": small})[0]["a"].shape == (10,)
    sys.exit(1)
"""


def test_a_failed_write_is_one_line_and_leaves_the_last_checkpoint(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "checkpoints")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and "cannot write" in lines[0] and "hint: free disk space" in lines[0], (
        done.stderr
    )


def tree(scale):
    return {
        "a": jnp.arange(30_000, dtype=jnp.float32).reshape(300, 100) * scale,
        "b": jnp.ones(7) * scale,
    }


def written(folder, *steps):
    checkpoints = Checkpointer(str(folder), variants.get("nano"))
    for step in steps:
        checkpoints.save(step, tree(step), {"at": step})
    checkpoints.close()


def flip_a_bit(folder):
    """In the middle of the largest file."""
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(folder):
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    path.write_bytes(path.read_bytes()[:1000])


def make_old(folder):
    """As versions wrote it that knew no checksums."""
    for name in (CHECKSUMS, SEAL):
        (folder / name).unlink()


def break_one_without_checksums(folder):
    make_old(folder)
    (folder / "record" / "metadata").write_text("{")


@pytest.mark.parametrize("harm", [flip_a_bit, cut, break_one_without_checksums])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(harm, tmp_path, capfd):
    written(tmp_path, 2, 4)
    harm(tmp_path / "4")
    checkpoints = Checkpointer(str(tmp_path), variants.get("nano"))
    state, data, step = checkpoints.restore(tree(0))  # to look only: everything stays in its place
    assert (
        (step, data) == (2, {"at": 2})
        and (state["a"] == tree(2)["a"]).all()
        and (tmp_path / "4").is_dir()
    )
    line = capfd.readouterr().err.strip()
    assert str(tmp_path / "4") in line and "step 2 is used" in line and len(line.splitlines()) == 1
    # To go on from it: the number of the damaged step can be saved again.
    assert checkpoints.restore(tree(0), resume=True)[2] == 2
    assert str(tmp_path / "damaged-4") in capfd.readouterr().err
    checkpoints.save(4, tree(9), {})
    checkpoints.close()
    again = Checkpointer(str(tmp_path), variants.get("nano"))
    assert (again.restore(tree(0))[0]["b"] == tree(9)["b"]).all() and capfd.readouterr().err == ""


def with_history(domains, seed=0):
    """A small TrainState whose DRPO history is of so many domains."""
    cfg = drpo.DRPOConfig(num_domains=domains, history_size=3)
    mesh = jax.sharding.Mesh(jax.devices()[:1], "x")
    state = start({"a": jnp.ones(2)}, optax.identity(), mesh, drpo.init_history(cfg, rollouts=4))
    vectors = jax.random.normal(jax.random.key(seed), state.history.vectors.shape)
    return state.replace(
        history=drpo.DomainHistory(vectors, jnp.arange(1, domains + 1, dtype=jnp.int32))
    )


def test_a_state_of_fewer_domains_gets_the_new_ones_empty_and_keeps_its_bits(tmp_path, capfd):
    before, wanted = with_history(10), with_history(len(DOMAINS), seed=1)
    checkpoints = Checkpointer(str(tmp_path), variants.get("nano"))
    checkpoints.save(2, before, {})
    checkpoints.close()
    checkpoints = Checkpointer(str(tmp_path), variants.get("nano"))
    state = checkpoints.restore(wanted, resume=True)[0]
    line = capfd.readouterr().out
    assert line == f"{tmp_path}/2: the history of DRPO is empty for endoscopy\n"
    for found, old in zip(jax.tree.leaves(state.history), jax.tree.leaves(before.history)):
        assert np.asarray(found[:10]).tobytes() == np.asarray(old).tobytes()
        assert found.shape[0] == 11 and not np.asarray(found[10:]).any()
    assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(lambda x: x.sharding, wanted)
    checkpoints.restore(wanted)  # to look at
    assert capfd.readouterr().out == ""


def test_without_a_sound_checkpoint_the_error_is_one_line(tmp_path):
    written(tmp_path, 2)
    flip_a_bit(tmp_path / "2")
    with pytest.raises(
        CheckpointError, match=r"damaged \(.* has changed since it was written\).*hint: restore"
    ) as error:
        Checkpointer(str(tmp_path), variants.get("nano")).restore(tree(0))
    assert (
        str(tmp_path / "2") in str(error.value)
        and error.value.exit_code == 1
        and "\n" not in str(error.value)
    )


def test_a_flipped_bit_of_any_small_file_is_found(tmp_path):
    """Those of the commit and the seal itself too, and the file is named."""
    written(tmp_path, 2)
    small = [p for p in (tmp_path / "2").rglob("*") if p.is_file() and p.stat().st_size < 3000]
    assert {SEAL, "_CHECKPOINT_METADATA", "commit_success.txt"} <= {p.name for p in small}
    for path in small:
        content = path.read_bytes()
        for at in range(0, len(content), 1 + len(content) // 50):
            changed = bytearray(content)
            changed[at] ^= 1 << at % 8
            path.write_bytes(changed)
            assert damage(str(tmp_path / "2")).startswith(str(path.relative_to(tmp_path / "2")))
        path.write_bytes(content)
    assert damage(str(tmp_path / "2")) is None


@pytest.mark.parametrize("best", [False, True])
def test_a_damaged_file_of_the_commit_gives_way_to_the_step_before(best, tmp_path, capfd):
    keep = CheckpointConfig(keep_best=1 if best else 0)
    checkpoints = Checkpointer(str(tmp_path), variants.get("nano"), keep)
    for step in (2, 4):
        checkpoints.save(step, tree(step), {"at": step}, score=step if best else None)
    checkpoints.close()
    for name in ("metrics/metrics", "_CHECKPOINT_METADATA") if best else ("_CHECKPOINT_METADATA",):
        path = tmp_path / "4" / name
        path.write_bytes(b"\x7b" + path.read_bytes()[:-1])
    checkpoints = Checkpointer(str(tmp_path), variants.get("nano"), keep)
    assert checkpoints.restore(tree(0), resume=True)[1:] == ({"at": 2}, 2)
    checkpoints.close()
    assert "step 2 is used" in capfd.readouterr().err


def test_a_process_killed_before_the_seal_has_committed(tmp_path, capfd):
    written(tmp_path, 2, 4)
    (tmp_path / "4" / SEAL).unlink()
    assert Checkpointer(str(tmp_path), variants.get("nano")).restore(tree(0))[2] == 4
    assert capfd.readouterr().err == ""


def timed_out(*_, **__):
    raise OSError(errno.ETIMEDOUT, "Connection timed out")


def unavailable(*_, **__):
    raise ValueError("UNAVAILABLE: Error reading state/d/x: HTTP response code: 503")


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("failing", ["digests", "arrays"])
def test_storage_that_does_not_answer_is_no_damage(failing, hashed, tmp_path, monkeypatch):
    written(tmp_path, 2, 4)
    if not hashed:
        make_old(tmp_path / "4")
    checkpoints = Checkpointer(str(tmp_path), variants.get("nano"))
    with monkeypatch.context() as patch:
        if failing == "digests" and hashed:
            patch.setattr(checksums, "digests", timed_out)
        else:
            patch.setattr(checkpoints._manager, "restore", unavailable)
        with pytest.raises(RetryError, match="cannot be read") as error:
            checkpoints.restore(tree(0), resume=True)
    assert error.value.exit_code == 42
    assert (tmp_path / "4").is_dir() and not (tmp_path / "damaged-4").exists()
    assert checkpoints.restore(tree(0), resume=True)[2] == 4
    checkpoints.close()


def test_whoever_reads_writes_and_deletes_nothing(tmp_path):
    written(tmp_path, 2, 4)
    unfinished = tmp_path / "6.orbax-checkpoint-tmp"
    unfinished.mkdir()
    before = sorted(tmp_path.rglob("*"))
    reader = Checkpointer(str(tmp_path), variants.get("nano"), read_only=True)
    assert reader.restore(tree(0))[2] == 4
    reader.close()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_lost_process_does_not_damage_the_best_weights(tmp_path, monkeypatch):
    validation = Validation(str(tmp_path), "sft", EvalConfig())
    validation.scores, validation._kept = [(4, 0.5)], {4}

    def lost(*_):
        raise messages.PeerError("process 1 has ended with exit code 1")

    monkeypatch.setattr(messages, "from_main", lost)
    with pytest.raises(messages.PeerError):
        validation.restore_best(tree(0))


def test_an_error_with_the_words_of_a_lost_process_is_a_sign_of_damage(monkeypatch):
    """Of several processes, what JAX's runtime says of another one is none."""
    monkeypatch.setattr(hosts, "process_count", lambda: 2)
    for error in (ValueError("status ABORTED is no dtype"), KeyError("heartbeat")):
        raise_what_may_pass(error, "a checkpoint")
    lost = jax.errors.JaxRuntimeError("ABORTED: a task has no heartbeat")
    with pytest.raises(jax.errors.JaxRuntimeError):
        raise_what_may_pass(lost, "a checkpoint")
