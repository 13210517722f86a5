"""What is logged of a reload, by a service alone or by the supervisor of several workers."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from service.bundle.manifest import Manifest
from service.errors import BadConfiguration

logger = logging.getLogger("bidlight")


def log_reload(served: Iterable[tuple[str, Manifest]]) -> None:
    """Log the arms and the bundles that they serve from now on."""
    logger.info("reloaded %s", ", ".join(f"{name} ({manifest.id})" for name, manifest in served))


def log_refusal(reason: Exception | str) -> None:
    """Log why a reload changes nothing, with the traceback of an unexpected error."""
    unexpected = None if isinstance(reason, str | BadConfiguration) else reason
    text = str(reason) or repr(reason)
    logger.error("the arms are not reloaded and go on as they were: %s", text, exc_info=unexpected)
