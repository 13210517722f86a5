"""Mosec: an HTTP front and a queue in Rust, batches handed to a Python process over a socket."""

from __future__ import annotations

import os
import sys
from typing import Any

from mosec import Server, Worker

from loadtest.rivals.servers.job import Answer, Job, Request, batching_parser

BUNDLE_VARIABLE, ADS_VARIABLE = "RIVALS_BUNDLE", "RIVALS_ADS"


class Scorer(Worker):
    """Decodes and encodes in `deserialize` and `serialize`, as Mosec's manual does for other formats."""

    resp_mime_type = "application/json"

    def __init__(self) -> None:
        self.job = Job(os.environ[BUNDLE_VARIABLE], os.environ[ADS_VARIABLE])

    def deserialize(self, data: bytes) -> Request:
        return self.job.decode(data)

    def serialize(self, data: Answer) -> bytes:
        return self.job.encode(data)


class LoneScorer(Scorer):
    """A request at a time: Mosec passes no list when the batch size is 1."""

    def forward(self, data: Any) -> Answer:
        return self.job.answers([data])[0]


class BatchScorer(Scorer):
    def forward(self, data: list[Any]) -> list[Answer]:
        return self.job.answers(data)


def main() -> None:
    options = batching_parser(__doc__).parse_args()
    os.environ[BUNDLE_VARIABLE] = str(options.bundle)
    os.environ[ADS_VARIABLE] = str(options.ads or "")
    # Mosec reads the command line itself.
    sys.argv = [sys.argv[0], "--port", str(options.port), "--address", "127.0.0.1", "--log-level", "warning"]
    server = Server()
    if options.batch == 1:
        server.append_worker(LoneScorer, num=1, route="/predict")
    else:
        server.append_worker(
            BatchScorer,
            num=1,
            max_batch_size=options.batch,
            max_wait_time=round(options.wait_ms),
            route="/predict",
        )
    server.run()


if __name__ == "__main__":
    main()
