"""Replays the golden rows through the encoder; the service replays logits and pCTRs."""

from __future__ import annotations

from service.bundle.encoder import Encoder, InvalidValue
from service.bundle.errors import EXPORT_AGAIN, BundleError, show
from service.bundle.manifest import GOLDEN_FILE, Golden


def check_golden_ids(encoder: Encoder, golden: Golden) -> None:
    """Raises BundleError with row and field unless every golden row encodes to its golden ids."""
    for number, (row, ids) in enumerate(zip(golden.rows, golden.ids, strict=True)):
        try:
            found = tuple(encoder.encode_request(row.context, [row.candidate])[0].tolist())
        except InvalidValue as error:
            raise BundleError(
                GOLDEN_FILE, f"encodable in row {number}", error.message, EXPORT_AGAIN
            ) from error
        if len(ids) != len(found):
            raise BundleError(
                GOLDEN_FILE, f"of {len(found)} ids in row {number}", f"{len(ids)}", EXPORT_AGAIN
            )
        for field in encoder.schema.fields:
            place = encoder.schema.column_slices[field.name]
            if found[place] != ids[place]:
                expected = f"such that field {show(field.name)} of row {number} has ids {list(ids[place])}"
                raise BundleError(GOLDEN_FILE, expected, str(list(found[place])), EXPORT_AGAIN)
