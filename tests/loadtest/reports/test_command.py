"""Numbers on the command line, and what it says of wrong ones."""

from __future__ import annotations

import argparse

import pytest

from loadtest.arguments import at_least_one, counts, positive
from loadtest.reports import scale
from loadtest.reports.command import Command


def test_counts_stand_with_spaces_or_commas() -> None:
    assert at_least_one("7") == 7
    assert counts("1 10,100, 500") == (1, 10, 100, 500)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "two", ""])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"must be a whole number from 1 \(got "):
        at_least_one(text)


@pytest.mark.parametrize("text", ["", " , ", "1 0", "1 x"])
def test_a_list_with_another_text_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="from 1"):
        counts(text)


@pytest.mark.parametrize("option", ["--workers=0 1", "--candidates=", "--seconds=0", "--repetitions=-3"])
def test_scale_ends_before_it_starts_anything(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        scale.main([option])
    assert "from 1 (got " in capsys.readouterr().err


def test_a_warm_up_may_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    command = Command("some.command", "Measures something.")
    command.warm_up()
    assert [command.parse_args(options).warm_up for options in ([], ["--warm-up=0"])] == [1, 0]
    with pytest.raises(SystemExit):
        command.parse_args(["--warm-up=-1"])
    assert "must be a whole number from 0 (got '-1')" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [("0", "a finite number above 0"), ("inf", "a finite number above 0"), ("fast", "a number")],
)
def test_a_positive_number_is_finite(text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"must be {message} "):
        positive(text)
    assert positive("0.5") == 0.5
