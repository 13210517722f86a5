"""Metrics of the feature store: users that are looked up, and ads in catalogues; it knows no store."""

from __future__ import annotations

from service.features.store import IS_MISSING_REASONS
from service.metrics.buckets import STORE_BUCKETS
from service.metrics.series import Counters, Gauges, Histograms, Registry


class StoreFamilies:
    """Of reads of users and ads."""

    def _declare_stores(self, registry: Registry) -> None:
        self.user_lookups = Counters(
            "bidlight_user_lookups",
            "Requests whose user was looked up in the feature store",
            ["arm"],
            registry=registry,
        )
        self.user_is_missing = Counters(
            "bidlight_user_is_missing",
            f"Requests scored without their user's features, by reason: {', '.join(IS_MISSING_REASONS)}",
            ["arm", "reason"],
            registry=registry,
        )
        self.store_read = Histograms(
            "bidlight_store_read_seconds",
            "Seconds of a read of the feature store, for all requests of an event-loop iteration",
            buckets=STORE_BUCKETS,
            registry=registry,
        ).labels()
        self.unknown_ads = Counters(
            "bidlight_unknown_ads",
            "Candidates whose id is not in the catalogue and whose request lacks some of their features",
            ["arm"],
            registry=registry,
        )
        self.catalogue_ads = Gauges(
            "bidlight_catalogue_ads",
            "Ads in the catalogue of the arm",
            ["arm"],
            of_processes="max",
            registry=registry,
        )
        self.catalogue_read = Gauges(
            "bidlight_catalogue_read_timestamp_seconds",
            "When the ads of the arm's catalogue were read, Unix time; of several processes, the oldest",
            ["arm"],
            of_processes="min",
            registry=registry,
        )
        self.catalogue_refreshes = Counters(
            "bidlight_catalogue_refreshes",
            "Refreshes of the catalogue by outcome: ok; failed, or refused for what they would lose (the old "
            "ads stay)",
            ["outcome"],
            registry=registry,
        )
        self.user_refreshes = Counters(
            "bidlight_user_refreshes",
            "Files of users that replaced others, by outcome: ok; failed, or refused for what they would "
            "lose (the old users stay)",
            ["outcome"],
            registry=registry,
        )
