"""All rows together, as CSV, JSON and parquet; one result or many in the form that a name asks for."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from runs import a_layer, a_result
from studies import at_epoch, study, unfolding

import nrc_probe
from nrc_probe.errors import OutputError
from nrc_probe.report.table import rows_to_csv, rows_to_json, rows_to_parquet, study_rows


def test_every_layer_of_every_checkpoint_has_a_row_that_names_its_run() -> None:
    rows = study_rows(study(*unfolding(1e-3), *unfolding(0.0)))
    assert len(rows) == 2 * 4 * 3
    assert {row["run"] for row in rows} == {"weight decay 0", "weight decay 0.001"}
    assert [row["nrc1"] for row in rows if row["epoch"] == 100][:3] == [0.9, 0.15, 0.05]


def test_csv_and_json_hold_the_same_rows() -> None:
    rows = study_rows(study(at_epoch(1, [0.5, math.nan])))
    read = list(csv.DictReader(io.StringIO(rows_to_csv(rows))))
    assert json.loads(rows_to_json(rows)) == rows
    assert [row["nrc1"] for row in read] == ["0.5", ""]
    assert [row["name"] for row in read] == ["fc1", "fc2"]


def test_json_rows_have_null_and_no_character_that_a_terminal_obeys() -> None:
    text = rows_to_json(study_rows(study(a_result(a_layer("a\x1b[31m\x9b", math.nan)))))
    assert "NaN" not in text
    assert not set(text) & set("\x1b\x9b")
    assert json.loads(text)[0]["nrc1"] is None


def test_parquet_types_do_not_depend_on_what_is_undefined(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    schemas = []
    for name, results in (("a", [at_epoch(1, [0.5])]), ("b", [at_epoch(None, [math.nan], decay=None)])):
        rows = study_rows(study(*results))
        (tmp_path / name).write_bytes(rows_to_parquet(rows))
        table = parquet.read_table(tmp_path / name)
        assert table.to_pylist() == rows
        schemas.append(table.schema)
    assert schemas[0] == schemas[1]
    assert str(schemas[0].field("nrc1").type) == "double"
    assert str(schemas[0].field("nrc1_met").type) == "bool"
    assert str(schemas[0].field("width").type) == "int64"


def test_a_name_that_utf8_cannot_hold_is_written_out_in_every_table() -> None:
    facts = replace(a_result().checkpoint, path="r/\udcff\n.pth")
    rows = study_rows(study(a_result(a_layer("fc1"), checkpoint=facts)))
    shown = "r/\\udcff\\n.pth"
    assert shown in rows_to_csv(rows)
    assert "\\udcff" in rows_to_json(rows)
    parquet = pytest.importorskip("pyarrow.parquet")
    (row,) = parquet.read_table(io.BytesIO(rows_to_parquet(rows))).to_pylist()
    assert row["checkpoint"] == shown


def test_without_pyarrow_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(OutputError, match=r"needs pyarrow: pip install 'nrc-probe\[parquet\]'"):
        rows_to_parquet([{"run": "a"}])


@pytest.mark.parametrize("suffix", [".csv", ".json", ".html"])
def test_python_writes_a_report_in_the_form_of_its_name(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    for results in (unfolding()[0], unfolding(), study(*unfolding())):
        nrc_probe.write_report(results, path)
        assert "fc3" in path.read_text(encoding="utf-8")


def test_another_form_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"no report has the form '.xlsx'; there are: .csv, .json"):
        nrc_probe.write_report(unfolding(), tmp_path / "out.xlsx")
    assert list(tmp_path.iterdir()) == []
