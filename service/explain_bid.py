"""`python -m service.explain_bid`: recompute pCTRs and bids from a bundle, a request and a live calibration.

It has the features of the request alone: those that a service adds from a feature store must stand in the
request. The exit status is 0, 1 if an answer differs from what is recomputed, and 2 for an error.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from service.bundle.errors import BundleError
from service.calibration.fit import NONE, Correction
from service.control.client import ControlClient, Unreachable
from service.control.protocol import Calibration, CalibrationStatus
from service.control.tables import aligned
from service.errors import BadConfiguration, ServiceError
from service.http.app import bid_policy
from service.process.options import PlainParser, settings_of
from service.reading import KnownFields, decode_request
from service.scoring.explanation import Answered, Explanation, differences, explain, text_of
from service.scoring.predictor import Predictor
from service.settings import Settings
from service.wire import JSON, MSGPACK, Codec, count_rows

PROGRAM = "python -m service.explain_bid"
DIFFERS, FAILED = 1, 2
SECONDS = 30.0
# Settings of the service on which pCTRs and bids depend; the environment has them too.
SETTINGS = (
    "variant",
    "device",
    "shared_context",
    "max_candidates",
    "bid_multiplier",
    "bid_win_price",
    "bid_cap",
    "bid_floor",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Explain one request; the exit status. An error is one line."""
    parser = build_parser()
    given = vars(parser.parse_args(arguments))
    chosen = {name: given[name] for name in SETTINGS if name in given}
    settings = settings_of(parser, {**chosen, "live_calibration": "off"})
    try:
        answer = None if given["answer"] is None else _read_answer(given["answer"])
        correction, source = _correction(given, answer)
        predictor = Predictor.load(given["bundle"], settings)
        found = _explain(predictor, given["request"], settings, correction)
    except (BundleError, ServiceError, Unreachable) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return FAILED
    _print(predictor, found, settings, correction, source)
    if answer is None:
        return 0
    lines = [*differences(predictor.manifest.id, found, answer)]
    print("", *(lines or ["The answer agrees to the last digit."]), sep="\n")
    return DIFFERS if lines else 0


def build_parser() -> argparse.ArgumentParser:
    """The options; those of settings only if they are given."""
    parser = PlainParser(
        prog=PROGRAM,
        description="Recompute the pCTR and the bid of each candidate of a request, step by step.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=110),
    )
    parser.add_argument("--bundle", required=True, metavar="FOLDER", help="the bundle that answered")
    parser.add_argument(
        "--request",
        required=True,
        type=Path,
        metavar="FILE",
        help="the body of the request; .msgpack, else JSON",
    )
    parser.add_argument("--answer", type=Path, metavar="FILE", help="the body of its answer, to compare with")
    parser.add_argument("--intercept", type=float, metavar="X", help="of the live calibration [0]")
    parser.add_argument("--slope", type=float, metavar="Y", help="of the live calibration [1]")
    parser.add_argument(
        "--control-socket", metavar="PATH", help="take both from the running service with this setting"
    )
    parser.add_argument("--arm", metavar="NAME", help="whose calibration that is [that of the answer]")
    for name in SETTINGS:
        parser.add_argument(
            "--" + name.replace("_", "-"),
            default=argparse.SUPPRESS,
            metavar="N",
            help=f"the service's setting: {Settings.model_fields[name].description}",
        )
    return parser


def _codec_of(file: Path) -> Codec:
    return MSGPACK if file.suffix in (".msgpack", ".mp") else JSON


