"""The command line: every option once, with its unit and default. It runs nothing and imports no torch."""

from __future__ import annotations

from pathlib import Path

from export.cli.compare import COMMAND as COMPARE
from export.cli.compare import compare_groups
from export.cli.parser import Help, Option, Parser
from export.cli.values import (
    assignment,
    methods,
    not_negative,
    not_negative_int,
    positive,
    positive_int,
    positive_share,
    share_below_one,
    shares,
    widths,
)
from export.compress.choice import PruneChoice
from export.compress.recipes import RECIPES
from export.data.log_schema import BUILT_IN
from export.data.synthetic_config import PRESETS as SYNTHETIC_PRESETS
from export.stages.calibrate import METHODS
from export.stages.plan import Plan
from export.train.choices import EmbeddingChoice, TrainChoice
from export.train.config import CHOICES, TrainConfig

PRESETS = tuple(RECIPES)

OVERVIEW = """\
From a click log to a bundle that `python -m service` serves. `run` does everything. The stages also run
alone, in this order, and hand over in a work folder:

  synthesize    a log with known click probabilities, to try things on
  convert       files of MovieLens or iPinYou -> log
  fit-schema    log -> split by time -> vocabularies and bins -> ids
  train         ids -> model (or takes a trained one: --checkpoint)
  prune         model -> smaller model (DeepLight; may be left out)
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
  python -m export compare --data log.parquet --schema log.toml --models lr,fwfm,deep_fwfm --out artifacts/all
  torchrun --nproc-per-node 2 -m export run --data log.parquet ...    (training in two processes)
"""


SEED = Option("--seed", "of initial weights, dropout and row order", not_negative_int, TrainChoice.seed, "N")
THREADS = Option("--threads", "CPU threads of torch [one a core]", positive_int, None, "N")
WORK_ABOUT = "where the stages hand over"

