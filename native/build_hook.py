"""Builds the native core into the wheel, or beside its sources for an editable install.

Where there is no compiler, or it fails, the Python code is installed alone, and the service says so when it
starts. With BUILD_NATIVE_CORE=required in the environment the build fails instead; with off it is left out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMPILERS = ("c++", "g++", "clang++")
PACKAGE = "service/bundle"


class NativeBuildHook(BuildHookInterface[Any]):
    """Runs CMake in a temporary folder, so that nothing of an earlier build can be in the way."""

    PLUGIN_NAME = "custom"
    _folder: str | None = None

    def dependencies(self) -> list[str]:
        """What the build needs of PyPI: nothing where it cannot be tried."""
        if not _is_wanted():
            return []
        return ["nanobind>=2.9", *(tool for tool in ("cmake", "ninja") if shutil.which(tool) is None)]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, and name the file for the wheel; `version` is editable or standard."""
        beside = Path(self.root) / PACKAGE
        if version == "editable":
            # One of other sources would be worse than none.
            for old in beside.glob("_native.*.so"):
                old.unlink()
        if not _is_wanted():
            return
        self._folder = tempfile.mkdtemp(prefix="bidlight-native-")
        try:
            module = _build(Path(self.root) / "native", Path(self._folder))
        except (OSError, subprocess.CalledProcessError) as error:
            if _choice() == "required":
                raise
            self.app.display_warning(f"the native core is left out: {error}")
            return
        if version == "editable":
            shutil.copy2(module, beside)
            return
        build_data["force_include"][str(module)] = f"{PACKAGE}/{module.name}"
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary folder."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _choice() -> str:
    return os.environ.get("BUILD_NATIVE_CORE", "")


def _is_wanted() -> bool:
    if _choice() == "off":
        return False
    return _choice() == "required" or any(map(shutil.which, [os.environ.get("CXX", ""), *COMPILERS]))


def _build(sources: Path, folder: Path) -> Path:
    """The module that CMake makes of the sources. Raises OSError, CalledProcessError."""
    python = f"-DPython_EXECUTABLE={sys.executable}"
    subprocess.run(["cmake", "-S", sources, "-B", folder, "-G", "Ninja", python], check=True)
    subprocess.run(["cmake", "--build", folder], check=True)
    (module,) = folder.glob("_native.*")
    return module
