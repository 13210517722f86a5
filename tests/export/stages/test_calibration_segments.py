"""Offsets by the values of one field: what a model lacks by value is mended, and nothing is invented."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.compress.choice import PruneChoice
from export.data.encoded import open_log
from export.errors import ExportError
from export.judge.metrics import logloss, pcoc, sigmoid
from export.report.findings import Findings, SegmentGain
from export.report.value_names import value_names
from export.stages.calibrate import calibrate
from export.stages.calibration_methods import METHODS, offset_to
from export.stages.calibration_segments import Segments, fit_offsets
from export.stages.calibrator_fit import fit_calibrator
from export.stages.level_forecast import Forecast
from export.stages.package import package
from export.stages.pipeline import run
from export.stages.plan import LogPlan, Plan
from export.stages.variants import read_variants
from export.stages.work import Work
from export.train.choices import TrainChoice
from service.bundle.calibration import Calibrator
from service.bundle.schema import Bins, Field, Hashing, Kind, Role, Vocabulary
from service.bundle.store import Bundle
from service.reading import decode_request
from service.scoring.golden import replay_golden
from service.scoring.predictor import Predictor
from service.settings import Settings
from service.wire import JSON
from tests.export.click_csv import write_clicks

Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Drawn:
    """Rows of a field whose values have effects that the logits lack."""

    logits: NDArray[np.float64]
    labels: Labels
    ids: NDArray[np.int32]
    true_pctr: NDArray[np.float64]


def drawn(
    rows: int, values: int, spread: float, seed: int, *, rate: float = -2.5, skew: float = 1.0
) -> Drawn:
    """The k-th value has rows in proportion to k^-skew; `spread` is the effects' standard deviation."""
    effects = np.random.default_rng(1).normal(0.0, spread, values + 2)
    draw = np.random.default_rng(seed)
    shares = 1.0 / np.arange(1, values + 1)
    ids = draw.choice(values, rows, p=shares / shares.sum()).astype(np.int32) + 2
    logits = draw.normal(rate, 0.8, rows)
    pctr = sigmoid(logits + effects[ids])
    return Drawn(logits, (draw.random(rows) < pctr).astype(np.uint8), ids, pctr)


def fit(rows: Drawn, **options: object) -> tuple[Calibrator, SegmentGain]:
    told: list[SegmentGain] = []
    calibrator = fit_calibrator(
        rows.logits,
        rows.labels,
        variant="float32",
        graph_sha256="0" * 64,
        segments=Segments("site", rows.ids),
        told=told.append,
        **options,  # type: ignore[arg-type]
    )
    return calibrator, told[0]


def of_all(calibrator: Calibrator) -> Calibrator:
    return msgspec.structs.replace(calibrator, segment_field=None, segment_offsets=())


@pytest.mark.parametrize("values", [3, 40, 1000])
@pytest.mark.parametrize("rate", [-3.5, 0.0])
def test_what_a_value_lacks_is_mended_on_rows_that_no_fit_saw(values: int, rate: float) -> None:
    calibrator, gain = fit(drawn(30_000, values, 0.7, seed=2, rate=rate))
    fresh = drawn(30_000, values, 0.7, seed=3, rate=rate)
    assert gain.used
    assert gain.values <= values
    with_offsets, without = calibrator.pctr(fresh.logits, fresh.ids), of_all(calibrator).pctr(fresh.logits)

    def excess(pctr: NDArray[np.float64]) -> float:
        return float((fresh.true_pctr * np.log(fresh.true_pctr / pctr)).sum()) + float(
            ((1 - fresh.true_pctr) * np.log((1 - fresh.true_pctr) / (1 - pctr))).sum()
        )

    assert excess(with_offsets) < 0.5 * excess(without)

    def astray(pctr: NDArray[np.float64]) -> float:
        """Clicks expected too many or too few, by value."""
        return float(np.abs(np.bincount(fresh.ids, pctr - fresh.true_pctr)).sum())

    assert astray(with_offsets) < 0.6 * astray(without)
    assert with_offsets.mean() == pytest.approx(fresh.true_pctr.mean(), rel=0.03)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("values", [5, 2000])
def test_a_field_without_effects_gets_no_offsets(values: int, seed: int) -> None:
    calibrator, gain = fit(drawn(10_000, values, 0.0, seed=seed))
    assert not gain.used
    assert calibrator == of_all(calibrator)


