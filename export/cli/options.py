"""The command line: every command with its groups of options. It runs nothing and imports no torch.

Options are made from the dataclasses that use them; those written out here belong to a command alone, or to
the constructors of models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from export.budgets.plan import BudgetPlan
from export.bundles.plan import BundlePlan, DiffPlan, EvaluatePlan, ExplainPlan, ReadPlan, ScorePlan
from export.cli.knob_options import options_of
from export.cli.parser import Help, Option, Parser
from export.cli.values import assignment, not_negative_int, positive_int, share_below_one, widths
from export.compare.plan import UNPRUNED, ComparePlan
from export.compress.choice import PruneChoice
from export.data.synthetic_config import PRESETS, SyntheticConfig
from export.infer.plan import InferPlan
from export.replay.plan import ReplayPlan
from export.stages.plan import LogPlan, Plan
from export.train.choices import EmbeddingChoice
from export.train.config import DISTILLATION, TrainConfig
from export.tune.plan import TunePlan

OVERVIEW = """\
From a click log to a bundle that `python -m service` serves. `run` does everything. The stages also run
alone, in this order, and hand over in a work folder:

  synthesize    a log with known click probabilities, to try things on
  convert       files of MovieLens or iPinYou -> log
  infer-schema  log -> a guess of the schema file that describes it, to be edited
  fit-schema    log -> split by time -> vocabularies and bins -> ids
  train         ids -> model (or takes a trained one: --checkpoint)
  baseline      ids -> LR beside it, to see what the model wins (or package does it)
  prune         model -> smaller model (DeepLight; may be left out)
  to-onnx       model -> float32 graphs
  quantize      float32 graphs -> the one that ships -> INT8 graph
  calibrate     logits of the final graphs -> calibrators
  package       everything -> evaluation, parity, latency, report, bundle

`tune` searches settings for `run --settings`; `compress` searches what to prune of a trained model, or of
one that it teaches, to keep a budget of microseconds, bytes or AUC; `compare` judges models side by side.
With a finished bundle and another log, `score` writes what a service would answer, `evaluate` tells how good
it is, `diff` holds two bundles side by side, and `explain` shows which fields matter. `replay` bids on logged
auctions by pCTR, and finds the settings of the service's bids.
"""

EXAMPLES = """\
examples:
  python -m export run --data criteo.tsv.gz --schema criteo --preset low-latency --out artifacts/criteo
  python -m export run --data log.parquet --schema log.toml --model fwfm --preset none --out artifacts/shop
  python -m export run --data today.parquet --schema log.toml --warm-start artifacts/shop --out artifacts/shop
  python -m export demo --out artifacts/demo
  python -m export compare --data log.parquet --schema log.toml --models lr,fwfm,deep_fwfm --out artifacts/all
  python -m export run --data log.parquet --schema log.toml --model dnn --teacher artifacts/big --out small
  python -m export tune --data log.parquet --schema log.toml --model deepfm --minutes 30 --out artifacts/tuned
  python -m export compress --work artifacts/.work/shop --budget-us 2 --out artifacts/fast
  python -m export score --bundle artifacts/shop --data today.parquet --out scores.parquet
  python -m export replay --auctions scores.parquet --policy linear,ortb --out artifacts/bids
  torchrun --nproc-per-node 2 -m export run --data log.parquet ...    (training in two processes)
