"""The options of `compare`: those of an export, without what is for one model, and its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from export.cli.parser import Option
from export.cli.values import assignment, names, positive_int
from export.compare.plan import ALL, ComparePlan

COMPARISON = (
    Option("--out", "where to write compare.json, compare.txt and compare.html", Path, None, "FOLDER"),
    Option("--work", "where results are kept as they come [.work/NAME beside --out]", Path, None, "FOLDER"),
    Option("--seeds", "how often each model is trained, with seeds from --seed on", positive_int, 1, "N"),
    Option(
        "--jobs",
        "models trained at the same time, each in a process with its share of the cores or --threads",
        positive_int,
        ComparePlan.jobs,
        "N",
    ),
    Option("--again", "models to train anew, whatever is kept of them [none]", names, (), "NAME,.."),
)
FINISHED = (
    Option(
        "--show",
        "print the table of a finished comparison instead; may be given several times",
        Path,
        None,
        "FOLDER",
        repeated=True,
    ),
    Option("--format", "of that table", ("text", "markdown"), "text"),
)
MODELS = (
    Option(
        "--models", "which ones; `python -m export models` lists them [all]", names, (ALL,), f"{ALL}|NAME,.."
    ),
    Option(
        "--hyperparameter",
        "a hyperparameter or a choice of training (epochs, learning_rate, ...) for one model, or for every "
        "one that takes it; the value is JSON, or text; may be given several times",
        assignment,
        None,
        "[MODEL.]NAME=VALUE",
        repeated=True,
    ),
    Option(
        "--settings",
        "the same as TOML: a table for each model, and above the tables what is for all",
        Path,
        None,
        "FILE",
    ),
)
NOT_FOR_MANY = {"--model", "--hyperparameter", "--checkpoint"}
PARTS = {
    "the log": "the one log",
    "the model": "all models",
    "training": "training of all models",
    "pruning": "pruning of all models",
}

Groups = dict[str, tuple[Option, ...]]


def compare_groups(groups: Groups) -> Groups:
    """The groups of options that are `compare`'s alone, made from those of an export."""
    found = {
        new: tuple(_for_all(option) for option in groups[old] if _is_for_all(option))
        for old, new in PARTS.items()
    }
    return {
        "the models": MODELS,
        **found,
        "the comparison": COMPARISON,
        "finished comparisons": FINISHED,
    }


def _is_for_all(option: Option) -> bool:
    return option.flag not in NOT_FOR_MANY


def _for_all(option: Option) -> Option:
    """What is required is checked later, since --show needs none of it; nothing is pruned unless told to."""
    if option.required:
        return replace(option, required=False)
    if option.flag == "--preset":
        return replace(option, default="none")
    return option


COMMAND = (
    "train, export and judge models on one log, side by side",
    "the one log",
    "the models",
    "all models",
    "training of all models",
    "pruning of all models",
    "quantization",
    "calibration",
    "the comparison",
    "finished comparisons",
)