def test_a_calibrator_without_segments_is_the_same_as_with_those_left_out() -> None:
    rows = drawn(10_000, 50, 0.0, seed=4)
    plain = fit_calibrator(rows.logits, rows.labels, variant="float32", graph_sha256="0" * 64)
    assert fit(rows)[0] == plain


def test_effects_that_later_rows_contradict_are_left_out() -> None:
    """A value's level holds in the earlier blocks, and turns over in the later ones."""
    rows = drawn(24_000, 10, 1.0, seed=5, rate=-1.5)
    later = np.arange(24_000) >= 12_000
    turned = sigmoid(2 * rows.logits[later] - np.log(rows.true_pctr[later] / (1 - rows.true_pctr[later])))
    labels = rows.labels.copy()
    labels[later] = np.random.default_rng(6).random(int(later.sum())) < turned
    times = np.arange(24_000, dtype=np.int64)
    assert not fit(replace(rows, labels=labels), timestamps=times)[1].used
    assert fit(rows, timestamps=times)[1].used


def test_rare_values_are_shrunk_and_unseen_ones_have_no_offset() -> None:
    """Of two values with the same click rate the one with fewer rows has the smaller offset."""
    rows = drawn(40_000, 20, 0.6, seed=7)
    few = np.repeat([30, 31, 32], [4, 40, 4000]).astype(np.int32)
    logits = np.r_[rows.logits, np.full(len(few), -2.5)]
    clicks = np.concatenate([np.arange(each) < each // 4 for each in (4, 40, 4000)]).astype(np.uint8)
    labels = np.r_[rows.labels, clicks]
    offsets = fit_offsets(logits, labels, np.r_[rows.ids, few])
    rare, some, many = offsets.of(np.array([30, 31, 32]))
    # What the value lacks beyond what all rows lack: their level is the calibrator's.
    lacking = np.log((1 / 4) / (3 / 4)) + 2.5 - offset_to(logits, float(labels.mean()))
    assert 0 < rare < 0.35 * lacking
    assert rare < some < many
    assert many == pytest.approx(lacking, abs=0.1)
    assert offsets.of(np.array([0, 1, 99, 10**6])).tolist() == [0, 0, 0, 0]


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.floats(-8, 8), st.integers(0, 5), st.booleans()), min_size=2, max_size=60),
    st.randoms(use_true_random=False),
)
def test_offsets_are_finite_keep_the_level_and_follow_no_order(
    rows: list[tuple[float, int, bool]], random: object
) -> None:
    logits, ids, clicks = (np.array(column) for column in zip(*rows, strict=True))
    offsets = fit_offsets(logits, clicks.astype(np.uint8), ids)
    assert np.isfinite(offsets.values).all()
    mean = sigmoid(logits + offsets.of(ids)).mean()
    assert mean == pytest.approx(sigmoid(logits).mean(), rel=1e-6)
    again = fit_offsets(logits[::-1], clicks[::-1].astype(np.uint8), ids[::-1])
    np.testing.assert_allclose(again.of(np.arange(6)), offsets.of(np.arange(6)), atol=1e-6)


def test_the_level_is_not_followed_by_way_of_the_offsets() -> None:
    """All values are off by as much, in a log whose level moves: the whole is left alone, and so are they."""
    rows = drawn(20_000, 30, 0.0, seed=8)
    calibrator, gain = fit(replace(rows, logits=rows.logits - 0.4), expected=Forecast(0.0, 1.0))
    assert not gain.used
    assert calibrator.pctr(rows.logits - 0.4, rows.ids).mean() == pytest.approx(
        sigmoid(rows.logits - 0.4).mean(), rel=0.08
    )


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_offsets(method: str) -> None:
    rows = drawn(12_000, 8, 1.0, seed=9)
    calibrator, gain = fit(rows, methods=[method])
    assert (calibrator.method, calibrator.segment_field, gain.used) == (method, "site", True)
    calibrator.validate()
    after = logloss(rows.labels, calibrator.pctr(rows.logits, rows.ids))
    assert after < logloss(rows.labels, of_all(calibrator).pctr(rows.logits)) - 0.01


