"""Mosec: an HTTP front and a queue in Rust, batches handed to a Python process over a socket."""

from __future__ import annotations

import os
import sys
from typing import Any

from mosec import Server, Worker

from loadtest.rivals.servers.job import Answer, Job, Request, batching_parser
from loadtest.rivals.servers.native_job import NativeJob

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


class NativeScorer(Worker):
    """The same with Bidlight's native core in the place of its Python."""

    resp_mime_type = "application/json"

    def __init__(self) -> None:
        self.job = NativeJob(os.environ[BUNDLE_VARIABLE], os.environ[ADS_VARIABLE] or None)

    def deserialize(self, data: bytes) -> Any:
        return self.job.read(data)

    def serialize(self, data: bytes) -> bytes:
        return data


class LoneNativeScorer(NativeScorer):
    def forward(self, data: Any) -> bytes:
        return self.job.answer_all([data])[0]


class BatchNativeScorer(NativeScorer):
    def forward(self, data: list[Any]) -> list[bytes]:
        return self.job.answer_all(data)


def main() -> None:
    parser = batching_parser(__doc__)
    parser.add_argument("--native", action="store_true", help="use Bidlight's native core")
    options = parser.parse_args()
    os.environ[BUNDLE_VARIABLE] = str(options.bundle)
    os.environ[ADS_VARIABLE] = str(options.ads or "")
    # Mosec reads the command line itself.
    sys.argv = [sys.argv[0], "--port", str(options.port), "--address", "127.0.0.1", "--log-level", "warning"]
    server = Server()
    lone, batched = (LoneNativeScorer, BatchNativeScorer) if options.native else (LoneScorer, BatchScorer)
    if options.batch == 1:
        server.append_worker(lone, num=1, route="/predict")
    else:
        server.append_worker(
            batched,
            num=1,
            max_batch_size=options.batch,
            max_wait_time=round(options.wait_ms),
            route="/predict",
        )
    server.run()


if __name__ == "__main__":
    main()
