"""Metrics of arms: bundles, weights, reloads, shadows and canaries; it knows no arm."""

from __future__ import annotations

from service.metrics.buckets import (
    LATENCY_BUCKETS,
    LOG_ODDS_DIFFERENCE_BUCKETS,
    PCTR_DIFFERENCE_BUCKETS,
    SHARE_BUCKETS,
)
from service.metrics.series import Counters, Gauges, Histograms, Registry


class ArmFamilies:
    """Of what arms serve, of those that answer nothing, and of those that earn traffic."""

    def _declare_arms(self, registry: Registry) -> None:
        self.trained_missing = Gauges(
            "bidlight_trained_missing_share",
            "Share of the rows without a value of the field in the training part of the arm's bundle",
            ["arm", "field"],
            of_processes="max",
            registry=registry,
        )
        self.bundle = Gauges(
            "bidlight_bundle_info",
            "1 for the bundle that the arm serves; join it to other metrics on arm",
            ["arm", "bundle", "model", "variant"],
            of_processes="max",
            registry=registry,
        )
        self.arm_weight = Gauges(
            "bidlight_arm_weight",
            "Weight of the arm in the split now",
            ["arm"],
            of_processes="max",
            registry=registry,
        )
        self.arm_killed = Gauges(
            "bidlight_arm_killed",
            "1 for an arm that is killed, whose requests the control arm answers, else 0",
            ["arm"],
            of_processes="max",
            registry=registry,
        )
        self.cannot_bid = Counters(
            "bidlight_cannot_bid",
            "Looks at the arm, one a second at most, that found that the process can no longer bid with it",
            ["arm"],
            registry=registry,
        )
        self.reloads = Counters(
            "bidlight_reloads",
            "Reloads and rollbacks of the arms by outcome: ok, refused (nothing changed), or undone (a "
            "rollback came before all workers served it)",
            ["outcome"],
            registry=registry,
        )
        self.reload_time = Gauges(
            "bidlight_reload_timestamp_seconds",
            "Unix time at which the last reload or rollback of that outcome ended",
            ["outcome"],
            of_processes="max",
            registry=registry,
        )
        self.shadow_share = Gauges(
            "bidlight_shadow_share",
            "Share of the keys of the arm whose requests the shadow scores now; 0: it no longer does",
            ["arm", "shadow"],
            of_processes="max",
            registry=registry,
        )
        self.shadow_waiting = Gauges(
            "bidlight_shadow_waiting_requests",
            "Requests that were answered and wait for a shadow",
            of_processes="sum",
            registry=registry,
        )
        self.shadow_time_share = Gauges(
            "bidlight_shadow_time_share",
            "Share of a process's time that shadows may take, of the process that has least to spare",
            of_processes="min",
            registry=registry,
        )
        self.shadow_requests = Counters(
            "bidlight_shadow_requests",
            "Requests that the arm answered and the shadow scored afterwards",
            ["arm", "shadow"],
            registry=registry,
        )
        self.shadow_candidates = Counters(
            "bidlight_shadow_candidates",
            "Candidates of these requests",
            ["arm", "shadow"],
            registry=registry,
        )
        self.shadow_dropped = Counters(
            "bidlight_shadow_dropped",
            "Requests that the shadow was to score and has not, by reason: busy (no time was to spare), "
            "full (too many waited for shadows), late (for too long), gone (it no longer follows the arm, or "
            "has another bundle), refused (by its schema), nan (no finite number), or failed",
            ["arm", "shadow", "reason"],
            registry=registry,
        )
        self.shadow_pctr = Counters(
            "bidlight_shadow_pctr",
            "Sums over the candidates that both have scored, of the bundles' own pCTRs: the arm's and the "
            "shadow's",
            ["arm", "shadow", "pctr"],
            registry=registry,
        )
        self.shadow_pctr_difference = Histograms(
            "bidlight_shadow_pctr_difference",
            "The shadow's pCTR of a candidate less the arm's; the sum may fall",
            ["arm", "shadow"],
            buckets=PCTR_DIFFERENCE_BUCKETS,
            registry=registry,
        )
        self.shadow_log_odds_difference = Histograms(
            "bidlight_shadow_log_odds_difference",
            "The same of the log-odds of both pCTRs",
            ["arm", "shadow"],
            buckets=LOG_ODDS_DIFFERENCE_BUCKETS,
            registry=registry,
        )
        self.shadow_rank_agreement = Histograms(
            "bidlight_shadow_rank_agreement",
            "Share of the pairs of candidates of a request that the shadow orders as the arm does; Kendall's "
            "tau is twice that, less 1",
            ["arm", "shadow"],
            buckets=SHARE_BUCKETS,
            registry=registry,
        )
        self.shadow_best = Counters(
            "bidlight_shadow_best",
            "Requests of two candidates or more by whether the candidate with the shadow's highest pCTR has "
            "the arm's too: same, or other",
            ["arm", "shadow", "best"],
            registry=registry,
        )
        self.shadow_seconds = Histograms(
            "bidlight_shadow_seconds",
            "Seconds that the shadow took for a request: reading, encoding, scoring and comparing it",
            ["arm", "shadow"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.shadow_tokens = Counters(
            "bidlight_shadow_tokens",
            "Candidates with a token that the shadow scored, by outcome: kept, until their events come, or "
            "no_room",
            ["arm", "shadow", "outcome"],
            registry=registry,
        )
        self.shadow_events = Counters(
            "bidlight_shadow_events",
            "Events of the arm, counted within --click-window-seconds, whose candidate a shadow has scored, "
            "by type: impression, click",
            ["arm", "shadow", "type"],
            registry=registry,
        )
        self.shadow_shown_pctr = Counters(
            "bidlight_shadow_shown_pctr",
            "Sums of the pCTRs of these impressions, the arm's and the shadow's; over the clicks, its PCOC",
            ["arm", "shadow", "pctr"],
            registry=registry,
        )
        self.shadow_loss = Counters(
            "bidlight_shadow_loss",
            "Terms of the log losses of these impressions, the arm's and the shadow's: impressions, less "
            "clicked_impressions, and clicks",
            ["arm", "shadow", "pctr", "term"],
            registry=registry,
        )
        self.canary_share = Gauges(
            "bidlight_canary_share",
            "Part of the traffic of a canary and its control arm that the canary has, from 0 to 1; none "
            "without a canary",
            ["arm", "control"],
            of_processes="max",
            registry=registry,
        )
        self.canary_step = Gauges(
            "bidlight_canary_step",
            "Which of its steps a canary is at, from 1",
            ["arm"],
            of_processes="max",
            registry=registry,
        )
        self.canary_gate = Gauges(
            "bidlight_canary_gate",
            "What the gate knows against a canary, as a part of what takes it back: at 1 it does; none while "
            "too little is known",
            ["arm", "gate"],
            of_processes="max",
            registry=registry,
        )
        self.canary_verdicts = Counters(
            "bidlight_canary_verdicts",
            "What became of canaries: started, raised (the next step), finished, taken_back, or ended (by a "
            "command); gate is the one that failed, or none",
            ["arm", "verdict", "gate"],
            registry=registry,
        )
