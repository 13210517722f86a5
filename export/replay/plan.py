"""The options of a replay, with their defaults. It runs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from export.data.errors import OnMalformed
from export.errors import ExportError
from export.knobs import AT_LEAST_ONE, INNER_SHARE, NOT_NEGATIVE, POSITIVE, Limits, check, knob

PolicyName = Literal["constant", "random", "truthful", "linear", "ortb", "ortb2", "shading"]
AuctionType = Literal["second-price", "first-price"]
Pacing = Literal["none", "feedback"]

POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)
SHADING: PolicyName = "shading"
"""It bids below the value to pay less, which a second-price auction does not ask for."""


@dataclass(frozen=True, kw_only=True)
class ReplayPlan:
    """Everything that a replay depends on."""

    auctions: tuple[Path, ...]  # --auctions, one or more
    click: str = knob(
        "", "column of the clicks, 1 or 0", unit="COLUMN", otherwise="click, or label as `score` writes it"
    )
    price: str = knob(
        "price", "column of the market prices: what the best bid of all others was", unit="COLUMN"
    )
    pctr: str = knob("pctr", "column of the click probabilities", unit="COLUMN")
    campaign: str | None = knob(
        None, "column that says whose auction it is", unit="COLUMN", otherwise="each file is a campaign"
    )
    price_per: int = knob(1000, "impressions that a price is for; 1000: prices are CPM", AT_LEAST_ONE)
    on_malformed: OnMalformed = knob(
        "error", "what a malformed row does: end the command, or be skipped and counted"
    )
    policy: tuple[PolicyName, ...] = knob(
        (), f"of {', '.join(POLICIES)}", unit="POLICY,..", otherwise="all that fit the auctions"
    )
    auction_type: AuctionType = knob(
        "second-price", "what a win costs: the market price, or in first-price auctions the bid"
    )
    budgets: tuple[float, ...] = knob(
        (2.0, 4.0, 8.0, 16.0, 32.0),
        "the budgets: the market prices of all judged auctions together, divided by each of these",
        Limits(at_least=1),
        "N,..",
    )
    pacing: Pacing = knob(
        "none",
        "how a budget lasts: none, bidding ends when it is spent; feedback, a controller scales the bids so "
        "that spend follows the auctions",
    )
    train_share: float = knob(
        0.5, "share of each campaign's auctions, the first ones, that policies are tuned on", INNER_SHARE
    )
    value_per_click: float | None = knob(
        None,
        "what requests to the service say that a click is worth, in the currency of the prices: the "
        "multipliers are for it",
        POSITIVE,
        otherwise="what a click cost in the campaign's training part",
    )
    seed: int = knob(0, "of the random policy and of the resamples", NOT_NEGATIVE)
    out: Path | None = knob(
        None, "where to write replay.json and replay.html", unit="FOLDER", otherwise="nowhere"
    )
    quiet: bool = False

    def __post_init__(self) -> None:
        check(self)
        if not self.auctions:
            raise ExportError("'auctions' must name a file or more (got none); see replay --help")
        if len(set(self.policy)) < len(self.policy):
            raise ExportError(f"'policy' must name each once (got {','.join(self.policy)}); leave out one")
        if SHADING in self.policy and self.auction_type != "first-price":
            raise ExportError(
                f"'policy' {SHADING} needs first-price auctions (got {self.auction_type}, where it "
                "saves nothing); add --auction-type first-price"
            )
        if len(set(self.budgets)) < len(self.budgets) or not self.budgets:
            raise ExportError("'budgets' must differ, one or more (got a number twice, or none)")

    @property
    def policies(self) -> tuple[PolicyName, ...]:
        """Those that are replayed, in the order of POLICIES."""
        fitting = tuple(name for name in POLICIES if name != SHADING or self.auction_type == "first-price")
        return tuple(name for name in fitting if name in self.policy) if self.policy else fitting
