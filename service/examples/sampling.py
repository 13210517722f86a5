"""Which requests the log of examples gets, and the log that they are handed to; it reads none of them.

Nothing is written on the bidding path: a request that is chosen and its answer wait in memory, of which there
is a bound, until a thread has written them (service.feedback.hourly_log).
"""

from __future__ import annotations

import random
import tempfile

from service.errors import BadConfiguration
from service.examples.record import Example, SentRequest, line_of, weight_of
from service.feedback.hourly_log import HourlyLog, LogForm
from service.feedback.tokens import now_ms
from service.hashes import KeyHash
from service.metrics.families import Metrics
from service.settings import Settings

NAME = "examples"
# Bytes of bodies that wait for the disk; what comes beyond them is lost.
MAX_QUEUED_BYTES = 1 << 26
# So many are made lines at once.
BYTES_AT_ONCE = 1 << 18
# What they hold is of users: nobody else may read the files.
_MODE = 0o600
_PERSON = b"examples"  # so that the sample is independent of the split by the same id


class ExampleSampler:
    """Chooses requests by a hash of their ids, the same in every process, and logs them with their answers.

    A `share` of all ids is chosen; a larger one has those of a smaller one too. A request without an id is
    chosen by chance.
    """

    def __init__(self, share: float, log: HourlyLog[Example]) -> None:
        self._share = share
        self._uniform = KeyHash("", "", person=_PERSON).uniform
        self._log = log
        self.publish = log.publish
        self.close = log.close

    def takes(self, request_id: str | None) -> bool:
        """Whether the request of that id is one of the sample."""
        if self._share == 1.0:
            return True
        return (random.random() if request_id is None else self._uniform(request_id)) < self._share

    def add(self, sent: SentRequest, answer: bytes) -> None:
        """Log a request that was chosen, with the body of its answer."""
        self._log.add([Example(sent, answer, now_ms(), self._share)])


def open_examples(settings: Settings, metrics: Metrics) -> ExampleSampler | None:
    """What the settings ask for, None if nothing. Raises BadConfiguration."""
    folder = settings.example_log
    if not folder:
        return None
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise BadConfiguration(
            f"'example_log' must be a folder that can be written to (got {folder!r}: "
            f"{error.strerror or error}); make it, for this service's user alone"
        ) from None

    def count(outcome: str, number: int) -> None:
        metrics.logged_examples.labels(outcome).inc(number)

    form = LogForm(
        NAME, "requests of the log of examples", line_of, weight_of, MAX_QUEUED_BYTES, BYTES_AT_ONCE, _MODE
    )
    return ExampleSampler(settings.example_share, HourlyLog(folder, form, count))
