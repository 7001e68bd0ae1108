"""`qoq launch`: job files, --dry-run, and the engine's programs."""

import pathlib
import shlex
import stat

import pytest

from qoq_jax.cli import launch
from qoq_jax.cli.main import main

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
JOB = """
from qoq_jax.launch.spec import Job
def get_job():
    return Job(name="one", command="python x.py", topology="{topology}", image="i", workdir="/w",
               project="p", zone="z-a", cluster="c", partition="gpu", xla_flags="none"{more})
"""


@pytest.fixture
def job_file(tmp_path):
    def write(topology="h100:1x8", more=""):
        path = tmp_path / "job.py"
        path.write_text(JOB.format(topology=topology, more=more))
        return str(path)

    return write


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """The only programs there are: these. Each writes its arguments into `calls`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def add(name, code=0, says=""):
        path = folder / name
        path.write_text(
            f'#!/bin/bash\necho "{name} $*" >> {tmp_path}/calls\n'
            f'for one; do if [[ -f $one ]]; then /bin/cat "$one" >> {tmp_path}/sent; fi; done\n'
            f'echo "<${{JAX_PLATFORMS-}}>" > {tmp_path}/platforms\n'
            f"printf %s {shlex.quote(says)}\n"
            f"exit {code}\n"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    add.calls = (tmp_path / "calls").read_text
    add.sent = (tmp_path / "sent").read_text
    add.platforms = (tmp_path / "platforms").read_text
    return add


@pytest.mark.parametrize(
    ("engine", "topology", "line"),
    [
        ("tpu-vm", "v5e:2x4", "$ bash one.sh"),
        ("gke", "v5e:2x4", "$ kubectl --context=gke_p_z-a_c apply --filename one.yaml"),
        ("skypilot", "h100:1x8", "$ sky jobs launch --yes --detach-run --name one one.yaml"),
        ("slurm", "h100:1x8", "$ sbatch one.sbatch"),
    ],
)
def test_dry_run_prints_and_runs_nothing(engine, topology, line, job_file, programs, capsys):
    assert main(["launch", job_file(topology), engine, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert line in out.splitlines()
    assert "python x.py" in out


def test_submit_hands_over_the_rendering(job_file, programs, capfd):
    programs("sbatch")
    file = job_file()
    assert main(["launch", file, "slurm", "--dry-run"]) == 0
    shown = capfd.readouterr().out
    assert main(["launch", file, "slurm"]) == 0
    assert programs.calls().startswith("sbatch /")
    assert programs.sent() == shown.rpartition("\n$ sbatch")[0]


@pytest.mark.parametrize("dry", [True, False], ids=["dry", "run"])
@pytest.mark.parametrize(
    ("engine", "topology", "asks"),
    [
        ("tpu-vm", "v5e:2x4", {"status": "describe", "logs": "tail", "delete": "delete"}),
        ("gke", "v5e:2x4", {"status": "get", "logs": "logs", "delete": "delete"}),
        ("skypilot", "h100:1x8", {"status": "queue", "logs": "logs", "delete": "cancel"}),
        ("slurm", "h100:1x8", {"status": "squeue", "logs": "tail", "delete": "scancel"}),
    ],
)
@pytest.mark.parametrize("action", ["status", "logs", "delete"])
def test_other_actions_submit_nothing(
    action, engine, topology, asks, dry, job_file, programs, capfd
):
    for name in ("gcloud", "kubectl", "sky", "sbatch", "bash", "squeue", "tail", "scancel"):
        programs(name)
    words = ["launch", job_file(topology), engine, "--action", action]
    assert main([*words, *["--dry-run"] * dry]) == 0
    said = capfd.readouterr().out if dry else programs.calls()
    assert asks[action] in said
    assert "python x.py" not in said
    assert not any(one in said for one in ("sbatch", "apply", "jobs launch", "bash one"))


def test_the_first_command_that_fails_ends_it(job_file, programs):
    programs("gcloud", code=7)
    programs("kubectl")
    assert main(["launch", job_file(), "gke"]) == 7
    assert "kubectl" not in programs.calls()


def test_a_program_that_is_not_there_is_named(job_file, programs, capsys):
    assert main(["launch", job_file(), "slurm"]) == 2
    (err,) = (x for x in capsys.readouterr().err.splitlines() if "note: " not in x)
    assert err.startswith("qoq: sbatch is not installed here (hint: ")


def test_all_mistakes_are_told(job_file, programs, capsys):
    assert main(["launch", job_file(more=", grace=0, hours=-1"), "slurm"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2
    assert "grace = 0" in err[0]
    assert "hours = -1" in err[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "no get_job()"),
        ("def get_job(): return 3", "returns no Job"),
        ("from qoq_jax.launch.spec import Job\ndef get_job(): return Job(nam='x')", "'nam'"),
        ("def get_job(:", "cannot be read (SyntaxError"),
        ("def get_job(): return {}['x']", "get_job() fails (KeyError: 'x')"),
    ],
)
def test_a_file_that_is_no_job(text, message, tmp_path, capsys):
    path = tmp_path / "job.py"
    path.write_text(text)
    assert main(["launch", str(path), "slurm"]) == 2
    assert message in capsys.readouterr().err


def test_no_file(capsys):
    assert main(["launch", "nothing.py", "slurm"]) == 2
    assert "no job file nothing.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "topology", "message"),
    [
        ("qoq train --config={c}", "h100:1x1", ""),
        ("qoq train --config={c}", "h100:1x8", "data.media_rows = 1 does not divide over 8"),
        ("qoq train --config={c} --config.mesh.data=1", "h100:1x8", "does not fit 8 devices"),
        ("qoq train --config {c} --config.mesh.data=1", "h100:1x8", "does not fit 8 devices"),
        ("qoq train --config={c} --config.model.variant=72b", "h100:1x1", "GiB of a device"),
        ("qoq train --config=elsewhere.py", "h100:1x8", ""),
        ("qoq train --config={c} --config.mesh.data 1", "h100:1x8", "does not fit 8 devices"),
        ("qoq train --config={c} --config.faults.grace=120", "h100:1x1", "not below grace = 120"),
        ("qoq train --config={c} --config.faults.grace=20", "h100:1x1", "takes about 21 s to save"),
        ("qoq train --config={c} --config.mesh.data=3", "cpu:2", "over 2 processes"),
        ("qoq train --config={c} --config.mesh.data=4", "cpu:2", ""),
        ("qoq train --config={c}", "cpu:2", ""),
    ],
)
def test_the_config_fits_the_accelerators(command, topology, message, tmp_path):
    path = tmp_path / "job.py"
    text = JOB.format(topology=topology, more="")
    path.write_text(text.replace("python x.py", command.format(c="configs/quickstart.py")))
    found = [str(one) for one in launch.check_config(launch.load(str(path)))]
    assert bool(found) == bool(message), found
    assert all(message in one for one in found), found


@pytest.mark.parametrize(
    ("command", "topology", "message"),
    [
        ("python x.py", "h100:1x8", "no config is checked"),
        ("qoq evaluate --config=configs/quickstart.py", "h100:1x8", "no config is checked"),
        ("qoq train --config=elsewhere.py", "h100:1x8", "elsewhere.py is not here"),
        ("qoq train --config=configs/quickstart.py", "cpu:1", "memory and batch are not checked"),
    ],
)
def test_a_check_that_is_left_out_is_said(command, topology, message, tmp_path, capsys):
    path = tmp_path / "job.py"
    path.write_text(JOB.format(topology=topology, more="").replace("python x.py", command))
    assert launch.check_config(launch.load(str(path))) == []
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("rank", "gib"), [(0, 93.7), (8, 0.226)])
def test_the_checkpoint_is_that_of_the_plan(rank, gib, tmp_path):
    """12 bytes a parameter that is trained: 8.38e9 of 7B with its ECG encoder, or adapters."""
    command = (
        "qoq train --config=configs/qoq_med_7b.py:v5e-16x16 --config.faults.grace=10"
        f" --config.lora.rank={rank}"
    )
    path = tmp_path / "job.py"
    path.write_text(JOB.format(topology="v5e:16x16", more="").replace("python x.py", command))
    (found,) = launch.check_config(launch.load(str(path)))
    assert f"a checkpoint of {gib} GiB on 64 hosts" in str(found)


@pytest.mark.parametrize(("mesh", "wrong"), [("", 0), (" --config.mesh.data=3", 1)])
def test_the_mesh_of_an_encoders_config_is_checked_too(mesh, wrong, tmp_path):
    path = tmp_path / "job.py"
    command = f"qoq train --config={CONFIGS / 'climb_multitask.py'}:pod{mesh}"
    path.write_text(JOB.format(topology="v5e:4x4", more="").replace("python x.py", command))
    assert len(launch.check_config(launch.load(str(path)))) == wrong


@pytest.mark.parametrize("action", ["submit", "status"])
@pytest.mark.parametrize("changed", ["", " M one.py\n", " M one.py\n?? two.py\n"])
def test_changes_that_the_machines_do_not_get_are_noted(action, changed, job_file, programs, capfd):
    programs("git", says=changed)
    words = ["launch", job_file("v5e:2x4"), "tpu-vm", "--dry-run", "--action", action]
    assert main(words) == 0
    said = capfd.readouterr().err
    assert ("without changes: one.py" in said) == bool(changed and action == "submit")
    assert ("and 1 more" in said) == ("two.py" in changed and action == "submit")


@pytest.mark.parametrize(
    ("engine", "topology", "program"),
    [("slurm", "h100:1x1", "sbatch"), ("local", "cpu:1", "qoq")],
)
def test_reading_the_config_leaves_no_platform_to_the_job(
    engine, topology, program, job_file, programs, monkeypatch
):
    """Configs are read with JAX on the CPU; the job is to have its accelerators."""
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    programs(program)
    file = pathlib.Path(job_file(topology))
    command = f"qoq train --config={CONFIGS / 'quickstart.py'}"
    file.write_text(file.read_text().replace("python x.py", command))
    assert main(["launch", str(file), engine]) == 0
    assert programs.platforms() == "<>\n"


LOCAL = """
from qoq_jax.launch.spec import Job
def get_job():
    return Job(name="two", topology="cpu:2", max_restarts=0, grace=5,
               command='''sh -c 'echo "$QOQ_PROCESS_INDEX of $QOQ_PROCESS_COUNT"; {then}' ''')
"""


@pytest.mark.parametrize("code", [0, 3])
def test_local_runs_the_processes(code, tmp_path, capfd):
    path = tmp_path / "job.py"
    path.write_text(LOCAL.format(then=f"exit {code}"))
    assert main(["launch", str(path), "local"]) == code
    out = capfd.readouterr().out
    assert {"[0] 0 of 2", "[1] 1 of 2"} >= set(out.splitlines())
    assert out


def test_local_shows_what_it_would_start(tmp_path, capsys):
    path = tmp_path / "job.py"
    path.write_text(LOCAL.format(then=f"touch {tmp_path}/ran"))
    assert main(["launch", str(path), "local", "--dry-run"]) == 0
    assert capsys.readouterr().out.count("QOQ_COORDINATOR=localhost:FREE_PORT") == 2
    assert not (tmp_path / "ran").exists()


def test_local_has_nothing_to_ask_later(tmp_path, capsys):
    path = tmp_path / "job.py"
    path.write_text(LOCAL.format(then="exit 0"))
    assert main(["launch", str(path), "local", "--action", "logs"]) == 2
    assert "Ctrl-C" in capsys.readouterr().err
