"""The service as an ASGI application.

`/predict` is dispatched before the framework's router, which would cost a large part of the requests a
second. Everything else is FastAPI. It knows no model and no socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from service.arms.freshness import StoredFeatures
from service.arms.health import Health
from service.arms.live import LiveArms
from service.arms.loading import LoadedArm
from service.arms.serving import ServedArms
from service.arms.split import Arm, ArmTable
from service.arms.steering_memory import SteeringMemory
from service.bidding import BidPolicy
from service.calibration.decider import Decider
from service.errors import BadConfiguration, NotFound
from service.feedback.counting import EventCounter
from service.feedback.memory import EventMemory, event_memory
from service.feedback.shared import SharedCounter, shared_counter
from service.http.control import ControlRoute
from service.http.direct import DirectRoute
from service.http.endpoint import PredictEndpoint
from service.http.examples import examples_of
from service.http.feedback import FeedbackEndpoint, is_feedback
from service.http.heads import PREDICT_PATH
from service.http.lifespan import PUBLISH_SECONDS, SHARED_PUBLISH_SECONDS, keep_serving
from service.http.openapi import merge_bidding
from service.http.predict_service import PredictService
from service.http.routes import PROBE_PATHS, Routes, answer_error
from service.metrics.families import Metrics
from service.settings import Settings
from service.shadow.shadows import Shadows
from service.tracing.tracer import open_tracer


class Bidlight(FastAPI):
    """The application of one `Settings`; its lifespan opens the arms.

    With `loaded`, these arms are served, whatever their folders hold by then, and SIGHUP is left to the
    caller. `metrics` are those of this process among several, which share `steering` and `events`, and of
    which it is `number`. `refusal` is the reason of a deliberate refusal to start, in one line.
    `publish_seconds` is how often counts become metrics, if this is the only process.
    """

    def __init__(
        self,
        settings: Settings,
        loaded: Sequence[LoadedArm] | None = None,
        metrics: Metrics | None = None,
        publish_seconds: float = PUBLISH_SECONDS,
        steering: SteeringMemory | None = None,
        events: EventMemory | None = None,
        number: int = 0,
    ) -> None:
        super().__init__(
            title="Bidlight",
            version="1",
            description="A bid request in; the probability of a click and the bid for every candidate out.",
            docs_url=None,
            redoc_url=None,
            lifespan=_lifespan,
        )
        self.settings = settings
        self.metrics = metrics or Metrics()
        self.publish_seconds = SHARED_PUBLISH_SECONDS if self.metrics.is_shared else publish_seconds
        self.reloads_on_signal = loaded is None
        self.refusal: str | None = None
        self._documented: tuple[Arm, ...] = ()
        stored = StoredFeatures(settings, self.metrics) if settings.feature_store else None
        users = None if stored is None else stored.users
        self._tracer = open_tracer(settings, self.metrics)
        self.predict_service = PredictService(
            settings, self.metrics, bid_policy(settings), users, self._tracer
        )
        self._events: EventCounter | None = None
        self._shared: SharedCounter | None = None
        self._restores_events = events is None
        self._live: LiveArms | None = None
        memory: EventMemory | None = None
        if settings.feedback_keys:
            memory = events or event_memory(settings)
            if memory.live is not None:
                self._live = LiveArms(settings, memory.live, self.metrics, decides=events is None)
            self._events = EventCounter(settings, self.metrics, memory, self.predict_service.signers)
            self._shared = shared_counter(settings, self.metrics, memory, self._events)
        admission = self.predict_service.admission
        self._shadows = Shadows(
            settings,
            self.metrics,
            lambda: admission.is_behind,
            lambda: admission.is_behind or admission.open_work > 0,
            lambda: setattr(admission, "has_worked", True),
            None if memory is None else memory.shadows,
        )
        self._feedback = FeedbackEndpoint(
            settings, self.metrics, self.predict_service, self._shared or self._events
        )
        self.served = ServedArms(
            settings, self.metrics, stored, self._open, loaded, self._publish, steering, number
        )
        self.served.also_read += [self.predict_service.read_tokens, self.predict_service.signers.read_again]
        self.health = Health(lambda: self.served.bidding, self.metrics)
        self.direct_route = (
            DirectRoute(self.predict_service) if settings.predict_through == "parser" else None
        )
        self._endpoint = PredictEndpoint(self.predict_service)
        hours = None if memory is None else memory.hours
        Routes(settings, self.metrics, self.served, self.health, self._live, hours).add_to(self)
        if settings.control_token_file:
            control = ControlRoute(settings)
            control.add_to(self)
            self.served.also_read.append(control.read_tokens)
        self.has_admin_port = settings.admin_port is not None
        self.admin = AdminPort(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Dispatch one ASGI scope of the bidding port."""
        if scope["type"] == "http" and scope["path"] == PREDICT_PATH:
            await self._endpoint(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._run_lifespan(scope, receive, send)
        elif is_feedback(scope["path"]):
            await self._feedback(scope, receive, send)
        elif self.has_admin_port and scope["path"] not in PROBE_PATHS:
            await answer_error(NotFound("the path must be a route of this port"))(scope, receive, send)
        else:
            await self.answer_route(scope, receive, send)

    @property
    def decider(self) -> Decider | None:
        """What decides on live calibrations, if this process does."""
        return None if self._live is None else self._live.decider

    def _open(self, arms: ArmTable) -> None:
        if self._live is not None:
            self._live.open(arms.arms)
        self.predict_service.open(arms)
        self._shadows.serve(arms)
        self.predict_service.shadows = self._shadows if self._shadows.are_any else None
        if self._events is not None:
            self._events.serve(arm.source for arm in arms.arms)
        if self._shared is not None:
            self._shared.serve(arm.source for arm in arms.arms)

    def _publish(self) -> None:
        self.predict_service.publish()
        self._shadows.publish()
        if self._tracer is not None:
            self._tracer.publish()
        if self._live is not None:
            self._live.refresh()
        if self._events is not None:
            self._events.publish()
        if self._shared is not None:
            self._shared.publish()

    def open_feedback(self) -> None:
        """Know what was counted before the start, unless the caller has seen to that, and elsewhere."""
        if self._events is not None and self._restores_events:
            self._events.restore()
        if self._shared is not None:
            self._shared.start()

    async def close_feedback(self) -> None:
        """Nothing more is counted, no shadow scores any more, and no more examples are logged."""
        self._shadows.close()
        if self._shared is not None:
            await self._shared.close()
        if self.predict_service.examples is not None:
            await asyncio.to_thread(self.predict_service.examples.close)
            self.predict_service.examples.publish()
        if self._events is not None:
            await self._events.close()

    @asynccontextmanager
    async def sending_traces(self) -> AsyncIterator[None]:
        """Send traces meanwhile, if there are any."""
        tracer = self._tracer
        if tracer is None:
            yield
            return
        tracer.start()
        try:
            yield
        finally:
            await asyncio.to_thread(tracer.close)
            tracer.publish()

    async def answer_route(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request to any route but /predict."""
        if scope["method"] == "HEAD":
            # Every route that answers GET answers HEAD; the server leaves out the body.
            scope = {**scope, "method": "GET"}
        await super().__call__(scope, receive, send)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms that answer now; none before the lifespan has opened them."""
        return self.served.arms

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, including `/predict` in full, with examples of the first arm's bundle."""
        if self.openapi_schema is None or self._documented is not self.arms:
            self._documented = self.arms
            self.openapi_schema = None
            examples = examples_of(self.arms[0], self.predict_service.policy) if self.arms else None
            needs_token = self.predict_service.tokens is not None
            self.openapi_schema = merge_bidding(super().openapi(), examples, needs_token=needs_token)
        return self.openapi_schema

    async def _run_lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the lifespan; tell the server of a deliberate refusal in one line, without a traceback."""

        async def send_refusal(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and self.refusal is not None:
                message = {"type": message["type"], "message": self.refusal}
            await send(message)

        try:
            await super().__call__(scope, receive, send_refusal)
        except BadConfiguration as error:
            if str(error) != self.refusal:
                raise


class AdminPort:
    """The same application as the admin port has it: every route but /predict, which needs its token."""

    direct_route = None

    def __init__(self, app: Bidlight) -> None:
        self._app = app
        self.predict_service = app.predict_service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Dispatch one ASGI scope."""
        if scope["path"] == PREDICT_PATH or is_feedback(scope["path"]):
            await answer_error(NotFound("the path must be a route of this port"))(scope, receive, send)
        else:
            await self._app.answer_route(scope, receive, send)


def create_app(
    settings: Settings | None = None,
    loaded: Sequence[LoadedArm] | None = None,
    metrics: Metrics | None = None,
    publish_seconds: float = PUBLISH_SECONDS,
    steering: SteeringMemory | None = None,
    events: EventMemory | None = None,
    number: int = 0,
) -> Bidlight:
    """The application; without `settings`, those of the environment; without `loaded`, it reads bundles."""
    return Bidlight(settings or Settings(), loaded, metrics, publish_seconds, steering, events, number)


def bid_policy(settings: Settings) -> BidPolicy:
    """The bid policy that the settings describe; raises BadConfiguration."""
    try:
        return BidPolicy(
            settings.bid_multiplier, settings.bid_cap, settings.bid_floor, settings.bid_win_price
        )
    except ValueError as error:
        raise BadConfiguration(f"bid policy: {error}") from None


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    assert isinstance(app, Bidlight)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(app.close_feedback)
        await stack.enter_async_context(app.sending_traces())
        try:
            app.open_feedback()
            await stack.enter_async_context(
                keep_serving(app.served, app.publish_seconds, app.reloads_on_signal)
            )
        except BadConfiguration as error:
            app.refusal = str(error)
            raise
        yield
