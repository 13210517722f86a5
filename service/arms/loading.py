"""The arms of the settings from their folders: bundles are read and verified, and golden rows replayed.

It knows no HTTP, no traffic and no process. Processes made by a fork share the bundles read before it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ParamSpec, TypeVar

from service.arms.limits import limited_memory
from service.arms.split import Arm, ArmSpec, parse_arm
from service.bundle.calibration import CALIBRATION_FILE
from service.bundle.errors import BundleError
from service.bundle.native import is_native
from service.bundle.store import Bundle, load_bundle
from service.errors import BadConfiguration
from service.feedback.tokens import Source
from service.quality import PRIOR
from service.scoring.golden import replay_golden
from service.scoring.predictor import Predictor, choose_variant
from service.scoring.prior import prior_of
from service.settings import Settings

logger = logging.getLogger("bidlight")

P = ParamSpec("P")
T = TypeVar("T")
THREAD_NAME = "bidlight-load"


@dataclass(frozen=True, eq=False)
class LoadedArm:
    """An arm that is read and verified; nothing of it runs yet, so processes made by a fork can share it."""

    spec: ArmSpec
    bundle: Bundle
    variant: str

    @property
    def source(self) -> Source:
        """What its tokens come from."""
        return Source(self.spec.name, self.bundle.manifest.id, self.variant)


def read_arms(
    settings: Settings, digests: Sequence[str] | None = None, *, limits_memory: bool = True
) -> list[LoadedArm]:
    """Every arm of the settings with the graph it will serve; raises BadConfiguration naming the arm.

    With `digests`, the bundles must be those, and none that has taken its place meanwhile.
    """
    specs = [parse_arm(text) for text in settings.arms]
    control = control_arm(settings, [spec.name for spec in specs])
    arms = []
    for number, spec in enumerate(specs):
        with _named(spec), _limited(settings, _bytes_in(spec.folder), limits_memory):
            bundle = load_bundle(Path(spec.folder), native=is_native(settings.native))
            if digests is not None and bundle.digest != digests[number]:
                found = "another bundle than a moment ago"
                raise BundleError(spec.folder, "the bundle that was tried", found, "reload once more")
            variant = choose_variant(bundle, settings.variant)
            if bundle.manifest.graphs[variant].is_batch_dependent:
                logger.warning(
                    "arm %s serves %s of %s, as asked for: a row's pCTR depends on the other rows of its "
                    "batch, those of other requests among them",
                    spec.name,
                    variant,
                    bundle.manifest.id,
                )
            if settings.when_overloaded == PRIOR:
                _check_prior(bundle, variant, "--when-overloaded prior", "--when-overloaded refuse")
            if spec.name == control and settings.when_killed == PRIOR:
                _check_prior(bundle, variant, "--when-killed prior", "--when-killed no-bid")
            # Made here, so that they are shared too.
            bundle.tables(variant)
            if settings.native == "on":
                _ = bundle.encoder.native
        graphs, shared_graphs = (
            {variant: all_graphs[variant]} if variant in all_graphs else {}
            for all_graphs in (bundle.graphs, bundle.shared_graphs)
        )
        bundle = replace(bundle, graphs=graphs, shared_graphs=shared_graphs)
        arms.append(LoadedArm(spec, bundle, variant))
    return arms


def control_arm(settings: Settings, names: Sequence[str]) -> str:
    """The arm, of these, that answers for those that are killed. Raises BadConfiguration."""
    name = settings.control_arm or names[0]
    if name not in names:
        raise BadConfiguration(
            f"'control_arm' must be one of {', '.join(names)} (got {name!r}); leave it out for the first"
        )
    return name


def _check_prior(bundle: Bundle, variant: str, wanted: str, instead: str) -> None:
    """Raises BundleError for a bundle from which no prior can be had."""
    if prior_of(bundle, variant) is None:
        raise BundleError(
            f"{bundle.folder}/{CALIBRATION_FILE}",
            f"of {variant} fitted on clicks and others, for {wanted}",
            "one without a click rate",
            f"calibrate it on a log, or choose {instead}",
        )


def start_arms(settings: Settings, loaded: Sequence[LoadedArm], *, limits_memory: bool = True) -> list[Arm]:
    """Every arm with its sessions, warm, its golden rows replayed. Raises BadConfiguration naming the arm.

    It runs an event loop of its own: call it in a thread that has none.
    """
    arms = []
    for arm in loaded:
        file_bytes = sum(entry.size for entry in arm.bundle.manifest.files.values())
        with _named(arm.spec), _limited(settings, file_bytes, limits_memory):
            predictor = Predictor(arm.bundle, settings)
            asyncio.run(replay_golden(predictor))
        arms.append(Arm(arm.spec.name, arm.spec.weight, predictor))
    return arms


async def load_arms(
    settings: Settings,
    loaded: Sequence[LoadedArm] | None = None,
    digests: Sequence[str] | None = None,
    *,
    limits_memory: bool = True,
) -> list[Arm]:
    """Every arm of the settings, its golden rows replayed; raises BadConfiguration naming the arm.

    Bundles that are not `loaded` yet are read from their folders, and must be those of `digests` if given.
    Memory must have no limit where requests are answered meanwhile: they would lack it.
    """

    def load() -> list[Arm]:
        read = loaded or read_arms(settings, digests, limits_memory=limits_memory)
        return start_arms(settings, read, limits_memory=limits_memory)

    try:
        async with asyncio.timeout(settings.load_seconds):
            return await in_thread(load)
    except TimeoutError:
        raise too_late(settings) from None


def too_late(settings: Settings) -> BadConfiguration:
    """The refusal of bundles whose load does not end."""
    return BadConfiguration(
        f"the bundles must be loaded within {settings.load_seconds} s (they are not); export smaller ones, "
        "or allow more with --load-seconds"
    )


async def in_thread(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """What `function` returns. Nothing waits for its thread: not who is cancelled, nor the loop at its end.

    A load can take minutes in code that nobody can stop; see `is_loading`.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(error: BaseException | None, result: T | None) -> None:
        if outcome.done():
            return
        if error is None:
            outcome.set_result(result)  # type: ignore[arg-type]
        else:
            outcome.set_exception(error)

    def run() -> None:
        try:
            result, error = function(*arguments, **named), None
        except BaseException as raised:
            result, error = None, raised
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, error, result)

    threading.Thread(target=run, name=THREAD_NAME, daemon=True).start()
    return await outcome


def is_loading() -> bool:
    """Whether a thread still loads: then the process must end without waiting, or running down, anything."""
    return any(thread.name == THREAD_NAME for thread in threading.enumerate())


def freeze_anew() -> None:
    """Collect garbage, also among frozen objects, and exempt what remains from later collections."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@contextmanager
def _named(spec: ArmSpec) -> Iterator[None]:
    """Name the arm in what its load raises."""
    try:
        yield
    except (BundleError, BadConfiguration) as error:
        raise BadConfiguration(f"arm {spec.name}: {error}") from None
    except MemoryError:
        raise BadConfiguration(
            f"arm {spec.name}: '{spec.folder}' must need memory in proportion to its files (it needs more "
            "than there is); export it again, or free memory"
        ) from None


@contextmanager
def _limited(settings: Settings, file_bytes: int, limits_memory: bool) -> Iterator[None]:
    if not limits_memory:
        yield
        return
    with limited_memory(file_bytes, settings.max_batch_rows, device=settings.device):
        yield


def _bytes_in(folder: str) -> int:
    sizes = 0
    for path in Path(folder).rglob("*"):
        with suppress(OSError):
            sizes += path.stat().st_size
    return sizes
