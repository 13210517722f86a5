"""Makes one job: a model trained, pruned, taught, quantized as its build says, and judged on the test part.

What it begins with is made first and kept as a job of its own: a pruned model's dense one, a student's
teacher. It knows no table and no paper.
"""

from __future__ import annotations

import contextlib
import shutil
import time
import traceback
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.papers.cells import Build
from benchmarks.papers.results import PCTR, Cabinet, Job, Refused, Result
from benchmarks.papers.settle import CannotRun, embedding_of, parameters_of, recipe_of
from export.budgets.subject import link
from export.compress.choice import PruneChoice
from export.data.encoded import EncodedLog, open_log
from export.errors import ExportError
from export.judge.metrics import evaluate, sigmoid
from export.stages.calibration_methods import fit_platt
from export.stages.dense_twin import dense_checkpoint, make_dense_twin
from export.stages.plan import GraphPlan
from export.stages.prune import prune
from export.stages.quantize import quantize
from export.stages.records import Graphs, Pruned, Trained, Twin
from export.stages.to_onnx import to_onnx
from export.stages.train import train
from export.stages.variants import DENSE, DYNAMIC, INT8, PRUNED, Variant, read_variants
from export.stages.work import Work, silent
from export.teach.lesson import Lesson
from export.train.checkpoint import load_checkpoint
from export.train.choices import TrainChoice
from export.train.config import DISTILLATION, TrainConfig
from export.train.loop import predict_logits
from service.bundle.errors import BundleError

TRAINED = ("train.json", "dense.pt")
JUDGED = ("calibration", "test")
TRACEBACK = "failure.txt"
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Maker:
    """Makes jobs in a cabinet. `logs` has the work folder of each target's log; `most` bounds parameters."""

    cabinet: Cabinet
    logs: dict[str, Work]
    most: int

    def make(self, job: Job) -> Result | Refused:
        """The outcome, kept from an earlier run where there is a result. Ctrl-C leaves no half of it."""
        kept = self.cabinet.result(job)
        if kept is not None:
            return kept
        started = time.perf_counter()
        try:
            found: Result | Refused = self._made(job, started)
        except (ExportError, BundleError) as error:
            found = _refused(job, str(error))
        except Exception as error:  # of any kind: the other cells go on, and the table says why
            found = _refused(job, f"{type(error).__name__}: {error}")
            with contextlib.suppress(OSError):
                path = self.cabinet.work(job).folder / TRACEBACK
                path.write_text(traceback.format_exc(), encoding="utf-8")
        self.cabinet.write(job, found)
        return found

    def _made(self, job: Job, started: float) -> Result:
        build, log_work = job.build, self.logs[job.build.target]
        log = open_log(log_work.path("log"))
        recipe_of(build)
        total, of_layers = parameters_of(build, log.schema, self.most)
        work = self._fresh(job, log_work)
        if build.is_trained_alone:
            self._train(job, work, log)
        else:
            parent = self._needed(job.of(build.trained))
            for name in TRAINED:
                link(work.folder / name, self.cabinet.work(parent).folder / name)
        pruned, note = _shrink(work, build, log)
        size, logits = _graph_logits(work, build, log) if build.quantization else _torch_logits(work, log)
        np.save(work.folder / PCTR, (pctr := _fitted_pctr(logits, log)))
        trained = work.read_record("train", Trained)
        if build.quantization == "qat":
            note = _told_of_qat(work)
        elif trained.untaught is not None:
            note = "alone, as it was better" if trained.untaught.better else "taught, as it was better"
        test = log.parts["test"]
        parameters = total if pruned is None else pruned.parameters[1]
        return Result(
            key=job.key,
            build=_plain(build),
            seed=job.seed,
            log=job.source,
            metrics=evaluate(test.labels, pctr, test.true_pctr),
            parameters=parameters,
            layer_parameters=of_layers,
            bytes=size or 4 * parameters,
            epochs=float(trained.best_epoch),
            seconds=time.perf_counter() - started,
            reached={} if pruned is None else pruned.reached,
            live_neurons=() if pruned is None else pruned.live_neurons,
            live_pairs=None if pruned is None else pruned.live_pairs,
            kept=note,
        )

    def graph(self, job: Job) -> Variant:
        """The graph of a job that has a result; it is made where nobody needed it before."""
        work, log = self.cabinet.work(job), open_log(self.logs[job.build.target].path("log"))
        if not work.has("to-onnx.json"):
            to_onnx(work, say=silent)
        variants = read_variants(work, log.schema)
        return variants[variant_of(job.build, variants)]

    def _needed(self, job: Job) -> Job:
        """The job that another one begins with. Raises CannotRun where it has no result."""
        found = self.make(job)
        if isinstance(found, Refused):
            raise CannotRun(f"it begins with a model that cannot be made: {found.reason}")
        return job

    def _fresh(self, job: Job, log_work: Work) -> Work:
        """The job's folder with its log alone."""
        work = self.cabinet.work(job)
        shutil.rmtree(work.folder, ignore_errors=True)
        work.claim()
        for name in ("log", "fit-schema.json"):
            link(work.folder / name, log_work.folder / name)
        return work

    def _train(self, job: Job, work: Work, log: EncodedLog) -> None:
        build, config = job.build, config_of(job, log)
        taught = None
        if build.teacher is not None:
            teacher = self._needed(job.of(build.teacher))
            lesson = Lesson((self.cabinet.work(teacher).path("dense.pt"),))
            taught = lesson(work, config, say=silent)
        hyperparameters, embedding = dict(build.hyperparameters), embedding_of(build)
        train(work, build.model, hyperparameters, config, embedding=embedding, taught=taught, say=silent)


