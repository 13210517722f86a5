"""The synthetic log: reproducible blocks, correct probabilities, and more than a linear model learns."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import OneHotEncoder

from export.data.encoded import prepare_log
from export.data.errors import LogError
from export.data.log_schema import load_log_schema
from export.data.readers import read_log
from export.data.synthetic import BLOCK_ROWS, PRESETS, Block, SyntheticConfig, SyntheticLog
from export.data.synthetic_config import DOMAIN
from export.data.synthetic_file import block_frame, value_texts, write_synthetic_log
from export.data.synthetic_prices import MARKET_PRICE
from export.data.synthetic_random import geometric_sizes, zipf_ranks
from tests.export.memory_log import quiet


def frames(config: SyntheticConfig) -> pl.DataFrame:
    return pl.concat(block_frame(config, block) for block in SyntheticLog(config).blocks())


@pytest.fixture(scope="module")
def blocks() -> pl.DataFrame:
    return frames(SyntheticConfig(rows=4 * BLOCK_ROWS + 1000, features=5000, sequence_fields=1))


def test_rows_do_not_depend_on_how_many_are_asked_for(blocks: pl.DataFrame) -> None:
    fewer = frames(SyntheticConfig(rows=500, features=5000, sequence_fields=1))
    assert fewer.equals(blocks.head(500))
    assert len(blocks) == 4 * BLOCK_ROWS + 1000


def test_the_seed_decides(blocks: pl.DataFrame) -> None:
    other = frames(SyntheticConfig(rows=500, features=5000, sequence_fields=1, seed=1))
    assert not other["C1"].equals(blocks["C1"].head(500))


def test_clicks_have_the_logs_probabilities(blocks: pl.DataFrame) -> None:
    expected = blocks["true_pctr"].cast(pl.Float64)
    error = np.sqrt((expected * (1 - expected)).sum()) / len(expected)
    assert abs(blocks["click"].mean() - expected.mean()) < 4 * error
    assert expected.mean() == pytest.approx(0.1, abs=0.01)
    assert 0.75 < roc_auc_score(blocks["click"], expected) < 0.83


@pytest.mark.parametrize("ctr", [0.05, 0.2])
def test_the_rate_is_as_asked(ctr: float) -> None:
    block = SyntheticLog(SyntheticConfig(ctr=ctr)).block(0)
    assert block.true_pctr.mean() == pytest.approx(ctr, rel=0.05)


def test_a_linear_model_stays_below_the_truth_and_above_chance() -> None:
    config = SyntheticConfig(rows=40_000, features=5000)
    frame = frames(config)
    names = [*config.numeric_names, *config.categorical_names]
    numbers = [pl.col(name).cast(pl.Float64).log1p().floor().cast(pl.String) for name in config.numeric_names]
    table = frame.with_columns(numbers).select(pl.col(names).fill_null("none")).to_numpy()
    encoder = OneHotEncoder(min_frequency=20, handle_unknown="infrequent_if_exist", dtype=np.float32)
    features, clicks = encoder.fit_transform(table), frame["click"].to_numpy()
    model = LogisticRegression(C=0.05, tol=1e-2, max_iter=50).fit(features[:32_000], clicks[:32_000])
    linear = roc_auc_score(clicks[32_000:], model.predict_proba(features[32_000:])[:, 1])
    oracle = roc_auc_score(clicks[32_000:], frame["true_pctr"][32_000:])
    assert 0.6 < linear < oracle - 0.03


def test_new_values_appear_as_days_pass() -> None:
    config = SyntheticConfig(rows=2 * BLOCK_ROWS, rows_per_day=BLOCK_ROWS // 4, features=2000)
    log = SyntheticLog(config)
    first, later = (block_frame(config, log.block(number)) for number in (0, 20))
    for name, unseen in ((config.candidate_names[0], True), ("C1", False)):
        share = 1 - later[name].drop_nulls().is_in(first[name].unique().to_list()).mean()
        assert (share > 0.01) is unseen
    still = SyntheticLog(SyntheticConfig(drift=0.0, features=2000)).block(20)
    assert all(ranks.max() <= 2000 for ranks in still.ranks.values())


def test_ten_million_features_cost_nothing() -> None:
    config = SyntheticConfig(rows=1000, features=10_000_000)
    frame = frames(config)
    assert max(frame[name].n_unique() for name in config.categorical_names) > 100


@pytest.mark.parametrize(("fields", "total"), [(1, 4), (26, 104), (26, 100_000), (26, 10_000_000), (3, 17)])
def test_cardinalities_sum_to_the_features(fields: int, total: int) -> None:
    sizes = geometric_sizes(fields, total)
    assert sum(sizes) == total
    assert len(sizes) == fields
    assert min(sizes) >= 4


def test_ranks_follow_a_power_law() -> None:
    ranks = zipf_ranks(np.random.default_rng(1).random(200_000), 1000, 1.2)
    counts = np.bincount(ranks, minlength=1001)
    assert ranks.min() == 1
    assert ranks.max() <= 1000
    assert counts[10] / counts[100] == pytest.approx(10**1.2, rel=0.15)


def test_prices_are_log_normal_and_change_nothing_else() -> None:
    config = SyntheticConfig(price=50.0)
    block, plain = (SyntheticLog(one).block(2) for one in (config, SyntheticConfig()))
    frame = block_frame(config, block)
    assert frame.drop(MARKET_PRICE).equals(block_frame(SyntheticConfig(), plain))
    logs = np.log(block.prices)
    assert np.exp(np.median(logs)) == pytest.approx(50.0, rel=0.5)  # values that are frequent move it
    # By chance alone its deviation is 0.6; context and probability add to it.
    assert 0.6 < logs.std() < 1.0
    assert np.corrcoef(logs, np.log(block.true_pctr))[0, 1] > 0.1
    assert np.array_equal(SyntheticLog(config).block(2, 100).prices, block.prices[:100])


def test_value_texts_are_distinct_hexadecimal() -> None:
    (texts, other) = value_texts([(0, np.arange(100_000)), (1, np.arange(100_000))])
    assert texts.n_unique() == 100_000
    assert texts.str.contains("^[0-9a-f]{8}$").all()
    assert not texts.equals(other)


@pytest.mark.parametrize(
    ("config", "rows", "sha256"),
    [
        (SyntheticConfig(), 500, "f5feba956ba14775c070ff57af353f94ed4bec5309846c086fcfeedb82dac7e8"),
        (
            SyntheticConfig(sequence_fields=2, features=5000, seed=1),
            500,
            "8cf33ecb22b19e6f26cd44bd8256ee649de8ad75ccbbd8057808f80a26c64a35",
        ),
    ],
)
def test_the_log_has_not_changed(config: SyntheticConfig, rows: int, sha256: str) -> None:
    """Published measurements depend on it."""
    frame = block_frame(config, SyntheticLog(config).block(3, rows))
    text = frame.with_columns(pl.col("true_pctr").round(4)).write_ndjson()
    assert hashlib.sha256(text.encode()).hexdigest() == sha256


@pytest.fixture(scope="module")
def zoo() -> SyntheticLog:
    return SyntheticLog(PRESETS["zoo"])


def test_the_zoo_has_its_fields_and_what_can_be_known_of_its_clicks(zoo: SyntheticLog) -> None:
    config = zoo.config
    frame = pl.concat(block_frame(config, zoo.block(number)) for number in range(2))
    assert len(frame.columns) - len(("click", "timestamp", "true_pctr")) == 6 + 12 + 1 + 1
    assert frame[DOMAIN].n_unique() == config.domains
    assert frame["click"].mean() == pytest.approx(0.2, abs=0.01)
    assert 0.8 < roc_auc_score(frame["click"], frame["true_pctr"]) < 0.86


def part(log: SyntheticLog, block: Block, kind: str) -> np.ndarray:
    """One kind of effect's addition to the logit, before scaling."""
    kinds = ("values", "pairs", "triples", "products", "domains", "interest")
    found: np.ndarray = log.effects.parts(block)[kinds.index(kind)][0]
    return found


