"""A bid request as a pydantic model, for frameworks that decode bodies with pydantic."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class Candidate(BaseModel):
    id: str | None = None
    features: dict[str, Any] = {}
    value_per_click: float | None = None
    bid_floor: float | None = None


class PredictRequest(BaseModel):
    id: str | None = None
    user_id: str | None = None
    context: dict[str, Any] = {}
    candidates: list[Candidate]