def _refused(job: Job, reason: str) -> Refused:
    plain, words = _plain(job.build), " ".join(reason.split())
    return Refused(key=job.key, build=plain, seed=job.seed, log=job.source, reason=words)


def config_of(job: Job, log: EncodedLog) -> TrainConfig:
    """How a job trains: fitted to the log, or as its paper says, then what the run and the build say."""
    build, part = job.build, log.parts["train"]
    given: dict[str, Any] = dict(job.settings["training"])
    if job.settings["as_paper"]:
        given |= build.paper_training
        if given.get("optimizer") == "ftrl":
            given.pop("learning_rate", None)
            given.pop("schedule", None)
    epochs = job.settings["epochs"]
    given |= build.training
    if epochs is not None:
        given["epochs"] = min(epochs, given.get("epochs", epochs))
    if build.teacher is None:
        given = {name: value for name, value in given.items() if name not in DISTILLATION}
    else:
        given.setdefault("distill_twin", "skip")
    choice = TrainChoice(threads=1, seed=job.seed, **given)
    return choice.config(len(part), part.clicks, model=build.model)


def _shrink(work: Work, build: Build, log: EncodedLog) -> tuple[Pruned | None, str]:
    """Prunes, or trains on without pruning; what came of it, and which model counts."""
    choice = PruneChoice(dense_twin="skip")
    if build.trained_on:
        trained = work.read_record("train", Trained).config
        config = replace(trained, warmup_steps=0, learning_rate=choice.prune_learning_rate)
        twin: Twin = make_dense_twin(work, log, config, choice, silent)
        return None, "trained on" if twin.better else "as trained, which was better than trained on"
    if not build.rates:
        return None, ""
    return prune(work, choice, recipe=recipe_of(build), say=silent), ""


def _torch_logits(work: Work, log: EncodedLog) -> tuple[int, dict[str, Floats]]:
    """0 for a graph that is not made, and the logits of the parts that are judged."""
    name = "pruned.pt" if work.has("pruned.pt") else None
    path = dense_checkpoint(work) if name is None else work.path(name)
    network = load_checkpoint(path, log.schema).model
    return 0, {part: predict_logits(network, log.parts[part].ids) for part in JUDGED}


def _graph_logits(work: Work, build: Build, log: EncodedLog) -> tuple[int, dict[str, Floats]]:
    """Bytes of the quantized graph, and its logits of the parts that are judged."""
    to_onnx(work, say=silent)
    ship: Any = "pruned" if build.rates else "dense"
    how: Any = build.quantization
    quantize(work, GraphPlan(ship=ship, quantization=how), say=silent)
    variants = read_variants(work, log.schema)
    variant = variants[variant_of(build, variants)]
    return len(variant.graph), {part: variant.score(log.parts[part]) for part in JUDGED}


def _told_of_qat(work: Work) -> str:
    found = work.read_record("quantize", Graphs).qat
    if found is not None and found.better:
        return "trained as INT8"
    return "static INT8, which training did not make better"


def _fitted_pctr(logits: dict[str, Floats], log: EncodedLog) -> NDArray[np.float64]:
    """pCTRs of the test part, after a line that is fitted to the calibration part."""
    labels = np.asarray(log.parts["calibration"].labels)
    line = fit_platt(logits["calibration"].astype(np.float64), labels)
    return sigmoid(line.logits(logits["test"]))


def variant_of(build: Build, variants: dict[str, Variant]) -> str:
    """The graph that a build is about. Raises CannotRun where it is missing."""
    if not build.quantization:
        return PRUNED if build.rates else DENSE
    wanted = DYNAMIC if build.quantization == "dynamic" else INT8
    if wanted not in variants:
        raise CannotRun(f"its graph has nothing that {build.quantization} INT8 could be made of")
    return wanted


def _plain(build: Build) -> dict[str, Any]:
    """The build as JSON, without what is as by default."""
    plain, default = asdict(build), asdict(Build(model=build.model))
    found = {name: value for name, value in plain.items() if value != default[name] or name == "model"}
    return msgspec.json.decode(msgspec.json.encode(found), type=dict[str, Any])
