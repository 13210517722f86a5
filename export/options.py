"""The command line: every option once, with its unit and default. It runs nothing and imports no torch."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

MODELS = ("deep_fwfm", "fwfm", "lr")
PRESETS = ("none", "high-performance", "low-memory", "low-latency")
METHODS = ("identity", "platt", "isotonic")
WIDTH = 100

Group = argparse._ArgumentGroup

OVERVIEW = """\
From a click log to a bundle that `python -m service` serves. `run` does everything; the stages also run
alone, in this order, and hand over in a work folder:

  synthesize    a log with known click probabilities, to try things on
  fit-schema    log -> split by time -> vocabularies and bins -> ids
  train         ids -> model                        (or takes a trained one: --checkpoint)
  prune         model -> smaller model              (DeepLight; may be left out)
  to-onnx       model -> float32 graphs
  quantize      float32 graph -> INT8 graph
  calibrate     logits of the final graphs -> calibrators
  package       everything -> evaluation, parity, latency, report, bundle
"""

EXAMPLES = """\
examples:
  python -m export run --data criteo.tsv.gz --schema criteo --preset low-latency --out artifacts/criteo
  python -m export run --data log.parquet --schema log.toml --model fwfm --preset none --out artifacts/shop
  python -m export demo --out artifacts/demo
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the way to the help on it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


class Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the layout of descriptions and adds each option's default to its line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=WIDTH)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        shown = action.default is not None and action.default is not argparse.SUPPRESS and action.nargs != 0
        return f"{text} [%(default)s]" if shown and "[" not in text else text


def build_parser() -> Parser:
    """The whole command line; `command` and `handler names` are left to the caller."""
    parser = Parser(prog="python -m export", description=OVERVIEW, epilog=EXAMPLES, formatter_class=Help)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, about: str, *groups: Callable[[argparse.ArgumentParser], None]) -> None:
        made = commands.add_parser(name, help=about, description=f"{about}.", formatter_class=Help)
        for group in groups:
            group(made)

    command(
        "run", "all stages: a log in, a bundle out", data, model, training, pruning, quantization, calibration, packaging
    )
    command("demo", "a demo bundle from a small synthetic log, in under three minutes", demo)
    command("synthesize", "write a synthetic log and the schema file that describes it", synthetic)
    command("fit-schema", "split a log, fit its encodings on the training part, encode it", data, work)
    command("train", "train a model on the encoded log, or take a trained one", model, training, work)
    command("prune", "prune the trained model by a recipe and compact it", pruning, work)
    command("to-onnx", "write the float32 graphs of the dense and the pruned model", work)
    command("quantize", "write the INT8 graph of the smallest model", quantization, work)
    command("calibrate", "fit the calibrators of all graphs on the calibration part", calibration, work)
    command("package", "evaluate, check parity, measure, report, write the bundle", packaging)
    return parser


def data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the log")
    group.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="the log: TSV, CSV (also .gz) or Parquet"
    )
    group.add_argument(
        "--schema",
        required=True,
        metavar="NAME|FILE",
        help="criteo, avazu or a TOML file that describes the log",
    )
    group.add_argument(
        "--split", type=shares, default=(0.7, 0.1, 0.1, 0.1), metavar="A,B,C,D",
        help="shares of training, validation, calibration and test, in time order [0.7,0.1,0.1,0.1]",
    )  # fmt: skip
    group.add_argument(
        "--on-malformed",
        choices=("error", "skip"),
        default="error",
        help="what a malformed row does: end the export, or be skipped and counted",
    )
    group.add_argument(
        "--min-count",
        type=positive_int,
        metavar="ROWS",
        help="training rows a value needs to get an id of its own [the schema's]",
    )


def model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the model")
    group.add_argument("--model", choices=MODELS, default="deep_fwfm", help="which model to train")
    group.add_argument("--dim", type=positive_int, default=10, metavar="N", help="numbers in an embedding")
    group.add_argument(
        "--hidden-units",
        type=widths,
        default=(400, 400, 400),
        metavar="N,N,..",
        help="neurons of each hidden layer [400,400,400]",
    )
    group.add_argument(
        "--dropout",
        type=share_below_one,
        default=0.5,
        metavar="SHARE",
        help="share of hidden units set to zero in training",
    )


def training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="take this trained model instead of training one; the log must give it the same schema",
    )
    group.add_argument(
        "--epochs", type=positive_int, default=10, metavar="N", help="passes over the training part, at most"
    )
    group.add_argument(
        "--evaluations-per-epoch",
        type=positive_int,
        default=4,
        metavar="N",
        help="looks at the validation part in an epoch",
    )
    group.add_argument(
        "--patience",
        type=positive_int,
        default=6,
        metavar="N",
        help="looks in a row without a gain that end the training",
    )
    group.add_argument(
        "--batch-size",
        type=positive_int,
        metavar="ROWS",
        help="rows a step [2048; on a log of less than 400,000 training rows what gives 200 steps an epoch]",
    )
    group.add_argument(
        "--learning-rate",
        type=positive,
        default=1e-3,
        metavar="X",
        help="step size of Adam after the warm-up",
    )
    group.add_argument(
        "--l2", type=not_negative, default=3e-7, metavar="X", help="weight of the L2 penalty on layers"
    )
    group.add_argument(
        "--embedding-l2",
        type=not_negative,
        default=1e-6,
        metavar="X",
        help="weight of the L2 penalty on embeddings",
    )
    group.add_argument(
        "--seed",
        type=not_negative_int,
        default=0,
        metavar="N",
        help="of initial weights, dropout and row order",
    )
    threads(group)
    group.add_argument(
        "--device", default="cpu", metavar="NAME", help="where torch trains: cpu, cuda or cuda:1"
    )


