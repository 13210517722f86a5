"""Metrics of feedback and of the live calibration that learns from it; it knows no event."""

from __future__ import annotations

from service.metrics.buckets import CLICK_DELAY_BUCKETS
from service.metrics.series import Counters, Gauges, Histograms, Registry


class FeedbackFamilies:
    """Of impressions and clicks, of what is kept of them, and of what they change."""

    def _declare_feedback(self, registry: Registry) -> None:
        self.events = Counters(
            "bidlight_feedback_events",
            "Events of feedback by type (impression, click, or none if it was neither) and outcome: counted, "
            "duplicate, or why it was refused; no arm where the token does not tell",
            ["arm", "type", "outcome"],
            registry=registry,
        )
        self.shown_pctr = Counters(
            "bidlight_shown_pctr",
            "Sum of the pCTRs, as the bundle gave them, of the impressions that were counted",
            ["arm"],
            registry=registry,
        )
        self.explored_events = Counters(
            "bidlight_explored_events",
            "Events of explored requests among those that were counted, by type: impression, click",
            ["arm", "type"],
            registry=registry,
        )
        self.explored_pctr = Counters(
            "bidlight_explored_pctr",
            "Sum of the pCTRs, as the bundle gave them, of the impressions of explored requests",
            ["arm"],
            registry=registry,
        )
        self.click_delay = Histograms(
            "bidlight_click_delay_seconds",
            "Seconds from the answer that held a token to the click, of clicks that were counted",
            ["arm"],
            buckets=CLICK_DELAY_BUCKETS,
            registry=registry,
        )
        self.late_clicks = Counters(
            "bidlight_late_clicks",
            "Clicks that were counted later than --click-window-seconds after their token",
            ["arm"],
            registry=registry,
        )
        self.feedback_window = Gauges(
            "bidlight_feedback_window_seconds",
            "How old a token may be: --attribution-seconds, or less if more events come than are remembered",
            of_processes="max",
            registry=registry,
        )
        self.feedback_requests = Counters(
            "bidlight_feedback_requests",
            "Requests with feedback by route (list, impression, click) and outcome: ok, client_left, or an "
            "error's code",
            ["route", "outcome"],
            registry=registry,
        )
        self.log_events = Counters(
            "bidlight_feedback_log_events",
            "Events of the log of feedback: written, lost (the disk is full, or too slow), restored (read "
            "again at start), or unreadable (lines that were not)",
            ["outcome"],
            registry=registry,
        )
        self.log_cuts = Counters(
            "bidlight_feedback_log_cuts",
            "Files of the log of feedback that were not closed, found at the start: of each, the last second "
            "of events may be missing",
            registry=registry,
        )
        self.feedback_checks = Counters(
            "bidlight_feedback_checks",
            "New events by what --feedback-store said: first (they count here), known (another machine has "
            "counted them), or unchecked (no answer in time: they count); then of these: confirmed, twice "
            "(another machine has counted them too), or forgotten (too many waited)",
            ["outcome"],
            registry=registry,
        )
        self.feedback_unchecked = Gauges(
            "bidlight_feedback_unchecked_events",
            "Events that wait to be asked for again in --feedback-store",
            of_processes="sum",
            registry=registry,
        )
        self.feedback_store_connected = Gauges(
            "bidlight_feedback_store_connected",
            "1 while each process is connected to --feedback-store, otherwise 0; absent without one",
            of_processes="min",
            registry=registry,
        )
        self.live_revision = Gauges(
            "bidlight_live_revision",
            "Revision of the arm's live calibration: how often it was changed, 0 before; with observe, as it "
            "would be",
            ["arm"],
            of_processes="max",
            registry=registry,
        )
        self.live_intercept = Gauges(
            "bidlight_live_intercept",
            "Intercept of the arm's live calibration: log-odds become intercept + slope * log-odds",
            ["arm"],
            of_processes="sum",
            registry=registry,
        )
        self.live_slope = Gauges(
            "bidlight_live_slope",
            "Slope of the arm's live calibration",
            ["arm"],
            of_processes="sum",
            registry=registry,
        )
        self.live_clicks = Gauges(
            "bidlight_live_clicks",
            "Clicks that the arm's live calibration is fitted from, older ones in part, as independent ones",
            ["arm"],
            of_processes="sum",
            registry=registry,
        )
        self.live_pcoc = Gauges(
            "bidlight_live_pcoc",
            "Predicted over observed clicks of that evidence: of the bundle's own pCTRs (bundle), and with "
            "the calibration (live)",
            ["arm", "pctr"],
            of_processes="sum",
            registry=registry,
        )
        self.live_decisions = Counters(
            "bidlight_live_decisions",
            "Decisions on the arm's live calibration: fitted, then adopted or rejected, and reverted; while "
            "it is frozen, they change nothing",
            ["arm", "decision"],
            registry=registry,
        )
        self.live_frozen = Gauges(
            "bidlight_live_frozen",
            "1 if the arm's live calibration is frozen by a command, so that it stays as it is, otherwise 0",
            ["arm"],
            of_processes="max",
            registry=registry,
        )
        self.live_dispersion = Gauges(
            "bidlight_live_dispersion",
            "How many clicks of the arm are worth an independent one: above 1 where rows that come together "
            "have much in common",
            ["arm"],
            of_processes="max",
            registry=registry,
        )
        self.live_joined = Gauges(
            "bidlight_live_joined",
            "1 while live calibrations are decided with the other machines of --feedback-store, 0 while this "
            "one learns alone; absent without one",
            of_processes="max",
            registry=registry,
        )
        self.live_machines = Gauges(
            "bidlight_live_machines",
            "Services whose counts live calibrations were last decided from",
            of_processes="max",
            registry=registry,
        )
