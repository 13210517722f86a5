"""The command replay: logged auctions -> which bid policy wins the most clicks, and its settings."""

from __future__ import annotations

import time

import numpy as np

from export.bundles.files import Say, check_out_folder, hand_over
from export.bundles.reading import tell
from export.errors import ExportError
from export.replay.auctions import Auctions, read_campaigns
from export.replay.campaign import RESAMPLES, Played, fault_of, play
from export.replay.outcomes import CLICKS, FIGURES, best_of, ordering, totals
from export.replay.plan import ReplayPlan
from export.replay.records import Replay


def replay(plan: ReplayPlan, *, say: Say = print) -> Replay:
    """The policies of the plan on its auctions: tables for people, a line of JSON, a page if one is wanted.

    The same plan on the same files gives the same figures. Raises ExportError, OSError.
    """
    from export.replay.page import replay_page
    from export.replay.tables import replay_lines

    started = time.perf_counter()
    if plan.out is not None:
        check_out_folder(plan.out)
    campaigns, skipped = read_campaigns(plan)
    left_out = {name: why for name, one in campaigns.items() if (why := fault_of(one, plan.train_share))}
    played = _play(plan, {name: one for name, one in campaigns.items() if name not in left_out}, left_out)
    lines = np.sum([one.lines for one in played], axis=0)
    records = tuple(one.record for one in played)
    clicks = lines[FIGURES.index(CLICKS)]
    found = Replay(
        files=tuple(path.name for path in plan.auctions),
        auction_type=plan.auction_type,
        pacing=plan.pacing,
        train_share=plan.train_share,
        price_per=plan.price_per,
        skipped_rows=skipped,
        left_out=left_out,
        campaigns=records,
        total=totals(records, lines),
        best=best_of(plan.policies, plan.budgets, clicks, records),
        ordering=ordering(plan.policies, plan.budgets, clicks),
        resamples=RESAMPLES,
        seconds=round(time.perf_counter() - started, 3),
    )
    hand_over(found, replay_lines(found), lambda: replay_page(found), plan.out, "replay", say)
    return found


def _play(plan: ReplayPlan, campaigns: dict[str, Auctions], left_out: dict[str, str]) -> list[Played]:
    """Each campaign by itself. Raises ExportError where none is left."""
    if not campaigns:
        name, why = next(iter(left_out.items()))
        raise ExportError(
            f"'auctions' must hold a campaign with clicks and prices in both parts (got {name}: {why}); name "
            "a longer log, or another --train-share"
        )
    played = []
    for number, (name, auctions) in enumerate(campaigns.items()):
        tell(plan, f"replaying {name}: {len(auctions):,} auctions ({number + 1} of {len(campaigns)})")
        played.append(play(plan, name, auctions, number))
    return played
