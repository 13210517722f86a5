"""The modules that the locustfile imports need the standard library only, as in Locust's own image."""

from __future__ import annotations

import ast
import subprocess
import sys

from tests.running import REPOSITORY


def test_the_locustfile_s_modules_need_no_installed_package() -> None:
    tree = ast.parse((REPOSITORY / "loadtest" / "locustfile.py").read_text(encoding="utf-8"))
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    own = [name for name in modules if name is not None and name.startswith("loadtest.")]
    assert len(own) >= 2
    program = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); import {', '.join(own)}"
    # -I and -S: no variables of the environment and no site-packages.
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
