"""What the command line makes of `shadow`; that a service does it is tested in tests/e2e."""

from __future__ import annotations

import pytest

from service.control.__main__ import build_parser, main
from service.control.protocol import EndShadow, Shadow


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["candidate", "--of", "control", "--share", "0.1"], Shadow("candidate", "control", 0.1)),
        (["candidate", "--share", "1", "--of", "control"], Shadow("candidate", "control", 1.0)),
        (["candidate", "off"], EndShadow("candidate")),
    ],
)
def test_a_whole_command_is_read(arguments: list[str], expected: Shadow | EndShadow) -> None:
    given = build_parser().parse_args(["shadow", *arguments])
    assert given.make(given) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["candidate"], "ARM off (got 'candidate' and no --of, no --share)"),
        (["candidate", "--of", "control"], "(got 'candidate' and an --of, no --share)"),
        (["candidate", "off", "--share", "1"], "(got 'candidate' off and no --of, a --share)"),
        (["candidate", "on"], "invalid choice: 'on'"),
        (["candidate", "--of", "control", "--share", "0"], "must be above 0 and at most 1 (got 0.0)"),
        (["candidate", "--of", "control", "--share", "many"], "invalid float value: 'many'"),
    ],
)
def test_what_is_not_whole_is_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--control-socket", "nowhere", "shadow", *arguments])
    errors = capsys.readouterr().err
    assert (ended.value.code, errors.count("\n")) == (2, 1)
    assert message in errors
