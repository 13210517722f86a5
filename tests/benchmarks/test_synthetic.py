"""What benchmarks keep in a work folder is of one log, as it is now."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.synthetic import check_same_log
from export.data.synthetic import SyntheticConfig
from export.data.synthetic_file import write_synthetic_log
from export.errors import ExportError

CONFIG = SyntheticConfig(rows=50, numeric_fields=1, categorical_fields=1, candidate_fields=1)


def test_models_of_a_log_that_has_changed_are_refused(tmp_path: Path) -> None:
    data = tmp_path / "log.parquet"
    schema = write_synthetic_log(CONFIG, data, report=str)
    check_same_log(tmp_path, data, str(schema))
    check_same_log(tmp_path, data, str(schema))
    text = schema.read_text()
    schema.write_text(text.replace('role = "candidate"', 'role = "context"'))
    with pytest.raises(ExportError, match=r"must be as they were when the models .*; name another --work"):
        check_same_log(tmp_path, data, str(schema))
    schema.write_text(text)
    check_same_log(tmp_path, data, str(schema))
    write_synthetic_log(CONFIG, data, report=str)
    with pytest.raises(ExportError, match=r"must be as they were"):
        check_same_log(tmp_path, data, str(schema))
