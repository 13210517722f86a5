"""The command score: its pCTRs are those of the running service, and no fault costs what was there."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

from export.__main__ import main
from export.bundles.plan import ScorePlan
from export.bundles.score import score
from export.data.errors import LogError
from export.data.log_schema import LOG_FILE
from export.errors import ExportError
from service.bundle.errors import BundleError
from service.bundle.manifest import Description
from service.bundle.store import Contents, load_bundle, save_bundle
from tests.export.bundles.conftest import Shop, shown_rows, write_rows
from tests.export.conftest import Exported, silent
from tests.running import running_service

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # any import of it fails
from export.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
NO_ROOM = """
import resource, sys
from export.__main__ import main
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
sys.exit(main(sys.argv[1:]))
"""
PEAK = """
import resource, sys
from export.__main__ import main
code = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""


def scored(shop: Shop, data: Path, out: Path, **options: object) -> pl.DataFrame:
    score(ScorePlan(bundle=shop.folder, data=data, out=out, **options), say=silent)
    return pl.read_parquet(out) if out.suffix == ".parquet" else pl.read_csv(out)


@pytest.mark.parametrize("variant", ["float32", "int8"])
def test_scores_are_what_the_service_answers(shop: Shop, tmp_path: Path, variant: str) -> None:
    rows = shown_rows(150, seed=5)
    log = write_rows(tmp_path / "today.csv", rows)
    found = scored(shop, log, tmp_path / "scores.parquet", variant=variant, keep=("request",))
    arguments = ["--arm", f"control={shop.folder}", "--variant", variant]
    with running_service(tmp_path, arguments) as service, service.client() as client:
        answers = [client.post("/predict", json=row.body()).json() for row in rows]
    assert found["pctr"].to_list() == [answer["results"][0]["pctr"] for answer in answers]
    assert found.columns == ["row", "request", "label", "logit", "pctr"]
    assert found["row"].to_list() == list(range(1, 151))
    assert found["request"].to_list() == [row.request for row in rows]
    assert found["label"].to_list() == [int(row.clicked) for row in rows]
    assert len(set(found["pctr"].to_list())) > 50