def test_each_effect_has_the_deviation_asked_for(zoo: SyntheticLog) -> None:
    parts = zoo.effects.parts(zoo.block(0))
    for (values, wanted), (_, factor) in zip(parts, zoo._scales, strict=True):
        assert (values * factor).std() == pytest.approx(wanted, rel=0.15)


def test_interest_counts_what_resembles_the_ad_and_the_latest_most(zoo: SyntheticLog) -> None:
    config = zoo.config
    block = zoo.block(0, rows=4)
    ad = 3
    topics = zoo.effects._topics(np.arange(1, 500))
    alike = [rank for rank in range(1, 500) if topics[rank - 1] == topics[ad - 1]][:3]
    other = next(rank for rank in range(1, 500) if topics[rank - 1] != topics[ad - 1])
    block.ranks[config.history_of] = np.full(4, ad)
    rows = [[other, *alike[:1]], [alike[0], other], [*alike], []]
    for row, history in enumerate(rows):
        block.histories["S1"][row] = [*history, *[0] * (config.history_length - len(history))]
    found = part(zoo, block, "interest")
    assert found == pytest.approx(np.log1p([1.0, 0.75, 1 + 0.75 + 0.75**2, 0.0]))


def test_domains_turn_effects_over(zoo: SyntheticLog) -> None:
    block = zoo.block(0)
    found = []
    for domain in (1, 2):
        block.ranks[DOMAIN] = np.full(len(block), domain)
        found.append(part(zoo, block, "domains"))
    assert abs(np.corrcoef(found)[0, 1]) < 0.8
    assert min(values.std() for values in found) > 0.1


