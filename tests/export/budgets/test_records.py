"""Which trials are on the front, and which one a budget chooses."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from export.budgets.records import AS_FAST, Form, Limits, Trial, best_of, front_of
from service.bundle.manifest import Parity

DENSE_AUC = 0.75
CHANGE = Parity(
    reference="float32",
    variant="int8",
    max_abs_logit=0.0,
    auc_delta=0.0,
    logloss_delta=0.0,
    auc_interval=(0.0, 0.0),
    logloss_interval=(0.0, 0.0),
)


def form_of(auc: float, microseconds: float, size: int) -> Form:
    return Form(
        variant="int8",
        auc=auc,
        validation=msgspec.structs.replace(CHANGE, auc_delta=auc - DENSE_AUC),
        unseen=CHANGE,
        bytes=size,
        share=microseconds / 10.0,
        microseconds=microseconds,
        live_neurons=(),
        parameters=1,
    )


def trial_of(number: int, form: Form | None) -> Trial:
    return Trial(number=number, name="drawn", values={}, seconds=1.0, form=form)


FORMS = st.builds(
    form_of,
    st.sampled_from([0.70, 0.72, 0.74, 0.76]),
    st.sampled_from([1.0, 1.04, 2.0, 5.0]),
    st.sampled_from([100, 1000]),
)
TRIALS = st.lists(st.none() | FORMS, min_size=1, max_size=8).map(
    lambda forms: [trial_of(number, form) for number, form in enumerate(forms, start=1)]
)
LIMITS = st.builds(
    Limits,
    microseconds=st.none() | st.sampled_from([1.5, 3.0]),
    bytes=st.none() | st.sampled_from([100, 500]),
    auc_loss=st.none() | st.sampled_from([0.0, 0.02]),
)


@given(TRIALS)
def test_the_front_is_what_no_other_trial_beats(trials: list[Trial]) -> None:
    front = [one.form for one in trials if one.number in front_of(trials) and one.form is not None]
    for one in trials:
        if one.form is None:
            assert one.number not in front_of(trials)
            continue
        as_good = [
            other
            for other in front
            if other.auc >= one.form.auc
            and other.microseconds <= one.form.microseconds
            and other.bytes <= one.form.bytes
        ]
        assert len(as_good) == 1 if one.number in front_of(trials) else as_good


@given(TRIALS, LIMITS)
def test_the_best_keeps_all_limits_and_none_that_keeps_them_has_more_auc(
    trials: list[Trial], limits: Limits
) -> None:
    within = [
        one.form
        for one in trials
        if one.form is not None
        and (limits.microseconds is None or one.form.microseconds <= limits.microseconds)
        and (limits.bytes is None or one.form.bytes <= limits.bytes)
        and (limits.auc_loss is None or DENSE_AUC - one.form.auc <= limits.auc_loss)
    ]
    best = best_of(trials, limits)
    if best is None:
        assert not within
        return
    assert best.form is not None
    assert best.form in within
    assert best.number in front_of(trials)  # of the others only a record is kept
    if limits.microseconds is None and limits.bytes is None:
        fastest = min(form.microseconds for form in within)
        as_fast = [form for form in within if form.microseconds <= (1.0 + AS_FAST) * fastest]
        assert best.form.auc == max(form.auc for form in as_fast)
    else:
        assert best.form.auc == max(form.auc for form in within)