EFFECTS = {
    "values": "single values",
    "pairs": "pairs of fields",
    "triples": "triples of fields",
    "products": "numbers, times slopes that categorical values set,",
    "domains": "domains, which turn other effects over,",
    "interest": "a history's values that resemble the ad's",
}
ON_MALFORMED = Option(
    "--on-malformed",
    "what a malformed row does: end the export, or be skipped and counted",
    ("error", "skip"),
    Plan.on_malformed,
)
LOG = (
    Option("--data", "the log: TSV, CSV (also .gz) or Parquet", Path, None, "FILE", required=True),
    Option(
        "--schema",
        f"{', '.join(BUILT_IN)} or a TOML file that describes the log",
        str,
        None,
        "NAME|FILE",
        True,
    ),
    Option(
        "--split",
        "shares of training, validation, calibration and test, in time order [0.7,0.1,0.1,0.1]",
        shares,
        Plan.split,
        "A,B,C,D",
    ),
    ON_MALFORMED,
    Option(
        "--min-count",
        "training rows a value needs to get an id of its own [the schema's]",
        positive_int,
        None,
        "ROWS",
    ),
)
MODEL = (
    Option("--model", "which model to train; `python -m export models` lists them", str, Plan.model, "NAME"),
    Option("--dim", "numbers in an embedding [the model's]", positive_int, None, "N"),
    Option("--hidden-units", "neurons of each hidden layer [the model's]", widths, None, "N,N,.."),
    Option(
        "--dropout",
        "share of hidden units set to zero in training [the model's]",
        share_below_one,
        None,
        "SHARE",
    ),
    Option(
        "--hyperparameter",
        "another of the model's hyperparameters; the value is JSON, or text; may be given several times",
        assignment,
        None,
        "NAME=VALUE",
        repeated=True,
    ),
    Option(
        "--embedding",
        "how embeddings are kept: full, a row an id; qr, the product of a quotient's and a remainder's row; "
        "hashed, a row for several ids",
        ("full", "qr", "hashed"),
        EmbeddingChoice.storage,
    ),
    Option(
        "--collisions",
        f"of qr and hashed: ids that share a row [{EmbeddingChoice.collisions}]",
        positive_int,
        None,
        "N",
    ),
    Option(
        "--least-ids",
        f"of qr and hashed: fields of fewer ids keep a row an id [{EmbeddingChoice.least_ids}]",
        positive_int,
        None,
        "N",
    ),
    Option("--pooling", "what the embeddings of a sequence become", ("mean", "sum"), EmbeddingChoice.pooling),
)
TRAINING = (
    Option(
        "--checkpoint",
        "take this trained model instead of training one; the log must give it the same schema, and --loss "
        "and --negative-rate must say how it was trained",
        Path,
        None,
        "FILE",
    ),
    Option(
        "--loss",
        "what training minimises; calibration undoes what it does to the odds",
        CHOICES["loss"],
        TrainChoice.loss,
    ),
    Option(
        "--click-weight",
        f"of weighted-bce: what a click counts [{TrainConfig.click_weight:g}]",
        positive,
        None,
        "X",
    ),
    Option("--focal-gamma", f"of focal: its exponent [{TrainConfig.focal_gamma:g}]", not_negative, None, "X"),
    Option(
        "--focal-alpha",
        f"of focal: weight of clicks, 1 minus it of non-clicks [{TrainConfig.focal_alpha:g}]",
        share_below_one,
        None,
        "X",
    ),
    Option(
        "--calibration-weight",
        "of calibration-aware: the weight of (mean prediction - mean label)^2 of a batch "
        f"[{TrainConfig.calibration_weight:g}]",
        not_negative,
        None,
        "X",
    ),
    Option(
        "--negative-rate",
        "share of the training part's non-clicks that each epoch draws, others each time; calibration undoes "
        "that too",
        positive_share,
        TrainChoice.negative_rate,
        "SHARE",
    ),
    Option("--epochs", "passes over the training part, at most", positive_int, TrainChoice.epochs, "N"),
    Option(
        "--evaluations-per-epoch",
        "looks at the validation part in an epoch",
        positive_int,
        TrainChoice.evaluations_per_epoch,
        "N",
    ),
    Option(
        "--patience",
        "looks in a row without a gain that end the training",
        positive_int,
        TrainChoice.patience,
        "N",
    ),
    Option(
        "--batch-size",
        "rows a step [2048; on a log of less than 400,000 training rows, what gives 200 steps an epoch]",
        positive_int,
        None,
        "ROWS",
    ),
    Option(
        "--learning-rate",
        "step size of Adam after the warm-up [0.001 at 2048 rows a step, else by the root of the rows]",
        positive,
        None,
        "X",
    ),
    Option(
        "--schedule",
        "how Adam's step size goes: up then down, down from the start, or always the same",
        CHOICES["schedule"],
        TrainChoice.schedule,
    ),
    Option(
        "--warmup-steps",
        "steps over which the step size grows to that [100, or half an epoch if that is less]",
        not_negative_int,
        None,
        "STEPS",
    ),
    Option(
        "--decay-rate",
        f"what it is multiplied by every so many steps after the warm-up [{TrainConfig.decay_rate:g}]",
        positive_share,
        None,
        "X",
    ),
    Option("--decay-steps", f"so many steps [{TrainConfig.decay_steps}]", positive_int, None, "STEPS"),
    Option(
        "--l2",
        f"weight of the L2 penalty on layers that Adam trains [{TrainConfig.l2:g}]",
        not_negative,
        None,
        "X",
    ),
    Option(
        "--embedding-l2",
        "weight of the L2 penalty on embeddings that Adam trains [200 / training rows, at most 0.001]",
        not_negative,
        None,
        "X",
    ),
    Option("--optimizer", "of the layers", CHOICES["optimizer"], TrainChoice.optimizer),
    Option(
        "--embedding-optimizer",
        "of the embeddings",
        CHOICES["embedding_optimizer"],
        TrainChoice.embedding_optimizer,
    ),
    Option(
        "--ftrl-alpha",
        f"of FTRL, which follows no schedule: its step size [{TrainConfig.ftrl_alpha:g}]",
        positive,
        None,
        "X",
    ),
    Option(
        "--ftrl-beta",
        f"of FTRL: what damps the first steps of a weight [{TrainConfig.ftrl_beta:g}]",
        positive,
        None,
        "X",
    ),
    Option(
        "--ftrl-l1", f"of FTRL: makes single weights zero [{TrainConfig.ftrl_l1:g}]", not_negative, None, "X"
    ),
    Option("--ftrl-l2", f"of FTRL: makes weights small [{TrainConfig.ftrl_l2:g}]", not_negative, None, "X"),
    Option(
        "--group-lasso",
        f"of group-lasso-ftrl: makes whole embeddings zero [{TrainConfig.group_lasso:g}]",
        not_negative,
        None,
        "X",
    ),
    SEED,
    THREADS,
    Option("--device", "where torch trains: cpu, cuda or cuda:1", str, TrainChoice.device, "NAME"),
)
PRUNING = (
    Option(
        "--preset",
        "shares to prune of DNN weights, field pairs, embeddings: high-performance 90/90/40, "
        "low-memory 90/90/90, low-latency 99/95/40 %%, narrow the same and 75 %% of the DNN's neurons, none",
        PRESETS,
        PruneChoice.preset,
    ),
    Option(
        "--neurons",
        "share of the hidden layers' neurons to prune whole, beside what the preset prunes [the preset's]",
        share_below_one,
        PruneChoice.neurons,
        "SHARE",
    ),
    Option(
        "--prune-epochs",
        "passes over the training part while the shares grow",
        positive,
        PruneChoice.prune_epochs,
        "N",
    ),
    Option(
        "--finetune-epochs",
        "passes after that, with the zeros held",
        positive,
        PruneChoice.finetune_epochs,
        "N",
    ),
    Option(
        "--prune-every",
        "training steps from one pruning to the next",
        positive_int,
        PruneChoice.prune_every,
        "STEPS",
    ),
    Option(
        "--prune-learning-rate",
        "step size of Adam while pruning",
        positive,
        PruneChoice.learning_rate,
        "X",
    ),
)
QUANTIZATION = (
    Option(
        "--quantization-rows",
        "training rows on which the ranges of activations are found",
        positive_int,
        Plan.quantization_rows,
        "ROWS",
    ),
)
CALIBRATION = (
    Option(
        "--sampling-rate",
        "share of the non-clicks that the log itself kept; 1: all of them",
        positive_share,
        Plan.sampling_rate,
        "SHARE",
    ),
    Option(
        "--calibration-methods",
        f"methods to choose from by held-out LogLoss and ECE [{','.join(METHODS)}]",
        methods,
        Plan.methods,
        "NAME,..",
    ),
)
BUNDLE = (
    Option(
        "--out",
        "where to write the bundle; one that is there is replaced",
        Path,
        None,
        "FOLDER",
        required=True,
    ),
    Option("--name", "the bundle's name, which answers carry [the folder's]", str, None, "TEXT"),
    Option("--work", f"{WORK_ABOUT} [.work/NAME beside --out]", Path, None, "FOLDER"),
)
WORK = (Option("--work", WORK_ABOUT, Path, None, "FOLDER", required=True),)


