"""LitServe: a FastAPI front, and a worker process that takes requests from a queue and batches them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import litserve
import msgspec
from starlette.responses import Response

from loadtest.rivals.servers.job import Answer, Job, Request, batching_parser


class Scorer(litserve.LitAPI):
    """The front decodes JSON by itself; the worker gives it bytes, so that it does not encode any.

    Two methods have no annotations, because LitServe would take them for FastAPI's.
    """

    def __init__(self, bundle: Path, ads: Path | None, **options: Any) -> None:
        super().__init__(api_path="/predict", **options)
        self.folder, self.ads = bundle, ads

    def setup(self, device: str) -> None:
        self.job = Job(self.folder, self.ads)

    def decode_request(self, request):  # type: ignore[no-untyped-def]
        return msgspec.convert(request, Request)

    def encode_response(self, output):  # type: ignore[no-untyped-def]
        return Response(self.job.encode(output), media_type="application/json")


class LoneScorer(Scorer):
    """A request at a time: LitServe passes no list when the batch size is 1."""

    def predict(self, x: Any) -> Answer:
        return self.job.answers([x])[0]


class BatchScorer(Scorer):
    def batch(self, inputs: list[Request]) -> list[Request]:
        return inputs

    def predict(self, x: Any) -> list[Answer]:
        return self.job.answers(x)

    def unbatch(self, output: list[Answer]) -> list[Answer]:
        return output


def main() -> None:
    parser = batching_parser(__doc__)
    parser.add_argument(
        "--fast-queue", action="store_true", help="ZeroMQ in place of multiprocessing's queue"
    )
    options = parser.parse_args()
    if options.batch == 1:
        api: Scorer = LoneScorer(options.bundle, options.ads)
    else:
        # A wait of 0 would be no batching at all.
        api = BatchScorer(
            options.bundle,
            options.ads,
            max_batch_size=options.batch,
            batch_timeout=options.wait_ms / 1000.0,
        )
    server = litserve.LitServer(api, accelerator="cpu", fast_queue=options.fast_queue)
    server.run(
        host="127.0.0.1",
        port=options.port,
        num_api_servers=1,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )


if __name__ == "__main__":
    main()