def threads(group: Group) -> None:
    group.add_argument("--threads", type=positive_int, metavar="N", help="CPU threads of torch [one a core]")


def pruning(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("pruning")
    group.add_argument(
        "--preset",
        choices=PRESETS,
        default="low-latency",
        help="shares to prune of DNN weights, field pairs, embeddings: high-performance 90/90/40, "
        "low-memory 90/90/90, low-latency 99/95/40 %%, none",
    )
    group.add_argument(
        "--prune-epochs",
        type=positive,
        default=1.0,
        metavar="N",
        help="passes over the training part while the shares grow",
    )
    group.add_argument(
        "--finetune-epochs",
        type=positive,
        default=1.0,
        metavar="N",
        help="passes after that, with the zeros held",
    )
    group.add_argument(
        "--prune-every",
        type=positive_int,
        default=10,
        metavar="STEPS",
        help="training steps from one pruning to the next",
    )
    group.add_argument(
        "--prune-learning-rate",
        type=positive,
        metavar="X",
        help="step size of Adam while pruning [that of training]",
    )


def quantization(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("quantization")
    group.add_argument(
        "--quantization-rows",
        type=positive_int,
        default=16_384,
        metavar="ROWS",
        help="training rows on which the ranges of activations are found",
    )


def calibration(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("calibration")
    group.add_argument(
        "--sampling-rate",
        type=positive_share,
        default=1.0,
        metavar="SHARE",
        help="share of the non-clicks that the log kept; 1: all of them",
    )
    group.add_argument(
        "--calibration-methods",
        type=methods,
        default=METHODS,
        metavar="NAME,..",
        help="methods to choose from by held-out LogLoss and ECE [identity,platt,isotonic]",
    )


def packaging(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the bundle")
    group.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="where to write the bundle; a bundle that is there is replaced",
    )
    group.add_argument("--name", metavar="TEXT", help="the bundle's name, which answers carry [the folder's]")
    group.add_argument(
        "--work", type=Path, metavar="FOLDER", help="where the stages hand over [.work/NAME beside --out]"
    )


def work(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the work folder")
    group.add_argument(
        "--work", type=Path, required=True, metavar="FOLDER", help="where the stages hand over"
    )


def synthetic(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the log")
    group.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="the log: .parquet, .csv or .csv.gz; its schema is written beside it as .toml",
    )
    group.add_argument("--rows", type=positive_int, default=1_000_000, metavar="N", help="rows to write")
    group.add_argument(
        "--seed", type=not_negative_int, default=0, metavar="N", help="the same seed writes the same log"
    )
    group.add_argument(
        "--features",
        type=positive_int,
        default=100_000,
        metavar="N",
        help="distinct values of all categorical fields together",
    )
    group.add_argument(
        "--candidate-fields",
        type=not_negative_int,
        default=8,
        metavar="N",
        help="how many of the 26 categorical fields belong to the ad",
    )
    group.add_argument(
        "--sequence-fields",
        type=not_negative_int,
        default=0,
        metavar="N",
        help="fields that hold a list of earlier values",
    )
    group.add_argument(
        "--ctr", type=share_below_one, default=0.1, metavar="SHARE", help="share of rows with a click"
    )
    group.add_argument(
        "--drift",
        type=not_negative,
        default=1.0,
        metavar="X",
        help="how fast effects change from day to day; 0: not at all",
    )
    group.add_argument(
        "--rows-per-day", type=positive_int, default=250_000, metavar="N", help="rows that share a day"
    )


def demo(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the demo")
    group.add_argument(
        "--out", type=Path, default=Path("artifacts/demo"), metavar="FOLDER", help="where to write the bundle"
    )
    group.add_argument(
        "--rows", type=positive_int, default=160_000, metavar="N", help="rows of the synthetic log"
    )
    group.add_argument(
        "--seed", type=not_negative_int, default=0, metavar="N", help="of the log and of the training"
    )
    threads(group)


def _number(text: str, kind: Callable[[str], float], expected: str, holds: Callable[[float], bool]) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not holds(value):
        raise argparse.ArgumentTypeError(f"must be {expected} (got {text!r})")
    return value


def positive_int(text: str) -> int:
    return int(_number(text, int, "a whole number above 0", lambda value: value > 0))


def not_negative_int(text: str) -> int:
    return int(_number(text, int, "a whole number of 0 or more", lambda value: value >= 0))


def positive(text: str) -> float:
    return _number(text, float, "a number above 0", lambda value: 0 < value < math.inf)


def not_negative(text: str) -> float:
    return _number(text, float, "a number of 0 or more", lambda value: 0 <= value < math.inf)


def positive_share(text: str) -> float:
    return _number(text, float, "above 0 and at most 1", lambda value: 0 < value <= 1)


def share_below_one(text: str) -> float:
    return _number(text, float, "at least 0 and below 1", lambda value: 0 <= value < 1)


def widths(text: str) -> tuple[int, ...]:
    return tuple(positive_int(part) for part in text.split(","))


def shares(text: str) -> tuple[float, ...]:
    found = tuple(positive_share(part) for part in text.split(","))
    if len(found) != 4 or abs(sum(found) - 1) > 1e-6:
        raise argparse.ArgumentTypeError(f"must be four shares that add up to 1 (got {text!r})")
    return found


def methods(text: str) -> Sequence[str]:
    found = tuple(text.split(","))
    if unknown := [name for name in found if name not in METHODS]:
        raise argparse.ArgumentTypeError(f"must be among {', '.join(METHODS)} (got {unknown[0]!r})")
    return found
