"""The arms that answer, from start to end: loaded before traffic, steered, swapped by a reload, drained.

It knows neither HTTP, signals nor commands: its caller decides when each step is due.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from service.arms.freshness import StoredFeatures
from service.arms.kept import KeptArms
from service.arms.loading import LoadedArm, control_arm, freeze_anew, load_arms
from service.arms.reloads import RELOAD, ROLLBACK, Kind, Reloads
from service.arms.shadowing import Shadowing, parse_shadows
from service.arms.split import Arm, ArmTable, Weighted
from service.arms.steering import Steering
from service.arms.steering_memory import SteeringMemory
from service.arms.trial import try_arms
from service.arms.unlike import warn_of_unlike_arms
from service.bundle.schema import Schema
from service.metrics.families import Metrics
from service.scoring.golden import replay_golden
from service.scoring.meter import ArmMeter
from service.settings import Settings


class ServedArms:
    """The arms of the settings; `on_change` gets each table of arms that is to answer from then on.

    With `loaded`, these are served at first, whatever their folders hold by then. `on_publish` is called
    whenever counts become metrics. `steering` is shared with other processes, among which this one is
    `number`; without it this is the only one.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        stored: StoredFeatures | None,
        on_change: Callable[[ArmTable], object],
        loaded: Sequence[LoadedArm] | None = None,
        on_publish: Callable[[], object] = lambda: None,
        steering: SteeringMemory | None = None,
        number: int = 0,
    ) -> None:
        self.arms: tuple[Arm, ...] = ()
        self.living: tuple[Arm, ...] = ()
        """Those that are not killed."""
        self.bidding: tuple[Arm, ...] = ()
        """Those of them that are no shadows."""
        self.shadows: Mapping[str, Shadowing] = {}
        """What each shadow follows, by its name."""
        self.reloads = Reloads(metrics)
        self.kept: KeptArms[Arm] = KeptArms(_bundle_of, is_on=settings.keep_previous == "on")
        # Each reads files that are replaced together with the arms, and returns what puts them into place.
        # Raises BadConfiguration.
        self.also_read: list[Callable[[], Callable[[], object]]] = []
        self._settings = settings
        self._metrics = metrics
        self._stored = stored
        self._on_change = on_change
        self._loaded = loaded
        self._on_publish = on_publish
        self._replaced: tuple[Arm, ...] = ()
        self._steering = steering
        self._version, self._number = 0, number
        self._is_reload_due = asyncio.Event()

    @property
    def steering(self) -> SteeringMemory:
        """The weights and kills that are served, once it is open."""
        assert self._steering is not None
        return self._steering

    @property
    def bundles(self) -> dict[str, str]:
        """The ids of the bundles that are served, by arm."""
        return {arm.name: _bundle_of(arm) for arm in self.arms}

    async def open(self) -> None:
        """Load every arm and let traffic in; raises BadConfiguration."""
        arms = await load_arms(self._settings, self._loaded)
        if self._loaded is None:  # else whoever has loaded them has told
            warn_of_unlike_arms(_schemas_of(arms))
        if self._steering is None:
            self._steering = SteeringMemory(start_steering(self._settings, arms))
        if self._stored is not None:
            await self._stored.open(arms)
            self._stored.keep_fresh(lambda: self.arms)
        self._serve(arms)

    async def close(self) -> None:
        """Answer what is in the queues."""
        if self._stored is not None:
            await self._stored.close()
        for arm in self.arms:
            await arm.predictor.drain()
        self.publish()

    def request(self, command: Kind = RELOAD, arms: Sequence[str] = (), user: int | None = None) -> int:
        """Ask for a reload or a rollback, which `reload_when_asked` does; its number."""
        number = self.reloads.request(command, arms, user)
        self._is_reload_due.set()
        return number

    async def reload_when_asked(self) -> None:
        """Wait until a reload or a rollback is asked for, and do it, and others that wait by then."""
        await self._is_reload_due.wait()
        self._is_reload_due.clear()
        while self.reloads.is_requested:
            await self._do_next()

    async def reload(self) -> None:
        """Serve what the arms' folders hold now; if anything is refused, all stays as it is.

        Requests that are under way finish on the bundle that encoded them. Weights and kills stay.
        """
        self.reloads.request()
        await self._do_next()

    async def _do_next(self) -> None:
        """Do what was asked for next."""
        wanted = self.reloads.begin()
        before, serving = self.bundles, self.arms
        try:
            if wanted.command == ROLLBACK:
                arms, replacements = await self._restore(wanted.arms), []
            else:
                replacements = [read() for read in self.also_read]
                digests = await try_arms(self._settings) if self._settings.try_reloads == "on" else None
                arms = await load_arms(self._settings, digests=digests, limits_memory=False)
            if self._stored is not None:
                await self._stored.reopen(arms)
        except Exception as error:  # of any kind: the next reload must still be possible
            self.reloads.refuse(error, before)
            return
        warn_of_unlike_arms(_schemas_of(arms), _schemas_of(serving))
        self._serve(arms)
        self.kept.replace(_by_name(serving), _by_name(arms))
        for put_into_place in replacements:
            put_into_place()
        self.reloads.succeed(before, self.bundles)

    async def _restore(self, names: Sequence[str]) -> list[Arm]:
        """The arms as they were before, their golden rows replayed. Raises BadConfiguration, BundleError.

        They are warm: they have served. Only those that come back are looked at, in the event loop, because
        some may still answer their last requests.
        """
        serving = {arm.predictor for arm in self.arms}
        arms = self.kept.restored(_by_name(self.arms), names)
        self.publish()  # what they have counted and not published yet
        for predictor in (arm.predictor for arm in arms):
            if predictor not in serving:
                predictor.meter = None  # golden rows are not counted
                await replay_golden(predictor)
        return arms

    def follow(self) -> None:
        """Serve the weights, kills and shadows of late. Without a change that takes one look at a number."""
        if self.arms and self.steering.version != self._version:
            self._steer(self.arms)

    def publish(self) -> None:
        """Follow, and add the counts of all arms to the metrics, of replaced ones until their last answer."""
        self.follow()
        for arm in (*self._replaced, *self.arms):
            arm.predictor.publish()
        self._on_publish()
        had_replaced = bool(self._replaced)
        self._let_go_of_replaced()
        if had_replaced and not self._replaced:
            # Only the collector can free them. Before their last request ends it would freeze them instead,
            # and they would stay until the next reload.
            freeze_anew()

    def _let_go_of_replaced(self) -> None:
        """Let go of arms after their last answer, and of their ads: they get others if they come back."""
        for arm in self._replaced:
            if not arm.predictor.under_way:
                arm.predictor.known_ads.catalogue = None
        self._replaced = tuple(arm for arm in self._replaced if arm.predictor.under_way)

    def _serve(self, arms: Sequence[Arm]) -> None:
        serving, staying = {arm.predictor for arm in self.arms}, {arm.predictor for arm in arms}
        left = (*self._replaced, *self.arms)
        self._replaced = tuple(arm for arm in left if arm.predictor not in staying)
        for arm in arms:
            predictor = arm.predictor
            if self._settings.metrics == "on" and predictor not in serving:
                predictor.meter = ArmMeter(
                    self._metrics,
                    arm.name,
                    predictor.encoder.schema,
                    predictor.manifest.training.missing,
                )
            self._metrics.bundle.labels(*_bundle_info(arm)).set(1)
        self._metrics.serving_processes.labels().set(1)
        self._metrics.retain(
            bundles={_bundle_info(arm) for arm in arms},
            fields={(arm.name, field.name) for arm in arms for field in arm.predictor.encoder.schema.fields},
            trained={
                (arm.name, name) for arm in arms for name in arm.predictor.manifest.training.missing or ()
            },
        )
        self._steer(arms)
        if not self._replaced:
            # Bundles live as long as they serve: the collector need not traverse them.
            gc.collect()
            gc.freeze()

    def _steer(self, arms: Sequence[Arm]) -> None:
        """Let these arms answer, as they are weighted and killed now."""
        version, steering = self.steering.read()
        weights = steering.weights
        weighted = [replace(arm, weight=weights[arm.name]) for arm in arms]
        settings = self._settings
        table = ArmTable(
            weighted,
            settings.split_salt,
            steering.killed,
            settings.control_arm,
            settings.when_killed,
            steering.shadows,
        )
        self._on_change(table)
        for arm in table.arms:
            self._metrics.arm_weight.labels(arm.name).set(arm.weight)
            self._metrics.arm_killed.labels(arm.name).set(arm.name in table.killed)
        self.arms, self.living, self.bidding = table.arms, table.living, table.bidding
        self.shadows, self._version = table.shadows, version
        self.steering.note(self._number, version)


def start_steering(settings: Settings, arms: Sequence[Weighted]) -> Steering:
    """What the settings say of these arms. Raises BadConfiguration."""
    names = [arm.name for arm in arms]
    shadows = parse_shadows(settings.shadows, names, control_arm(settings, names))
    return Steering.of(arms, time.time(), shadows)


def _bundle_of(arm: Arm) -> str:
    return arm.predictor.manifest.id


def _by_name(arms: Sequence[Arm]) -> dict[str, Arm]:
    return {arm.name: arm for arm in arms}


def _schemas_of(arms: Sequence[Arm]) -> dict[str, Schema]:
    return {arm.name: arm.predictor.encoder.schema for arm in arms}


def _bundle_info(arm: Arm) -> tuple[str, str, str, str]:
    """The labels of the bundle that an arm serves."""
    manifest = arm.predictor.manifest
    return arm.name, manifest.id, manifest.model.name, arm.predictor.variant
