"""Every Prometheus metric of the service, defined once; it knows no request.

Label values come from the operator (arms, fields, stages); of what clients send, only the first unknown names
become labels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest

from service.features.store import IS_MISSING_REASONS
from service.metrics.memory import CountMemory
from service.metrics.names import MAX_UNKNOWN_NAMES, OTHER_NAMES, UnknownNames
from service.metrics.series import FULL, UNREADABLE, Counters, Gauges, Histograms, Labels, Registry

LATENCY_BUCKETS = (
    *(0.0001, 0.0002, 0.0003, 0.0005, 0.0007, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.007),
    *(0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.2, 0.5, 1.0),
)
STORE_BUCKETS = (
    *(0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005),
    *(0.01, 0.05, 0.2, 1.0),
)
ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
PCTR_BUCKETS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
CLICK_DELAY_BUCKETS = (
    *(1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800),
    *(3600, 7200, 14_400, 28_800, 43_200, 86_400),
)
PCTR_DIFFERENCE_BUCKETS = tuple(
    sign * size
    for sign, sizes in (
        (-1.0, (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002, 0.0001)),
        (1.0, (0.0, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)),
    )
    for size in sizes
)
LOG_ODDS_DIFFERENCE_BUCKETS = tuple(
    sign * size
    for sign, sizes in (
        (-1.0, (5.0, 3.0, 2.0, 1.5, 1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02)),
        (1.0, (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)),
    )
    for size in sizes
)
SHARE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1.0)
STAGES = ("decode", "encode", "queue", "inference", "calibration")


class Metrics:
    """What one process counts, in part `number` of the memory of all processes of its service.

    Without a memory it is the only process. Two services in a process do not mix.
    """

    def __init__(self, memory: CountMemory | None = None, number: int = 0) -> None:
        self.is_shared = memory is not None
        self.number = number
        registry = Registry(memory or CountMemory(), number)
        self.faults = Counters(
            "bidlight_metric_faults",
            "What these metrics lack, by reason: full (a series that has no room and is not counted), or "
            "unreadable (a process whose counts a scrape could not read to their end)",
            ["reason"],
            registry=registry,
        )
        registry.faults = {reason: self.faults.labels(reason) for reason in (FULL, UNREADABLE)}
        self.requests = Counters(
            "bidlight_requests",
            "Requests to /predict by outcome: ok, client_left, too_late (tmax_ms has passed), or an error's "
            "code; no arm if none was chosen",
            ["arm", "outcome"],
            registry=registry,
        )
        self.plain_requests = Counters(
            "bidlight_plain_requests",
            "Requests with outcome ok that the native core read and answered; Python did the others",
            ["arm"],
            registry=registry,
        )
        self.latency = Histograms(
            "bidlight_request_seconds",
            "Seconds from the end of a request's headers to its answer, for requests with outcome ok",
            ["arm"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.stages = Counters(
            "bidlight_stage_seconds",
            "Seconds in a stage. For a mean, divide decode and encode by bidlight_requests_total, queue by "
            "bidlight_batch_requests_sum, inference and calibration by bidlight_batch_rows_count",
            ["arm", "stage"],
            registry=registry,
        )
        self.batch_rows = Histograms(
            "bidlight_batch_rows",
            "Rows in a batch that ran; a row is one candidate of a request",
            ["arm"],
            buckets=ROW_BUCKETS,
            registry=registry,
        )
        self.batch_requests = Histograms(
            "bidlight_batch_requests",
            "Requests, or parts of large ones, in a batch that ran",
            ["arm"],
            buckets=ROW_BUCKETS,
            registry=registry,
        )
        self.queued_rows = Gauges(
            "bidlight_queued_rows",
            "Rows waiting for a batch now",
            ["arm"],
            of_processes="sum",
            registry=registry,
        )
        self.missing = Counters(
            "bidlight_missing_features",
            "Rows without a value of the field, out of bidlight_batch_rows_sum",
            ["arm", "field"],
            registry=registry,
            is_lasting=False,
        )
        self.trained_missing = Gauges(
            "bidlight_trained_missing_share",
            "Share of the rows without a value of the field in the training part of the arm's bundle",
            ["arm", "field"],
            of_processes="max",
            registry=registry,
        )
        self.out_of_vocabulary = Counters(
            "bidlight_oov_features",
            "Values of the field outside its vocabulary; a sequence has several values a row",
            ["arm", "field"],
            registry=registry,
            is_lasting=False,
        )
        self.unknown_names = Counters(
            "bidlight_unknown_names",
            f"Names sent that are no field; after the first {MAX_UNKNOWN_NAMES} of an arm, {OTHER_NAMES}",
            ["arm", "name"],
            registry=registry,
        )
        self.pctr = Histograms(
            "bidlight_pctr",
            "Calibrated click probabilities, one a row",
            ["arm"],
            buckets=PCTR_BUCKETS,
            registry=registry,
        )
        self.failed_rows = Counters(
            "bidlight_failed_rows",
            "Rows for which the graph gave no finite logit; their requests were answered with row_failed",
            ["arm"],
            registry=registry,
        )
        self.candidates = Counters(
            "bidlight_candidates",
            "Candidates answered, by outcome: bid, or no_bid (zero, below a floor, or no value_per_click)",
            ["arm", "outcome"],
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
        self.answers = Counters(
            "bidlight_answers",
            "Requests with outcome ok by what their answers rest on: full (the model), prior (click rates by "
            "a few fields, without the model), or no-bid",
            ["arm", "quality"],
            registry=registry,
        )
        self.unscored = Counters(
            "bidlight_unscored_answers",
            "Requests with outcome ok that the model did not score, by reason: killed (the arm is), time (not"
            " read within --max-queue-ms), queue (too many rows wait), or deadline (tmax_ms leaves no time)",
            ["arm", "reason"],
            registry=registry,
        )
        self.cannot_bid = Counters(
            "bidlight_cannot_bid",
            "Looks at the arm, one a second at most, that found that the process can no longer bid with it",
            ["arm"],
            registry=registry,
        )
        self.serving_processes = Gauges(
            "bidlight_serving_processes",
            "Processes that serve: the workers, or one; more while workers are replaced",
            of_processes="sum",
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
        self.user_lookups = Counters(
            "bidlight_user_lookups",
            "Requests whose user was looked up in the feature store",
            ["arm"],
            registry=registry,
        )
        self.user_is_missing = Counters(
            "bidlight_user_is_missing",
            f"Requests scored without their user's features, by reason: {', '.join(IS_MISSING_REASONS)}",
            ["arm", "reason"],
            registry=registry,
        )
        self.store_read = Histograms(
            "bidlight_store_read_seconds",
            "Seconds of a read of the feature store, for all requests of an event-loop iteration",
            buckets=STORE_BUCKETS,
            registry=registry,
        ).labels()
        self.unknown_ads = Counters(
            "bidlight_unknown_ads",
            "Candidates whose id is not in the catalogue and whose request lacks some of their features",
            ["arm"],
            registry=registry,
        )
        self.catalogue_ads = Gauges(
            "bidlight_catalogue_ads",
            "Ads in the catalogue of the arm",
            ["arm"],
            of_processes="max",
            registry=registry,
        )
        self.catalogue_read = Gauges(
            "bidlight_catalogue_read_timestamp_seconds",
            "When the ads of the arm's catalogue were read, Unix time; of several processes, the oldest",
            ["arm"],
            of_processes="min",
            registry=registry,
        )
        self.catalogue_refreshes = Counters(
            "bidlight_catalogue_refreshes",
            "Refreshes of the catalogue by outcome: ok; failed, or refused for what they would lose (the old "
            "ads stay)",
            ["outcome"],
            registry=registry,
        )
        self.user_refreshes = Counters(
            "bidlight_user_refreshes",
            "Files of users that replaced others, by outcome: ok; failed, or refused for what they would "
            "lose (the old users stay)",
            ["outcome"],
            registry=registry,
        )
        self.accept_pauses = Counters(
            "bidlight_accept_pauses",
            "Moments in which new connections had to wait, by reason: connections (as many are open as the "
            "limit of open files allows), or system (it accepts none)",
            ["reason"],
            registry=registry,
        )
        self.refusals = Counters(
            "bidlight_refusals",
            "Requests to /predict that got a 429, by reason: time (not read within --max-queue-ms), deadline "
            "(tmax_ms has passed), queue (too many rows wait), or bytes (of requests under way are too many)",
            ["reason"],
            registry=registry,
        )
        self.refusal_time = Gauges(
            "bidlight_refusal_timestamp_seconds",
            "Unix time of the last of these, by reason",
            ["reason"],
            of_processes="max",
            registry=registry,
        )
        self.wait = Histograms(
            "bidlight_wait_seconds",
            "Seconds from the arrival of a request until it was read, of those that had to wait",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.waiting = Gauges(
            "bidlight_waiting_requests",
            "Requests that have arrived and are not read or refused yet",
            of_processes="sum",
            registry=registry,
        )
        self.oldest_wait = Gauges(
            "bidlight_oldest_wait_seconds",
            "Age of the oldest request that has arrived and is not read or refused yet",
            of_processes="max",
            registry=registry,
        )
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
        self.logged_examples = Counters(
            "bidlight_example_log_requests",
            "Requests of the log of examples: written, or lost (the disk is full, or too slow)",
            ["outcome"],
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
            "Clicks that the arm's live calibration is fitted from, older ones in part",
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
            "Requests that the shadow was to score and has not, by reason: busy (others waited to be read), "
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
        self.trace_spans = Counters(
            "bidlight_trace_spans",
            "Spans of traced requests by what became of them: sent, failed (the collector did not take "
            "them), or dropped (there was no room for them)",
            ["outcome"],
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
        self.families = registry.families
        self._show_zeros()
        self._unknown_names: dict[str, UnknownNames] = {}
        self._registry = registry
        self._exposed = CollectorRegistry()
        self._exposed.register(registry)
        if not self.is_shared:
            ProcessCollector(registry=self._exposed)

    def refuse(self, arm: str, outcome: str) -> None:
        """Count a request that was not answered; `arm` is empty if none was chosen."""
        self.requests.labels(arm, outcome).inc()

    def unknown_names_of(self, arm: str) -> UnknownNames:
        """What counts the unknown names of an arm, also after a reload."""
        return self._unknown_names.setdefault(arm, UnknownNames(self.unknown_names, arm))

    def _show_zeros(self) -> None:
        """Show what is rare, and alerted on, before it happens: a series that begins at 1 has no increase."""
        for family, values in (
            (self.reloads, ("ok", "refused", "undone")),
            (self.catalogue_refreshes, ("ok", "failed", "refused")),
            (self.user_refreshes, ("ok", "failed", "refused")),
            (self.accept_pauses, ("connections", "system")),
            (self.refusals, ("time", "deadline", "queue", "bytes")),
            (self.log_events, ("written", "lost")),
            (self.logged_examples, ("written", "lost")),
            (self.trace_spans, ("sent", "failed", "dropped")),
        ):
            for value in values:
                family.labels(value)

    def retain(
        self, bundles: Collection[Labels], fields: Collection[Labels], trained: Collection[Labels]
    ) -> None:
        """Show these bundles and fields alone; a label for each that was served before would have no end.

        They are values of labels: of `bundle`, of `missing` and `out_of_vocabulary`, of `trained_missing`.
        """
        self.bundle.retain(bundles)
        self.missing.retain(fields)
        self.out_of_vocabulary.retain(fields)
        self.trained_missing.retain(trained)

    def totals(self) -> dict[tuple[str, Labels], Sequence[float]]:
        """The numbers of each series, by name of the metric without suffix and labels, over all workers."""
        return self._registry.totals()

    def sums(self, wanted: Iterable[tuple[str, Labels]]) -> dict[tuple[str, Labels], Sequence[float]]:
        """The numbers of some series of counters and histograms, by name without suffix and labels."""
        return self._registry.sums(wanted)

    def exposition(self) -> tuple[bytes, str]:
        """The body of a scrape, summed over all workers, and its content type."""
        return generate_latest(self._exposed), CONTENT_TYPE_LATEST
