"""How ONNX Runtime runs a bundle's graphs, the same where an export times them and where a service runs them.

It does not import ONNX Runtime: whoever runs a graph passes the module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from service.bundle.manifest import ONE_OR_ROWS, SHARED_INPUTS

Run = Callable[[Sequence[str], Mapping[str, Any]], list[Any]]
"""Names of outputs, and inputs by name -> the outputs."""

THREADS = 1
"""A service is one process a core: a second thread costs the tail more than it gains."""

EXECUTION_MODE = "ORT_SEQUENTIAL"
OPTIMIZATION_LEVEL = "ORT_ENABLE_ALL"
LOG_SEVERITY = 4
"""Nothing: every error is raised too, and what repeats must not fill a log."""

CONFIG_ENTRIES = {"session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0"}
"""A thread that spins takes the core from the event loop."""


def session_options(onnxruntime: Any) -> Any:
    """New SessionOptions of the given module `onnxruntime`; the caller may add to them."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = THREADS
    options.execution_mode = getattr(onnxruntime.ExecutionMode, EXECUTION_MODE)
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, OPTIMIZATION_LEVEL)
    options.log_severity_level = LOG_SEVERITY
    for name, value in CONFIG_ENTRIES.items():
        options.add_session_config_entry(name, value)
    return options


def quick_run(onnxruntime: Any, session: Any) -> Run:
    """The session's `run`, for callers that know its inputs and outputs, and name the outputs.

    A Python session checks the inputs of each call, and options are made anew: together that takes as long as
    half of the nodes of a small graph. The session within it does not check them, and these options serve all
    calls, of any thread: a run only reads them. The inner session is no public name; without it this is the
    public `run`. It does not fall back to another provider, so it is for sessions of one; and it outlives the
    outer session, but not what that reads in place.
    """
    run, options = getattr(session, "_sess", session).run, onnxruntime.RunOptions()
    return lambda outputs, inputs: run(outputs, inputs, options)


def takes_one_index(session: Any) -> bool:
    """Whether the session's graph says that one request_index does for all rows of a batch of one request."""
    index = SHARED_INPUTS[-1]
    return any(value.name == index and value.shape == [ONE_OR_ROWS] for value in session.get_inputs())
