"""What one machine brings to the ledger of all, and what becomes of it: a pure function.

It knows no store. Whoever comes first after half of a period learns from what all have said by then, and
decides; the others find that it was done.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from service.calibration.counts import Counts, bytes_of, counts_of
from service.calibration.decision import Decision, Rules, next_shared_revision
from service.calibration.ledger import FORGET_MS, Ledger, Said

logger = logging.getLogger("bidlight")

# Sources of others beyond these have no account.
MAX_ACCOUNTS = 256
# Members that were heard within so many periods are there.
HEARD_PERIODS = 3
# The clocks of machines may differ by so much, as for tokens.
SKEW_MS = 60_000


class Wish(NamedTuple):
    """A command: freeze, thaw or reset an arm; `until_ms` is of a reset."""

    kind: Literal["freeze", "thaw", "reset"]
    arm: str
    until_ms: int = 0

    def fulfil(self, ledger: Ledger) -> None:
        """Do it."""
        if self.kind == "reset":
            ledger.reset(self.arm, self.until_ms)
        else:
            ledger.freeze(self.arm, is_frozen=self.kind == "freeze")


class Report(msgspec.Struct, frozen=True, array_like=True):
    """What a member says of a source: when, of which arm it is, whether it serves it, and all its counts."""

    at_ms: int
    arm: str
    is_served: bool
    counts: bytes

    @classmethod
    def of(cls, at_ms: int, arm: str, counts: Counts, *, is_served: bool) -> bytes:
        """Such a report as bytes."""
        return _encode(cls(at_ms, arm, is_served, zlib.compress(bytes_of(counts), 1)))


class Advanced(NamedTuple):
    """A ledger that has changed, decisions by source, and the fields of members that are gone."""

    ledger: bytes
    decisions: list[tuple[int, Decision]]
    stale: list[bytes]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Report).decode
_MAX_COUNTS = 1 << 16


@dataclass(frozen=True)
class Errand:
    """At `now_ms`, with counts up to `cut_ms`: reports by field, the sources served here, and commands.

    `mine` is the ledger that this machine knows, and `number` its own.
    """

    now_ms: int
    cut_ms: int
    period_ms: int
    rules: Rules
    mine: bytes
    number: int
    served: Mapping[int, str]
    reports: Mapping[bytes, bytes]
    wishes: tuple[Wish, ...] = ()

    def advance(
        self, found: bytes | None, read_reports: Callable[[], Mapping[bytes, bytes]]
    ) -> Advanced | None:
        """What becomes of the ledger that was found, None if nothing; reports of all are read if needed."""
        ledger, has_changed = self._newest(found)
        for number, arm in self.served.items():
            if number not in ledger.accounts:
                ledger.open(number, arm, self.cut_ms)
                has_changed = True
        for wish in self.wishes:
            wish.fulfil(ledger)
            has_changed = True
        decisions: list[tuple[int, Decision]] = []
        stale: list[bytes] = []
        if self._is_due(ledger.cut_ms):
            said, ledger.machines, stale = self._listen(ledger, read_reports())
            decisions = self._step(ledger, said)
            has_changed = True
        if not has_changed:
            return None
        ledger.number += 1
        return Advanced(ledger.pack(), decisions, stale)

    def _newest(self, found: bytes | None) -> tuple[Ledger, bool]:
        """The ledger that goes on, and whether it is not the one that was found."""
        if found is not None:
            try:
                ledger = Ledger.unpack(found, self.rules, next_shared_revision)
            except ValueError:  # another one's
                pass
            else:
                if ledger.number >= self.number:
                    return ledger, False
        return Ledger.unpack(self.mine, self.rules, next_shared_revision), True

    def _is_due(self, done_ms: int) -> bool:
        """Whether to decide: all had time to report, and no clock as right as this one has done it.

        Clocks differ: who is behind must not do again what is done, since each time what is known decays.
        """
        is_time = self.now_ms - self.cut_ms >= self.period_ms // 2
        return is_time and not -(SKEW_MS + self.period_ms) <= self.cut_ms - done_ms < self.period_ms

    def _listen(
        self, ledger: Ledger, reports: Mapping[bytes, bytes]
    ) -> tuple[dict[int, dict[str, Said]], int, list[bytes]]:
        """What members say by source, how many machines these are, and the fields of those that are gone."""
        said: dict[int, dict[str, Said]] = {}
        machines: set[str] = set()
        stale: list[bytes] = []
        for name, data in reports.items():
            try:
                number, member = source_and_member(name)
                report = _decode(data)
                counts = counts_of(zlib.decompressobj().decompress(report.counts, _MAX_COUNTS))
                if not np.isfinite(counts).all():
                    raise ValueError("counts must be finite")
            except (ValueError, zlib.error, msgspec.DecodeError):
                stale.append(name)
                continue
            if self.now_ms - report.at_ms >= FORGET_MS:
                stale.append(name)
                continue
            if report.is_served and (number in ledger.accounts or len(ledger.accounts) < MAX_ACCOUNTS):
                account = ledger.open(number, report.arm, self.cut_ms)
                account.served_ms = max(account.served_ms, report.at_ms)
            cut_ms = report.at_ms // self.period_ms * self.period_ms
            said.setdefault(number, {})[member] = Said(cut_ms, counts)
            if self.now_ms - report.at_ms < HEARD_PERIODS * self.period_ms:
                machines.add(member.partition(".")[0])
        for number in said.keys() - ledger.accounts.keys():  # nobody serves it any more
            stale += [field_of(number, member) for member in said[number]]
        return said, len(machines), stale

    def _step(self, ledger: Ledger, said: Mapping[int, Mapping[str, Said]]) -> list[tuple[int, Decision]]:
        ledger.cut_ms = self.cut_ms
        for number, account in [*ledger.accounts.items()]:
            if self.now_ms - account.served_ms >= FORGET_MS:
                del ledger.accounts[number]
        made: list[tuple[int, Decision]] = []
        for number, account in ledger.accounts.items():
            try:
                decisions = account.step(said.get(number, {}), self.cut_ms)
            except Exception:  # whatever it is, other sources go on
                logger.exception("arm %s: its live calibration stays as it is for now", account.arm)
            else:
                made += [(number, decision) for decision in decisions]
        return made


def field_of(number: int, member: str) -> bytes:
    """The name under which a member reports on a source."""
    return b"%08x:%s" % (number, member.encode())


def source_and_member(name: bytes) -> tuple[int, str]:
    """The inverse of `field_of`. Raises ValueError."""
    number, _, member = name.decode("ascii").partition(":")
    return int(number, 16), member