def test_values_have_names_that_a_reader_knows() -> None:
    shop = Field("shop", Kind.CATEGORICAL, Role.CONTEXT, Vocabulary(("a", "b", "c", "d", "e", "f")))
    merged = replace(shop, renumbering=np.array([0, 1, 2, 3, 2, 2, 2, 2]))
    hour = Field("hour", Kind.NUMERIC, Role.CONTEXT, Bins((6.0, 12.0)))
    hashed = Field("ad", Kind.CATEGORICAL, Role.CANDIDATE, Hashing(8))
    ids = np.arange(4)
    assert value_names(shop, ids) == {0: "missing", 1: "out of vocabulary", 2: "a", 3: "b"}
    assert value_names(merged, ids[2:]) == {2: "a, c, d, 2 more", 3: "b"}
    assert list(value_names(hour, np.arange(2, 5)).values()) == ["-∞ to 6", "6 to 12", "12 to ∞"]
    assert value_names(hashed, ids[3:]) == {3: "bucket 1"}


ROWS, SITES, MOVED = 12_000, 6, "s3"
OTHER_COLUMNS = """
[timestamp]
column = "second"
[[field]]
name = "seen"
kind = "sequence"
role = "context"
max_length = 2
"""


def write_log(folder: Path) -> LogPlan:
    """Site s3 clicks more from the calibration part on, others a little less: the level stays where it is."""
    draw = np.random.default_rng(11)
    site, ad = draw.integers(0, SITES, ROWS), draw.integers(0, 30, ROWS)
    effects = draw.normal(0, 0.5, (2, 30))
    logits = -1.6 + effects[0, site] + effects[1, ad]
    late = np.arange(ROWS) >= 0.7 * ROWS
    logits += np.where(late, np.where(site == 3, 1.4, -0.3), 0.0)
    clicks = draw.random(ROWS) < sigmoid(logits)
    rows = [
        (int(click), f"s{one}", f"a{other}", second, "x y")
        for second, (click, one, other) in enumerate(zip(clicks, site, ad, strict=True))
    ]
    roles = {"site": "context", "ad": "candidate"}
    return write_clicks(folder, "moved", roles, rows, others=("second", "seen"), more=OTHER_COLUMNS)


@dataclass(frozen=True)
class Moved:
    """An export of that log, calibrated by site; what it printed."""

    plan: Plan
    lines: list[str]
    bundle: Bundle

    @property
    def findings(self) -> Findings:
        return msgspec.json.decode((self.plan.out / "report" / "report.json").read_bytes(), type=Findings)


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Moved:
    folder = tmp_path_factory.mktemp("moved")
    log = write_log(folder)
    plan = Plan(
        data=log.data,
        schema=log.schema,
        split=(0.6, 0.1, 0.15, 0.15),
        out=folder / "bundle",
        work=folder / "work",
        model="fwfm",
        hyperparameters={"dim": 4},
        training=TrainChoice(epochs=1, learning_rate=2e-2, seed=1, threads=1),
        pruning=PruneChoice(preset="none"),
        calibrate_by="site",
    )
    lines: list[str] = []
    bundle = run(plan, say=lines.append)
    return Moved(plan, lines, bundle)


