"""The routes besides /predict: health, readiness, metrics, arms and the docs page."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from service.arms.health import Health
from service.arms.live import LiveArms
from service.arms.loading import control_arm
from service.arms.serving import ServedArms
from service.arms.split import Arm
from service.bundle.native import is_native
from service.errors import CannotBid, MethodNotAllowed, NotFound, NotReady, ServiceError
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
    ) -> None:
        self._settings = settings
        self._health = health
        self._metrics = metrics
        self._served = served
        self._live = live

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
        app.add_api_route("/docs", get_docs, include_in_schema=False, response_class=HTMLResponse)

    async def _get_health(self) -> Response:
        return self._unless_it_cannot_bid("ok\n")

    async def _get_readiness(self) -> Response:
        if not self._served.arms:
            return answer_error(
                NotReady("the arms must replay their golden rows first; try again in a moment")
            )
        return self._unless_it_cannot_bid("ready\n")

    def _unless_it_cannot_bid(self, text: str) -> Response:
        if self._health.fault() is None:
            return PlainTextResponse(text)
        # The log has paths of files, which are nobody else's business.
        return answer_error(CannotBid("every arm must still score a golden row; the log says which does not"))

    async def _get_metrics(self) -> Response:
        if self._settings.metrics == "off":
            return answer_error(
                NotFound("nothing is counted here: 'metrics' is off; start the service with --metrics on")
            )
        self._served.publish()
        self._health.fault()  # so that a process that nothing probes says it too
        body, content_type = await run_in_threadpool(self._metrics.exposition)
        return Response(body, headers={"content-type": content_type})

    async def _get_arms(self) -> Response:
        arms = self._served.arms
        total = sum(arm.weight for arm in arms)
        described = {
            "split_salt": self._settings.split_salt,
            "control_arm": control_arm(self._settings, [arm.name for arm in arms]),
            "core": "native" if is_native(self._settings.native) else "python",
            "arms": [
                {
                    **_describe_arm(arm, arm.weight / total, is_killed=arm not in self._served.living),
                    "live_calibration": self._describe_live(arm),
                }
                for arm in arms
            ],
        }
        return Response(msgspec.json.encode(described), media_type="application/json")

    def _describe_live(self, arm: Arm) -> dict[str, Any] | None:
        """What feedback makes of an arm's pCTRs; None without live calibration."""
        if self._live is None:
            return None
        state = self._live.state(arm)
        return {
            "mode": self._settings.live_calibration,
            "revision": state.revision,
            "intercept": state.intercept,
            "slope": state.slope,
            "is_frozen": state.is_frozen,
            "clicks": state.clicks,
            "pcoc": {"bundle": _or_none(state.pcoc_bundle), "live": _or_none(state.pcoc_live)},
        }


def _or_none(number: float) -> float | None:
    return None if math.isnan(number) else number


def _describe_arm(arm: Arm, share: float, *, is_killed: bool) -> dict[str, Any]:
    """What an experimenter needs to know of an arm; `share` is its part of the split keys, from 0 to 1."""
    manifest, variant = arm.predictor.manifest, arm.predictor.variant
    return {
        "name": arm.name,
        "weight": arm.weight,
        "share": share,
        "is_killed": is_killed,
        "bundle": manifest.id,
        "created_at": manifest.created_at,
        "model": manifest.model,
        "variant": variant,
        "provider": arm.predictor.graphs.provider,
        "calibration": {
            "method": arm.predictor.calibrator.method,
            "segment_field": arm.predictor.calibrator.segment_field,
            "before": arm.predictor.calibrator.before,
            "after": arm.predictor.calibrator.after,
        },
        "training": manifest.training,
        "evaluation": manifest.evaluation.get(variant),
        "fields": _describe_fields(arm),
        "kept_out": manifest.kept_out,
        "warnings": manifest.warnings,
    }


def _describe_fields(arm: Arm) -> list[dict[str, Any]]:
    """Each field, and the share of rows without it: of the rows of late, and of the training part."""
    meter = arm.predictor.meter
    served = {} if meter is None else meter.missing_shares
    trained = arm.predictor.manifest.training.missing
    return [
        {
            "name": field.name,
            "kind": field.kind,
            "role": field.role,
            "missing": {"served": served.get(field.name), "training": trained.get(field.name)},
        }
        for field in arm.predictor.encoder.schema.fields
    ]


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


def answer_error(error: ServiceError) -> Response:
    """The answer that a refusal is."""
    headers = {name.decode(): value.decode() for name, value in error.headers()}
    return Response(error.body(), error.status, headers, media_type="application/json")
