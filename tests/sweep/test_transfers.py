"""Sweeps of encoders: which runs there are, their table, and a sweep that goes on."""

import csv
import dataclasses
import json
import pathlib

import pytest
from helpers import transfer as tiny

from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.cli.main import main
from qoq_jax.climb.mini import array_sets
from qoq_jax.models.encoders import registry
from qoq_jax.sweep import transfer_tables, transfers
from qoq_jax.sweep.transfer_plan import TransferSweep, cells
from qoq_jax.transfer import run

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
CONFIG = """
from qoq_jax.sweep.transfer_plan import TransferSweep
from qoq_jax.transfer import config

KIND = config.KIND
SWEEP = TransferSweep("multitask", seeds=1, budgets=("samples",))


def get_config(arg=""):
    cfg = config.default()
    cfg.encoder = "tiny"
    cfg.data.mini_rows, cfg.data.frames = 0, 2
    cfg.data.extra = ({root!r},)
    cfg.training.batch = cfg.few.batch = 8
    cfg.training.steps = 4
    cfg.log.tensorboard = False
    return cfg
"""


@pytest.fixture(scope="module", autouse=True)
def tiny_encoder():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.ENCODERS, "tiny", tiny.ENCODER)
        yield


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    root = tiny.write_sets(folder / "sets", ("skin", "chest"))
    path = folder / "tiny_multitask.py"
    path.write_text(CONFIG.format(root=root))
    return str(path)


@pytest.fixture(scope="module")
def out(file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    assert main(["sweep", file, "--out", str(folder)]) == 0
    return folder


def test_a_set_by_itself_sees_as_many_of_its_samples(file):
    _, base = transfers.load(file)
    found = run.find_sets(base)
    made = cells(TransferSweep("multitask", 2, ("samples", "steps")), base, found, "out")
    steps = {cell.name: cell.config.training.steps for cell in made if cell.seed == 0}
    # 24 and 12 samples at temperature 2: shares 0.586 and 0.414 of four steps
    assert steps == {
        "multitask-seed0": 4,
        "samples-skin-seed0": 2,
        "steps-skin-seed0": 4,
        "samples-chest-seed0": 2,
        "steps-chest-seed0": 4,
    }
    assert [cell.seed for cell in made] == [0] * 5 + [1] * 5


def test_a_set_without_training_samples_is_refused(file):
    _, base = transfers.load(file)
    found = run.find_sets(base)
    part = {"test": found["skin"].splits["test"]}
    found |= {"skin": dataclasses.replace(found["skin"], splits=part)}
    with pytest.raises(DataError, match="skin: has no training split"):
        cells(TransferSweep("multitask"), base, found, "out")


def test_numbers_of_shots_are_read_from_the_command_line(file):
    _, base = transfers.load(file, ["--config.few.shots=2,4"])
    assert base.few.shots == (2, 4)
    with pytest.raises(ConfigError, match="few.shots = 'two' is not a tuple"):
        transfers.load(file, ["--config.few.shots=two"])


@pytest.mark.parametrize(("named", "targets"), [("", ("skin", "chest")), ("chest", ("chest",))])
def test_a_sweep_has_the_target_of_the_config_or_each_set_as_one(file, named, targets):
    _, base = transfers.load(file)
    base = dataclasses.replace(base, target=named)
    made = cells(TransferSweep("few_shot", 1), base, run.find_sets(base), "out")
    assert tuple((cell.dataset, cell.config.target) for cell in made) == tuple(
        (one, one) for one in targets
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.target=skin", "target = 'skin' in a sweep that leaves no set out"),
        ("--config.workdir=here", "--config.workdir=here in a sweep, whose runs are in OUT/cells"),
    ],
)
def test_what_a_sweep_decides_is_refused_on_the_command_line(file, override, message):
    with pytest.raises(ConfigError, match=message):
        transfers.load(file, [override])


