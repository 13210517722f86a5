"""The arms of the settings from their folders: bundles are read and verified, and golden rows replayed.

It knows no HTTP, no traffic and no process. Processes made by a fork share the bundles read before it.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from service.arms.split import Arm, ArmSpec, ArmTable, parse_arm
from service.bundle.errors import BundleError
from service.bundle.store import Bundle, load_bundle
from service.errors import BadConfiguration
from service.scoring.golden import replay_golden
from service.scoring.predictor import Predictor, choose_variant
from service.settings import Settings


@dataclass(frozen=True, eq=False)
class LoadedArm:
    """An arm that is read and verified; nothing of it runs yet, so processes made by a fork can share it."""

    spec: ArmSpec
    bundle: Bundle
    variant: str


def read_arms(settings: Settings) -> list[LoadedArm]:
    """Every arm of the settings with the graph it will serve; raises BadConfiguration naming the arm."""
    arms = []
    for spec in [parse_arm(text) for text in settings.arms]:
        try:
            bundle = load_bundle(Path(spec.folder))
            variant = choose_variant(bundle, settings.variant)
            # Made here, so that they are shared too.
            bundle.tables(variant)
            if settings.native == "on":
                _ = bundle.encoder.native
        except BundleError as error:
            raise BadConfiguration(f"arm {spec.name}: {error}") from None
        graphs, shared_graphs = (
            {variant: all_graphs[variant]} if variant in all_graphs else {}
            for all_graphs in (bundle.graphs, bundle.shared_graphs)
        )
        bundle = replace(bundle, graphs=graphs, shared_graphs=shared_graphs)
        arms.append(LoadedArm(spec, bundle, variant))
    return arms


def freeze_anew() -> None:
    """Collect garbage, also among frozen objects, and exempt what remains from later collections."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


async def load_arms(settings: Settings, loaded: Sequence[LoadedArm] | None = None) -> ArmTable:
    """Every arm of the settings, its golden rows replayed; raises BadConfiguration naming the arm.

    Bundles that are not `loaded` yet are read from their folders.
    """
    specs = [parse_arm(text) for text in settings.arms]
    arms = []
    for number, spec in enumerate(specs):
        try:
            # In a thread: a service that reloads keeps answering.
            if loaded is None:
                predictor = await asyncio.to_thread(Predictor.load, spec.folder, settings)
            else:
                predictor = await asyncio.to_thread(Predictor, loaded[number].bundle, settings)
            await replay_golden(predictor)
        except (BundleError, BadConfiguration) as error:
            raise BadConfiguration(f"arm {spec.name}: {error}") from None
        arms.append(Arm(spec.name, spec.weight, predictor))
    return ArmTable(arms, settings.split_salt)