def _effect(kind: str, about: str) -> Option:
    """The option of one kind of planted effect."""
    criteo, zoo = (getattr(SYNTHETIC_PRESETS[preset], f"effect_of_{kind}") for preset in ("criteo", "zoo"))
    told = f"standard deviation in the logit of what {about} add [{criteo:g}; zoo: {zoo:g}]"
    return Option(f"--effect-of-{kind}", told, not_negative, None, "X")


SYNTHETIC = (
    Option(
        "--out",
        "the log: .parquet, .csv or .csv.gz; its schema is written beside it as .toml",
        Path,
        None,
        "FILE",
        required=True,
    ),
    Option(
        "--preset",
        "the shape of the log, of which the other options change parts: criteo, a display log; zoo, 20 "
        "fields with every kind of effect that tells models apart",
        tuple(SYNTHETIC_PRESETS),
        "criteo",
    ),
    Option("--rows", "rows to write", positive_int, 1_000_000, "N"),
    Option("--seed", "the same seed writes the same log", not_negative_int, 0, "N"),
    Option(
        "--features",
        "distinct values of all categorical fields together [100000; zoo: 4000]",
        positive_int,
        None,
        "N",
    ),
    Option(
        "--candidate-fields",
        "how many of the 26 (zoo: 12) categorical fields belong to the ad [8; zoo: 4]",
        not_negative_int,
        None,
        "N",
    ),
    Option(
        "--sequence-fields",
        "histories of values of the ad's last field [0; zoo: 1]",
        not_negative_int,
        None,
        "N",
    ),
    Option("--history-length", "values in the longest of them [8; zoo: 12]", positive_int, None, "N"),
    Option(
        "--domains",
        "domains, each of which turns over some of the effects; 0: no such field [0; zoo: 8]",
        not_negative_int,
        None,
        "N",
    ),
    Option("--ctr", "share of rows with a click [0.1; zoo: 0.2]", share_below_one, None, "SHARE"),
    Option(
        "--drift",
        "how fast effects change from day to day; 0: not at all [1; zoo: 0]",
        not_negative,
        None,
        "X",
    ),
    Option("--rows-per-day", "rows that share a day", positive_int, 250_000, "N"),
    *(_effect(kind, about) for kind, about in EFFECTS.items()),
)
CONVERT = (
    Option(
        "format",
        "whose files they are: movielens or ipinyou",
        ("movielens", "ipinyou"),
        None,
        "FORMAT",
        required=True,
    ),
    Option(
        "--data",
        "the folder: NAME.inter, NAME.user and NAME.item of movielens (RecBole's); train.yzx.txt, "
        "featindex.txt and, where there is one, test.yzx.txt of ipinyou; also .gz",
        Path,
        None,
        "FOLDER",
        required=True,
    ),
    Option(
        "--out",
        "the log: .parquet; its schema is written beside it as .toml",
        Path,
        None,
        "FILE",
        required=True,
    ),
    ON_MALFORMED,
)
ONE_MODEL = (Option("model", "a model to tell more of [all, a line each]", str, None, "NAME"),)
DEMO = (
    Option("--out", "where to write the bundle", Path, Path("artifacts/demo"), "FOLDER"),
    Option("--rows", "rows of the synthetic log", positive_int, 160_000, "N"),
    Option("--seed", "of the log and of the training", not_negative_int, 0, "N"),
    THREADS,
)

