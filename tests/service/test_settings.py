"""Settings come from options and from the environment."""

from __future__ import annotations

import pytest

from service.__main__ import main
from service.process.options import build_parser, unknown_variables
from service.settings import ENV_PREFIX, Settings


def test_every_setting_is_an_option_and_a_variable_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, field in Settings.model_fields.items():
        assert ENV_PREFIX + name.upper() in text
        assert field.description is not None
        if field.default not in ((), "", None):
            assert f"default {field.default};" in text


def test_options_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIDLIGHT_PORT", "9001")
    monkeypatch.setenv("BIDLIGHT_WORKERS", "3")
    monkeypatch.setenv("BIDLIGHT_ARMS", "control=a:90, treatment=b:10,")
    given = vars(build_parser().parse_args(["--port", "9002", "--variant", "int8"]))
    settings = Settings(**given)
    assert (settings.port, settings.workers, settings.variant) == (9002, 3, "int8")
    assert settings.arms == ("control=a:90", "treatment=b:10")
    given = vars(build_parser().parse_args(["--arm", "x=1", "--arm", "y=2:3"]))
    assert Settings(**given).arms == ("x=1", "y=2:3")


def test_unknown_variables_are_found() -> None:
    environment = {"BIDLIGHT_BID_CAPP": "2", "BIDLIGHT_BID_CAP": "2", "BIDLIGHT": "", "PATH": "/bin"}
    assert unknown_variables(environment) == ["BIDLIGHT_BID_CAPP"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "'--arm' must name a bundle (got none)"),
        (["--arm", "a=b", "--port", "x"], "'--port' must be a valid integer"),
        (["--arm", "a=b", "--port", "70000"], "(got '70000'); also read from BIDLIGHT_PORT"),
        (["--arm", "a=b", "--workers", "0"], "'--workers' must be greater than or equal to 1"),
        (["--arm", "a=b", "--device", "gpu"], "invalid choice: 'gpu'"),
        (
            ["--arm", "a=b", "--device", "cuda", "--workers", "2"],
            "'workers' must be 1 with device cuda (got 2); each would hold a context and tables of its own",
        ),
        (
            ["--arm", "a=b", "--device", "cuda-required", "--workers", "3"],
            "'workers' must be 1 with device cuda-required (got 3)",
        ),
        (
            ["--arm", "a=b", "--max-candidates", "9", "--max-queued-rows", "8"],
            "'max_candidates' must be at most",
        ),
        (["--arm", "a=b,c"], "'--arm' must hold no comma"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_an_invalid_setting_is_reported_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    written = capsys.readouterr().err
    assert written.startswith("python -m service: error: ")
    assert written.count("\n") == 1
    assert message in written
