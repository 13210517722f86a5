"""Every setting of the service, once: its name, unit, default and meaning; the command line is made from it.

A setting `max_batch_rows` is `--max-batch-rows` and `BIDLIGHT_MAX_BATCH_ROWS`. It knows nothing of what uses
it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

ENV_PREFIX = "BIDLIGHT_"


class Settings(BaseSettings):
    """What an operator may decide. Environment variables are read; what is passed by name wins over them."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    arms: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="an arm of the A/B split as NAME=FOLDER or NAME=FOLDER:WEIGHT (repeat it for more arms)",
    )
    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 for every interface")
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one")
    workers: int = Field(
        default=1, ge=1, le=256, description="processes; one a core is right, they share what bundles hold"
    )
    pin_workers: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="whether each of several workers keeps to a core; auto: if there are just as many cores",
    )
    worker_timeout_seconds: int = Field(
        default=10,
        ge=2,
        description="how long the event loop of one of several workers may stand still; it is replaced then",
    )
    device: Literal["cpu", "cuda", "cuda-required"] = Field(
        default="cpu",
        description="where graphs run; cuda (one worker) falls back to the CPU with a warning, "
        "cuda-required refuses",
    )
    variant: str = Field(
        default="",
        description="variant of every bundle to serve (float32, pruned, int8); empty: the bundle's choice",
    )
    split_salt: str = Field(
        default="", description="name of the experiment; another one deals the split keys anew"
    )
    bid_multiplier: float = Field(default=1.0, description="factor on every bid (pacing, margin)")
    bid_cap: float | None = Field(
        default=None, description="highest bid, currency per impression; unset: none"
    )
    bid_floor: float = Field(
        default=0.0, description="lowest bid worth making, currency per impression; below it, no bid"
    )
    max_body_bytes: int = Field(
        default=1_048_576, ge=1, description="longest request body read, bytes (413 above)"
    )
    max_candidates: int = Field(default=1000, ge=1, description="most candidates in a request (422 above)")
    max_batch_rows: int = Field(
        default=256,
        ge=1,
        description="most rows (candidates of all requests) run together; more only lengthen the tail",
    )
    max_queued_rows: int = Field(
        default=20_000, ge=1, description="most rows waiting in an arm's queue (429 above)"
    )
    keep_alive_seconds: int = Field(
        default=75,
        ge=1,
        description="how long a connection is kept that is idle, sends no more or reads no more, seconds",
    )
    drain_seconds: int = Field(
        default=30, ge=0, description="how long SIGTERM waits for requests in flight, seconds"
    )
    predict_through: Literal["parser", "asgi"] = Field(
        default="parser",
        description="how POST /predict reaches its endpoint: from the HTTP parser, or through ASGI (slower)",
    )
    shared_context: Literal["on", "off"] = Field(
        default="on",
        description="whether large requests take the graph that computes their context once, if there is one",
    )
    metrics: Literal["on", "off"] = Field(
        default="on",
        description="whether requests are counted for GET /metrics, which answers 404 if not",
    )
    feature_store: str = Field(
        default="",
        description="features of users and ads: lmdb:///FOLDER, redis://HOST:PORT, "
        "redis+cluster://HOST:PORT (empty: only what requests bring)",
    )
    feature_timeout_ms: float = Field(
        default=2.0,
        gt=0.0,
        le=1000.0,
        description="how long a request waits for its user's features; they are missing then",
    )
    catalogue_refresh_seconds: int = Field(
        default=300,
        ge=0,
        description="how often the ads are read anew, and replaced files looked for; 0: at SIGHUP only",
    )
    backlog: int = Field(default=2048, ge=1, description="connections that may wait to be accepted")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least level logged"
    )

    @field_validator("arms", mode="before")
    @classmethod
    def _split_arms(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part for part in (piece.strip() for piece in value.split(",")) if part)
        if isinstance(value, list | tuple) and any("," in str(part) for part in value):
            raise ValueError("must hold no comma, which stands between arms in the environment")
        return value

    @model_validator(mode="after")
    def _queue_holds_a_request(self) -> Settings:
        if self.max_candidates > self.max_queued_rows:
            raise ValueError(
                f"'max_candidates' must be at most max_queued_rows, {self.max_queued_rows} "
                f"(got {self.max_candidates}); a larger request could never be queued"
            )
        return self

    @model_validator(mode="after")
    def _one_process_owns_the_gpu(self) -> Settings:
        if self.device != "cpu" and self.workers > 1:
            raise ValueError(
                f"'workers' must be 1 with device {self.device} (got {self.workers}); each would hold "
                "a context and tables of its own on the GPU: raise max_batch_rows, or run one service a GPU"
            )
        return self
