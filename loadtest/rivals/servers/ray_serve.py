"""Ray Serve: a replica behind the HTTP proxy, or listening itself with direct ingress.

Environment variables switch direct ingress on; they must be set before Ray is imported.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from loadtest.rivals.servers.job import Job, batching_parser


def parse() -> Any:
    parser = batching_parser(__doc__)
    parser.add_argument("--direct", action="store_true", help="the replica listens, not the proxy")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.direct:
        os.environ["RAY_SERVE_ENABLE_DIRECT_INGRESS"] = "1"
        os.environ["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"] = str(options.port)
        os.environ["RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"] = str(options.port + 1)
    import ray
    from ray import serve

    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="warning"
    )
    # The proxy needs a port too.
    port = options.port + 10 if options.direct else options.port
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(application(options), route_prefix="/predict")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        signal.pause()


def application(options: Any) -> Any:
    """The deployment of a bundle: one replica, which takes up to 256 requests at once."""
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import Response

    class Scorer:
        def __init__(self, folder: str, ads: str) -> None:
            self.job = Job(folder, ads)

        async def __call__(self, request: Request) -> Response:
            return Response(await self.answer(await request.body()), media_type="application/json")

        if options.batch == 1:

            async def answer(self, body: bytes) -> bytes:
                return self.job.answer(body)

        else:

            @serve.batch(max_batch_size=options.batch, batch_wait_timeout_s=options.wait_ms / 1000.0)
            async def answer(self, bodies: list[bytes]) -> list[bytes]:
                return self.job.answer_batch(bodies)

    deployment = serve.deployment(
        max_ongoing_requests=256,
        ray_actor_options={"num_cpus": 1},
        logging_config={"enable_access_log": False},
    )
    return deployment(Scorer).bind(str(options.bundle), str(options.ads or ""))


if __name__ == "__main__":
    main()
