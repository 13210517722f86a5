"""`python -m export`: what it says, to whom, and the exit code; in this process where that shows the same."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from export.__main__ import main
from export.cli.commands import RUNS
from export.cli.knob_options import given_of
from export.cli.options import COMMANDS, build_parser
from export.compare.plan import ComparePlan
from export.compress.choice import PruneChoice
from export.data.synthetic import PRESETS, SyntheticConfig
from export.knobs import knobs
from export.replay.plan import ReplayPlan
from export.stages.plan import LogPlan, Plan
from export.stages.work import Work
from export.train.choices import EmbeddingChoice
from export.train.config import TrainConfig
from export.tune.plan import TunePlan
from models import MODELS
from service.bundle.store import load_bundle

ROOT = Path(__file__).parents[3]

ALL_HELP = """
import contextlib, sys
from export.__main__ import main
from export.cli.options import COMMANDS

for command in COMMANDS:
    with contextlib.suppress(SystemExit):
        main([command, "--help"])
print({"torch", "polars", "onnx", "sklearn", "optuna"} & set(sys.modules))
"""

Export = Callable[..., "Done"]


@dataclass(frozen=True)
class Done:
    """How a command line ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def export(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs `python -m export` with these arguments, without the seconds that a new process takes."""

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        try:
            code = main([*map(str, arguments)])
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Done(code, *capsys.readouterr())

    return run


def process(*arguments: object) -> list[str]:
    """The command line of a process of its own."""
    return [sys.executable, "-W", "error", "-m", "export", *map(str, arguments)]


def refused(done: Done, code: int, *said: str) -> None:
    """One line on stderr with these words, and no traceback."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for words in said:
        assert words in done.stderr


def test_help_names_every_command_and_imports_no_torch(export: Export) -> None:
    done = export("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert command in done.stdout
    done = subprocess.run([sys.executable, "-c", ALL_HELP], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.count("usage: python -m export") == len(COMMANDS)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_has_a_line_of_help(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "--quiet" in text
    for title, options in COMMANDS[command].groups.items():
        assert f"\n{title}:\n" in text
        for option in options:
            about = " ".join(option.about.split()[:2])
            assert (option.flag if option.flag.startswith("-") else str(option.metavar)) in text
            assert about in " ".join(text.split())
            assert option.required or option.default is None or "[" in text.split(option.flag)[-1]


def test_what_the_help_offers_is_what_there_is() -> None:
    """Of a synthetic log: "[of the preset criteo]", or "[of the preset criteo; zoo: of zoo]"."""
    options = build_parser().parse_args(["synthesize", "--out", "log.csv"])
    assert options.preset == "criteo"
    assert given_of(SyntheticConfig, options) == {}
    assert PRESETS["criteo"] == SyntheticConfig()
    told = {option.name: option.help for option in COMMANDS["synthesize"].groups["the synthetic log"]}
    for name in knobs(SyntheticConfig):
        criteo, zoo = (getattr(PRESETS[preset], name) for preset in ("criteo", "zoo"))
        shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in (criteo, zoo)]
        expected = shown[0] if criteo == zoo else f"{shown[0]}; zoo: {shown[1]}"
        assert told[name].endswith(f" [{expected}]")


def test_the_help_of_a_comparison_has_its_own_defaults() -> None:
    """`run` fits the preset to the log, `compare` prunes nothing."""
    told = {
        command: option.help
        for command, group in (("run", "pruning"), ("compare", "pruning of all models"))
        for option in COMMANDS[command].groups[group]
        if option.flag == "--preset"
    }
    assert told["run"].endswith("none below, and for models that pruning makes no smaller]")
    assert told["compare"].endswith(" [none]")


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        (LogPlan, "fit-schema"),
        (Plan, "run"),
        (ComparePlan, "compare"),
        (TrainConfig, "train"),
        (EmbeddingChoice, "train"),
        (PruneChoice, "prune"),
        (SyntheticConfig, "synthesize"),
        (TunePlan, "tune"),
        (ReplayPlan, "replay"),
    ],
)
def test_every_knob_is_an_option(kind: type, command: str) -> None:
    offered = {option.name for options in COMMANDS[command].groups.values() for option in options}
    assert knobs(kind)
    assert knobs(kind).keys() <= offered


def test_every_command_can_be_run() -> None:
    assert list(RUNS) == list(COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "COMMAND"),
        (["fly"], "'fly'"),
        (["run", "--data", "x"], "--schema"),
        (["run", "--hyperparameter", "rank"], "NAME=VALUE (got 'rank')"),
        (["train", "--work", "w", "--embedding", "folded"], "'folded'"),
        (["prune", "--work", "w", "--preset", "extreme"], "'extreme'"),
        (["prune", "--work", "w", "--neurons", "1"], "at least 0 and below 1 (got '1')"),
        (["train", "--work", "w", "--epochs", "0"], "a whole number of at least 1 (got '0')"),
        (["train", "--work", "w", "--epochs", "two"], "a whole number of at least 1 (got 'two')"),
        (["train", "--work", "w", "--learning-rate", "nan"], "a number above 0 (got 'nan')"),
        (["train", "--work", "w", "--hidden-units", "400,"], "(got '')"),
        (["train", "--work", "w", "--dropout", "1"], "below 1"),
        (["train", "--work", "w", "--focal-alpha", "0"], "above 0 and below 1 (got '0')"),
        (["fit-schema", "--split", "0.5,0.5"], "four shares that add up to 1"),
        (["calibrate", "--work", "w", "--sampling-rate", "0"], "above 0 and at most 1"),
        (["calibrate", "--work", "w", "--calibration-methods", "spline"], "'spline'"),
    ],
)
def test_wrong_options_exit_with_2(export: Export, arguments: list[str], said: str) -> None:
    refused(export(*arguments), 2, said, "--help")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "mystery"], "'model' must be one of lr,"),
        (["--model", "lr", "--hidden-units", "8"], "a hyperparameter of 'lr' must be one of none"),
        (["--hyperparameter", "ranks=4"], "(got 'ranks'); `python -m export models deep_fwfm` tells more"),
        (["--collisions", 8], "'collisions' must be left out with embedding full (got 8)"),
        (["--checkpoint", "no.pt", "--dim", 8], "'dim' must be left out with the checkpoint no.pt"),
        (["--checkpoint", "no.pt", "--embedding", "qr"], "'embedding' must be left out with the checkpoint"),
        (["--click-weight", 3], "'click_weight' must be left out with loss bce"),
        (
            ["--model", "din"],
            "model 'din' cannot be built for a log of the schema 'criteo': 'fields' must hold",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_log_is_read(
    export: Export, tmp_path: Path, arguments: list[str], said: str
) -> None:
    done = export(
        "run", *arguments, "--data", tmp_path / "no.tsv", "--schema", "criteo", "--out", tmp_path / "out"
    )
    refused(done, 1, said)


@pytest.mark.parametrize("command", [["compare", "--models", "din,dien"], ["tune", "--model", "dien"]])
def test_a_model_that_needs_a_history_is_refused_before_the_log_is_read(
    export: Export, tmp_path: Path, command: list[str]
) -> None:
    log = ["--data", tmp_path / "no.tsv", "--schema", "criteo"]
    done = export(*command, *log, "--out", tmp_path / "out", "--work", tmp_path / "work")
    refused(done, 1, "model 'dien' cannot be built", "a user's history (got none)")


def test_a_draft_of_a_schema_reads_its_log(export: Export, tmp_path: Path) -> None:
    log, schema = tmp_path / "shop.csv", tmp_path / "shop.toml"
    rows = "".join(f"{int(i % 3 == 0)},u{i % 40},a{i % 7},{i % 11}.5\n" for i in range(600))
    log.write_text(f"click,user_id,ad_id,price\n{rows}", encoding="utf-8")
    done = export("infer-schema", log, "--out", schema)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"--schema {schema}" in done.stdout.splitlines()[-1]
    refused(export("infer-schema", log, "--out", schema), 1, "'out' must be a new file", "--overwrite")
    assert export("infer-schema", log).stdout == schema.read_text()
    assert export("fit-schema", "--data", log, "--schema", schema, "--work", tmp_path / "w").returncode == 0
    log.write_text("a,b\n1,2\n", encoding="utf-8")
    refused(export("infer-schema", log), 1, "a column must tell clicks")


@pytest.mark.parametrize("quiet", [False, True])
def test_a_terminal_sees_how_far_a_command_is_unless_it_is_to_be_quiet(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    monkeypatch.setattr("export.data.progress._SECONDS_BEFORE_A_BAR", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    options = ["--quiet"] if quiet else []
    done = export("synthesize", "--rows", 1_000, "--out", tmp_path / "log.csv", *options)
    assert done.returncode == 0
    assert ("generated:" in done.stderr) == (not quiet)
    assert done.stdout.startswith("generated 1,000 rows")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("rank=4", ("rank", 4)),
        ('crosses=[["site", "ad"]]', ("crosses", [["site", "ad"]])),
        ("product=inner", ("product", "inner")),
        ("rank=null", ("rank", None)),
        ("note=a=b", ("note", "a=b")),
    ],
)
def test_a_hyperparameter_is_json_or_text(text: str, found: tuple[str, object]) -> None:
    options = build_parser().parse_args(
        ["train", "--work", "w", "--hyperparameter", text, "--hyperparameter", text]
    )
    assert options.hyperparameter == [found, found]


def test_the_models_are_listed_and_each_tells_its_paper(export: Export) -> None:
    lines = export("models").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(MODELS)
    told = export("models", "deep_fwfm").stdout
    assert "DeepLight" in told
    assert "hidden_units=(400, 400, 400)" in told
    assert "what can be made smaller" in told
    refused(export("models", "mystery"), 1, "'mystery'")


def test_a_log_that_is_not_there(export: Export, tmp_path: Path) -> None:
    done = export("run", "--data", tmp_path / "no.tsv", "--schema", "criteo", "--out", tmp_path / "out")
    refused(done, 1, "no.tsv")
    assert not (tmp_path / "out").exists()


def test_a_schema_that_is_not_there(export: Export, tmp_path: Path) -> None:
    done = export("fit-schema", "--data", "x.csv", "--schema", "criterio", "--work", tmp_path / "w")
    refused(done, 1, "'criterio'", "criteo, avazu")


def test_a_schema_file_with_a_mistake(export: Export, tmp_path: Path) -> None:
    schema = tmp_path / "log.toml"
    schema.write_text(
        'name = "x"\nformat = "csv"\n[label]\ncolumn = "click"\n[[field]]\nname = "a"\nkind = "colour"\n'
    )
    done = export("fit-schema", "--data", "x.csv", "--schema", schema, "--work", tmp_path / "w")
    refused(done, 1, "log.toml", "'kind'", "'colour'")


def test_a_malformed_row_names_file_line_and_column(export: Export, tmp_path: Path) -> None:
    log = tmp_path / "day1.tsv"
    row = "\t".join(["0", *["3"] * 13, *["a"] * 26])
    bad = "\t".join(["0", "three", *["3"] * 12, *["a"] * 26])
    log.write_text(f"{row}\n{row}\n{bad}\n{row}\n")
    done = export("fit-schema", "--data", log, "--schema", "criteo", "--work", tmp_path / "w")
    refused(done, 1, "day1.tsv", "line 3", "'I1'", "'three'")


def test_a_missing_stage_is_named(export: Export, tmp_path: Path) -> None:
    refused(export("train", "--work", tmp_path / "work"), 1, "run `python -m export fit-schema --work")
    done = export("package", "--work", tmp_path / "work", "--out", tmp_path / "out")
    refused(done, 1, "run `python -m export fit-schema --work")


def test_a_folder_with_other_things(export: Export, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    log = tmp_path / "log.csv"
    log.write_text("")
    done = export("run", "--data", log, "--schema", "criteo", "--out", tmp_path, "--work", tmp_path / "w")
    refused(done, 1, "a folder of other files")
    done = export("fit-schema", "--data", log, "--schema", "criteo", "--work", tmp_path)
    refused(done, 1, "'work' must be a new, an empty")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_checkpoint_that_is_none(export: Export, tmp_path: Path) -> None:
    log, schema = synthetic(export, tmp_path)
    assert export("fit-schema", "--data", log, "--schema", schema, "--work", tmp_path / "w").returncode == 0
    checkpoint = tmp_path / "model.pt"
    refused(
        export("train", "--work", tmp_path / "w", "--checkpoint", checkpoint), 1, "model.pt", "no such file"
    )
    checkpoint.write_text("not a checkpoint")
    refused(
        export("train", "--work", tmp_path / "w", "--checkpoint", checkpoint), 1, "model.pt", "checkpoint"
    )
    done = export("train", "--work", tmp_path / "w", "--device", "cuda:99", "--epochs", 1, "--model", "lr")
    refused(done, 1, "cuda:99")


def test_a_synthetic_log_that_cannot_be(export: Export, tmp_path: Path) -> None:
    refused(export("synthesize", "--out", tmp_path / "log.txt"), 1, "log.txt", ".parquet")
    refused(export("synthesize", "--out", tmp_path / "log.csv", "--features", 3), 1, "'features'")
    assert list(tmp_path.iterdir()) == []


def test_from_nothing_to_a_bundle_by_the_command_line(export: Export, tmp_path: Path) -> None:
    log, schema = synthetic(export, tmp_path)
    small = ("--model", "lr", "--preset", "none", "--epochs", 1, "--threads", 1)
    done = export("run", "--data", log, "--schema", schema, "--out", tmp_path / "shop", *small)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"python -m service --arm control={tmp_path / 'shop'}" in done.stdout
    assert (tmp_path / "shop" / "manifest.json").is_file()
    assert (tmp_path / ".work" / "shop" / "dense.pt").is_file()
    again = export("package", "--out", tmp_path / "shop", "--name", "shop-2")
    assert again.returncode == 0, again.stderr
    assert "shop-2@" in again.stdout


def test_a_log_that_cannot_be_read_costs_nothing_of_an_earlier_run(export: Export, tmp_path: Path) -> None:
    log, schema = synthetic(export, tmp_path)
    work = tmp_path / "w"
    assert export("fit-schema", "--data", log, "--schema", schema, "--work", work).returncode == 0
    (work / "dense.pt").write_text("hours of work")
    refused(
        export("fit-schema", "--data", tmp_path / "tpyo.csv", "--schema", schema, "--work", work), 1, "tpyo"
    )
    assert (work / "log").is_dir()
    assert (work / "dense.pt").read_text() == "hours of work"
    assert export("fit-schema", "--data", log, "--schema", schema, "--work", work).returncode == 0
    assert sorted(path.name for path in work.iterdir()) == [".bidlight-work", "fit-schema.json", "log"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--out", "my shop"], "'my shop'"),
        (["--out", "shop", "--name", "a/b"], "'name' must be letters"),
        (["--out", "shop", "--device", "tpu"], "'tpu'"),
        (["--out", "shop", "--checkpoint", "no.pt"], "'no.pt'"),
        (["--out", "/proc/shop", "--work", "w"], "/proc"),
        (["--out", "a-file", "--work", "w"], "(got a file)"),
    ],
)
def test_what_cannot_end_well_is_refused_before_the_log_is_read(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").touch()
    done = export("run", "--data", "no-log", "--schema", "criteo", *options)
    refused(done, 1, said)
    assert "no-log" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]


def test_one_export_at_a_time_uses_a_work_folder(export: Export, tmp_path: Path) -> None:
    log, schema = synthetic(export, tmp_path)
    with Work(tmp_path / "w").held(new=True):
        done = export("fit-schema", "--data", log, "--schema", schema, "--work", tmp_path / "w")
        refused(done, 1, "no other export is using", "--work")
    assert export("fit-schema", "--data", log, "--schema", schema, "--work", tmp_path / "w").returncode == 0


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
    ids=["ctrl-c", "sigterm"],
)
def test_a_signal_ends_with_one_line_and_leaves_no_bundle(
    export: Export, tmp_path: Path, sent: signal.Signals, status: int, said: str
) -> None:
    log, schema = synthetic(export, tmp_path)
    arguments = ["run", "--data", log, "--schema", schema, "--out", tmp_path / "shop", "--epochs", 1000,
                 "--patience", 100_000, "--threads", 1]  # fmt: skip
    with subprocess.Popen(
        process(*arguments), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        assert any(line.startswith("epoch ") for line in iter(running.stdout.readline, ""))
        running.send_signal(sent)
        out, error = running.communicate(timeout=60)
    refused(Done(running.returncode, out, error), status, said)
    assert not (tmp_path / "shop").exists()
    assert (tmp_path / ".work" / "shop" / "fit-schema.json").is_file()


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_python_would_forget_ends_the_command(sent: signal.Signals, status: int) -> None:
    """What is raised while an object is removed is printed, and the program goes on."""
    text = f"""
        import signal, sys, time
        from export.cli import main

        class Removed:
            def __del__(self):
                signal.raise_signal({int(sent)})

        def works_for_hours(options):
            Removed()
            time.sleep(3600)

        main.RUNS = {{"models": works_for_hours}}
        sys.exit(main.main(["models"]))
    """
    command = [sys.executable, "-c", textwrap.dedent(text)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=60, check=False)
    refused(Done(done.returncode, done.stdout, done.stderr), status)


def test_a_command_leaves_its_process_as_it_was() -> None:
    def state() -> list[object]:
        handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
        return [*handlers, sys.unraisablehook]

    before = state()
    assert main(["models", "lr"]) == 0
    assert main(["models", "none"]) == 1
    assert state() == before


def test_stages_one_by_one_make_the_same_bundle(exported, export: Export, tmp_path: Path) -> None:
    plan, work = exported.plan, ("--work", tmp_path / "w")
    training, made = plan.training.given, plan.hyperparameters
    stages: list[tuple[object, ...]] = [
        ("fit-schema", "--data", plan.data, "--schema", plan.schema),
        ("train", "--dim", made["dim"], "--hidden-units", ",".join(map(str, made["hidden_units"])),
         "--dropout", made["dropout"], "--epochs", training["epochs"], "--seed", training["seed"],
         "--learning-rate", training["learning_rate"], "--threads", training["threads"]),
        ("prune", "--preset", plan.pruning.preset, "--finetune-epochs", plan.pruning.finetune_epochs,
         "--dense-twin", "skip"),
        ("to-onnx",), ("quantize", "--ship", "pruned"), ("calibrate",),
        ("package", "--out", tmp_path / "tiny"),
    ]  # fmt: skip
    for stage in stages:
        done = export(*stage, *work)
        assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(f"python -m service --arm control={tmp_path / 'tiny'}")
    bundle = load_bundle(tmp_path / "tiny")
    assert bundle.graphs == exported.bundle.graphs
    assert bundle.calibrators == exported.bundle.calibrators


def synthetic(export: Export, folder: Path) -> tuple[Path, Path]:
    """A small log made by the command line itself."""
    log = folder / "clicks.csv"
    done = export(
        "synthesize", "--out", log, "--rows", 3000, "--rows-per-day", 500, "--features", 300, "--ctr", 0.3
    )
    assert done.returncode == 0, done.stderr
    return log, folder / "clicks.toml"