def _read(file: Path, option: str) -> bytes:
    """The bytes of a file. Raises BadConfiguration."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadConfiguration(
            f"'{option}' must be a file that can be read (got '{file}': {error.strerror or error}); "
            "check its path"
        ) from None


def _read_answer(file: Path) -> Answered:
    """The answer in a file. Raises BadConfiguration."""
    body = _read(file, "--answer")
    try:
        answer = _codec_of(file).decode_answer(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadConfiguration(
            f"'--answer' must be an answer of /predict with status 200 (got '{file}': {error}); save its body"
        ) from None
    if answer.quality is not msgspec.UNSET:
        raise BadConfiguration(
            f"'--answer' must be one that a model scored (got quality {answer.quality}); "
            "its pCTRs are explained by that"
        )
    return Answered.of(answer)


def _correction(given: dict[str, Any], answer: Answered | None) -> tuple[Correction, str]:
    """The live calibration that was served, and where it comes from.

    Raises BadConfiguration, and Unreachable and ServiceError as ControlClient does.
    """
    intercept, slope, path = given["intercept"], given["slope"], given["control_socket"]
    if intercept is not None or slope is not None:
        if path is not None:
            raise BadConfiguration(
                "'--control-socket' must be left out with --intercept or --slope; give one"
            )
        correction = Correction(0.0 if intercept is None else intercept, 1.0 if slope is None else slope)
        if not (math.isfinite(correction.intercept) and 0.0 < correction.slope < math.inf):
            raise BadConfiguration(
                "'--intercept' and '--slope' must be finite numbers, and the slope above 0 "
                f"(got {correction.intercept} and {correction.slope}); give those of the revision"
            )
        return correction, "given"
    if path is not None:
        return _served(path, given["arm"], answer)
    if answer is not None and answer.revision:
        raise BadConfiguration(
            f"'--intercept' and '--slope' must be those of revision {answer.revision}, which the answer "
            "names (got none); the log of the service has them, or give --control-socket while it is served"
        )
    return NONE, "none"


def _served(path: str, arm: str | None, answer: Answered | None) -> tuple[Correction, str]:
    """The live calibration that a running service has for an arm, which must be that of the answer."""
    with ControlClient(path, SECONDS) as client:
        found = client.ask(Calibration())
    if found.error is not None:
        raise BadConfiguration(found.error.message)
    calibration = _of_arm(found.calibrations or (), arm or (None if answer is None else answer.arm))
    is_served = calibration.mode == "on"
    correction = Correction(calibration.intercept, calibration.slope) if is_served else NONE
    revision = calibration.revision if correction != NONE else 0
    if answer is not None and answer.revision != revision:
        if not answer.revision:
            return NONE, "none, as the answer names no revision"
        raise BadConfiguration(
            f"'--control-socket' must be of a service with revision {answer.revision}, which the answer "
            f"names (got {revision}); give --intercept and --slope, which its log has"
        )
    return correction, f"revision {revision} of arm {calibration.arm}" if revision else "none is served"


def _of_arm(calibrations: Sequence[CalibrationStatus], arm: str | None) -> CalibrationStatus:
    """Raises BadConfiguration if there is none, or more than one and no name."""
    found = [each for each in calibrations if arm in (None, each.arm)]
    if len(found) != 1:
        names = ", ".join(each.arm for each in calibrations) or "none"
        raise BadConfiguration(f"'--arm' must be one of {names} (got {arm!r}); name one of these")
    return found[0]


def _explain(predictor: Predictor, file: Path, settings: Settings, correction: Correction) -> Explanation:
    """Raises ServiceError for a request that the service refuses too."""
    encoder = predictor.encoder
    known = KnownFields(frozenset(encoder.context_names), frozenset(encoder.candidate_names))
    request = decode_request(_read(file, "--request"), _codec_of(file), known, settings.max_candidates)
    rows = count_rows(request.candidates, settings.max_candidates, known.candidate)
    return explain(predictor, request, rows, correction, bid_policy(settings))


def _print(
    predictor: Predictor, found: Explanation, settings: Settings, correction: Correction, source: str
) -> None:
    print(f"bundle {predictor.manifest.id}, variant {predictor.variant}")
    if predictor.depends_on_batch:
        print("note: by this variant a pCTR depends on its batch, which is this request alone here")
    print(
        f"live calibration ({source}): log-odds become {correction.intercept} + {correction.slope} * log-odds"
    )
    print(
        f"bids: multiplier {settings.bid_multiplier}, win price {text_of(settings.bid_win_price)}, "
        f"cap {text_of(settings.bid_cap)}, floor {settings.bid_floor}"
    )
    print(f"context ids: {_ids(found.context_ids)}\n")
    heads = (
        "row",
        "id",
        "logit",
        "calibrated",
        "pCTR",
        "corrected",
        "value",
        "linear bid",
        "shaded",
        "capped",
    )
    asked, rows = found.asked, len(found.own)
    columns: list[Sequence[object]] = [
        range(rows),
        asked.ad_ids or [None] * rows,
        found.logits.tolist(),
        found.calibrated.tolist(),
        found.own.tolist(),
        found.corrected.tolist(),
        asked.values_per_click or [None] * rows,
        found.linear,
        found.shaded,
        found.capped,
        asked.bid_floors or [None] * rows,
        found.bids,
        [_ids(ids) for ids in found.candidate_ids],
    ]
    cells = [tuple(map(text_of, row)) for row in zip(*columns, strict=True)]
    print(*aligned((*heads, "floor", "bid", "ids"), cells), sep="\n")


def _ids(by_field: dict[str, list[int]]) -> str:
    return " ".join(f"{name}={','.join(map(str, ids))}" for name, ids in by_field.items()) or "none"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
