"""`python -m service.join_examples`: the logs of examples and of events -> tomorrow's training log.

It reads files that a service writes, and may run beside it, from cron. The exit status is 0, or 1 for an
error, which is one line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from service.bundle.errors import BundleError
from service.bundle.store import load_bundle
from service.errors import BadConfiguration
from service.examples.columns import Ads, check_names
from service.examples.join import JoinedHour, JoinPlan, join_hours, open_hours
from service.examples.parquet import check_library
from service.features.open import check_address, store_at
from service.features.store import StoreUnavailable, unpack
from service.feedback.tokens import now_ms
from service.process.options import PlainParser

PROGRAM = "python -m service.join_examples"


def main(arguments: Sequence[str] | None = None) -> int:
    """Join the hours that are closed; the exit status."""
    options = build_parser().parse_args(arguments)
    try:
        check_library()
        plan = _plan_of(options)
        ads = None if options.feature_store is None else read_ads(options.feature_store)
        now = now_ms()
        for hour in join_hours(plan, ads, now):
            _tell(hour)
        waiting = open_hours(plan, now)
    except (BadConfiguration, BundleError, StoreUnavailable, OSError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 1
    if waiting:
        print(f"{waiting} hours are not closed yet")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = PlainParser(
        prog=PROGRAM,
        description="Join requests that a service has logged with the impressions and clicks that came back: "
        "a Parquet file for each hour that is closed, for python -m export run --data OUT --schema BUNDLE.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=110),
    )
    parser.add_argument(
        "--examples",
        action="append",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="the service's --example-log (repeat it for other machines)",
    )
    parser.add_argument(
        "--events",
        action="append",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="the service's --feedback-log (repeat it for other machines)",
    )
    parser.add_argument(
        "--bundle", required=True, metavar="FOLDER", help="the bundle whose fields are the columns"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FOLDER", help="where the Parquet files are kept"
    )
    parser.add_argument(
        "--window-seconds",
        type=_seconds,
        default=86_400,
        metavar="N",
        help="how long after its answer an event counts; an hour is closed so long after its end "
        "[86400, as the service's --attribution-seconds]",
    )
    parser.add_argument(
        "--rows",
        choices=("shown", "all"),
        default="shown",
        help="candidates that are kept: those that were shown, or all, also those that nobody saw [shown]",
    )
    parser.add_argument(
        "--feature-store",
        metavar="URL",
        help="the service's: features of ads that requests left out are taken from it, as they are now",
    )
    parser.add_argument(
        "--delete-consumed",
        action="store_true",
        help="delete the files of the log of examples that are in a Parquet file",
    )
    return parser


def _seconds(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 31_536_000:
        raise argparse.ArgumentTypeError(f"must be 1 to 31536000 seconds (got {text!r}); a day is 86400")
    return int(text)


def _plan_of(options: argparse.Namespace) -> JoinPlan:
    """Raises BadConfiguration, BundleError."""
    bundle = load_bundle(Path(options.bundle))
    check_names(bundle.schema)
    for name in ("examples", "events", "out"):
        given = getattr(options, name)
        for folder in given if isinstance(given, list) else [given]:
            if not folder.is_dir():
                raise BadConfiguration(
                    f"'--{name}' must be a folder that is there (got '{folder}'); make it, or name another"
                )
    return JoinPlan(
        options.examples,
        options.events,
        options.out,
        bundle.manifest.id,
        bundle.schema,
        options.window_seconds,
        options.rows,
        options.delete_consumed,
    )


def read_ads(url: str) -> Ads:
    """What a feature store has of all ads, by id. Raises BadConfiguration, StoreUnavailable."""
    check_address(url)
    found: dict[str, dict[str, object]] = {}
    for ads in store_at(url).ads():
        for name, value in ads:
            try:
                found[name] = unpack(value)
            except ValueError:  # the service leaves it out too
                found.pop(name, None)
    return found


def _tell(hour: JoinedHour) -> None:
    """What came of an hour, and on the error output what was lost."""
    name = f"{hour.hour:%Y-%m-%dT%H}"
    if hour.is_new:
        print(
            f"{name}: {hour.rows:,} rows of {hour.requests:,} requests, {hour.shown:,} shown, "
            f"{hour.clicked:,} clicked: {hour.path}"
        )
    for number, what in (
        (hour.unreadable, "lines of the log of examples cannot be read, such as the end of a file cut off"),
        (hour.unreadable_events, "lines of the log of events cannot be read"),
        (hour.late_clicks, "clicks came after their window, and are in no file"),
        (hour.unknown_ads, "candidates left features out of ads that the feature store does not have"),
    ):
        if number:
            print(f"{name}: warning: {number:,} {what}", file=sys.stderr)
    if hour.found_late:
        print(
            f"{name}: warning: {len(hour.found_late)} files of the log came after {hour.path.name} was made "
            f"({hour.found_late[0]}), and are in none; move it elsewhere to have one made of what is there",
            file=sys.stderr,
        )
    if hour.deleted:
        print(f"{name}: deleted {hour.deleted} files that are joined")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
