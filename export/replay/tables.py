"""What a replay finds out as rows of tables and lines, for terminal and page alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from export.replay.outcomes import PUBLISHED
from export.replay.records import Best, CampaignReplay, Comparison, Measured, Outcome, Replay, Setting
from export.report.text_table import aligned

HEAD = ["policy", "clicks", "95 %", "spent", "of budget", "eCPC", "95 %", "win rate", "off pace"]
SETTINGS = "What the service takes: --bid-multiplier at each budget"
INTERVALS = (
    "95 %: the judged auctions counted anew, what was won held fixed: luck among auctions, not among budgets"
)
MOST_NOTES = 10
TOLD = {
    "none": "bidding ends when the budget is spent",
    "feedback": "a controller makes the budget last",
}


def replay_lines(found: Replay) -> list[str]:
    """Everything that a terminal shows."""
    lines = [headline(found), *notes(found), INTERVALS]
    for best in found.best:
        rows = [one for one in found.total if one.divisor == best.divisor]
        lines += [
            "",
            budget_title(found, best.divisor),
            *aligned(outcome_table(rows)),
            best_line(best, found),
        ]
    if len(found.campaigns) > 1:
        lines += ["", "Clicks by campaign", *aligned(campaign_table(found))]
    if found.ordering:
        lines += ["", f"Clicks of one minus the other, 95 %; the published order: {order_line()}"]
        lines += aligned(ordering_table(found))
    settings = setting_table(found)
    if len(settings) > 1:
        lines += ["", SETTINGS, *aligned(settings)]
    return [*lines, "", service_line(found)]


def headline(found: Replay) -> str:
    """What was replayed."""
    judged = sum(one.auctions for one in found.campaigns)
    clicks = sum(one.clicks for one in found.campaigns)
    many = len(found.campaigns)
    return (
        f"{many} campaign{'' if many == 1 else 's'} of {found.auction_type} auctions, tuned on the first "
        f"{found.train_share:.0%} of each, judged on the rest: {judged:,} auctions, {clicks:,} clicks; "
        f"{TOLD[found.pacing]}"
    )


def notes(found: Replay) -> list[str]:
    """What a reader must know of the rows."""
    skipped = [f"{found.skipped_rows:,} malformed rows skipped"] if found.skipped_rows else []
    left_out = [f"left out {name}: {why}" for name, why in found.left_out.items()]
    others = len(left_out) - MOST_NOTES
    more = [f"left out {others:,} other campaigns, which the JSON names"] if others > 0 else []
    return [*skipped, *left_out[:MOST_NOTES], *more]


def budget_name(divisor: float) -> str:
    """`1/8`."""
    return f"1/{divisor:g}"


def budget_title(found: Replay, divisor: float) -> str:
    budget = next(one.budget for one in found.total if one.divisor == divisor)
    return f"Budget {budget_name(divisor)} of all market prices, {money(budget)}"


def outcome_table(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """A row for each policy with one budget."""
    return [HEAD, *map(_outcome_row, outcomes)]


def _outcome_row(one: Outcome) -> list[str]:
    return [
        one.policy,
        _value(one.clicks, "{:,.0f}".format),
        _ends(one.clicks, "{:,.0f}".format),
        _value(one.spend, money),
        f"{one.budget_share:.1%}",
        _value(one.ecpc, money),
        _ends(one.ecpc, money),
        _value(one.win_rate, "{:.2%}".format),
        f"{one.off_pace:.1%}",
    ]


def money(amount: float) -> str:
    """Four significant digits, and all before the point."""
    return f"{amount:,.0f}" if abs(amount) >= 1000 else f"{amount:.4g}"


def _value(one: Measured, text: Callable[[float], str]) -> str:
    return "" if one.value is None else text(one.value)


def _ends(one: Measured, text: Callable[[float], str]) -> str:
    return "" if one.interval is None else " to ".join(map(text, one.interval))


def best_line(best: Best, found: Replay) -> str:
    """Who wins the most clicks at a budget, and who may win as many."""
    if not any(one.clicks.value for one in found.total if one.divisor == best.divisor):
        return "no policy wins a click"
    equals = f"; not distinguishable from it: {', '.join(best.equals)}" if best.equals else ""
    many = len(found.campaigns)
    most = f", in {best.campaigns[best.policy]} of {many} campaigns none has more" if many > 1 else ""
    return f"{best.policy} wins the most clicks{most}{equals}"


def campaign_table(found: Replay) -> list[list[str]]:
    """A row for each campaign and budget, a column for each policy."""
    policies = list(dict.fromkeys(one.policy for one in found.total))
    rows = [["campaign", "budget", *policies]]
    for campaign in found.campaigns:
        for best in found.best:
            clicks = {one.policy: one.clicks for one in campaign.outcomes if one.divisor == best.divisor}
            cells = [_value(clicks[policy], "{:,.0f}".format) for policy in policies]
            rows.append([campaign.name, budget_name(best.divisor), *cells])
    return rows


def order_line() -> str:
    """`ortb > linear > ...`."""
    return " > ".join(PUBLISHED)


def ordering_table(found: Replay) -> list[list[str]]:
    """A row for each pair of policies that are compared, a column for each budget."""
    pairs = dict.fromkeys((one.first, one.second) for one in found.ordering)
    rows = [["pair", *(budget_name(best.divisor) for best in found.best)]]
    for first, second in pairs:
        of_pair = [one for one in found.ordering if (one.first, one.second) == (first, second)]
        rows.append([f"{first} − {second}", *map(comparison_text, of_pair)])
    return rows


def comparison_text(one: Comparison) -> str:
    """`▲ +12 (+3 to +21)`: the order holds; ▼: it is reversed; without a mark nobody can tell."""
    mark = {1: "▲ ", -1: "▼ ", 0: ""}[one.sign]
    return f"{mark}{one.delta:+,.0f} ({one.interval[0]:+,.0f} to {one.interval[1]:+,.0f})"


def setting_table(found: Replay) -> list[list[str]]:
    """The multiplier for each budget of every campaign and tuned policy that the service bids by."""
    budgets = [f"× at {budget_name(best.divisor)}" for best in found.best]
    rows = [["campaign", "policy", "value_per_click", "--bid-win-price", *budgets]]
    for campaign in found.campaigns:
        for policy, settings in _served(campaign).items():
            win_price = max(one.service.get("bid_win_price", 0.0) for one in settings)  # the same for all
            rows.append(
                [
                    campaign.name,
                    policy,
                    money(settings[0].value_per_click or 0.0),
                    f"{win_price:.4g}" if win_price else "",
                    *(f"{one.service['bid_multiplier']:.4g}" if one.service else "" for one in settings),
                ]
            )
    return rows


def _served(campaign: CampaignReplay) -> dict[str, list[Setting]]:
    """Settings of those tuned policies that the service can bid by, in the order of budgets.

    Some of a policy's may be beyond the service's limits, not all.
    """
    found: dict[str, list[Setting]] = {}
    for one in campaign.outcomes:
        if one.setting is not None and one.setting.value_per_click is not None and one.policy != "truthful":
            found.setdefault(one.policy, []).append(one.setting)
    return {policy: own for policy, own in found.items() if any(one.service for one in own)}


def service_line(found: Replay) -> str:
    """A command of the service: the first campaign, its smallest budget, the best policy that it serves."""
    campaign = found.campaigns[0]
    divisor = max(one.divisor for one in campaign.outcomes)
    known = [
        one
        for one in campaign.outcomes
        if one.divisor == divisor and one.setting is not None and one.setting.service
    ]
    if not known:
        return "the service bids by none of these policies, or takes none of their settings"
    best = max(known, key=lambda one: one.clicks.value or 0.0)
    assert best.setting is not None
    options = " ".join(
        f"--{name.replace('_', '-')} {value:.6g}" for name, value in best.setting.service.items()
    )
    return (
        f"{campaign.name} at {budget_name(divisor)} by {best.policy}, where requests say value_per_click "
        f"{money(best.setting.value_per_click or 0.0)}: python -m service --arm NAME=FOLDER {options}"
    )
