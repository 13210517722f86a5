"""The baseline: the FastAPI service that one writes in an afternoon around the contract and a graph.

A `def` route (so each request runs in a thread of the pool), a pydantic body, one `session.run` a request.
Nothing is made slow on purpose: the graph is the bundle's plain one, see `job`, features are encoded by the
contract's encoder, and ONNX Runtime is held to one thread, as it should be on one core. `--inline` makes the
route `async def` with the inference on the event loop: no pool, and nobody else is served meanwhile.
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
