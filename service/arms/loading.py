"""The arms of the settings from their folders: read and verified, and then at work once golden rows agree.

It knows no HTTP, no traffic and no process; what was read can be shared by the processes that a fork makes.
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
    """An arm read and verified, of which nothing runs yet: what processes can share that a fork makes."""

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
            bundle.tables(variant)  # reads them, so that they are shared too
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
    """Collect what is garbage by now, frozen or not, and let no later collection look at the rest."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


async def load_arms(settings: Settings, loaded: Sequence[LoadedArm] | None = None) -> ArmTable:
    """Every arm of the settings, its golden rows replayed; raises BadConfiguration naming the arm.

    The bundles are read from their folders, unless they are `loaded`.
    """
    specs = [parse_arm(text) for text in settings.arms]
    arms = []
    for number, spec in enumerate(specs):
        try:
            # In a thread: a service that reloads goes on answering.
            if loaded is None:
                predictor = await asyncio.to_thread(Predictor.load, spec.folder, settings)
            else:
                predictor = await asyncio.to_thread(Predictor, loaded[number].bundle, settings)
            await replay_golden(predictor)
        except (BundleError, BadConfiguration) as error:
            raise BadConfiguration(f"arm {spec.name}: {error}") from None
        arms.append(Arm(spec.name, spec.weight, predictor))
    return ArmTable(arms, settings.split_salt)
