"""`qoq data convert` and `qoq data import`: a data set of CLIMB, or one's own data, to rows."""

from __future__ import annotations

import argparse

from qoq_jax.base import storage
from qoq_jax.cli import beam
from qoq_jax.cli.parser import Commands, command


def add(actions: Commands) -> None:
    """Adds the action to those of `qoq data`."""
    convert = command(
        actions,
        "convert",
        _convert,
        "Write the rows of a data set of CLIMB beside its media: train.jsonl and so on.",
    )
    convert.add_argument("name", help="of the data set, or list for those that have a converter")
    convert.add_argument(
        "root", nargs="?", help="folder into which the published archives were unpacked"
    )
    convert.add_argument(
        "--seed", type=int, default=0, help="of splits, wordings and label order; default: 0"
    )
    beam.add(convert, "", "none, this process without Beam")
    _add_import(actions)


# Options of `import` that not every kind of source reads: (name, default, kinds).
_OF_KIND = (
    ("media", "image", ("table", "huggingface")),
    ("label", "label", ("table", "huggingface")),
    ("patient", "", ("table", "huggingface")),
    ("id", "", ("table", "huggingface")),
    ("split", "", ("table",)),
    ("files", "{}", ("table",)),
    ("patient_pattern", "", ("folder",)),
)


def _add_import(actions: Commands) -> None:
    own = command(
        actions,
        "import",
        _import,
        "Write rows for your own data: a folder of pictures by label, a table, or a Hugging Face "
        "data set.",
    )
    own.add_argument("root", help="folder of the media; rows are written into it")
    own.add_argument("--domain", required=True, help="as dermoscopy or chest_xray (docs/data.md)")
    own.add_argument("--name", help="of the data set; default: that of the folder")
    own.add_argument("--table", metavar="CSV", help="table of paths and labels, below the folder")
    own.add_argument(
        "--huggingface",
        metavar="SOURCE",
        help="folder of datasets.save_to_disk, of parquet files, or a hub id; pictures are written "
        "below the folder",
    )
    own.add_argument(
        "--media",
        default="image",
        help="columns of files or pictures, with commas; default: image",
    )
    own.add_argument("--label", default="label", help="column; default: label")
    own.add_argument("--patient", default="", help="column of the patient")
    own.add_argument("--split", default="", help="column of the split")
    own.add_argument("--id", default="", help="column of the row's id")
    own.add_argument(
        "--files", default="{}", help="path of a file for a cell of the table: images/{}.png"
    )
    own.add_argument(
        "--patient-pattern",
        default="",
        help=r"of a folder: regular expression whose group is the patient: '(patient\d+)_'",
    )
    own.add_argument("--labels", default="", help="the allowed ones, with commas; default: all")
    own.add_argument("--many", action="store_true", help="several labels per row, by ';' in a cell")
    own.add_argument("--asked", default="the diagnosis", help="default: the diagnosis")
    own.add_argument("--shown", default="", help="the media in words: 'a photograph of a tongue'")
    own.add_argument("--seed", type=int, default=0, help="default: 0")


def _convert(arguments: argparse.Namespace) -> int:
    from qoq_jax.base.errors import ConfigError
    from qoq_jax.climb import pipeline
    from qoq_jax.climb.catalogue import table
    from qoq_jax.climb.convert import sets, write
    from qoq_jax.climb.mimic import convert as mimic
    from qoq_jax.climb.mimic import tasks

    if arguments.name == "list":
        for name in sets.CONVERTERS:
            row = table.find(name)
            print(f"{name:16} {row.domain:13} {', '.join(row.labels)}")
        for name, (task, _) in tasks.DATASETS.items():
            print(f"{name:20} {tasks.DOMAIN:13} {', '.join(tasks.TASKS[task].labels)}")
        return 0
    of_mimic = arguments.name in (tasks.NAME, *tasks.DATASETS)
    converter = None if of_mimic else sets.get(arguments.name)
    if arguments.root is None:
        raise ConfigError("no folder is given", hint=f"qoq data convert {arguments.name} FOLDER")
    storage.check_local(arguments.root)
    options = beam.options(arguments)
    if converter is None:
        if arguments.runner:
            raise ConfigError(
                f"--runner {arguments.runner}: the tables of MIMIC-IV are read by one process",
                hint="leave it out",
            )
        print(mimic.summary(mimic.convert(arguments.root, arguments.name, arguments.seed)))
        return 0
    run = pipeline.beam(arguments.runner, options) if arguments.runner else pipeline.here
    report = write.convert(converter, arguments.root, arguments.seed, run)
    print(write.summary(report))
    return 0


def _import(arguments: argparse.Namespace) -> int:
    import os

    from qoq_jax.base.errors import ConfigError
    from qoq_jax.climb.own import huggingface, tables
    from qoq_jax.climb.own import write as own

    if arguments.table and arguments.huggingface:
        raise ConfigError("--table and --huggingface are both given", hint="give one")
    kind = "table" if arguments.table else "huggingface" if arguments.huggingface else "folder"
    for option, default, kinds in _OF_KIND:
        if kind not in kinds and getattr(arguments, option) != default:
            raise ConfigError(
                f"--{option.replace('_', '-')} says nothing of a {kind}",
                hint="it goes with " + " and ".join(kinds),
            )
    task = own.Task(
        arguments.name or os.path.basename(os.path.abspath(arguments.root)),
        arguments.domain,
        arguments.shown,
        arguments.asked,
        tuple(label.strip() for label in arguments.labels.split(",") if label.strip()),
        arguments.many,
        arguments.seed,
    )
    columns = own.Columns(
        tuple(name.strip() for name in arguments.media.split(",")),
        arguments.label,
        arguments.patient,
        arguments.split,
        arguments.id,
        arguments.files,
    )
    if arguments.table:
        report = tables.from_table(arguments.root, arguments.table, task, columns)
    elif arguments.huggingface:
        source = huggingface.load_huggingface(arguments.huggingface)
        report = huggingface.from_huggingface(source, arguments.root, task, columns)
    else:
        report = tables.from_folder(arguments.root, task, arguments.patient_pattern)
    print(own.summary(report))
    return 0
