"""The routes besides /predict: health, readiness, metrics, arms, the console and the docs page."""

from __future__ import annotations

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from service.arms.health import Health
from service.arms.live import LiveArms
from service.arms.serving import ServedArms
from service.calibration.hours import HourMemory
from service.errors import CannotBid, MethodNotAllowed, NotFound, NotReady, ServiceError
from service.http.arm_descriptions import describe_arms
from service.http.console.hours import describe_hours
from service.http.console.page import read_page
from service.http.console.snapshot import SNAPSHOT_HEADERS, take_snapshot
from service.http.docs_page import draw_docs
from service.metrics.families import Metrics
from service.settings import Settings

# The routes that every port has.
PROBE_PATHS = ("/healthz", "/readyz")


class Routes:
    """The handlers of an application, which `add_to` registers."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        served: ServedArms,
        health: Health,
        live: LiveArms | None = None,
        hours: HourMemory | None = None,
    ) -> None:
        self._settings = settings
        self._health = health
        self._metrics = metrics
        self._served = served
        self._live = live
        self._hours = hours
        self._console = read_page()

    def add_to(self, app: FastAPI) -> None:
        """Register the routes, and how the framework's own errors are answered."""

        async def get_docs() -> str:
            return draw_docs(app.openapi())

        app.add_exception_handler(HTTPException, _answer_http_exception)
        app.add_api_route(
            "/healthz",
            self._get_health,
            summary="The process lives and can bid",
            operation_id="healthz",
            tags=["operation"],
            response_class=PlainTextResponse,
            responses={503: {"description": "cannot_bid: an arm no longer scores"}},
        )
        app.add_api_route(
            "/readyz",
            self._get_readiness,
            summary="Every arm has replayed its golden rows, and can bid",
            operation_id="readyz",
            tags=["operation"],
            response_class=PlainTextResponse,
            responses={503: {"description": "not_ready: not yet; cannot_bid: no longer"}},
        )
        app.add_api_route(
            "/metrics",
            self._get_metrics,
            summary="Prometheus metrics, the sum over all workers",
            operation_id="metrics",
            tags=["operation"],
            response_class=PlainTextResponse,
        )
        app.add_api_route(
            "/arms",
            self._get_arms,
            summary="Arms, weights, bundles and their metrics",
            operation_id="arms",
            tags=["bidding"],
        )
        app.add_api_route(
            "/console.json",
            self._get_snapshot,
            summary="What the console shows: counts of all workers, and the arms",
            operation_id="console",
            tags=["operation"],
        )
        app.add_api_route("/console", self._get_console, include_in_schema=False, response_class=HTMLResponse)
        app.add_api_route("/docs", get_docs, include_in_schema=False, response_class=HTMLResponse)

    async def _get_health(self) -> Response:
        return self._unless_it_cannot_bid("ok\n")

    async def _get_readiness(self) -> Response:
        if not self._served.arms:
            return answer_error(
                NotReady("the arms must replay their golden rows first; try again in a moment")
            )
        dependent = [arm.name for arm in self._served.arms if arm.predictor.depends_on_batch]
        told = f"; pCTRs depend on the batch in {', '.join(dependent)}" if dependent else ""
        return self._unless_it_cannot_bid(f"ready{told}\n")

    def _unless_it_cannot_bid(self, text: str) -> Response:
        if self._health.fault() is None:
            return PlainTextResponse(text)
        # The log has paths of files, which are nobody else's business.
        return answer_error(CannotBid("every arm must still score a golden row; the log says which does not"))

    async def _get_metrics(self) -> Response:
        if self._settings.metrics == "off":
            return answer_error(_nothing_counted())
        self._served.publish()
        self._health.fault()  # so that a process that nothing probes says it too
        body, content_type = await run_in_threadpool(self._metrics.exposition)
        return Response(body, headers={"content-type": content_type})

    async def _get_arms(self) -> Response:
        described = describe_arms(self._settings, self._served, self._live)
        return Response(msgspec.json.encode(described), media_type="application/json")

    async def _get_console(self) -> Response:
        if self._settings.metrics == "off":
            return answer_error(_nothing_counted())
        return Response(self._console.body, headers=self._console.headers, media_type="text/html")

    async def _get_snapshot(self) -> Response:
        if self._settings.metrics == "off":
            return answer_error(_nothing_counted())
        self._served.publish()
        totals = await run_in_threadpool(self._metrics.totals)
        names = [arm.name for arm in self._served.arms]
        hours = await run_in_threadpool(describe_hours, names, self._hours)
        snapshot = take_snapshot(self._settings, self._served, self._live, totals, hours)
        return Response(
            msgspec.json.encode(snapshot), headers=SNAPSHOT_HEADERS, media_type="application/json"
        )


async def _answer_http_exception(_: Request, error: Exception) -> Response:
    """Answer the framework's own errors with the same body as all others."""
    status = getattr(error, "status_code", 500)
    allow = (getattr(error, "headers", None) or {}).get("Allow", "GET")
    if allow == "GET":
        allow = "GET, HEAD"
    if status == 405:
        return answer_error(
            MethodNotAllowed(f"the method must be one of {allow}; GET /docs describes it", allow=allow)
        )
    return answer_error(NotFound("the path must be a route of this service; GET /docs lists them"))


def _nothing_counted() -> NotFound:
    return NotFound("nothing is counted here: 'metrics' is off; start the service with --metrics on")


def answer_error(error: ServiceError) -> Response:
    """The answer that a refusal is."""
    headers = {name.decode(): value.decode() for name, value in error.headers()}
    return Response(error.body(), error.status, headers, media_type="application/json")
