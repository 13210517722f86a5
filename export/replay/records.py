"""What is found out about policies, as plain data: printed as JSON, and shown by tables and a page.

Money is in the currency of the prices: a price for a thousand impressions counts a thousandth each.
"""

from __future__ import annotations

import msgspec

from export.replay.plan import AuctionType, Pacing, PolicyName

Interval = tuple[float, float]


class Measured(msgspec.Struct, frozen=True):
    """A figure and its 95 % interval; None where there is none, such as a click's cost without clicks."""

    value: float | None
    interval: Interval | None


class Setting(msgspec.Struct, frozen=True):
    """What a policy was tuned to.

    scale     what pCTR, or what stands for it, is multiplied by, in the unit of prices
    base_bid  linear: the bid for the mean pCTR of the training part, in the unit of prices
    service   settings of the service that bid so where requests say `value_per_click`; empty where none do
    """

    scale: float
    base_bid: float | None = None
    value_per_click: float | None = None
    service: dict[str, float] = {}


class Outcome(msgspec.Struct, frozen=True):
    """What one policy did with one budget on judged auctions.

    divisor     the market prices of all judged auctions divided by this are the budget
    seen        auctions until the budget was spent
    off_pace    how far the share of the budget that was spent was off the share of the auctions that had
                passed, on average over time
    setting     None for all campaigns together
    """

    policy: PolicyName
    divisor: float
    budget: float
    clicks: Measured
    spend: Measured
    ecpc: Measured
    win_rate: Measured
    budget_share: float
    seen: int
    off_pace: float
    setting: Setting | None = None


class CampaignReplay(msgspec.Struct, frozen=True):
    """One campaign: its two parts, the curves that were fitted, and what each policy did with each budget."""

    name: str
    train_auctions: int
    train_clicks: int
    auctions: int
    clicks: int
    cost: float
    curves: dict[str, str]
    outcomes: tuple[Outcome, ...]


class Comparison(msgspec.Struct, frozen=True):
    """Clicks of one policy minus those of another with the same budgets, over all campaigns."""

    divisor: float
    first: PolicyName
    second: PolicyName
    delta: float
    interval: Interval

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves out 0, else 0."""
        return (self.interval[0] > 0) - (self.interval[1] < 0)


class Best(msgspec.Struct, frozen=True):
    """The policy with the most clicks at one budget, and those that cannot be told from it."""

    divisor: float
    policy: PolicyName
    equals: tuple[PolicyName, ...]
    campaigns: dict[str, int]  # by policy, in how many campaigns none has more clicks


class Replay(msgspec.Struct, frozen=True):
    """A replay as a whole; `total` is over all campaigns."""

    files: tuple[str, ...]
    auction_type: AuctionType
    pacing: Pacing
    train_share: float
    price_per: int
    skipped_rows: int
    left_out: dict[str, str]  # campaigns, and why
    campaigns: tuple[CampaignReplay, ...]
    total: tuple[Outcome, ...]
    best: tuple[Best, ...]
    ordering: tuple[Comparison, ...]
    resamples: int
    seconds: float
