"""Rewrites a graph so that what the candidates of a request share is computed once a request."""

from export.graph.shared_context.rewrite import (
    CANDIDATE_IDS,
    CONTEXT_IDS,
    REQUEST_INDEX,
    share_context,
    with_one_index,
)

__all__ = ["CANDIDATE_IDS", "CONTEXT_IDS", "REQUEST_INDEX", "share_context", "with_one_index"]