"""

HYPERPARAMETERS = (
    Option("--dim", "numbers in an embedding [the model's]", positive_int, metavar="N"),
    Option("--hidden-units", "neurons of each hidden layer [the model's]", widths, metavar="N,N,.."),
    Option(
        "--dropout",
        "share of hidden units set to zero in training [the model's]",
        share_below_one,
        metavar="SHARE",
    ),
)
"""The hyperparameters of models that have an option of their own."""

LOG = options_of(LogPlan)
EMBEDDING = options_of(EmbeddingChoice)
MODEL = (
    *options_of(Plan, "model"),
    *HYPERPARAMETERS,
    Option(
        "--hyperparameter",
        "another of the model's hyperparameters; the value is JSON, or text; may be given several times",
        assignment,
        metavar="NAME=VALUE",
        repeated=True,
    ),
    Option(
        "--settings",
        "hyperparameters and choices of training as TOML, which `tune` writes: a table of the model's name, "
        "and above it what is for any; what the command line says wins",
        Path,
        metavar="FILE",
    ),
    *EMBEDDING,
)
TRAINING = tuple(option for option in options_of(TrainConfig) if option.name not in DISTILLATION)
TEACHERS = (
    Option(
        "--teacher",
        "a bundle, a run's work folder or a checkpoint that teaches the model beside the labels, whatever "
        "its own model and vocabularies; may be given several times: their log-odds are averaged",
        Path,
        metavar="BUNDLE|WORK|FILE",
        repeated=True,
    ),
    *options_of(TrainConfig, *DISTILLATION),
)
QUANTIZATION = options_of(
    Plan,
    "ship",
    "quantization",
    "qat_epochs",
    "qat_learning_rate",
    "quantization_rows",
    "layer_loss",
    "embedding_bits",
    "embedding_loss",
    "zero_rows",
)
CALIBRATION = options_of(Plan, "sampling_rate", "calibration_methods", "calibrate_by")
BUNDLE = options_of(Plan, "out", "name", "contents", "work")
TRIAL_KNOBS = ("prune_epochs", "finetune_epochs", "prune_every", "prune_learning_rate", "dense_twin")
"""What a trial of `compress` takes of `PruneChoice`; the search varies the rest."""
WORK = tuple(replace(option, required=True, otherwise=None) for option in options_of(Plan, "work"))
ON_MALFORMED = options_of(LogPlan, "on_malformed")

SYNTHETIC = (
    Option(
        "--out",
        "the log: .parquet, .csv or .csv.gz; its schema is written beside it as .toml",
        Path,
        metavar="FILE",
        required=True,
    ),
    Option(
        "--preset",
        "the shape of the log, of which the other options change parts: criteo, a display log; zoo, 20 "
        "fields with every kind of effect that tells models apart",
        tuple(PRESETS),
        "criteo",
    ),
    *options_of(SyntheticConfig, others={"zoo": PRESETS["zoo"]}),
)
CONVERT = (
    Option(
        "format",
        "whose files they are: movielens or ipinyou",
        ("movielens", "ipinyou"),
        metavar="FORMAT",
        required=True,
    ),
    Option(
        "--data",
        "the folder: NAME.inter, NAME.user and NAME.item of movielens (RecBole's); train.yzx.txt, "
        "featindex.txt and, where there is one, test.yzx.txt of ipinyou; also .gz",
        Path,
        metavar="FOLDER",
        required=True,
    ),
    Option(
        "--out",
        "the log: .parquet; its schema is written beside it as .toml",
        Path,
        metavar="FILE",
        required=True,
    ),
    *ON_MALFORMED,
)
UNKNOWN_LOG = (
    *(replace(option, flag="data") for option in options_of(InferPlan, "data")),
    *options_of(InferPlan, "rows", "label", "header"),
)
GUESSED = (
    *options_of(InferPlan, "out"),
    Option("--overwrite", "replace a schema file that is there", switch=True),
)
ONE_MODEL = (
    Option("model", "a model to describe [all, a line each]", metavar="NAME"),
    Option(
        "--abilities",
        "tell of all models what pruning and INT8 can take of them, and why not the rest; it takes seconds "
        "a model",
        switch=True,
    ),
)
DEMO = (
    Option("--out", "where to write the bundle", Path, Path("artifacts/demo"), "FOLDER"),
    Option("--rows", "rows of the synthetic log", positive_int, 160_000, "N"),
    Option("--seed", "of the log and of the training", not_negative_int, 0, "N"),
    *options_of(TrainConfig, "threads"),
)

MODELS = (
    *options_of(ComparePlan, "models"),
    Option(
        "--hyperparameter",
        "a hyperparameter or a choice of training (epochs, learning_rate, ...) for one model, or for every "
        "one that takes it; the value is JSON, or text; may be given several times",
        assignment,
        metavar="[MODEL.]NAME=VALUE",
        repeated=True,
    ),
    Option(
        "--settings",
        "the same as TOML: a table for each model, and above the tables what is for all",
        Path,
        metavar="FILE",
    ),
)
FINISHED = (
    Option(
        "--show",
        "print the table of a finished comparison instead; may be given several times",
        Path,
        metavar="FOLDER",
        repeated=True,
    ),
    Option("--format", "of that table", ("text", "markdown"), otherwise="text"),
)
ONE_BUNDLE = options_of(BundlePlan, "bundle", "variant")
TWO_BUNDLES = Option(
    "--bundle",
    "a bundle's folder; given twice, the first one being the reference",
    Path,
    metavar="FOLDER",
    required=True,
    repeated=True,
)
READ = options_of(ReadPlan)
AUCTIONS = (
    Option(
        "--auctions",
        "logged auctions in the order of time: .tsv, .csv (also .gz) or .parquet, with click, market price "
        "and pCTR; text without a header has these three columns in this order",
        Path,
        metavar="FILE",
        required=True,
        several=True,
    ),
    *options_of(ReplayPlan, "click", "price", "pctr", "campaign", "price_per", "on_malformed"),
)
QUIET = Option("--quiet", "say nothing of how far it is", switch=True)
"""An option of every command, whether its groups have it or not."""


def _optional(options: tuple[Option, ...]) -> tuple[Option, ...]:
    """The options of `compare`, which needs none of them with --show and checks them later."""
    return tuple(replace(option, required=False) for option in options)


@dataclass(frozen=True)
class Command:
    """What a command does, and its options by the title of their group."""

    about: str
    groups: Mapping[str, tuple[Option, ...]]


COMMANDS: Mapping[str, Command] = {
    "run": Command(
        "all stages: a log in, a bundle out",
        {
            "the log": LOG,
            "the model": MODEL,
            "going on from a trained model": options_of(Plan, "warm_start", "forget_after", "bins"),
            "training": (*options_of(Plan, "checkpoint"), *TRAINING),
            "distillation": TEACHERS,
            "pruning": options_of(PruneChoice),
            "quantization": QUANTIZATION,
            "calibration": CALIBRATION,
            "the bundle": BUNDLE,
        },
    ),
    "models": Command(
        "list the models, or one's paper, hyperparameters, and what can be made smaller of it",
        {"what to show": ONE_MODEL},
    ),
    "demo": Command("a demo bundle from a small synthetic log, in under three minutes", {"the demo": DEMO}),
    "synthesize": Command(
        "write a synthetic log and the schema file that describes it", {"the synthetic log": SYNTHETIC}
    ),
    "convert": Command(
        "turn MovieLens or iPinYou's featurised log into Parquet with a schema file", {"the files": CONVERT}
    ),
    "infer-schema": Command(
        "draft the schema file of a log from its first rows, with the evidence for each guess",
        {"the log": UNKNOWN_LOG, "the schema file": GUESSED},
    ),
    "fit-schema": Command(
        "split a log, fit its encodings on the training part, encode it",
        {"the log": LOG, "the work folder": WORK},
    ),
    "train": Command(
        "train a model on the encoded log, or take a trained one",
        {
            "the model": MODEL,
            "training": (*options_of(Plan, "checkpoint"), *TRAINING),
            "distillation": TEACHERS,
            "the work folder": WORK,
        },
    ),
    "baseline": Command(
        "train LR on the same log, to see what the model wins over it", {"the work folder": WORK}
    ),
    "prune": Command(
        "prune the trained model by a recipe and compact it",
        {"pruning": options_of(PruneChoice), "the work folder": WORK},
    ),
    "to-onnx": Command(
        "write the float32 graphs of the dense and the pruned model", {"the work folder": WORK}
    ),
    "quantize": Command(
        "choose the float graph that ships, and write the INT8 graph of it",
        {"quantization": QUANTIZATION, "the work folder": WORK},
    ),
    "calibrate": Command(
        "fit a calibrator of each graph on the calibration part",
        {"calibration": CALIBRATION, "the work folder": WORK},
    ),
    "package": Command("evaluate, check parity, measure, report, write the bundle", {"the bundle": BUNDLE}),
    "compare": Command(
        "train, export and judge models on one log, side by side",
        {
            "the one log": _optional(LOG),
            "the models": MODELS,
            "all models": (*HYPERPARAMETERS, *EMBEDDING),
            "training of all models": TRAINING,
            "pruning of all models": options_of(PruneChoice, default=UNPRUNED),
            "quantization": QUANTIZATION,
            "calibration": CALIBRATION,
            "the comparison": _optional(options_of(ComparePlan, "out", "work", "seeds", "jobs", "again")),
            "finished comparisons": FINISHED,
        },
    ),
    "tune": Command(
        "search better settings of one model, judged on the validation part",
        {
            "the log, unless the work folder holds it": _optional(LOG),
            "the model; what is given is fixed": MODEL,
            "training; what is given is fixed": TRAINING,
            "the search": options_of(TunePlan),
        },
    ),
    "compress": Command(
        "search how to make a trained model smaller, within a budget of time, bytes or AUC",
        {
            "the trained model": WORK,
            "the budget": options_of(BudgetPlan, "budget_us", "at_batch", "budget_bytes", "max_auc_loss"),
            "the search": options_of(BudgetPlan, "trials", "minutes", "seed"),
            "the students": (*options_of(BudgetPlan, "students"), *options_of(TrainConfig, *DISTILLATION)),
            "each trial": (
                *options_of(PruneChoice, *TRIAL_KNOBS),
                *options_of(Plan, "quantization_rows", "layer_loss", "qat_epochs", "qat_learning_rate"),
            ),
            "calibration of the bundle": CALIBRATION,
            "what is written": options_of(BudgetPlan, "out", "name"),
        },
    ),
    "score": Command(
        "score a log by a bundle, as a service would answer",
        {
            "the bundle": ONE_BUNDLE,
            "the log": READ,
            "the scores": options_of(ScorePlan, "out", "keep"),
        },
    ),
    "evaluate": Command(
        "judge a bundle on another log: every metric, by day, by value, and what moved",
        {
            "the bundle": ONE_BUNDLE,
            "the log": (*READ, *options_of(EvaluatePlan, "sampling_rate")),
            "what is told": options_of(EvaluatePlan, "by", "out"),
        },
    ),
    "diff": Command(
        "two bundles on one log: what is better, where they disagree, what they cost",
        {
            "the bundles": (TWO_BUNDLES, *options_of(DiffPlan, "variants")),
            "the log": (*READ, *options_of(DiffPlan, "sampling_rate")),
            "what is told": options_of(DiffPlan, "out"),
        },
    ),
    "explain": Command(
        "which fields a bundle's quality rests on, and what moved the logit of one row",
        {
            "the bundle": ONE_BUNDLE,
            "the log": READ,
            "what is told": options_of(ExplainPlan, "row", "rows", "seed", "out"),
        },
    ),
    "replay": Command(
        "bid policies on logged auctions: which wins the most clicks for a budget",
        {
            "the auctions": AUCTIONS,
            "the policies": options_of(ReplayPlan, "policy", "auction_type", "budgets", "pacing"),
            "how they are judged": options_of(ReplayPlan, "train_share", "seed"),
            "what is told": options_of(ReplayPlan, "value_per_click", "out"),
        },
    ),
}


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(prog="python -m export", description=OVERVIEW, epilog=EXAMPLES, formatter_class=Help)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, one in COMMANDS.items():
        command = commands.add_parser(
            name, help=one.about, description=f"{name}: {one.about}.", formatter_class=Help
        )
        if all(option.flag != QUIET.flag for group in one.groups.values() for option in group):
            QUIET.add_to(command)
        for title, options in one.groups.items():
            group = command.add_argument_group(title)
            for option in options:
                option.add_to(group)
    return parser