def test_a_product_is_a_number_times_a_slope(zoo: SyntheticLog) -> None:
    block = zoo.block(0)
    (number, category), *_ = zoo.effects.products
    block.ranks = {name: np.full(len(block), 5) for name in block.ranks}
    block.numbers = {name: np.full(len(block), np.nan) for name in block.numbers}
    assert part(zoo, block, "products") == pytest.approx(np.zeros(len(block)))
    location, scale = zoo._shape[number]
    block.numbers[number] = np.full(len(block), np.expm1(location + 0.5 * scale))
    once = part(zoo, block, "products")[0]
    block.numbers[number] = np.full(len(block), np.expm1(location + scale))
    assert part(zoo, block, "products")[0] == pytest.approx(2 * once)
    block.ranks[category] = np.full(len(block), 6)
    assert part(zoo, block, "products")[0] != pytest.approx(2 * once)


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_the_zoo_reads_back_with_a_history_of_the_ads_values(tmp_path: Path, ending: str) -> None:
    config = replace(PRESETS["zoo"], rows=3000)
    description = write_synthetic_log(config, tmp_path / f"log{ending}", report=quiet)
    log = prepare_log(tmp_path / f"log{ending}", load_log_schema(description), tmp_path / "out", report=quiet)
    history = log.schema.field("S1")
    assert (history.max_length, history.same_values_as) == (config.history_length, "C12")
    assert history.encoding is log.schema.field("C12").encoding
    assert log.schema.field(DOMAIN).cardinality == 2 + config.domains


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".csv.gz"])
def test_the_file_reads_back_through_its_own_description(tmp_path: Path, ending: str) -> None:
    config = SyntheticConfig(
        rows=700, features=300, numeric_fields=2, categorical_fields=3, candidate_fields=1, sequence_fields=1
    )
    description = write_synthetic_log(config, tmp_path / f"log{ending}", report=quiet)
    assert description == tmp_path / "log.toml"
    (chunk,) = read_log(tmp_path / f"log{ending}", load_log_schema(description))
    expected = frames(config)
    assert chunk.labels.tolist() == expected["click"].to_list()
    assert chunk.true_pctr == pytest.approx(expected["true_pctr"].to_numpy(), rel=1e-6)
    for name in ("I2", "C1", "C3", "S1"):
        assert chunk.fields[name].to_list() == expected[name].to_list()
    assert (
        sorted(path.name for path in tmp_path.iterdir()) == [f"log{ending}", "log.toml"]
        or ending == ".parquet"
    )


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_synthetic_log(
            SyntheticConfig(rows=500, features=300), tmp_path / name / "log.csv.gz", report=quiet
        )
    assert (tmp_path / "a" / "log.csv.gz").read_bytes() == (tmp_path / "b" / "log.csv.gz").read_bytes()


def test_it_prepares_with_the_true_probability(tmp_path: Path) -> None:
    config = SyntheticConfig(rows=3000, features=300, rows_per_day=500)
    description = write_synthetic_log(config, tmp_path / "log.parquet", report=quiet)
    log = prepare_log(tmp_path / "log.parquet", load_log_schema(description), tmp_path / "out", report=quiet)
    assert log.split == "time"
    test = log.parts["test"]
    assert test.true_pctr is not None
    assert test.true_pctr.dtype == np.float32
    assert 0 < test.true_pctr.min() < test.true_pctr.max() < 1
    assert {name for row in log.sample_rows for name in row["candidate"]} == set(config.candidate_names)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"rows": 0}, "'rows' must be at least 1 (got 0)"),
        ({"features": 10}, "'features' must be from 104"),
        ({"ctr": 1.0}, "'ctr' must be above 0 and below 1 (got 1.0)"),
        ({"domains": 1}, "'domains' must be at least 2, or 0 for none (got 1)"),
        ({"effect_of_domains": 0.5}, "'domains' must be at least 2 where domains have an effect (got 0)"),
        ({"effect_of_interest": 0.5}, "'sequence_fields' must be at least 1 where interest has an effect"),
        (
            {"effect_of_products": 0.5, "numeric_fields": 0},
            "'numeric_fields' and 'products' must be at least 1",
        ),
        ({"history_length": 0}, "'history_length' must be at least 1 (got 0)"),
        ({"candidate_fields": 27}, "'candidate_fields' must be at most the 26 categorical fields (got 27)"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, int], told: str) -> None:
    with pytest.raises(LogError) as caught:
        SyntheticConfig(**wrong)
    assert told in str(caught.value)


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        LogError, match=r"'out' must end in \.parquet, \.csv or \.csv\.gz \(got 'log\.json'\)"
    ):
        write_synthetic_log(SyntheticConfig(rows=10), tmp_path / "log.json", report=quiet)
