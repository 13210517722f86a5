"""What candidates get without the model: the bundle's prior by the few fields that it has; it knows no queue.

It reads the values of these fields alone. Ads that a request names by id have those of the catalogue.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.bundle.encoder import Encoder
from service.bundle.native import is_native
from service.bundle.prior import Prior
from service.bundle.schema import MISSING_ID, Role
from service.bundle.store import Bundle
from service.features.ads import Catalogue, KnownAds
from service.quality import PRIOR
from service.scoring.rows import Ids
from service.settings import Settings
from service.wire import PredictRequest

if TYPE_CHECKING:
    from service.bundle._native import PlainRequest

Probabilities = NDArray[np.float64]
NO_IDS = np.empty(0, np.int32)


def prior_of(bundle: Bundle, variant: str) -> Prior | None:
    """The bundle's prior; of a bundle without one, the click rate that the variant was calibrated on.

    None if there is neither.
    """
    calibrator = bundle.calibrators[variant]
    rate = calibrator.base_rate
    if bundle.prior is not None or rate is None:
        return bundle.prior
    return Prior(
        intercept=math.log(rate / (1.0 - rate)),
        clamp_low=calibrator.clamp_low,
        clamp_high=calibrator.clamp_high,
        fit_rows=calibrator.fit_rows,
        fit_clicks=calibrator.fit_clicks,
        fit_window=calibrator.fit_window,
    )


def prior_scorer(
    bundle: Bundle, variant: str, settings: Settings, user_id_field: str | None
) -> PriorScorer | None:
    """What answers without the model, if the settings may ask for it and the bundle has a prior."""
    prior = prior_of(bundle, variant)
    if prior is None or PRIOR not in (settings.when_killed, settings.when_overloaded):
        return None
    return PriorScorer(
        prior,
        bundle.encoder,
        native=is_native(settings.native),
        has_store=bool(settings.feature_store),
        user_id_field=user_id_field,
    )


class PriorScorer:
    """The click probabilities of a request's candidates, by a bundle's `prior` and its `encoder`.

    Where users have a store, what a context leaves out may be there: it adds nothing, in place of what the
    missing value adds. `user_id_field` is filled from the request's own user_id, if there is such a field.
    """

    def __init__(
        self,
        prior: Prior,
        encoder: Encoder,
        *,
        native: bool,
        has_store: bool = False,
        user_id_field: str | None = None,
    ) -> None:
        self._prior = prior
        self._encoder = encoder.of_fields(prior.names) if prior.fields else None
        self._tables = prior.tables()
        self._columns: tuple[int, ...] = ()
        if self._encoder is None:
            return
        fields = self._encoder.schema.fields
        context = [field.name for field in fields if field.role is Role.CONTEXT]
        candidate = [field.name for field in fields if field.role is Role.CANDIDATE]
        # Where the ids of each field are, in the prior's order: among those of the context or a candidate.
        self._places = [
            (name in context, (context if name in context else candidate).index(name)) for name in prior.names
        ]
        if has_store:
            for (is_context, _), table in zip(self._places, self._tables, strict=True):
                table[MISSING_ID] *= not is_context
        self._user_id = user_id_field if user_id_field in context else None
        self._known_ads = KnownAds(self._encoder)
        # Of all candidate columns of the bundle, those that the prior reads.
        slices, taken, start = list[int](), self._encoder.candidate_names, 0
        for field in encoder.schema.fields:
            if field.role is Role.CANDIDATE:
                slices += [start] if field.name in taken else []
                start += field.max_length
        self._columns = tuple(slices)
        self._native = self._encoder.native if native else None
        if self._native is not None and self._user_id is not None:
            self._native.user_id_field = context.index(self._user_id)

    def pctrs(
        self, request: PredictRequest | PlainRequest, rows: int, catalogue: Catalogue | None
    ) -> Probabilities | None:
        """pCTRs [rows]; None for a plain request whose values the Python code must read.

        Raises InvalidValue.
        """
        if self._encoder is None:
            return self._prior.pctr((), rows)
        catalogue = self.catalogue_of(catalogue)
        if isinstance(request, PredictRequest):
            found: tuple[Ids, Ids] | None = self._ids(self._encoder, request, rows, catalogue)
        else:
            found = self._ids_of_plain(self._encoder, request, rows, catalogue)
        if found is None:
            return None
        context, candidates = found
        ids = [
            context[place : place + 1] if is_context else candidates[:, place]
            for is_context, place in self._places
        ]
        return self._prior.pctr(ids, rows, self._tables)

    def catalogue_of(self, catalogue: Catalogue | None) -> Catalogue | None:
        """The part of the bundle's catalogue that it reads. With many ads it takes long, the first time."""
        return catalogue.of_columns(self._columns) if catalogue is not None and self._columns else None

    def _ids(
        self, encoder: Encoder, request: PredictRequest, rows: int, catalogue: Catalogue | None
    ) -> tuple[Ids, Ids]:
        """ids [context fields] and [rows, candidate fields]."""
        context = NO_IDS
        if encoder.context_names:
            given = request.context
            if self._user_id is not None:
                given = {self._user_id: request.user_id, **given}
            context = encoder.encode_context(given)
        if not encoder.candidate_names:
            return context, np.empty((rows, 0), np.int32)
        return context, self._known_ads.encode(catalogue, request.candidates, rows)[0]

    def _ids_of_plain(
        self, encoder: Encoder, request: PlainRequest, rows: int, catalogue: Catalogue | None
    ) -> tuple[Ids, Ids] | None:
        """The same by the native core; None for a request that is not plain to these fields."""
        if self._native is None:
            return None
        context = np.empty(encoder.context_width, np.int32)
        candidates = np.empty((rows, encoder.candidate_width), np.int32)
        ads = None if catalogue is None else catalogue.native
        if request.encode(self._native, ads, context, candidates, tells_names=False) is None:
            return None
        return context, candidates
