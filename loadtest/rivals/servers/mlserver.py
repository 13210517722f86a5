"""MLServer: a runtime with its own route, which passes ids to the batched `predict` if there is one."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.context import model_context
from mlserver.handlers import custom_handler
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse
from starlette.requests import Request
from starlette.responses import Response

from loadtest.rivals.servers.job import Job, batching_parser

NAME = "scorer"


class LoneScorer(MLModel):
    """A request at a time, on the event loop."""

    async def load(self) -> bool:
        parameters = self.settings.parameters
        self.job = Job(parameters.uri, parameters.extra["ads"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        raise NotImplementedError("requests come to /predict")

    @custom_handler(rest_path="/predict")
    async def answer(self, request: Request) -> Response:
        return Response(self.job.answer(await request.body()), media_type="application/json")


class BatchScorer(LoneScorer):
    """The tensors of several requests, put together by MLServer, in one run of the graph."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        pctrs = self.job.pctrs(NumpyCodec.decode_input(payload.inputs[0]))
        output = NumpyCodec.encode_output("pctr", pctrs.reshape(-1, 1))
        return InferenceResponse(model_name=NAME, id=payload.id, outputs=[output])

    @custom_handler(rest_path="/predict")
    async def answer(self, request: Request) -> Response:
        decoded = self.job.decode(await request.body())
        ids = NumpyCodec.encode_input("ids", self.job.ids(decoded))
        with model_context(self.settings):  # which MLServer sets for its own routes
            found = await self.predict(InferenceRequest(inputs=[ids]))
        pctrs = np.ravel(NumpyCodec.decode_output(found.outputs[0])).tolist()
        return Response(self.job.encode(self.job.answer_of(decoded, pctrs)), media_type="application/json")


async def serve(options: Any) -> None:
    """One process: no parallel workers, as there is one core; gRPC and metrics get ports that are free."""
    server = MLServer(
        Settings(
            host="127.0.0.1",
            http_port=options.port,
            grpc_port=0,
            metrics_endpoint=None,
            parallel_workers=0,
            debug=False,
            load_models_at_startup=False,
            gzip_enabled=False,
        )
    )
    batching = {"max_batch_size": options.batch, "max_batch_time": options.wait_ms / 1000.0}
    model = ModelSettings(
        name=NAME,
        implementation=LoneScorer if options.batch == 1 else BatchScorer,
        parameters=ModelParameters(uri=str(options.bundle), extra={"ads": str(options.ads or "")}),
        **(batching if options.batch > 1 else {}),
    )
    await server.start([model])


def main() -> None:
    os.environ.setdefault("MLSERVER_MODELS_DIR", os.devnull)
    asyncio.run(serve(batching_parser(__doc__).parse_args()))


if __name__ == "__main__":
    main()
