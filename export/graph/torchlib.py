"""Lets PyTorch's exporter make its registry of ONNX functions once a process instead of once a graph.

To make it, the exporter parses the source of hundreds of functions: a third of the time of a small graph.
Exports only read it. It is private to PyTorch; where it is elsewhere in another version, each graph makes
its own. This knows no model and no graph.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def shared_registry() -> Iterator[None]:
    """Within, `torch.onnx.export` takes the registry that the first export of this process made.

    Others who export in this process get one of their own again after it, to which they may add functions.
    Where one such block lies in another, or ends while another thread's goes on, that one's stays.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        own = ONNXRegistry.__dict__["from_torchlib"]
    except (ImportError, KeyError):
        yield
        return
    if isinstance(own, functools.partial):  # it is shared already
        yield
        return
    setattr(ONNXRegistry, "from_torchlib", functools.partial(_made, own))  # noqa: B010
    try:
        yield
    finally:
        setattr(ONNXRegistry, "from_torchlib", own)  # noqa: B010


@functools.cache
def _made(own: Any, **versions: Any) -> Any:
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    return own.__get__(None, ONNXRegistry)(**versions)
