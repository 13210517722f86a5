"""All models on one log: encode it once, train and export each, judge them together, write tables and page.

`Contender` does what concerns one model.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from export.compare.contender import Contender
from export.compare.jobs import outcomes
from export.compare.judge import REFERENCE, RESAMPLES, Results, judge, time_and_choose, versions
from export.compare.overrides import check_overrides, settle
from export.compare.page import comparison_page
from export.compare.plan import ALL, ComparePlan
from export.compare.records import Comparison, Failure, Result, Row
from export.compare.tables import as_text
from export.data.encoded import open_log
from export.data.log_schema import load_log_schema
from export.data.progress import Bar
from export.errors import ExportError
from export.report.files import write_texts
from export.report.machine import machine
from export.stages.fit_schema import kept_log
from export.stages.pipeline import Clock, check_export
from export.stages.records import LogSummary
from export.stages.taught import check_distillation
from export.stages.work import Say, Work
from export.train.build import check_fields, hyperparameters_of
from models import MODELS
from service.bundle.json_files import encode_json

JSON, TEXT, PAGE = "compare.json", "compare.txt", "compare.html"


def compare(plan: ComparePlan, *, say: Say = print) -> Comparison:
    """Trains, exports and judges every model of the plan; writes OUT/compare.json, .txt and .html.

    A model that fails is listed with its reason. Results are kept in the work folder as they come, and a plan
    with the same inputs for that model and log uses them again. Raises ExportError where nothing can be
    compared at all.
    """
    models = chosen_models(plan.models)
    check_overrides(plan.overrides, models)
    for model in models:
        _, training = settle(model, plan.common, plan.overrides, plan.training)
        check_distillation(training, ())
        training.config(rows=1)
    check_export(plan)
    _check_fields(plan, models)
    if plan.jobs > 1 and os.environ.get("WORLD_SIZE", "1") != "1":
        raise ExportError(
            f"'jobs' must be 1 under torchrun (got {plan.jobs}), whose processes train each model together; "
            "leave out one of the two"
        )
    plan.out.mkdir(parents=True, exist_ok=True)
    with Work(plan.work).held(new=True) as work:
        return _compare(plan, models, work, Clock(say))


def check_used(plan: ComparePlan) -> None:
    """Raises ExportError for what would concern none of the models."""
    models = chosen_models(plan.models)
    for name, value in plan.common.items():
        if not any(name in hyperparameters_of(model) for model in models):
            raise ExportError(
                f"'{name}' must be left out where no model takes it (got {value!r}); "
                "`python -m export models NAME` tells what one takes"
            )
    for model in plan.again:
        if model not in models:
            raise ExportError(
                f"'again' must name models that are compared (got {model!r}); add it to --models"
            )


def _check_fields(plan: ComparePlan, models: Sequence[str]) -> None:
    """Raises ExportError, before a row is read, where the log has the fields of no model."""
    log_schema = load_log_schema(plan.schema)
    reasons = []
    for model in models:
        hyperparameters, _ = settle(model, plan.common, plan.overrides, plan.training)
        try:
            check_fields(model, hyperparameters, log_schema, plan.embedding)
        except ExportError as error:
            reasons.append(str(error))
    if len(reasons) == len(models):
        raise ExportError(f"at least one model must be possible (got none); {'; '.join(reasons)}")


def chosen_models(names: Sequence[str]) -> tuple[str, ...]:
    """Names of MODELS, in its order. Raises ExportError for an unknown one."""
    for name in names:
        if name not in MODELS and name != ALL:
            raise ExportError(
                f"'models' must be {ALL} or among {', '.join(MODELS)} (got {name!r}); "
                "`python -m export models` tells what each is"
            )
    return tuple(name for name in MODELS if name in names or ALL in names)


def _compare(plan: ComparePlan, models: Sequence[str], work: Work, clock: Clock) -> Comparison:
    say = clock.say
    clock.stage("log", f"{plan.data.name} by the schema {plan.schema}")
    summary = kept_log(work, plan, say=say)
    contenders = [one for model in models for one in contenders_of(plan, model, summary, work)]
    clock.stage("models", f"{', '.join(models)}, {_times(plan.seeds, 'seed')}, {_times(plan.jobs, 'job')}")
    results, failures = _compete(plan, contenders, say)
    if not results:
        reasons = "; ".join(f"{one.model}: {one.reason}" for one in failures)
        raise ExportError(f"at least one model must come through (got none); {reasons}")
    clock.stage("judge", ", ".join(results))
    test = open_log(work.path("log")).parts["test"]
    rows = judge(results, time_and_choose(results, test), np.asarray(test.labels))
    comparison = _comparison(plan, summary, rows, failures, results)
    write(comparison, plan.out)
    say(f"\n{as_text(comparison)}")
    say(f"wrote {plan.out / PAGE}, {JSON} and {TEXT}")
    best = next(one for one, _ in results[rows[0].model])
    say(f"a bundle of the best: python -m export package --work {best.work.folder} --out FOLDER")
    return comparison


def _times(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def contenders_of(plan: ComparePlan, model: str, log: LogSummary, work: Work) -> list[Contender]:
    """The contenders of one model, one a seed; `work` holds the log."""
    rows, clicks = log.rows["train"], log.clicks["train"]
    hyperparameters, training = settle(model, plan.common, plan.overrides, plan.training)
    config = training.config(rows, clicks, model=model)
    if plan.jobs > 1 and config.threads is None:
        config = replace(config, threads=max(1, (os.cpu_count() or 1) // plan.jobs))
    return [
        Contender(
            model=model,
            hyperparameters=hyperparameters,
            embedding=plan.embedding,
            config=replace(config, seed=config.seed + number),
            pruning=plan.pruning,
            graphs=plan.graphs,
            shared=work.folder.resolve(),
            log_key=log.key,
        )
        for number in range(plan.seeds)
    ]


def _compete(
    plan: ComparePlan, contenders: Sequence[Contender], say: Say
) -> tuple[Results, tuple[Failure, ...]]:
    """The results and failures, of now or of an earlier run, in the order of the contenders."""
    found: dict[tuple[str, int], Result | Failure] = {}
    for one in contenders:
        kept = None if one.model in plan.again else one.kept()
        if kept is not None:
            found[one.model, one.seed] = kept
            say(f"{one.model}: kept from an earlier run (seed {one.seed})")
    missing = [one for one in contenders if (one.model, one.seed) not in found]
    with Bar("models", len(missing), unit="models", whole=True) as bar:
        for outcome in outcomes(missing, jobs=plan.jobs, say=say):
            found[outcome.model, outcome.seed] = outcome
            bar.add(1)
            say(f"{len(found)} of {len(contenders)} done")
    results: dict[str, list[tuple[Contender, Result]]] = {}
    failures = []
    for one in contenders:
        outcome = found[one.model, one.seed]
        if isinstance(outcome, Failure):
            failures.append(outcome)
        else:
            results.setdefault(one.model, []).append((one, outcome))
    return results, tuple(failures)


def _comparison(
    plan: ComparePlan,
    summary: LogSummary,
    rows: tuple[Row, ...],
    failures: tuple[Failure, ...],
    results: Results,
) -> Comparison:
    metrics = next(iter(results.values()))[0][1].metrics
    return Comparison(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        versions=versions(),
        options=_plain(plan),
        log=msgspec.structs.replace(summary, options=(), key="", data=""),  # no paths of this machine
        auc_of_true_pctr=next(iter(metrics.values())).auc_of_true_pctr,
        best=rows[0].model,
        reference=REFERENCE if REFERENCE in results else None,
        resamples=RESAMPLES,
        rows=rows,
        failures=failures,
    )


def _plain(plan: ComparePlan) -> dict[str, Any]:
    """The options of the comparison as JSON; folders of this machine are left out."""
    options = asdict(plan)
    for name in ("out", "work", "again"):
        del options[name]
    options["data"], options["schema"] = plan.data.name, Path(plan.schema).name
    options["training"] = plan.training.given
    return msgspec.json.decode(msgspec.json.encode(options), type=dict[str, Any])


def write(comparison: Comparison, out: Path) -> None:
    """The comparison as OUT/compare.json, compare.txt and compare.html, each whole or as it was."""
    texts = {
        JSON: encode_json(comparison).decode(),
        TEXT: as_text(comparison) + "\n",
        PAGE: comparison_page(comparison),
    }
    write_texts(out, texts)


def read_comparison(folder: Path) -> Comparison:
    """The finished comparison of a folder. Raises ExportError where there is none."""
    path = folder / JSON
    try:
        return msgspec.json.decode(path.read_bytes(), type=Comparison)
    except FileNotFoundError:
        raise ExportError(
            f"'show' must be the folder of a finished comparison (got {folder}, with no {JSON}); "
            "run `python -m export compare --out` with it first"
        ) from None
    except msgspec.MsgspecError as error:
        raise ExportError(f"'{path}' must be a comparison (got: {error}); compare again") from None
