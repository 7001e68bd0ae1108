"""Checkpoints that cannot be written: one clear line, exit code 1, the last committed step intact."""

import subprocess
import sys

# A limit on file size stands for a full disk: the write fails in Orbax's own threads in the same way.
SCRIPT = """
import resource, sys
import jax
from qoq_jax.errors import QoqError
from qoq_jax.models import variants
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
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / "checkpoints")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and "cannot write" in lines[0] and "mend: free disk space" in lines[0], done.stderr
