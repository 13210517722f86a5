"""Triton through PyTriton: the body is the one element of the one input, and the answer of the one output."""

from __future__ import annotations

from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from loadtest.rivals.servers.job import Job, batching_parser


def main() -> None:
    options = batching_parser(__doc__).parse_args()
    job = Job(options.bundle, options.ads)

    @batch
    def score(body: Any) -> dict[str, Any]:
        answers = job.answer_batch([bytes(row[0]) for row in body])
        return {"answer": np.array(answers, dtype=object).reshape(-1, 1)}

    batcher = DynamicBatcher(max_queue_delay_microseconds=round(options.wait_ms * 1000))
    config = ModelConfig(max_batch_size=options.batch, batcher=batcher if options.batch > 1 else None)
    triton = Triton(
        config=TritonConfig(
            http_address="127.0.0.1",
            http_port=options.port,
            allow_grpc=False,
            allow_metrics=False,
            http_thread_count=2,
        )
    )
    with triton:
        triton.bind(
            model_name="scorer",
            infer_func=score,
            inputs=[Tensor(name="body", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="answer", dtype=bytes, shape=(1,))],
            config=config,
            strict=False,
        )
        triton.serve()


if __name__ == "__main__":
    main()