def test_a_level_that_moved_by_value_is_mended(moved: Moved) -> None:
    served = moved.bundle.manifest.serving_variant
    assert {one.segment_field for one in moved.bundle.calibrators.values()} == {"site"}
    assert any(line.startswith(f"{served}: offsets by the 6 values of site are used") for line in moved.lines)
    found = moved.findings.segments
    assert found is not None
    assert found.gain.used
    assert (found.values, sum(one.rows for one in found.rows)) == (SITES, ROWS * 15 // 100)
    site = next(one for one in found.rows if one.value == MOVED)
    assert site.pcoc_of_all is not None
    assert site.pcoc_after is not None
    assert site.pcoc_of_all < 0.8
    assert site.pcoc_after == pytest.approx(1.0, abs=0.15)
    assert site.offset is not None
    assert site.offset > 0.5
    page = (moved.plan.out / "report" / "index.html").read_text()
    assert "Of site: offsets by the 6 values of site are used" in page
    assert f"<td>{MOVED}</td>" in page


def test_a_served_pctr_is_the_one_that_was_judged(moved: Moved) -> None:
    """Rows of the test part, sent as requests, have the report's PCOC by value and its LogLoss."""
    predictor = Predictor(moved.bundle, Settings())
    lines = (moved.plan.data.read_text().splitlines()[1:])[-ROWS * 15 // 100 :]
    rows = [line.split(",") for line in lines]

    async def score() -> NDArray[np.float64]:
        found = []
        for _, site, ad, _, seen in rows:
            body = {"context": {"site": site, "seen": seen.split()}, "candidates": [{"features": {"ad": ad}}]}
            request = predictor.encode(decode_request(msgspec.json.encode(body), JSON), 1)
            found.append(predictor.score(request))
        return np.concatenate(await asyncio.gather(*found))

    pctr, labels = asyncio.run(score()), np.array([int(row[0]) for row in rows], np.uint8)
    evaluated = moved.bundle.manifest.evaluation[predictor.variant]
    assert logloss(labels, pctr) == pytest.approx(evaluated.logloss, rel=1e-6)
    segments = moved.findings.segments
    assert segments is not None
    for one in segments.rows:
        chosen = np.array([row[1] == one.value for row in rows])
        assert pcoc(labels[chosen], pctr[chosen]) == pytest.approx(one.pcoc_after, rel=1e-6)


def test_each_variant_has_offsets_by_its_own_ids(exported) -> None:
    """The pruned graph numbers ids anew: a value has the id that it has in whole rows of that graph."""
    log = open_log(Work(exported.plan.work).path("log"))
    variants = read_variants(Work(exported.plan.work), log.schema)
    single = [field.name for field in log.schema.fields if field.kind is not Kind.SEQUENCE]
    assert set(variants["pruned"].renumberings) & set(single)
    for variant in variants.values():
        rows = variant.ids(np.asarray(log.parts["test"].ids))
        for name in single:
            column = log.schema.column_slices[name].start
            np.testing.assert_array_equal(variant.ids_of(log.parts["test"], name), rows[:, column])


def test_a_pruned_bundle_has_offsets_by_the_ids_of_its_schema(exported, tmp_path: Path) -> None:
    """Held-out clicks follow one field that pruning renumbered; what it lacks is mended in the bundle."""
    work = Work(Path(shutil.copytree(exported.plan.work, tmp_path / "work")))
    log = open_log(work.path("log"))
    pruned, draw = read_variants(work, log.schema)["pruned"], np.random.default_rng(5)
    name = next(one for one in pruned.renumberings if log.schema.field(one).kind is Kind.CATEGORICAL)
    often = int(np.bincount(pruned.ids_of(log.parts["calibration"], name)).argmax())
    for one in ("calibration", "test"):
        rates = np.where(pruned.ids_of(log.parts[one], name) == often, 0.7, 0.1)
        np.save(work.path("log") / f"{one}.labels.npy", (draw.random(len(rates)) < rates).astype(np.uint8))
    calibrate(work, sampling_rate=1.0, methods=METHODS, segment_field=name, say=lambda _: None)
    bundle = package(work, tmp_path / "bundle", say=lambda _: None)
    offsets = dict(bundle.calibrators["pruned"].segment_offsets)
    assert bundle.calibrators["pruned"].segment_field == name
    assert bundle.schema.field(name).renumbering is not None
    assert offsets[often] > 0.5 > 0 > min(offsets.values())
    asyncio.run(replay_golden(Predictor(bundle, Settings(variant="pruned"))))
    test = open_log(work.path("log")).parts["test"]
    chosen = pruned.ids_of(test, name) == often
    pctr = bundle.calibrators["pruned"].pctr(pruned.score(test), pruned.ids_of(test, name))
    assert pctr[chosen].mean() == pytest.approx(test.labels[chosen].mean(), abs=0.15)
    assert pctr[~chosen].mean() == pytest.approx(test.labels[~chosen].mean(), abs=0.1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", "'calibrate_by' must be a field of the log .*'nowhere'.* name one of site, ad, seen"),
        ("seen", "one value a row .*the sequence 'seen'.* name one of site, ad$"),
    ],
)
def test_a_field_that_cannot_have_offsets_is_refused_before_anything_is_read(
    moved: Moved, tmp_path: Path, name: str, words: str
) -> None:
    plan = replace(moved.plan, calibrate_by=name, out=tmp_path / "bundle", work=tmp_path / "work")
    with pytest.raises(ExportError, match=words):
        run(plan, say=lambda _: None)
    assert not (tmp_path / "work").exists()
    work = Work(moved.plan.work)
    with pytest.raises(ExportError, match=words):
        calibrate(work, sampling_rate=1.0, methods=METHODS, segment_field=name, say=lambda _: None)
    assert work.has("calibration.json")
