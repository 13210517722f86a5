"""The baseline: a FastAPI service around the contract and a graph, as written in an afternoon.

A `def` route (so each request runs in a thread of the pool), a pydantic body, one `session.run` a request.
Nothing is slow on purpose: the graph is the bundle's plain one, see `job`, the contract's encoder encodes the
features, and ONNX Runtime has one thread, as it should on one core. `--inline` makes the route `async def`
with the inference on the event loop: no thread pool, but other requests wait meanwhile.
"""

from __future__ import annotations

from typing import Any

import uvicorn
from fastapi import FastAPI

from loadtest.rivals.servers.job import Job, options_parser
from loadtest.rivals.servers.pydantic_request import PredictRequest


def create_app(job: Job, inline: bool) -> FastAPI:
    """The service of one bundle."""
    app = FastAPI()

    @app.get("/readyz")
    def ready() -> dict[str, str]:
        return {"status": "ready"}

    def predict(request: PredictRequest) -> dict[str, Any]:
        return job.plain_answer(request, job.score([request])[0])

    async def predict_inline(request: PredictRequest) -> dict[str, Any]:
        return predict(request)

    app.post("/predict")(predict_inline if inline else predict)
    return app


def main() -> None:
    parser = options_parser("Serve a bundle naively: the baseline of the benchmark.")
    parser.add_argument("--inline", action="store_true", help="an async route with the inference inline")
    options = parser.parse_args()
    app = create_app(Job(options.bundle, options.ads), options.inline)
    uvicorn.run(app, port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