def test_the_last_line_is_json_and_the_rest_is_for_people(shop: Shop, tmp_path: Path, capsys) -> None:
    rows = shown_rows(40, seed=2)
    log, out = write_rows(tmp_path / "today.csv", rows), tmp_path / "new" / "scores.csv"
    assert main(["score", "--bundle", str(shop.folder), "--data", str(log), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    said, line = printed.out.splitlines()
    assert "scored 40 rows by" in said
    assert printed.err == ""  # no terminal, no progress
    told = json.loads(line)
    frame = pl.read_csv(out)
    assert told["bundle"] == shop.bundle.manifest.id
    assert (told["rows"], told["skipped_rows"]) == (40, 0)
    assert told["clicks"] == sum(row.clicked for row in rows) == frame["label"].sum()
    assert told["mean_pctr"] == pytest.approx(frame["pctr"].mean())
    assert told["columns"] == frame.columns


def test_it_scores_without_pytorch(shop: Shop, tmp_path: Path) -> None:
    log, out = write_rows(tmp_path / "today.csv", shown_rows(30)), tmp_path / "scores.parquet"
    command = [
        sys.executable,
        "-c",
        WITHOUT_TORCH,
        "score",
        "--bundle",
        shop.folder,
        "--data",
        log,
        "--out",
        out,
    ]
    subprocess.run(command, check=True, capture_output=True)
    assert pl.read_parquet(out).equals(scored(shop, log, tmp_path / "again.parquet"))


def test_parquet_with_the_same_columns_scores_alike(shop: Shop, tmp_path: Path) -> None:
    rows = shown_rows(60, seed=3)
    text = scored(shop, write_rows(tmp_path / "today.txt", rows), tmp_path / "text.parquet")
    table = pl.DataFrame(
        {
            "clicked_at": [row.cells()[1] or None for row in rows],
            "shown_at": [row.cells()[2] for row in rows],
            "page": [row.page for row in rows],
            "price": [row.price for row in rows],
            "ad": [row.ad for row in rows],
            "tags": [list(row.tags) for row in rows],
        }
    )
    table.write_parquet(tmp_path / "today.parquet")
    assert scored(shop, tmp_path / "today.parquet", tmp_path / "typed.parquet").equals(text)


def test_a_log_without_a_label_is_scored_alone(shop: Shop, tmp_path: Path) -> None:
    rows = shown_rows(50, seed=4)
    with_label = scored(shop, write_rows(tmp_path / "day.csv", rows), tmp_path / "a.parquet")
    log = write_rows(tmp_path / "early.csv", rows, without="clicked_at")
    said: list[str] = []
    done = score(ScorePlan(bundle=shop.folder, data=log, out=tmp_path / "b.parquet"), say=said.append)
    assert pl.read_parquet(tmp_path / "b.parquet").equals(with_label.drop("label"))
    assert done.clicks is None
    assert said[0] == "early.csv has no label, its 6 columns being all others: its rows are scored alone"


def test_a_malformed_row_is_an_error_or_skipped_and_rows_keep_their_numbers(
    shop: Shop, tmp_path: Path
) -> None:
    rows = shown_rows(20, seed=6)
    log, out = write_rows(tmp_path / "day.csv", rows), tmp_path / "scores.parquet"
    lines = log.read_text().splitlines()
    good = scored(shop, log, out, keep=("request", "price"))
    lines[7] = lines[7].replace(";ad", "x;ad")  # no number
    lines[12] = "half a row"
    log.write_text("\n".join(lines) + "\n")
    with pytest.raises(LogError, match=r"day.csv, line (8: column 'price'|13: the row) must be"):
        scored(shop, log, out)
    assert pl.read_parquet(out).equals(good)
    kept = scored(shop, log, out, keep=("request", "price"), on_malformed="skip")
    assert kept.equals(good.filter(~pl.col("row").is_in([8, 13])))


def test_a_fault_in_a_later_chunk_leaves_the_old_scores(shop: Shop, tmp_path: Path) -> None:
    rows = shown_rows(70_000, seed=7, seconds=1)  # more than a chunk
    log, out = write_rows(tmp_path / "day.csv", rows), tmp_path / "scores.csv"
    with log.open("a") as file:
        file.write("half a row\n")
    out.write_text("the scores of yesterday")
    with pytest.raises(LogError, match="line 70001: the row must be 7 columns wide"):
        scored(shop, log, out)
    assert out.read_text() == "the scores of yesterday"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["day.csv", "scores.csv"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "pruned"}, r"'variant' must be one of float32, int8 in shop@\w+ \(got 'pruned'\)"),
        ({"keep": ("user",)}, "'keep' must name columns of day.csv .got 'user'.; it has request, clicked_at"),
        ({"keep": ("ad", "ad")}, "'keep' must name columns once"),
        ({"out": Path("scores.txt")}, "'out' must end in .parquet or .csv .got 'scores.txt'"),
        ({"schema": "criteo"}, "'schema' must describe the fields of shop@.*'hour' .got no such field"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    shop: Shop, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    log = write_rows(tmp_path / "day.csv", shown_rows(5))
    with pytest.raises(ExportError, match=message):
        score(ScorePlan(**{"bundle": shop.folder, "data": log, "out": tmp_path / "s.parquet", **options}))
    assert list(tmp_path.iterdir()) == [log]


def test_a_place_that_cannot_be_written_is_an_error_before_the_work(
    shop: Shop, tmp_path: Path, capsys
) -> None:
    log = write_rows(tmp_path / "day.csv", shown_rows(5))
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").write_text("in the way")
    for out, message in (
        (tmp_path / "folder.csv", "'out' must be a file (got the folder"),
        (tmp_path / "file" / "scores.csv", "file'"),
        (log, "'out' must be another file than the log"),
    ):
        assert main(["score", "--bundle", str(shop.folder), "--data", str(log), "--out", str(out)]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert len(log.read_text().splitlines()) == 5


def test_a_missing_column_is_named(shop: Shop, tmp_path: Path) -> None:
    rows = [row.cells() for row in shown_rows(5)]
    log = tmp_path / "day.parquet"
    pl.DataFrame(
        {name: [row[place] for row in rows] for place, name in ((2, "shown_at"), (3, "page"))}
    ).write_parquet(log)
    with pytest.raises(LogError, match="column 'price', 'ad', 'tags' must be in the log"):
        scored(shop, log, tmp_path / "s.parquet")


def test_a_log_without_rows_is_an_error(shop: Shop, tmp_path: Path) -> None:
    log = tmp_path / "day.csv"
    log.write_text("half a row\n")
    with pytest.raises(LogError, match=r"must hold rows .got none, 1 malformed rows skipped"):
        scored(shop, log, tmp_path / "s.parquet", on_malformed="skip")


def _saved_with(shop: Shop, folder: Path, **changed: object) -> Path:
    """The shop's bundle with other contents."""
    bundle = load_bundle(shop.folder)
    description = {name: getattr(bundle.manifest, name) for name in Description.__struct_fields__}
    contents = {
        "schema": bundle.schema,
        "graphs": bundle.graphs,
        "shared_graphs": bundle.shared_graphs,
        "calibrators": bundle.calibrators,
        "golden": bundle.golden,
        **changed,
    }
    save_bundle(folder, Description(**description), Contents(**contents))
    return folder


def test_a_bundle_that_does_not_say_how_its_log_is_read_needs_the_schema(shop: Shop, tmp_path: Path) -> None:
    assert LOG_FILE in shop.bundle.manifest.files
    log = write_rows(tmp_path / "day.csv", shown_rows(30))
    older = _saved_with(shop, tmp_path / "older")
    plan = ScorePlan(bundle=older, data=log, out=tmp_path / "s.parquet")
    with pytest.raises(ExportError, match=r"'schema' must be given with the bundle .*older"):
        score(plan, say=silent)
    score(replace(plan, schema=shop.plan.schema), say=silent)
    expected = scored(shop, log, tmp_path / "expected.parquet")
    assert pl.read_parquet(plan.out).equals(expected)


def test_a_graph_that_gives_other_logits_here_is_refused(shop: Shop, tmp_path: Path) -> None:
    golden = shop.bundle.golden
    outputs = {
        name: msgspec.structs.replace(one, logits=tuple(logit + 1.0 for logit in one.logits))
        for name, one in golden.variants.items()
    }
    moved = _saved_with(shop, tmp_path / "moved", golden=msgspec.structs.replace(golden, variants=outputs))
    log = write_rows(tmp_path / "day.csv", shown_rows(5))
    with pytest.raises(BundleError, match="must be a graph that gives golden row 0 the logit"):
        score(ScorePlan(bundle=moved, data=log, out=tmp_path / "s.csv", schema=shop.plan.schema), say=silent)


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_a_disk_that_is_full_costs_nothing_that_was_there(shop: Shop, tmp_path: Path, ending: str) -> None:
    log, out = write_rows(tmp_path / "day.csv", shown_rows(20_000, seconds=1)), tmp_path / f"scores{ending}"
    out.write_text("the scores of yesterday")
    arguments = ["score", "--bundle", shop.folder, "--data", log, "--out", out]
    done = subprocess.run([sys.executable, "-c", NO_ROOM, *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("export: ")
    assert (done.stderr.count("\n"), "File too large" in done.stderr) == (1, True)
    assert out.read_text() == "the scores of yesterday"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["day.csv", out.name]


def test_a_score_that_is_stopped_leaves_nothing_but_the_old_scores(shop: Shop, tmp_path: Path) -> None:
    log = write_rows(tmp_path / "day.csv", shown_rows(50, seed=8))
    text, out = log.read_bytes(), tmp_path / "scores.csv"
    out.write_text("the scores of yesterday")
    with log.open("ab") as file:
        for _ in range(10_000):
            file.write(text)
    command = [sys.executable, "-m", "export", "score", "--bundle", shop.folder, "--data", log, "--out", out]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        while running.poll() is None and not any(tmp_path.glob(".*.partial/*")):
            time.sleep(0.01)
        running.terminate()
        _, error = running.communicate(timeout=60)
    assert (running.returncode, error) == (143, "export: terminated\n")
    assert out.read_text() == "the scores of yesterday"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["day.csv", out.name]


def test_memory_does_not_grow_with_the_log(shop: Shop, tmp_path: Path) -> None:
    plain = [row for row in shown_rows(90_000, seed=8, seconds=1) if row.page != "a;b"]  # no quotes: fast
    text = write_rows(tmp_path / "one.csv", plain[:70_000]).read_bytes()
    with (tmp_path / "many.csv").open("wb") as file:
        for _ in range(12):
            file.write(text)

    def peak(log: str) -> int:
        arguments = [
            "score",
            "--bundle",
            shop.folder,
            "--data",
            tmp_path / log,
            "--out",
            tmp_path / "s.parquet",
        ]
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *arguments], check=True, capture_output=True, text=True
        )
        return int(done.stdout.splitlines()[-1]) * 1024

    growth = peak("many.csv") - peak("one.csv")
    assert growth < len(text) * 12 / 2, (
        f"{growth / 1e6:.0f} MB more for {len(text) * 11 / 1e6:.0f} MB of text"
    )
    assert pl.scan_parquet(tmp_path / "s.parquet").select(pl.len()).collect().item() == 70_000


def test_what_is_kept_may_be_typed_but_what_has_no_text_goes_into_no_csv(shop: Shop, tmp_path: Path) -> None:
    rows = shown_rows(10)
    table = pl.DataFrame(
        {
            "shown_at": [row.cells()[2] for row in rows],
            "page": [row.page for row in rows],
            "price": [row.price for row in rows],
            "ad": [row.ad for row in rows],
            "tags": [list(row.tags) for row in rows],
            "campaign": np.arange(10),
            "digest": [b"\xff\x00"] * 10,
            "dwell": [timedelta(seconds=second) for second in range(10)],
        }
    )
    log = tmp_path / "day.parquet"
    table.write_parquet(log)
    kept = ("campaign", "tags", "digest", "dwell")
    found = scored(shop, log, tmp_path / "s.parquet", keep=kept)
    assert found.select(kept).equals(table.select(kept))
    for name in ("tags", "digest", "dwell"):
        with pytest.raises(
            ExportError, match=f"'keep' must name columns of single values .* for a .csv .got '{name}'"
        ):
            scored(shop, log, tmp_path / "s.csv", keep=(name,))
    assert not (tmp_path / "s.csv").exists()


def test_what_no_score_is_made_of_may_be_malformed(exported: Exported, tmp_path: Path) -> None:
    """A service answers for a row whatever its true pCTR is, and its time where no field is made of it."""
    whole = pl.read_csv(exported.plan.data).tail(20)
    torn = whole.with_columns(timestamp=pl.lit("soon"), true_pctr=pl.lit(7.0))
    found = []
    for name, rows in (("whole", whole), ("torn", torn)):
        rows.write_csv(tmp_path / f"{name}.csv")
        plan = ScorePlan(
            bundle=exported.bundle.folder,
            data=tmp_path / f"{name}.csv",
            out=tmp_path / f"{name}.parquet",
            keep=("timestamp",),
        )
        score(plan, say=silent)
        found.append(pl.read_parquet(plan.out))
    assert found[0].drop("timestamp").equals(found[1].drop("timestamp"))
    assert set(found[1]["timestamp"]) == {"soon"}
