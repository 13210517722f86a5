"""The work folder: what each stage of an export made, and a record of how. It knows no stage's inside."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from export.errors import ExportError
from service.bundle.folders import discard, locked, replacing
from service.bundle.json_files import encode_json

Record = TypeVar("Record", bound=msgspec.Struct)
Say = Callable[[str], None]  # takes the lines that a stage tells the user


def hash_of(inputs: object) -> str:
    """What a folder or file that is kept is named by: a hash of all that decides what is in it."""
    return hashlib.sha256(msgspec.json.encode(inputs, order="deterministic")).hexdigest()


def silent(_: str) -> None:
    """Takes a line, and tells nobody."""


MARKER = ".bidlight-work"
# In order: what a stage makes is stale as soon as a stage before it runs again. `prune` may be left out.
OUTPUTS: dict[str, tuple[str, ...]] = {
    "fit-schema": ("log",),
    "train": ("dense.pt",),
    "baseline": ("baseline.onnx",),
    "prune": ("twin.pt", "pruned.pt", "compact.pt", "renumberings.npz"),
    "to-onnx": ("model.float32.onnx", "model.pruned.onnx"),
    "quantize": ("model.int8.onnx", "model.dynamic.onnx"),
    "calibrate": ("calibration.json",),
    "package": ("report",),
}
# No stage but `package` reads what these make.
ASIDE = ("baseline",)


@dataclass(frozen=True)
class Work:
    """A folder with the outputs of the stages, each of them whole."""

    folder: Path

    @contextmanager
    def held(self, *, new: bool = False, option: str = "work") -> Iterator[Work]:
        """Keeps other processes' stages out of the folder; `new` makes a folder that is missing.

        `option` is the one that named the folder.
        """
        if new:
            self.claim()
        elif not self.folder.is_dir():
            yield self  # the stage says which one comes first
            return
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder, wait=False))
            except BlockingIOError:
                raise ExportError(
                    f"'{option}' must be a folder that no other export is using (got {self.folder}); "
                    f"wait for that one, or name another with --{option}"
                ) from None
            yield self

    def start(self, stage: str) -> None:
        """Removes what this stage and those that need it made before, so that no stage reads stale output."""
        self.claim()
        stages = list(OUTPUTS)
        for later in (stage, "package") if stage in ASIDE else stages[stages.index(stage) :]:
            for name in (*OUTPUTS[later], f"{later}.json"):
                discard(self.folder / name)

    def claim(self) -> None:
        """Makes the folder and marks it. Raises ExportError for a foreign folder: stages remove files."""
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
        """Where an output lies. Raises ExportError, naming the stage that makes it, if it is missing."""
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
        """A path to write an output to; it takes its name when the block ends without an exception."""
        with replacing(self.folder / name) as incoming:
            yield incoming

    def write(self, name: str, content: bytes) -> None:
        with self.writing(name) as incoming:
            incoming.write_bytes(content)

    def record(self, stage: str, record: msgspec.Struct) -> None:
        """Writes what the stage did, last of all: a stage with a record has ended."""
        self.write(f"{stage}.json", encode_json(record))

    def read_record(self, stage: str, kind: type[Record]) -> Record:
        path = self.path(f"{stage}.json")
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except msgspec.MsgspecError as error:
            raise ExportError(
                f"'{path}' must be the record of the stage {stage} (got: {error}); run that stage again"
            ) from None