@pytest.mark.parametrize("kind", ["eeg", "connectome", "gait", "ecg"])
def test_the_sets_of_each_kind_are_made_up_and_a_small_one_is_the_target(kind):
    _, base = transfers.load(f"{CONFIGS / 'climb_few_shot.py'}:{kind}")
    names = [pathlib.Path(folder).name for folder in base.data.arrays]
    assert set(names) <= set(array_sets.SETS)
    assert base.target in names and array_sets.get(base.target).small


def test_the_sweep_writes_a_line_per_run_and_set_and_the_table(out):
    lines = json.loads((out / "table.json").read_text())
    assert {(line["trained"], line["dataset"]) for line in lines} == {
        ("multitask", "skin"),
        ("multitask", "chest"),
        ("samples", "skin"),
        ("samples", "chest"),
    }
    with open(out / "table.csv", newline="") as text:
        assert [row["dataset"] for row in csv.DictReader(text)] == [one["dataset"] for one in lines]
    table = (out / "table.md").read_text().splitlines()
    assert [row.split(" | ")[1] for row in table[2:]] == ["skin", "chest", "mean"]


def test_a_finished_sweep_trains_nothing_again(file, out, monkeypatch):
    monkeypatch.setattr(run, "run_on", lambda *_: pytest.fail("trained again"))
    assert main(["sweep", file, "--out", str(out)]) == 0


def test_finished_runs_of_another_config_are_refused(file, out, capsys):
    assert main(["sweep", file, "--out", str(out), "--config.training.lr=0.5"]) == 2
    assert "made with another training.lr" in capsys.readouterr().err


def test_a_dry_run_says_what_is_there(file, out, capsys):
    assert main(["sweep", file, "--out", str(out), "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "multitask-seed0  4  finished"


def line(kind, dataset, seed, area, domain="ct"):
    scores = {"auroc": area, "sensitivity": area, "specificity": area}
    return {
        "domain": domain,
        "dataset": dataset,
        "trained": kind,
        "seed": seed,
        "train": 9,
    } | scores


def test_differences_are_paired_by_seed():
    lines = [line("samples", "a", seed, 0.5 + 0.1 * seed) for seed in range(3)]
    lines += [line("multitask", "a", seed, 0.6 + 0.1 * seed) for seed in range(3)]
    _, rows = transfer_tables.table(TransferSweep("multitask"), lines)
    assert rows[0][-1] == "+0.100 ± 0.000"


def test_few_shot_rows_are_means_over_draws():
    lines = [
        {"domain": "ct", "target": "a", "method": "probe", "shots": 8, "seed": 0, "draw": draw}
        | {"start": start, "auroc": area + 0.1 * draw}
        for start, area in (("random", 0.5), ("single-source", 0.6), ("multi-source", 0.7))
        for draw in range(2)
    ]
    _, rows = transfer_tables.table(TransferSweep("few_shot"), lines)
    assert rows[0][:4] == ("ct", "a", "probe", "8")
    assert rows[0][4:7] == ("0.550 ± 0.635", "0.650 ± 0.635", "0.750 ± 0.635")
    assert rows[0][7:] == ("+0.200 ± 0.000", "+0.100 ± 0.000")


def test_a_sweep_of_no_experiment_is_refused():
    with pytest.raises(ConfigError, match="the experiment 'fusion'"):
        TransferSweep("fusion").check("file.py")


def test_encoders_are_not_trained_side_by_side(file, capsys):
    assert main(["sweep", file, "--jobs", "2"]) == 2
    assert "--jobs or --only" in capsys.readouterr().err


def test_qoq_train_runs_a_config_of_an_encoder(file, tmp_path):
    command = ["train", f"--config={file}", f"--config.workdir={tmp_path}", "--config.sets=skin"]
    assert main([*command, "--config.training.steps=1"]) == 0
    assert set(json.loads(pathlib.Path(tmp_path, "result.json").read_text())["sets"]) == {"skin"}
