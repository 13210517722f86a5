"""The built-in descriptions of public logs read small files of the exact formats."""

from pathlib import Path

import pytest

from export.data.errors import LogError
from export.data.log_schema import load_log_schema, parse_log_schema
from export.data.readers import LogChunk, read_log
from service.bundle.schema import Role
from tests.export.data.public_logs import IPINYOU_COLUMNS, ipinyou_log, twitter_log


def read(path: Path, text: str, name: str) -> LogChunk:
    path.write_text(text, encoding="utf-8")
    (chunk,) = read_log(path, load_log_schema(name))
    return chunk


def test_ipinyou(tmp_path: Path) -> None:
    chunk = read(tmp_path / "train.log.txt", ipinyou_log(), "ipinyou")
    assert chunk.labels.tolist() == [0, 1]
    assert chunk.timestamps is not None
    assert chunk.timestamps.tolist() == [1370476864, 1370611353]  # 2013-06-06 00:01:04, 2013-06-07 13:22:33
    assert chunk.fields["usertag"].to_list() == [["10006", "10063", "11278"], None]
    assert chunk.fields["slotprice"].to_list() == [70.0, 5.0]
    assert chunk.fields["hour"].to_list() == ["00", "13"]
    assert chunk.fields["IP"].to_list() == ["115.45.195.*", "58.243.1.*"]
    assert chunk.fields["creative"].to_list() == ["00fccc", "44966c"]


def test_ipinyou_has_no_field_that_the_auction_decides() -> None:
    schema = load_log_schema("ipinyou")
    assert set(schema.used_columns) <= set(IPINYOU_COLUMNS)
    assert not {"payprice", "bidprice", "logtype", "bidid"} & set(schema.used_columns)
    assert {f.name for f in schema.fields if f.role is Role.CANDIDATE} == {"creative", "advertiser"}


def test_twitter(tmp_path: Path) -> None:
    chunk = read(tmp_path / "training.tsv", twitter_log(), "twitter")
    assert chunk.labels.tolist() == [1, 0]
    assert chunk.timestamps is not None
    assert chunk.timestamps.tolist() == [1581262691, 1581000000]
    fields = {name: column.to_list() for name, column in chunk.fields.to_dict().items()}
    assert fields["text_tokens"] == [["101", "56898", "137", "174", "102"], ["101", "102"]]
    assert fields["hashtags"] == [["7CC1B5D6", "1BAC9F3D"], None]
    assert fields["present_media"] == [["Photo", "Photo"], None]
    assert fields["present_links"] == [None, ["F00D", "BEEF"]]
    assert fields["engaged_with_user_follower_count"] == [22467.0, 1000000.0]
    assert fields["engaging_user_id"][0] == "0000006C3074607050F1339DDCB890BB"
    assert fields["engagee_follows_engager"] == ["true", "false"]
    assert fields["hour_of_day"] == ["15", "14"]


def test_twitter_has_twenty_four_columns_and_no_engagement_among_its_fields() -> None:
    schema = load_log_schema("twitter")
    assert len(schema.columns) == 24
    engagements = set(schema.columns[20:])
    assert engagements == {
        f"{each}_timestamp" for each in ("reply", "retweet", "retweet_with_comment", "like")
    }
    assert not engagements & {field.column for field in schema.fields}


@pytest.mark.parametrize(("target", "clicks"), [("reply", [0, 1]), ("retweet", [1, 0])])
def test_another_engagement_is_a_copy_of_the_description(
    tmp_path: Path, target: str, clicks: list[int]
) -> None:
    built_in = (
        Path(load_log_schema.__code__.co_filename).with_name("twitter.toml").read_text(encoding="utf-8")
    )
    text = built_in.replace('column = "like_timestamp"', f'column = "{target}_timestamp"')
    path = tmp_path / "training.tsv"
    path.write_text(twitter_log(), encoding="utf-8")
    (chunk,) = read_log(path, parse_log_schema(text))
    assert chunk.labels.tolist() == clicks


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (
            "ipinyou",
            ipinyou_log().replace("20130607132233999", "yesterday"),
            "line 3: column 'timestamp' must be a time like %Y%m%d%H%M%S%f (got 'yesterday')",
        ),
        ("ipinyou", ipinyou_log() + "0\t4\n", "line 4: the row must be 27 columns wide (got '2 columns')"),
        ("ipinyou", ipinyou_log().replace("\tcity", "\ttown"), "column 'city' must be in the log"),
        ("twitter", twitter_log().replace("\x01true", ""), "line 1: the row must be 24 columns wide"),
        (
            "twitter",
            twitter_log().replace("22467", "many"),
            "line 1: column 'engaged_with_user_follower_count' must be a finite number or empty (got 'many')",
        ),
    ],
)
def test_a_malformed_row_is_reported(tmp_path: Path, name: str, text: str, told: str) -> None:
    with pytest.raises(LogError) as caught:
        read(tmp_path / "log.txt", text, name)
    assert told in str(caught.value)
