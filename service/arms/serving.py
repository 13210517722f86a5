"""The arms that answer, from start to end: loaded before traffic, swapped by a reload, published, drained.

It knows neither HTTP nor signals: its caller decides when each step is due.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

from service.arms.freshness import StoredFeatures
from service.arms.loading import LoadedArm, freeze_anew, load_arms
from service.arms.reloads import log_refusal, log_reload
from service.arms.split import Arm, ArmTable
from service.arms.trial import try_arms
from service.arms.unlike import warn_of_unlike_arms
from service.bundle.schema import Schema
from service.metrics.families import Metrics
from service.scoring.meter import ArmMeter
from service.settings import Settings


class ServedArms:
    """The arms of the settings; `on_change` gets each table of arms that is to answer from then on.

    With `loaded`, these are served at first, whatever their folders hold by then. `on_publish` is called
    whenever counts become metrics.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        stored: StoredFeatures | None,
        on_change: Callable[[ArmTable], object],
        loaded: Sequence[LoadedArm] | None = None,
        on_publish: Callable[[], object] = lambda: None,
    ) -> None:
        self.arms: tuple[Arm, ...] = ()
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

    async def open(self) -> None:
        """Load every arm and let traffic in; raises BadConfiguration."""
        arms = await load_arms(self._settings, self._loaded)
        if self._loaded is None:  # else whoever has loaded them has told
            warn_of_unlike_arms(_schemas_of(arms.arms))
        if self._stored is not None:
            await self._stored.open(arms.arms)
            self._stored.keep_fresh(lambda: self.arms)
        self._serve(arms)

    async def close(self) -> None:
        """Answer what is in the queues."""
        if self._stored is not None:
            await self._stored.close()
        for arm in self.arms:
            await arm.predictor.drain()
        self.publish()

    async def reload(self) -> None:
        """Serve what the arms' folders hold now; if anything is refused, all stays as it is.

        Requests that are under way finish on the bundle that encoded them.
        """
        try:
            replacements = [read() for read in self.also_read]
            digests = await try_arms(self._settings) if self._settings.try_reloads == "on" else None
            arms = await load_arms(self._settings, digests=digests, limits_memory=False)
            if self._stored is not None:
                await self._stored.reopen(arms.arms)
        except Exception as error:  # of any kind: the next reload must still be possible
            self._metrics.reloads.labels("refused").inc()
            log_refusal(error)
            return
        warn_of_unlike_arms(_schemas_of(arms.arms), _schemas_of(self.arms))
        self._serve(arms)
        for replace in replacements:
            replace()
        self._metrics.reloads.labels("ok").inc()
        log_reload((arm.name, arm.predictor.manifest) for arm in self.arms)

    def publish(self) -> None:
        """Add the counts of all arms to the metrics, including replaced ones until their last answer."""
        for arm in (*self._replaced, *self.arms):
            arm.predictor.publish()
        self._on_publish()
        had_replaced = bool(self._replaced)
        self._replaced = tuple(arm for arm in self._replaced if arm.predictor.under_way)
        if had_replaced and not self._replaced:
            # Only the collector can free them. Before their last request ends it would freeze them instead,
            # and they would stay until the next reload.
            freeze_anew()

    def _serve(self, arms: ArmTable) -> None:
        self._replaced += self.arms
        for arm in arms.arms:
            predictor = arm.predictor
            if self._settings.metrics == "on":
                predictor.meter = ArmMeter(
                    self._metrics,
                    arm.name,
                    predictor.encoder.schema,
                    predictor.manifest.training.missing,
                )
            self._metrics.bundle.labels(*_bundle_info(arm)).set(1)
        self._metrics.serving_processes.labels().set(1)
        self._metrics.retain(
            bundles={_bundle_info(arm) for arm in arms.arms},
            fields={
                (arm.name, field.name) for arm in arms.arms for field in arm.predictor.encoder.schema.fields
            },
            trained={
                (arm.name, name)
                for arm in arms.arms
                for name in arm.predictor.manifest.training.missing or ()
            },
        )
        self._on_change(arms)
        self.arms = arms.arms
        if not self._replaced:
            # Bundles live as long as they serve: the collector need not traverse them.
            gc.collect()
            gc.freeze()


def _schemas_of(arms: Sequence[Arm]) -> dict[str, Schema]:
    return {arm.name: arm.predictor.encoder.schema for arm in arms}


def _bundle_info(arm: Arm) -> tuple[str, str, str, str]:
    """The labels of the bundle that an arm serves."""
    manifest = arm.predictor.manifest
    return arm.name, manifest.id, manifest.model.name, arm.predictor.variant
