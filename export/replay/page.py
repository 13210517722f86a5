"""Lays a replay out as one HTML page that needs no other file, in the look of the export report."""

from __future__ import annotations

from html import escape

from export.bundles.evaluation_page import rows_table
from export.replay.plots import outcomes_figure
from export.replay.records import CampaignReplay, Replay
from export.replay.tables import (
    SETTINGS,
    best_line,
    budget_name,
    budget_title,
    campaign_table,
    headline,
    money,
    notes,
    order_line,
    ordering_table,
    outcome_table,
    service_line,
    setting_table,
)
from export.report.layout import document, figure, section

ABOUT = (
    "The log holds auctions that its own bidder won, so a policy cannot win here what that bidder lost, and "
    "market prices above its bids are not known. Intervals hold the auctions that were won fixed, and count "
    "them anew: they tell luck among auctions, not among budgets or settings. Off pace: how far the spent "
    "share of the budget was from the passed share of the auctions, on average."
)
ABOUT_ORDER = (
    "▲ the first has more clicks beyond noise, ▼ fewer, no mark: nobody can tell. The published order is "
    "that of Zhang, Yuan & Wang, “Optimal Real-Time Bidding for Display Advertising”, KDD 2014."
)
ABOUT_SETTINGS = (
    "Requests say value_per_click, and the service multiplies it. The value is what a click cost in the "
    "training part, unless one was given; the product of both is what counts. The service knows no "
    "budget: who paces scales value_per_click."
)


def replay_page(found: Replay) -> str:
    """The whole page: clicks by budget, each budget's table, the published order, settings, campaigns."""
    settings = setting_table(found)
    sections = [
        _head(found),
        section("Clicks by budget", f"<p>{ABOUT}</p>", figure(outcomes_figure(found))),
        *(_budget(found, number) for number in range(len(found.best))),
        section(
            f"The published order: {order_line()}", f"<p>{ABOUT_ORDER}</p>", rows_table(ordering_table(found))
        )
        if found.ordering
        else "",
        section(
            SETTINGS,
            f"<p>{ABOUT_SETTINGS}</p>",
            rows_table(settings) if len(settings) > 1 else "",
            f"<pre>{escape(service_line(found))}</pre>",
        ),
        section(
            "Campaigns",
            rows_table(campaign_table(found)),
            *(_campaign(one) for one in found.campaigns),
        ),
    ]
    return document("Bid policies on logged auctions", [one for one in sections if one])


def _head(found: Replay) -> str:
    warnings = "".join(f'<p class="warning">{escape(line)}</p>' for line in notes(found))
    return (
        f"<h1>Bid policies on logged auctions</h1><p class='lead'>{escape(headline(found))}; "
        f"{escape(', '.join(found.files))}; {found.resamples} resamples.</p>{warnings}"
    )


def _budget(found: Replay, number: int) -> str:
    best = found.best[number]
    rows = [one for one in found.total if one.divisor == best.divisor]
    told = f"<p>{escape(best_line(best, found))}.</p>"
    return section(budget_title(found, best.divisor), told, rows_table(outcome_table(rows)))


def _campaign(one: CampaignReplay) -> str:
    """Everything of one campaign, folded."""
    curves = "; ".join(f"{name}: {words}" for name, words in one.curves.items())
    told = (
        f"<p>Tuned on {one.train_auctions:,} auctions with {one.train_clicks:,} clicks, judged on "
        f"{one.auctions:,} with {one.clicks:,}, market prices {money(one.cost)} in all. {escape(curves)}</p>"
    )
    tables = "".join(
        f"<p>Budget {budget_name(divisor)}</p>"
        + rows_table(outcome_table([each for each in one.outcomes if each.divisor == divisor]))
        for divisor in dict.fromkeys(each.divisor for each in one.outcomes)
    )
    return f"<details><summary>{escape(one.name)}</summary>{told}{tables}</details>"
