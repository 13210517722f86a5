"""A request -> the ids of its context and candidates, by an arm's encoder; it knows no queue and no graph.

Values come from the request, from the stored features of its user, and from the catalogue of ads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from service.bundle.encoder import Encoder, InvalidValue
from service.bundle.schema import Kind, Role
from service.errors import InvalidField
from service.features.ads import KnownAds
from service.scoring.rows import Ids, RequestRows
from service.wire import PredictRequest

if TYPE_CHECKING:
    from service.bundle._native import PlainRequest

# How many tuples of context names are remembered as known to the schema.
MAX_KNOWN_CONTEXTS = 1024
# How many names of a context, or of columns, are looked at for those that no field has.
MAX_NAMES = 4096
# A categorical context field of this name is filled from the request's own `user_id`.
USER_ID = "user_id"


class RequestEncoder:
    """Encodes requests for one bundle; `is_large` says of a number of candidates which graph scores them.

    With `native` plain requests are encoded by the core. A categorical context field USER_ID, if there is
    one, is `user_id_field`.
    """

    def __init__(
        self, encoder: Encoder, known_ads: KnownAds, is_large: Callable[[int], bool], *, native: bool
    ) -> None:
        self.encoder = encoder
        self._known_ads = known_ads
        self._is_large = is_large
        self._names = encoder.context_names, encoder.candidate_names
        context = [field for field in encoder.schema.fields if field.role is Role.CONTEXT]
        is_filled = [field.name == USER_ID and field.kind is Kind.CATEGORICAL for field in context]
        self._fills_user_id = any(is_filled)
        self._native = encoder.native if native else None
        if self._native is not None:
            self._native.user_id_field = is_filled.index(True) if self._fills_user_id else None
        self._known_contexts: set[tuple[str, ...]] = set()

    @property
    def user_id_field(self) -> str | None:
        """The field that is filled from a request's own `user_id`."""
        return USER_ID if self._fills_user_id else None

    @property
    def is_native(self) -> bool:
        """Whether plain requests are encoded by the native core."""
        return self._native is not None

    def lacks_context(self, request: PredictRequest | PlainRequest) -> bool:
        """Whether the request leaves out a context field, which a feature store may have for its user."""
        if isinstance(request, PredictRequest):
            return not self._names[0] <= request.context.keys()
        return self._native is None or not request.has_whole_context(self._native)

    def encode(self, request: PredictRequest, rows: int) -> RequestRows:
        """The ids of the candidates; raises InvalidField with the path of a bad value."""
        given = {USER_ID: request.user_id, **request.context} if self._fills_user_id else request.context
        try:
            context = self.encoder.encode_context(given)
            return self._with_candidates(context, request, rows)
        except InvalidValue as error:
            raise self.refusal(error, request) from None

    def encode_plain(self, request: PlainRequest, *, with_context: bool = True) -> RequestRows | None:
        """The same by the native core; None for a request that `encode` must read, or would refuse.

        Without its context, which is [0] then, `complete_plain` must complete them.
        """
        if self._native is None:
            return None
        catalogue, rows = self._known_ads.catalogue, request.rows
        context = np.empty(self.encoder.context_width if with_context else 0, np.int32)
        candidates = np.empty((rows, self.encoder.candidate_width), np.int32)
        found = request.encode(
            self._native,
            None if catalogue is None else catalogue.native,
            context if with_context else None,
            candidates,
        )
        if found is None:
            return None
        return RequestRows(context, candidates, self._is_large(rows), *found)

    def encode_with_user(
        self, request: PredictRequest, rows: int, user: dict[str, Any]
    ) -> tuple[RequestRows, bool]:
        """The same as `encode` with a user's features, and whether the schema accepts all of these.

        A value in the request's context wins over the user's, also a null, and the user's over the request's
        own `user_id`. A user's value that the schema refuses is missing.
        """
        context, is_valid = self._context_of_user(request, user)
        try:
            return self._with_candidates(context, request, rows), is_valid
        except InvalidValue as error:
            raise self.refusal(error, request) from None

    def complete_plain(
        self, encoded: RequestRows, request: PlainRequest, user: dict[str, Any]
    ) -> tuple[RequestRows, bool]:
        """The same of a plain request that was `encoded` without its context."""
        encoded.context, is_valid = self._context_of_user(request, user)
        return encoded, is_valid

    def _context_of_user(
        self, request: PredictRequest | PlainRequest, user: dict[str, Any]
    ) -> tuple[Ids, bool]:
        sent = request.context
        given = {**user, **sent}
        if self._fills_user_id:
            given.setdefault(USER_ID, request.user_id)
        is_valid = True
        while True:
            try:
                return self.encoder.encode_context(given), is_valid
            except InvalidValue as error:
                if error.field not in given or error.field in sent:
                    raise InvalidField(error.message, path=f"$.context.{error.field}") from None
                is_valid = False
                del given[error.field]

    def _with_candidates(self, context: Ids, request: PredictRequest, rows: int) -> RequestRows:
        ads = self._known_ads
        ids, unknown_ads = ads.encode(ads.catalogue, request.candidates, rows)
        return RequestRows(context, ids, self._is_large(rows), unknown_ads)

    def unknown_names(self, request: PredictRequest) -> Collection[str]:
        """The names in a request that no field of this bundle has; they have no effect.

        If a context or the columns have more than MAX_NAMES names, those beyond are left out.
        """
        context, candidate = self._names
        candidates = request.candidates
        sent: Iterable[str]
        if not isinstance(candidates, list):
            sent = _first(candidates.features)
        elif len(candidates) == 1:
            sent = _first(candidates[0].features)
        else:
            sent = set().union(*[one.features for one in candidates])
        # A client usually sends the same fields in the same order: one look-up finds the tuple of all names.
        given = tuple(_first(request.context))
        if given not in self._known_contexts:
            if not context.issuperset(given):
                return {*given} - context | {*sent} - candidate
            if len(self._known_contexts) < MAX_KNOWN_CONTEXTS:
                self._known_contexts.add(given)
        return () if candidate.issuperset(sent) else {*sent} - candidate

    def refusal(self, error: InvalidValue, request: PredictRequest) -> InvalidField:
        """What a client is told of a bad value in its request, with its path."""
        return InvalidField(error.message, path=self._path(error, isinstance(request.candidates, list)))

    def _path(self, error: InvalidValue, as_rows: bool) -> str:
        if error.field in self._names[0]:
            return f"$.context.{error.field}"
        if as_rows:
            return f"$.candidates[{error.row or 0}].features.{error.field}"
        row = "" if error.row is None else f"[{error.row}]"
        return f"$.candidates.features.{error.field}{row}"


def _first(names: Collection[str]) -> Iterable[str]:
    """The names, but no more than MAX_NAMES of them."""
    return names if len(names) <= MAX_NAMES else list(islice(names, MAX_NAMES))