TITLES = {
    "the log": LOG,
    "the model": MODEL,
    "training": TRAINING,
    "pruning": PRUNING,
    "quantization": QUANTIZATION,
    "calibration": CALIBRATION,
    "the bundle": BUNDLE,
    "the work folder": WORK,
    "the synthetic log": SYNTHETIC,
    "the files": CONVERT,
    "the demo": DEMO,
    "what to tell": ONE_MODEL,
}
COMMANDS = {
    "run": (
        "all stages: a log in, a bundle out",
        "the log",
        "the model",
        "training",
        "pruning",
        "quantization",
        "calibration",
        "the bundle",
    ),
    "models": ("list the models, or one's paper and hyperparameters", "what to tell"),
    "demo": ("a demo bundle from a small synthetic log, in under three minutes", "the demo"),
    "synthesize": ("write a synthetic log and the schema file that describes it", "the synthetic log"),
    "convert": ("turn MovieLens or iPinYou's featurised log into Parquet with a schema file", "the files"),
    "fit-schema": (
        "split a log, fit its encodings on the training part, encode it",
        "the log",
        "the work folder",
    ),
    "train": (
        "train a model on the encoded log, or take a trained one",
        "the model",
        "training",
        "the work folder",
    ),
    "prune": ("prune the trained model by a recipe and compact it", "pruning", "the work folder"),
    "to-onnx": ("write the float32 graphs of the dense and the pruned model", "the work folder"),
    "quantize": ("write the INT8 graph of the smallest model", "quantization", "the work folder"),
    "calibrate": ("fit a calibrator of each graph on the calibration part", "calibration", "the work folder"),
    "package": ("evaluate, check parity, measure, report, write the bundle", "the bundle"),
}
TITLES |= compare_groups(TITLES)
COMMANDS["compare"] = COMPARE


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(prog="python -m export", description=OVERVIEW, epilog=EXAMPLES, formatter_class=Help)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (about, *titles) in COMMANDS.items():
        command = commands.add_parser(name, help=about, description=f"{name}: {about}.", formatter_class=Help)
        for title in titles:
            group = command.add_argument_group(title)
            for option in TITLES[title]:
                option.add_to(group)
    return parser
