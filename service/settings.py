"""Every setting of the service, declared once: name, unit, default and meaning; options are made from it.

The setting `max_batch_rows` is the option `--max-batch-rows` and the variable `BIDLIGHT_MAX_BATCH_ROWS`. This
module knows no user of a setting.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

ENV_PREFIX = "BIDLIGHT_"


class Settings(BaseSettings):
    """The operator's choices. Arguments take precedence over environment variables."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    arms: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="an arm of the A/B split as NAME=FOLDER or NAME=FOLDER:WEIGHT; repeat it for more arms",
    )
    shadows: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="an arm that answers nothing, and scores a share of another arm's requests after their "
        "answers, as NAME=ARM:SHARE; repeat it for more shadows",
    )
    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0: every interface")
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port to listen on; 0: a free one")
    admin_host: str = Field(default="127.0.0.1", description="address of the admin port")
    admin_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="TCP port for /metrics, /arms, /console, /docs and /openapi.json, which the bidding port "
        "then does not answer; 0: a free one; unset: one port for all",
    )
    tls_certificate: str = Field(
        default="",
        description="file of the bidding port's certificate and those that signed it, PEM; empty: no TLS",
    )
    tls_key: str = Field(default="", description="file of its key, PEM; empty: in the certificate's file")
    tls_client_ca: str = Field(
        default="",
        description="file of the authorities, PEM, one of which must have signed a client's certificate; "
        "empty: clients need none",
    )
    token_file: str = Field(
        default="",
        description="file of bearer tokens, one a line, of which POST /predict needs one; empty: none",
    )
    feedback_keys: str = Field(
        default="",
        description="file of the keys of tokens, one a line as NUMBER HEX: the first signs, each verifies; "
        "empty: no tokens and no feedback",
    )
    tracking: Literal["asked", "all"] = Field(
        default="asked",
        description="which requests get tokens: asked, those with tracking true; all, those without tracking "
        "false",
    )
    attribution_seconds: int = Field(
        default=86_400,
        ge=60,
        le=31_536_000,
        description="how long after its token was made an impression or a click counts, once",
    )
    click_window_seconds: int = Field(
        default=1_800,
        ge=1,
        description="how long after its token a click is in time; later ones also count as late",
    )
    max_attributed_events: int = Field(
        default=1_000_000,
        ge=1_000,
        le=1_000_000_000,
        description="so many events at least count once within --attribution-seconds, each with 48 to 96 "
        "bytes of memory that all workers share; of more, the time gets shorter",
    )
    max_feedback_events: int = Field(
        default=5_000, ge=1, le=100_000, description="most events in a POST /feedback (422 above)"
    )
    explore_share: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="share of the requests with tracking, chosen by chance, whose answers say explore: on "
        "these the bidder bids whatever the pCTRs are",
    )
    feedback_log: str = Field(
        default="",
        description="folder for the log of events that were counted, which is read again at start, so that "
        "none counts twice; no other service may have it; empty: none",
    )
    feedback_store: str = Field(
        default="",
        description="Redis in which machines that serve together share what they know of events, so that "
        "each counts once over all of them, and live calibration learns from all: redis://HOST:PORT, "
        "redis+cluster://HOST:PORT; empty: this machine alone",
    )
    feedback_store_timeout_ms: float = Field(
        default=100.0,
        gt=0.0,
        le=5_000.0,
        description="how long events wait for that store, milliseconds; then they count, and are checked "
        "later",
    )
    example_log: str = Field(
        default="",
        description="folder for the log of requests that got tokens and of their answers, of which "
        "python -m service.join_examples makes tomorrow's training log; it holds features as they were sent; "
        "empty: none",
    )
    example_share: float = Field(
        default=0.1,
        gt=0.0,
        le=1.0,
        description="share of these requests that is logged, chosen by a hash of the request's id, or by "
        "chance if it has none",
    )
    control_socket: str = Field(
        default="",
        description="path of a Unix socket through which python -m service.control sees and changes what is "
        "served; only the service's user may open it; empty: none",
    )
    control_arm: str = Field(
        default="",
        description="name of the arm that answers for those that are killed; empty: the first",
    )
    when_killed: Literal["no-bid", "prior"] = Field(
        default="no-bid",
        description="what answers if the control arm is killed too: no-bid, a pctr of 0 and no bid; prior, "
        "the click rates of its bundle by a few fields, without the model, and bids of that",
    )
    control_log: str = Field(
        default="",
        description="file to which every change through the control socket is appended as a line of JSON; "
        "empty: none",
    )
    control_token_file: str = Field(
        default="",
        description="file of bearer tokens, one a line, of which POST /control of the admin port needs one: "
        "the commands of the control socket over HTTP; empty: there is no such route",
    )
    live_calibration: Literal["off", "observe", "on"] = Field(
        default="off",
        description="whether what is shown and clicked corrects pCTRs; observe: metrics and /arms only tell "
        "what would be done",
    )
    live_learn_from: Literal["all", "explored"] = Field(
        default="all",
        description="of which requests a live calibration counts events: all, or those alone that "
        "--explore-share chose, whose feedback is not selected by pCTRs",
    )
    live_half_life_seconds: int = Field(
        default=21_600,
        ge=60,
        description="after how long an impression or a click has half of its weight in a live calibration",
    )
    live_min_clicks: int = Field(
        default=50,
        ge=10,
        description="fewest clicks from which a live calibration is fitted, and on which it is then judged",
    )
    live_max_step: float = Field(
        default=0.3,
        gt=0.0,
        le=5.0,
        description="largest change of a live calibration at once, in log-odds",
    )
    live_max_change: float = Field(
        default=1.0,
        gt=0.0,
        le=10.0,
        description="largest change that a live calibration makes to log-odds in all",
    )
    live_period_seconds: int = Field(
        default=60, ge=1, description="how often a live calibration is decided on"
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=256,
        description="processes that serve, best one a core; they share the bundles",
    )
    pin_workers: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="whether each of several workers is pinned to a core; auto: if there are as many cores",
    )
    worker_timeout_seconds: int = Field(
        default=10,
        ge=2,
        description="how long the event loop of one of several workers may hang before it is replaced",
    )
    device: Literal["cpu", "cuda", "cuda-required"] = Field(
        default="cpu",
        description="where graphs run; without a GPU, cuda falls back to the CPU with a warning and "
        "cuda-required refuses to start; both need workers 1",
    )
    variant: str = Field(
        default="",
        description="variant to serve of every bundle (float32, pruned, int8, or dynamic, by which a row's "
        "pCTR depends on its batch); empty: the bundle's choice",
    )
    split_salt: str = Field(
        default="", description="name of the experiment; a new one reassigns the split keys to arms"
    )
    bid_multiplier: float = Field(default=1.0, description="factor applied to every bid (pacing, margin)")
    bid_win_price: float | None = Field(
        default=None,
        description="price at which half of the auctions are won, currency per impression, for bids that are "
        "shaded by it (ORTB1); unset: bids grow linearly with pCTR",
    )
    bid_cap: float | None = Field(
        default=None, description="highest bid, currency per impression; unset: no cap"
    )
    bid_floor: float = Field(
        default=0.0, description="lowest bid, currency per impression; no bid is made below it"
    )
    max_body_bytes: int = Field(
        default=1_048_576, ge=1, description="longest request body, bytes (413 above)"
    )
    max_held_bytes: int = Field(
        default=67_108_864,
        ge=1,
        description="most bytes of requests that arrive or are answered, over all connections of a process "
        "(429 above, first for those that take longest to arrive)",
    )
    max_candidates: int = Field(
        default=1000, ge=1, le=100_000, description="most candidates in a request (422 above)"
    )
    max_batch_rows: int = Field(
        default=1024,
        ge=1,
        description="most rows (candidates of all requests) in a batch; with slow graphs fewer keep the tail "
        "short",
    )
    max_queued_rows: int = Field(
        default=20_000, ge=1, description="most rows waiting in an arm's queue (429 above)"
    )
    max_queue_ms: float = Field(
        default=100.0,
        gt=0.0,
        description="how long a request may wait from its arrival until its batch, milliseconds (429 above)",
    )
    when_overloaded: Literal["refuse", "prior"] = Field(
        default="refuse",
        description="what a request gets that too many others keep from the model, or whose tmax_ms leaves "
        "it no time: refuse, 429; prior, an answer by the bundle's click rates by a few fields, as far as "
        "3 % of the time allows, and 429 beyond",
    )
    keep_alive_seconds: int = Field(
        default=75,
        ge=1,
        description="how long an idle connection is kept, a request may take to arrive, and an answer may "
        "wait to be read, seconds",
    )
    drain_seconds: int = Field(
        default=30, ge=0, description="how long a stop waits for requests in flight, seconds"
    )
    load_seconds: int = Field(
        default=120,
        ge=1,
        description="how long a start or a reload may take to load the bundles, seconds",
    )
    try_reloads: Literal["on", "off"] = Field(
        default="on",
        description="whether a reload first loads the bundles in a process of its own, which may hang or "
        "crash; it needs their memory once more meanwhile",
    )
    keep_previous: Literal["on", "off"] = Field(
        default="on",
        description="whether the bundle that an arm served before a reload stays in memory, for a rollback",
    )
    predict_through: Literal["parser", "asgi"] = Field(
        default="parser",
        description="how POST /predict reaches its endpoint: from the HTTP parser, or through ASGI (slower)",
    )
    native: Literal["on", "off"] = Field(
        default="on",
        description="whether plain requests are read and answered by the native core, if it was built",
    )
    shared_context: Literal["on", "off"] = Field(
        default="on",
        description="whether large requests use the graph that computes the context once, if there is one",
    )
    metrics: Literal["on", "off"] = Field(
        default="on",
        description="whether requests are counted for GET /metrics; off: it answers 404",
    )
    trace_share: float | None = Field(
        default=None,
        ge=0.0,
        le=1.0,
        description="share of the requests without a traceparent that are traced, 0 to 1; those with one "
        "do what it says; traces go to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names; unset: none",
    )
    feature_store: str = Field(
        default="",
        description="store of the features of users and ads: lmdb:///FOLDER, redis://HOST:PORT, "
        "redis+cluster://HOST:PORT; empty: requests carry all features",
    )
    feature_timeout_ms: float = Field(
        default=2.0,
        gt=0.0,
        le=1000.0,
        description="how long a request waits for its user's features, milliseconds; then they are missing",
    )
    catalogue_refresh_seconds: int = Field(
        default=300,
        ge=0,
        description="how often the ads are read again and replaced files noticed; 0: at SIGHUP only",
    )
    max_refresh_loss: float = Field(
        default=0.5,
        ge=0.0,
        le=1.0,
        description="largest share of the ads, of their known values, or of the users in a file that a "
        "refresh may lose; beyond it the old ones stay until SIGHUP or a restart; 1: any",
    )
    backlog: int = Field(default=2048, ge=1, description="most connections waiting to be accepted")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="lowest level logged"
    )

    @property
    def arm_names(self) -> list[str]:
        """The names of the arms, in their order."""
        return [text.partition("=")[0] for text in self.arms]

    @field_validator("arms", "shadows", mode="before")
    @classmethod
    def _split_arms(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part for part in (piece.strip() for piece in value.split(",")) if part)
        if isinstance(value, list | tuple) and any("," in str(part) for part in value):
            raise ValueError("must hold no comma, which separates arms in the environment")
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
    def _bytes_hold_a_request(self) -> Settings:
        if self.max_body_bytes > self.max_held_bytes:
            raise ValueError(
                f"'max_body_bytes' must be at most max_held_bytes, {self.max_held_bytes} "
                f"(got {self.max_body_bytes}); a larger request could never be read"
            )
        return self

    @model_validator(mode="after")
    def _tls_has_a_certificate(self) -> Settings:
        for name in ("tls_key", "tls_client_ca"):
            if getattr(self, name) and not self.tls_certificate:
                raise ValueError(
                    f"'tls_certificate' must be given with {name} (got none); "
                    "name a file, or the port would be without TLS"
                )
        return self

    @model_validator(mode="after")
    def _feedback_has_keys(self) -> Settings:
        if self.feedback_keys:
            return self
        for name, is_chosen, without in (
            ("feedback_log", self.feedback_log, "there are no events"),
            ("feedback_store", self.feedback_store, "there are no events to share"),
            ("tracking all", self.tracking == "all", "there are no tokens"),
            ("example_log", self.example_log, "there are no tokens"),
            (
                f"live_calibration {self.live_calibration}",
                self.live_calibration != "off",
                "there are no events to learn from",
            ),
            (f"explore_share {self.explore_share}", self.explore_share, "no request has tokens"),
        ):
            if is_chosen:
                raise ValueError(
                    f"'feedback_keys' must be given with {name} (got none); without keys {without}"
                )
        return self

    @model_validator(mode="after")
    def _control_log_has_a_socket(self) -> Settings:
        if self.control_log and not self.control_socket:
            raise ValueError(
                "'control_socket' must be given with control_log (got none); "
                "without it there are no changes to keep"
            )
        return self

    @model_validator(mode="after")
    def _control_tokens_have_a_route(self) -> Settings:
        if self.control_token_file and (self.admin_port is None or not self.control_socket):
            raise ValueError(
                "'control_token_file' must be given with admin_port and control_socket (got one of them or "
                "none); commands come through the admin port alone, and go through the socket"
            )
        return self

    @model_validator(mode="after")
    def _shadows_are_counted(self) -> Settings:
        if self.shadows and self.metrics == "off":
            raise ValueError(
                "'metrics' must be on with shadow (got off); a shadow answers nothing, it is only counted"
            )
        return self

    @model_validator(mode="after")
    def _learning_has_explored_requests(self) -> Settings:
        if self.live_learn_from == "explored" and not self.explore_share:
            raise ValueError(
                "'explore_share' must be above 0 with live_learn_from explored (got 0.0); "
                "nothing would be learned"
            )
        return self

    @model_validator(mode="after")
    def _one_process_owns_the_gpu(self) -> Settings:
        if self.device != "cpu" and self.workers > 1:
            raise ValueError(
                f"'workers' must be 1 with device {self.device} (got {self.workers}); each would hold "
                "a context and tables of its own on the GPU: raise max_batch_rows, or run one service per GPU"
            )
        return self
