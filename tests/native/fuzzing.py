"""Fuzzes the native core: builds the targets in native/fuzz, and holds what they keep against Python.

`python -m tests.native.fuzzing` runs each target for some seconds. libFuzzer changes inputs, and keeps those
that reach code which none before them did. Sanitizers end a target at the first access out of bounds or
undefined step, and the target itself where a claim does not hold. Every body that was kept is then answered
with the core and without it. The folder keeps all inputs, so that another run goes on from there.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from service.bundle.native import IS_BUILT
from tests.native.seeds import SEEDS, describe
from tests.running import REPOSITORY
from tests.service.http.bodies import KINDS, wide_schema
from tests.service.http.two_ways import difference, outcome_of, start
from tests.tiny_bundle import write_tiny_bundle

COMPILERS = "clang++", *(f"clang++-{version}" for version in range(40, 13, -1))
MAX_CANDIDATES = 50  # as in native/fuzz/bodies.cpp
SECONDS_AN_INPUT = 10
TOO_LATE = 429  # of a body that leaves too little time, which one way may keep and the other not
# Numbers stand where requests have one: as prices, features, and texts that are hashed.
AROUND_NUMBERS = (
    b'{"candidates": [{"value_per_click": %b, "features": {"price": %b, "campaign": %b}}]}',
    b'{"tmax_ms": %b, "context": {"hour": %b}, "candidates": [{"bid_floor": %b}]}',
)


class CannotFuzz(Exception):
    """Something that the fuzzer needs is not there."""


@dataclass(frozen=True)
class Report:
    """A run of a target: how many inputs, the edges of its code that they reached, those that failed."""

    executions: int
    edges: int
    failed: tuple[Path, ...]
    output: str


@dataclass(frozen=True)
class Fuzzer:
    """The targets that were built in a folder, and their inputs."""

    folder: Path

    @classmethod
    def build(cls, folder: Path) -> Fuzzer:
        """Compile all targets, for a bundle with every encoding. Raises CannotFuzz, CalledProcessError."""
        if not IS_BUILT:
            raise CannotFuzz("the native core was not built")
        compiler = find_compiler()
        folder = folder.absolute()
        schema = wide_schema()
        bundle = write_tiny_bundle(folder / "bundle", "wide", schema=schema)
        fields = folder / "fields"
        fields.write_text(describe(schema, bundle.name), "utf-8")
        build = folder / "build"
        options = [f"-DCMAKE_CXX_COMPILER={compiler}", f"-DFUZZ={fields}"]
        for command in (
            ["cmake", "-S", str(REPOSITORY / "native"), "-B", str(build), "-G", "Ninja", *options],
            ["cmake", "--build", str(build)],
        ):
            subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        fuzzer = cls(folder)
        for target, seeds in SEEDS.items():
            kept = fuzzer.kept(target)
            kept.mkdir(parents=True, exist_ok=True)
            for seed in seeds(bundle):
                (kept / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
        return fuzzer

    def kept(self, target: str) -> Path:
        """The folder of a target's inputs: its seeds, and what reached more code."""
        return self.folder / "kept" / target

    def program(self, target: str) -> Path:
        """What runs a target; given files in place of options, it feeds it these alone."""
        return self.folder / "build" / target

    def run(self, target: str, seconds: float) -> Report:
        """Feed a target for some seconds, or until an input makes it fail."""
        failed = self.folder / "failed"
        failed.mkdir(exist_ok=True)
        options = [
            f"-artifact_prefix={failed}/{target}-",
            f"-max_total_time={max(1, round(seconds))}",
            f"-timeout={SECONDS_AN_INPUT}",
            "-use_value_profile=1",
            "-print_final_stats=1",
        ]
        command = [str(self.program(target)), str(self.kept(target)), *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        output = done.stdout.decode("utf-8", "replace")
        inputs = tuple(map(Path, re.findall(r"Test unit written to (.+)", output)))
        if done.returncode != 0 and not inputs:
            raise CannotFuzz(f"{target} ended with {done.returncode}:\n{output[-5000:]}")
        return Report(
            executions=_last(r"stat::number_of_executed_units: (\d+)", output),
            edges=_last(r" cov: (\d+)", output),
            failed=inputs,
            output=output,
        )

    def bodies(self) -> Iterator[bytes]:
        """All bodies that were kept, and bodies with the numbers that were."""
        for path in sorted(self.kept("bodies").iterdir()):
            yield path.read_bytes()
        for path in sorted(self.kept("numbers").iterdir()):
            for around in AROUND_NUMBERS:
                yield around % ((path.read_bytes(),) * 3)

    def compare(self) -> tuple[int, list[str]]:
        """The number of bodies that were answered with the core and without it, and what differs."""
        arms = (f"wide={self.folder / 'bundle'}",)
        ways: tuple[Literal["on", "off"], ...] = ("on", "off")
        pair = [start(native, arms, max_candidates=MAX_CANDIDATES) for native in ways]
        count, differences = 0, []
        try:
            for body in self.bodies():
                for kind in KINDS:
                    native, python = (outcome_of(app, body, kind) for app in pair)
                    if TOO_LATE not in (native.status, python.status):
                        count += 1
                        differences.append(difference(body, native, python))
        finally:
            for app in pair:
                app.close()
        return count, list(filter(None, differences))


def find_compiler() -> str:
    """A Clang with libFuzzer. Raises CannotFuzz where there is none, or no CMake or Ninja."""
    for tool in ("cmake", "ninja"):
        if shutil.which(tool) is None:
            raise CannotFuzz(f"there is no {tool}")
    found = [name for name in COMPILERS if shutil.which(name) is not None]
    program = b'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }'
    for name in found:
        command = [name, "-x", "c++", "-fsanitize=fuzzer,address,undefined", "-o", "/dev/null", "-"]
        if subprocess.run(command, input=program, capture_output=True, check=False).returncode == 0:
            return name
    what = f"{found[0]} has no libFuzzer" if found else "there is no clang++"
    raise CannotFuzz(f"{what} (Debian has it in the packages clang and libclang-rt-dev)")


def _last(pattern: str, output: str) -> int:
    found = re.findall(pattern, output)
    return int(found[-1]) if found else 0


def main() -> int:
    """Build, run and compare; 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.native.fuzzing", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each target")
    parser.add_argument("--targets", nargs="+", choices=list(SEEDS), default=list(SEEDS), metavar="NAME")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".fuzz", help="where inputs are kept")
    arguments = parser.parse_args()
    logging.getLogger("bidlight").setLevel(logging.ERROR)  # the service warns of unknown names
    try:
        fuzzer = Fuzzer.build(arguments.folder)
        clean = [_report(fuzzer, target, arguments.seconds) for target in arguments.targets]
    except CannotFuzz as error:
        print(f"fuzz: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"fuzz: the targets do not compile:\n{error.stdout}", file=sys.stderr)
        return 2
    count, differences = fuzzer.compare()
    print(f"{count:,} bodies answered with the core and without it, {len(differences)} differ")
    for each in differences[:10]:
        print(each)
    return 0 if all(clean) and not differences else 1


def _report(fuzzer: Fuzzer, target: str, seconds: float) -> bool:
    """Run and print one target; whether nothing was found."""
    report = fuzzer.run(target, seconds)
    kept = len(list(fuzzer.kept(target).iterdir()))
    print(
        f"{target:12} {report.executions:>11,} inputs, {report.edges:>5,} edges, {kept:,} inputs kept",
        flush=True,
    )
    for path in report.failed:
        print(f"{report.output[-5000:]}\nto see it again: {fuzzer.program(target)} {path}")
    return not report.failed


if __name__ == "__main__":
    sys.exit(main())
