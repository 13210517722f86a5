"""The work folder: what each stage of an export made, and a small JSON of how. It knows no stage's inside."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from export.errors import ExportError

Record = TypeVar("Record", bound=msgspec.Struct)
Say = Callable[[str], None]  # where a stage's lines for a person go

MARKER = ".bidlight-work"
# In order: what a stage makes is stale as soon as a stage before it runs again. `prune` may be left out.
OUTPUTS: dict[str, tuple[str, ...]] = {
    "fit-schema": ("log",),
    "train": ("dense.pt",),
    "prune": ("pruned.pt", "compact.pt", "renumberings.npz"),
    "to-onnx": ("model.float32.onnx", "model.pruned.onnx"),
    "quantize": ("model.int8.onnx",),
    "calibrate": ("calibration.json",),
    "package": (),
}


@dataclass(frozen=True)
class Work:
    """A folder with the outputs of the stages, each written beside its place and then renamed into it."""

    folder: Path

    @contextmanager
    def held(self, *, new: bool = False) -> Iterator[Work]:
        """Keeps other processes' stages out of the folder; with `new` it is made where there is none."""
        if new:
            self.claim()
        elif not self.folder.is_dir():
            yield self  # the stage says which one comes first
            return
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise ExportError(
                f"'work' must be one that no other export is using (got {self.folder}); "
                "wait for that one, or name another with --work"
            ) from None
        try:
            yield self
        finally:
            os.close(descriptor)

    def start(self, stage: str) -> None:
        """Removes what this stage and those after it made before, so that nothing stale can be read."""
        self.claim()
        stages = list(OUTPUTS)
        for later in stages[stages.index(stage) :]:
            for name in (*OUTPUTS[later], f"{later}.json"):
                _remove(self.folder / name)
        for leftover in self.folder.glob("*.partial"):
            _remove(leftover)

    def claim(self) -> None:
        """Makes the folder and marks it as ours; another's is refused, since outputs are removed in it."""
        if self.folder.exists() and not self.folder.is_dir():
            raise ExportError(
                f"'work' must be a folder (got the file {self.folder}); name another with --work"
            )
        marker = self.folder / MARKER
        if self.folder.is_dir() and not marker.exists() and any(self.folder.iterdir()):
            raise ExportError(
                "'work' must be a new, an empty or an earlier work folder "
                f"(got {self.folder} with other files); name another with --work"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        marker.touch()

    def path(self, name: str) -> Path:
        """Where an output lies; raises ExportError naming the stage that makes it when it is not there."""
        path = self.folder / name
        if not path.exists():
            stage = next(stage for stage, names in OUTPUTS.items() if name in (*names, f"{stage}.json"))
            raise ExportError(
                f"'{name}' must be in {self.folder} before this stage (got nothing there); "
                f"run `python -m export {stage} --work {self.folder}` first"
            )
        return path

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A path to write a file or folder to; it takes its name when the block ends without an exception."""
        partial = self.folder / f"{name}.partial"
        _remove(partial)
        try:
            yield partial
            partial.replace(self.folder / name)
        finally:
            _remove(partial)

    def write(self, name: str, content: bytes) -> None:
        with self.writing(name) as partial, partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def record(self, stage: str, record: msgspec.Struct) -> None:
        """Writes what the stage did, last of all: a stage with a record is a stage that ended."""
        self.write(f"{stage}.json", msgspec.json.format(msgspec.json.encode(record), indent=2))

    def read_record(self, stage: str, kind: type[Record]) -> Record:
        path = self.path(f"{stage}.json")
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except msgspec.MsgspecError as error:
            raise ExportError(
                f"'{path}' must be the record of the stage {stage} (got: {error}); run that stage again"
            ) from None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
