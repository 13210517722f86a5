"""What an event of feedback costs: microseconds of one that is alone, in a list, and from bytes to bytes.

`python -m benchmarks.feedback` counts events of tokens that it signs itself. The figures are this process'
CPU time, the best of some timings. `count` is a slice of events that are new; `again` is the same slice sent
again; `decode` is their JSON; `restore` is a line of the log at the start of a service.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.command import Command, ended, print_table
from service.feedback.counting import EventCounter
from service.feedback.events import IMPRESSION, Event, decode_events
from service.feedback.hourly_log import WHOLE
from service.feedback.log import LoggedEvent
from service.feedback.memory import event_memory
from service.feedback.queue import SLICE_EVENTS
from service.feedback.signers import Signers
from service.feedback.tokens import Source, now_ms
from service.metrics.families import Metrics
from service.settings import Settings
from service.wire import JSON

SOURCE = Source("control", "bench@1", "int8")
STAGES = ("count", "again", "decode", "restore")
LOGGED_EVENTS = 50_000


class Bench:
    """A counter without a log, and tokens of its own, on files in `folder`."""

    def __init__(self, folder: Path) -> None:
        keys = folder / "keys"
        keys.write_text(f"0 {'5e' * 16}\n", encoding="ascii")
        self.settings = Settings(arms=(f"{SOURCE.arm}=bench",), feedback_keys=str(keys))
        self._folder = folder
        self._signers = Signers(self.settings.feedback_keys)
        self._signers.serve({SOURCE: SOURCE})
        memory = event_memory(self.settings)
        self._counter = EventCounter(self.settings, Metrics(), memory, self._signers)
        self._counter.serve([SOURCE])

    def events(self, count: int) -> list[Event]:
        """So many impressions, each new."""
        tokens = self._signers.of(SOURCE).tokens(np.full(count, 0.02))
        return [Event(token, IMPRESSION) for token in tokens]

    def figures(self, events: int, timings: int) -> dict[str, float]:
        """Microseconds an event in a slice of so many, by stage."""
        slices = [self.events(events) for _ in range(timings)]
        body = msgspec.json.encode({"events": slices[0]})
        return {
            "count": _best(self._counter.count, slices) / events,
            "again": _best(self._counter.count, slices) / events,
            "decode": _best(lambda _: decode_events(body, JSON, events), slices) / events,
        }

    def restore(self) -> float:
        """Microseconds an event of a log that is read again."""
        (log := self._folder / "log").mkdir()
        lines = (
            LoggedEvent(now_ms(), IMPRESSION, SOURCE.arm, SOURCE.bundle, SOURCE.variant, 0.02, event.token)
            for event in self.events(LOGGED_EVENTS)
        )
        hour = time.strftime("%Y-%m-%dT%H", time.gmtime())
        with (log / f"events-{hour}-1{WHOLE}").open("wb") as file:
            file.writelines(msgspec.json.encode(line) + b"\n" for line in lines)
        settings = self.settings.model_copy(update={"feedback_log": str(log)})
        memory = event_memory(settings)
        counter = EventCounter(settings, Metrics(), memory, self._signers)
        started = time.process_time()
        counter.restore()
        seconds = time.process_time() - started
        memory.close()
        return 1e6 * seconds / LOGGED_EVENTS


def _best(call: Callable[[list[Event]], object], slices: Sequence[list[Event]]) -> float:
    """Microseconds of a call, the best of one with each slice."""

    def seconds() -> Iterator[float]:
        for each in slices:
            started = time.process_time()
            call(each)
            yield time.process_time() - started

    return 1e6 * min(seconds())


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the figures and, on the last line, the same as JSON; the exit status."""
    command = Command("feedback", __doc__)
    command.numbers("--events", (1, 16, SLICE_EVENTS), "in a slice")
    command.number("--timings", 200, "of each")
    options = command.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        found = {events: bench.figures(events, options.timings) for events in options.events}
        restore = bench.restore()
    rows = [["events", *(f"{stage} us" for stage in STAGES)]]
    for events, figures in found.items():
        rows.append([str(events), *(f"{figures[stage]:.2f}" for stage in STAGES[:-1]), f"{restore:.2f}"])
    print_table(rows)
    command.print_json(microseconds=found, restore=restore)
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
