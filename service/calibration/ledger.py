"""What is decided for all sources, and from which counts: it is kept, sent, and goes on anywhere.

Counts come by members, each of which says all that it ever counted: a counter that only grows (Shapiro et al.
2011, G-Counter). The ledger has what it has seen of each, so it adds what is new, once, however often and in
which order it is told. It knows neither clocks nor machines.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np

from service.calibration.counts import BINS, Counts, bytes_of, counts_of
from service.calibration.decision import (
    MAX_SHARED_REVISION,
    Decision,
    LiveCalibration,
    LiveRecord,
    Rules,
    next_revision,
)

# Of records: it is part of the name under which they are kept.
FORMAT = 1
# A ledger that is longer is none.
MAX_BYTES = 1 << 26
# What a member said is remembered for so long after it was last heard.
FORGET_MS = 86_400_000


class Said(NamedTuple):
    """What a member said of a source: all that it ever counted, of what was mature at a time."""

    at_ms: int
    counts: Counts


@dataclass(eq=False)
class Account:
    """A source: its arm, what was decided and when, and what is known of each member."""

    arm: str
    live: LiveCalibration
    stepped_ms: int
    served_ms: int
    seen: dict[str, Said] = field(default_factory=dict)
    # What is mature by then is of tokens that are not learned from. A machine may say so much later.
    ignored_until_ms: int = 0
    # The last revision of all machines, while one decides alone.
    shared_revision: int = 0

    def step(self, said: Mapping[str, Said], now_ms: int) -> list[Decision]:
        """Learn from what is new, and decide."""
        added = np.zeros((BINS, 3))
        for member, each in said.items():
            seen = self.seen.get(member, Said(self.stepped_ms, np.zeros((BINS, 3))))
            # Less than before is older than that: a report that was late, or of a clock that was set back.
            known = Said(max(seen.at_ms, each.at_ms), np.maximum(seen.counts, each.counts))
            if seen.at_ms >= self.ignored_until_ms:
                added += known.counts - seen.counts
            self.seen[member] = known
        # Not who still reports: all that it says would be new again.
        self.seen = {
            member: each
            for member, each in self.seen.items()
            if member in said or now_ms - each.at_ms < FORGET_MS
        }
        seconds = max(0.0, 1e-3 * (now_ms - self.stepped_ms))
        self.stepped_ms = now_ms
        return self.live.step(added, seconds)


class _SaidRecord(msgspec.Struct, frozen=True, array_like=True):
    at_ms: int
    counts: bytes


class _AccountRecord(msgspec.Struct, frozen=True, array_like=True):
    arm: str
    live: LiveRecord
    stepped_ms: int
    served_ms: int
    seen: dict[str, _SaidRecord]
    ignored_until_ms: int
    shared_revision: int


class _LedgerRecord(msgspec.Struct, frozen=True, array_like=True):
    number: int
    cut_ms: int
    machines: int
    frozen: list[str]
    accounts: dict[int, _AccountRecord]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_LedgerRecord).decode


class Ledger:
    """Accounts by the numbers of their sources, and the arms that are frozen.

    `number` counts its changes: of two, that with the higher number goes on. `cut_ms` is up to when counts
    were learned from, those of so many `machines`. `following` numbers revisions.
    """

    def __init__(self, rules: Rules, following: Callable[[int], int] = next_revision) -> None:
        self.number = 0
        self.cut_ms = 0
        self.machines = 0
        self.frozen: set[str] = set()
        self.accounts: dict[int, Account] = {}
        self._rules = rules
        self._following = following

    def open(self, number: int, arm: str, now_ms: int) -> Account:
        """The account of a source, a new one if it has none."""
        account = self.accounts.get(number)
        if account is None:
            live = LiveCalibration(self._rules, self._following, is_frozen=arm in self.frozen)
            account = self.accounts[number] = Account(arm, live, now_ms, now_ms)
        return account

    def of(self, arm: str) -> list[Account]:
        """The accounts of an arm."""
        return [account for account in self.accounts.values() if account.arm == arm]

    def freeze(self, arm: str, *, is_frozen: bool) -> None:
        """Let what is served for an arm stay, that of bundles to come too; or let it change again."""
        (self.frozen.add if is_frozen else self.frozen.discard)(arm)
        for account in self.of(arm):
            account.live.is_frozen = is_frozen

    def reset(self, arm: str, until_ms: int) -> None:
        """Serve an arm without a correction; what is mature by then is not learned from."""
        for account in self.of(arm):
            account.live.reset()
            account.ignored_until_ms = max(account.ignored_until_ms, until_ms)

    def decide_alone(self, following: Callable[[int], int], arm: str | None = None) -> None:
        """Number revisions in another way from now on, of an arm or of all."""
        for account in self.accounts.values() if arm is None else self.of(arm):
            if account.live.revision <= MAX_SHARED_REVISION:
                account.shared_revision = account.live.revision
            account.live.following = following
        if arm is None:
            self._following = following

    def pack(self) -> bytes:
        """All of it as bytes."""
        accounts = {number: _record_of(account) for number, account in self.accounts.items()}
        record = _LedgerRecord(self.number, self.cut_ms, self.machines, sorted(self.frozen), accounts)
        return zlib.compress(_encode(record), 1)

    @classmethod
    def unpack(cls, data: bytes, rules: Rules, following: Callable[[int], int]) -> Ledger:
        """The inverse of `pack`; revisions of a machine alone become one of all. Raises ValueError."""
        try:
            record = _decode(zlib.decompressobj().decompress(data, MAX_BYTES))
        except (zlib.error, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"a ledger must be one that was packed (got {error})") from None
        ledger = cls(rules, following)
        ledger.number, ledger.cut_ms, ledger.machines = record.number, record.cut_ms, record.machines
        ledger.frozen = {*record.frozen}
        for number, each in record.accounts.items():
            live = LiveCalibration.of(each.live, rules, following)
            live.is_frozen = each.arm in ledger.frozen
            if live.revision > MAX_SHARED_REVISION:
                live.revision = following(each.shared_revision)
            seen = {member: Said(said.at_ms, counts_of(said.counts)) for member, said in each.seen.items()}
            ledger.accounts[number] = Account(
                each.arm, live, each.stepped_ms, each.served_ms, seen, each.ignored_until_ms
            )
        return ledger


def _record_of(account: Account) -> _AccountRecord:
    return _AccountRecord(
        account.arm,
        account.live.record,
        account.stepped_ms,
        account.served_ms,
        {member: _SaidRecord(said.at_ms, bytes_of(said.counts)) for member, said in account.seen.items()},
        account.ignored_until_ms,
        account.shared_revision,
    )
