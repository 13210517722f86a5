"""The service as an ASGI application: its routes, its start and its end.

`/predict` is dispatched before the framework's router (a route inside it costs a third of the requests a
second); everything else is FastAPI. It knows no model and no socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from prometheus_client import Gauge
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from service.arms.freshness import StoredFeatures
from service.arms.loading import LoadedArm, freeze_anew, load_arms
from service.arms.split import Arm, ArmTable
from service.bidding import BidPolicy
from service.errors import BadConfiguration, MethodNotAllowed, NotFound, NotReady, ServiceError
from service.http.docs_page import draw_docs
from service.http.endpoint import Message, PredictEndpoint, Receive, Scope, Send
from service.http.openapi import merge_predict
from service.metrics.families import Metrics
from service.scoring.meter import ArmMeter
from service.settings import Settings

logger = logging.getLogger("bidlight")

PREDICT_PATH = "/predict"
PUBLISH_SECONDS = 1.0
# Of several processes one is asked, and waits until all have published; a killed one loses what it has not.
SHARED_PUBLISH_SECONDS = 0.05
SCRAPE_WAIT_SECONDS = 3 * SHARED_PUBLISH_SECONDS


class Bidlight(FastAPI):
    """The application of one `Settings`; its lifespan loads the bundles and replays their golden rows.

    With `loaded`, these are served, whatever the folders hold by now, and SIGHUP is left to who gave them.
    `refusal` is why it could not start, in one line, where that was said deliberately.
    """

    def __init__(self, settings: Settings, loaded: Sequence[LoadedArm] | None = None) -> None:
        super().__init__(
            title="Bidlight",
            version="1",
            description="A bid request in; the probability of a click and the bid for every candidate out.",
            docs_url=None,
            redoc_url=None,
            lifespan=_lifespan,
        )
        self.settings = settings
        self.loaded = loaded
        self.metrics = Metrics()
        self.arms: tuple[Arm, ...] = ()
        self.refusal: str | None = None
        self._replaced: tuple[Arm, ...] = ()
        self._stored = stored_features(settings, self.metrics)
        users = None if self._stored is None else self._stored.users
        self._predict = PredictEndpoint(settings, self.metrics, bid_policy(settings), users)
        self.direct_endpoint = self._predict if settings.predict_through == "parser" else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Dispatch one ASGI scope."""
        if scope["type"] == "http" and scope["path"] == PREDICT_PATH:
            await self._predict(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, `/predict` in full."""
        if self.openapi_schema is None:
            self.openapi_schema = merge_predict(super().openapi())
        return self.openapi_schema

    async def open(self) -> None:
        """Load every arm and let traffic in; raises BadConfiguration."""
        arms = await load_arms(self.settings, self.loaded)
        if self._stored is not None:
            await self._stored.open(arms.arms)
            self._stored.keep_fresh(lambda: self.arms)
        self._serve(arms)

    async def close(self) -> None:
        """Answer what is in the queues."""
        if self._stored is not None:
            await self._stored.close()
        for arm in self.arms:
            await arm.predictor.batcher.drain()
        self.publish()

    async def reload(self) -> None:
        """Serve what the arms' folders hold by now; if one of them is refused, all arms go on as they were.

        Requests that are in the queue of an arm finish on the bundle that encoded them.
        """
        try:
            arms = await load_arms(self.settings)
            if self._stored is not None:
                await self._stored.reopen(arms.arms)
        except Exception as error:  # whatever it is, the next SIGHUP shall find somebody who listens
            self.metrics.reloads.labels("refused").inc()
            unexpected = None if isinstance(error, BadConfiguration) else error
            logger.error("the arms are not reloaded and go on as they were: %s", error, exc_info=unexpected)
            return
        self._serve(arms)
        self.metrics.reloads.labels("ok").inc()
        logger.info(
            "reloaded %s", ", ".join(f"{arm.name} ({arm.predictor.manifest.id})" for arm in self.arms)
        )

    def _serve(self, arms: ArmTable) -> None:
        for arm in self.arms:
            self._bundle_info(arm).set(0)
        self._replaced += self.arms
        for arm in arms.arms:
            predictor = arm.predictor
            if self.settings.metrics == "on":
                predictor.meter = ArmMeter(self.metrics, arm.name, predictor.encoder.schema)
            self._bundle_info(arm).set(1)
        self._predict.open(arms)
        self.arms = arms.arms
        if not self._replaced:
            # What a bundle holds lives as long as it serves: the collector need not look through it again.
            gc.collect()
            gc.freeze()

    def _bundle_info(self, arm: Arm) -> Gauge:
        manifest = arm.predictor.manifest
        return self.metrics.bundle.labels(arm.name, manifest.id, manifest.model.name, arm.predictor.variant)

    def publish(self) -> None:
        """Bring to Prometheus what the arms counted, and what replaced ones do until their last answer."""
        for arm in (*self._replaced, *self.arms):
            if arm.predictor.meter is not None:
                arm.predictor.meter.publish(arm.predictor.batcher.queued_rows)
        had_replaced = bool(self._replaced)
        self._replaced = tuple(
            arm for arm in self._replaced if arm.predictor.meter is not None and arm.predictor.meter.under_way
        )
        if had_replaced and not self._replaced:
            # Only the collector can free them. Sooner, those with requests under way would be frozen too, and
            # stay until the next reload.
            freeze_anew()

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The lifespan; a deliberate refusal to start is given to the server as one line, no traceback."""

        async def send_refusal(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and self.refusal is not None:
                message = {"type": message["type"], "message": self.refusal}
            await send(message)

        try:
            await super().__call__(scope, receive, send_refusal)
        except BadConfiguration as error:
            if str(error) != self.refusal:
                raise


def create_app(settings: Settings | None = None, loaded: Sequence[LoadedArm] | None = None) -> Bidlight:
    """The application; without `settings`, those of the environment; without `loaded`, it reads bundles."""
    app = Bidlight(settings or Settings(), loaded)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_api_route(
        "/healthz",
        _healthz,
        summary="The process lives",
        tags=["operation"],
        response_class=PlainTextResponse,
    )
    app.add_api_route(
        "/readyz",
        partial(_readyz, app),
        summary="Every arm has replayed its golden rows",
        tags=["operation"],
        response_class=PlainTextResponse,
        responses={503: {"description": "not_ready: not yet"}},
    )
    app.add_api_route(
        "/metrics",
        partial(_metrics, app),
        summary="Prometheus metrics, the sum over all workers",
        tags=["operation"],
        response_class=PlainTextResponse,
    )
    app.add_api_route(
        "/arms", partial(_arms, app), summary="Arms, weights, bundles and their metrics", tags=["bidding"]
    )
    app.add_api_route("/docs", partial(_docs, app), include_in_schema=False, response_class=HTMLResponse)
    return app


def bid_policy(settings: Settings) -> BidPolicy:
    """The bid policy that the settings describe; raises BadConfiguration."""
    try:
        return BidPolicy(settings.bid_multiplier, settings.bid_cap, settings.bid_floor)
    except ValueError as error:
        raise BadConfiguration(f"bid policy: {error}") from None


def stored_features(settings: Settings, metrics: Metrics) -> StoredFeatures | None:
    """The feature store of the settings, if they name one; raises BadConfiguration."""
    return StoredFeatures(settings, metrics) if settings.feature_store else None


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    assert isinstance(app, Bidlight)
    # Listening comes first: who asks while the bundles are read shall neither end the service nor be unheard.
    with _reload_signal(app.loaded is None) as asked:
        try:
            await app.open()
        except BadConfiguration as error:
            app.refusal = str(error)
            raise
        tasks = asyncio.create_task(_publish_forever(app)), asyncio.create_task(_reload_forever(app, asked))
        yield
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await app.close()


async def _publish_forever(app: Bidlight) -> None:
    seconds = SHARED_PUBLISH_SECONDS if app.metrics.is_shared else PUBLISH_SECONDS
    works = True
    while True:
        try:
            app.publish()
            works = True
        except Exception:  # a full disk, say: the next time may work
            if works:  # once is enough of what may come twenty times a second
                logger.exception("the metrics cannot be published; this is tried again until it works")
            works = False
        await asyncio.sleep(seconds)


async def _reload_forever(app: Bidlight, asked: asyncio.Event) -> None:
    while True:
        await asked.wait()
        asked.clear()
        await app.reload()


@contextmanager
def _reload_signal(listens: bool) -> Iterator[asyncio.Event]:
    """An event that SIGHUP sets while this lasts, if it `listens` and is in the main thread."""
    asked, loop = asyncio.Event(), asyncio.get_running_loop()
    listens = listens and threading.current_thread() is threading.main_thread()
    if listens:
        loop.add_signal_handler(signal.SIGHUP, asked.set)
    try:
        yield asked
    finally:
        if listens:
            loop.remove_signal_handler(signal.SIGHUP)


async def _healthz() -> str:
    return "ok\n"


async def _readyz(app: Bidlight) -> Response:
    if not app.arms:
        return _answer(NotReady("the arms must replay their golden rows first; try again in a moment"))
    return PlainTextResponse("ready\n")


async def _metrics(app: Bidlight) -> Response:
    if app.settings.metrics == "off":
        return _answer(
            NotFound("nothing is counted here: 'metrics' is off; start the service with --metrics on")
        )
    app.publish()
    if app.metrics.is_shared:
        await asyncio.sleep(SCRAPE_WAIT_SECONDS)
    body, content_type = await run_in_threadpool(app.metrics.exposition)
    return Response(body, headers={"content-type": content_type})


async def _arms(app: Bidlight) -> Response:
    total = sum(arm.weight for arm in app.arms)
    described = {
        "split_salt": app.settings.split_salt,
        "arms": [_describe(arm, arm.weight / total) for arm in app.arms],
    }
    return Response(msgspec.json.encode(described), media_type="application/json")


async def _docs(app: Bidlight) -> str:
    return draw_docs(app.openapi())


def _describe(arm: Arm, share: float) -> dict[str, Any]:
    """What an experimenter asks of an arm. `share` is the part of the keys that it is dealt, from 0 to 1."""
    manifest, variant = arm.predictor.manifest, arm.predictor.variant
    return {
        "name": arm.name,
        "weight": arm.weight,
        "share": share,
        "bundle": manifest.id,
        "created_at": manifest.created_at,
        "model": manifest.model,
        "variant": variant,
        "provider": arm.predictor.graphs.provider,
        "calibration": {
            "method": arm.predictor.calibrator.method,
            "before": arm.predictor.calibrator.before,
            "after": arm.predictor.calibrator.after,
        },
        "training": manifest.training,
        "evaluation": manifest.evaluation.get(variant),
        "kept_out": manifest.kept_out,
    }


async def _answer_http_exception(_: Request, error: Exception) -> Response:
    """The framework's own refusals, in the shape of all others."""
    status = getattr(error, "status_code", 500)
    allow = (getattr(error, "headers", None) or {}).get("Allow", "GET")
    if status == 405:
        return _answer(
            MethodNotAllowed(f"the method must be one of {allow}; GET /docs describes it", allow=allow)
        )
    return _answer(NotFound("the path must be a route of this service; GET /docs lists them"))


def _answer(error: ServiceError) -> Response:
    headers = {name.decode(): value.decode() for name, value in error.headers()}
    return Response(error.body(), error.status, headers, media_type="application/json")
