"""The work folder: a damaged file is refused in one line, before anything is made of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from export.errors import ExportError
from export.stages.package import package
from export.stages.work import Work


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.int8.onnx", r"what the stage quantize wrote there \(got another file of 40 bytes\)"),
        ("model.float32.onnx", "what the stage to-onnx wrote there"),
        ("baseline.onnx", "what the stage baseline wrote there"),
        ("renumberings.npz", "run prune again"),
        ("dense.pt", r"'dense\.pt' must be a checkpoint"),
        ("calibration.json", "calibrate again"),
        ("train.json", "run that stage again"),
    ],
)
def test_a_file_cut_short_in_the_work_folder_is_refused(
    exported, tmp_path: Path, name: str, said: str
) -> None:
    work = Work(tmp_path / "work")
    shutil.copytree(exported.plan.work, work.folder)
    work.path(name).write_bytes(work.path(name).read_bytes()[:40])
    with pytest.raises(ExportError, match=said):
        package(work, tmp_path / "bundle", say=str)
    assert not (tmp_path / "bundle").exists()
