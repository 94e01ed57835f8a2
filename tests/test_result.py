"""A result's JSON, rows and notebook table."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace

import pytest
from runs import a_layer, a_result, held_out

from nrc_probe.errors import ProbeError
from nrc_probe.layers import Skipped
from nrc_probe.report.table import to_csv
from nrc_probe.result import Result, Thresholds, conditions_met, first_collapsed


def words(text: str) -> list[str]:
    return text.split()


LAYER = words(
    "index name type width out rank nrc1 nrc2 nrc3 nrc4 nrc4_ratio nrc4_r2 nrc4_rank "
    "nrc4_no_intercept cka nrc3_noise nrc3_chance eigengap_features eigengap_weight "
    "stable_rank_features stable_rank_covariance stable_rank_weight effective_rank conditions undecided notes"
)
DATA = words("path sha256 n input_shape target_dim target_rank target_stable_rank standardized assumptions")
SCHEMA = {
    "schema": "nrc-probe/result/1",
    "checkpoint": words("path sha256 format epoch step weight_decay learning_rate"),
    "model": words("source summary parameters assumptions"),
    "data": DATA,
    "settings": words("rank rcond pooling precision thresholds layers exclude max_width limit"),
    "model_mse": 0.1,
    "model_r2": 0.9,
    "first_collapsed_layer": "b",
    "layers": [LAYER, LAYER],
    "skipped": [["name", "type", "reason"]],
    "heldout": {"data": DATA, "model_mse": 0.2, "model_r2": 0.8, "layers": [["name", "nrc4"]] * 2},
    "last_layer_2024": ["nrc1", "nrc2", "nrc3"],
    "warnings": ["beware"],
    "provenance": words("nrc_probe torch numpy device seconds created config"),
}


def full_result() -> Result:
    return a_result(
        a_layer("a", 0.5, nrc2=math.nan, notes=("dead", "cut")),
        a_layer("b", 0.1, index=1),
        skipped=(Skipped("conv1", "Conv2d", "excluded by 'conv1'"),),
        heldout=held_out("a", "b"),
        warnings=("beware",),
    )


def test_json_has_the_schema_s_fields_in_its_order() -> None:
    found = json.loads(full_result().to_json())
    assert list(found) == list(SCHEMA)
    for key, expected in SCHEMA.items():
        value = found[key]
        if key in ("layers", "skipped"):
            assert [list(item) for item in value] == expected
        elif key == "heldout":
            assert list(value) == list(expected)
            assert list(value["data"]) == expected["data"]
            assert [list(item) for item in value["layers"]] == expected["layers"]
        elif isinstance(value, dict):
            assert list(value) == expected
        else:
            assert value == expected
    assert found["layers"][0]["conditions"] == {
        "nrc1": False,
        "nrc2": False,
        "nrc3": True,
        "nrc4": True,
    }
    assert list(found["settings"]["thresholds"]) == ["nrc1", "nrc2", "nrc3", "nrc4_ratio"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, float("nan")])
def test_what_is_not_finite_is_null(value: float) -> None:
    text = a_result(a_layer("a", nrc2=value), model_r2=value).to_json()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert (found["layers"][0]["nrc2"], found["model_r2"]) == (None, None)


@pytest.mark.parametrize(
    "result",
    [
        full_result(),
        a_result(),
        a_result(a_layer("a", float("nan"), nrc4_ratio=float("nan")), model_r2=float("nan")),
        replace(full_result(), last_layer_2024=None, heldout=None),
    ],
)
def test_json_read_back_is_the_same_result(result: Result) -> None:
    restored = Result.from_json(result.to_json())
    assert restored == result
    assert restored.to_json() == result.to_json()
    assert [type(layer.nrc1) for layer in restored.layers] == [float] * len(result.layers)
    assert restored.provenance == result.provenance


def test_undefined_numbers_come_back_as_nan_and_unknown_facts_as_none() -> None:
    restored = Result.from_json(full_result().to_json())
    assert math.isnan(restored.layers[0].nrc2)
    assert math.isnan(restored.last_layer_2024.nrc3)
    assert restored.checkpoint.learning_rate is None
    assert restored.settings.limit is None


def test_equality_sees_a_number_but_not_when_it_was_computed() -> None:
    result = full_result()
    assert result == replace(result, provenance=replace(result.provenance, seconds=9.0))
    assert result != replace(result, model_mse=0.11)
    assert result != "a result"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError: 'schema'"),
        ('{"schema": "nrc-probe/result/2"}', "schema is 'nrc-probe/result/2'"),
        ('{"schema": "nrc-probe/result/1"}', "KeyError: 'heldout'"),
        ("[" * 100_000, "RecursionError"),
        ('{"schema": "nrc-probe/result/1", "layers": [1], "layers": []}', "key 'layers' stands there twice"),
    ],
)
def test_what_is_not_such_a_result_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ProbeError) as caught:
        Result.from_json(text)
    assert str(caught.value).startswith("not a result of schema nrc-probe/result/1: ")
    assert reason in str(caught.value)


def test_json_is_one_line_where_asked_and_keeps_the_names_of_modules() -> None:
    name = "módulo\x1b\x9b\u202e\udcff.0"
    text = a_result(a_layer(name)).to_json(indent=None)
    assert text.isprintable()
    assert "módulo" in text
    assert json.loads(text)["layers"][0]["name"] == name


def test_rows_are_one_a_layer_with_the_checkpoint_repeated() -> None:
    first, second = full_result().to_rows()
    for row in (first, second):
        assert [row[key] for key in ("checkpoint", "epoch", "weight_decay")] == [
            "run/7.pth",
            7,
            1e-3,
        ]
        assert (row["model_mse"], row["model_r2"], row["nrc4_heldout"]) == (0.1, 0.9, 0.25)
    assert (first["name"], first["nrc2"], first["notes"]) == ("a", None, "dead; cut")
    assert (first["nrc1_met"], second["nrc1_met"], second["nrc3_met"]) == (False, True, True)
    assert list(first) == [
        *("checkpoint", "epoch", "weight_decay"),
        *LAYER[:-3],
        *("nrc1_met", "nrc2_met", "nrc3_met", "nrc4_met", "undecided"),
        *("nrc4_heldout", "model_mse", "model_r2", "notes"),
    ]


def test_csv_leaves_undefined_cells_empty_and_writes_control_characters_out() -> None:
    text = to_csv([a_result(a_layer('a,"b"\n\x1b', nrc2=math.nan)), full_result()])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["name"] for row in rows] == ['a,"b"\\n\\x1b', "a", "b"]
    assert [row["nrc2"] for row in rows] == ["", "", "0.8"]
    assert all(row["nrc4_ratio"] == "1.1" for row in rows)
    (row,) = csv.DictReader(io.StringIO(to_csv([a_result(a_layer("a", undecided=("nrc2", "nrc3")))])))
    assert row["undecided"] == "nrc2; nrc3"


def test_results_written_before_there_were_undecided_conditions_are_read() -> None:
    values = json.loads(full_result().to_json())
    for layer in values["layers"]:
        del layer["undecided"]
    assert Result.from_json(json.dumps(values)) == full_result()


HOSTILE = "<script>&\x1b"


def test_the_notebook_table_escapes_what_names_and_remarks_hold() -> None:
    result = a_result(
        a_layer(HOSTILE, 0.1, notes=(HOSTILE,)),
        skipped=(Skipped(HOSTILE, "Linear", HOSTILE),),
        warnings=(HOSTILE,),
        model=replace(a_result().model, assumptions=(HOSTILE,)),
    )
    html = result._repr_html_()
    assert "<script>" not in html
    assert "\x1b" not in html
    assert html.count("&lt;script&gt;&amp;\\x1b") == 8


def test_the_notebook_table_has_marks_chance_level_and_held_out_errors() -> None:
    layer = a_layer("a", 0.1, nrc2=math.nan, nrc4_ratio=1.6, undecided=("nrc3",))
    html = a_result(layer, a_layer("b", 0.5), heldout=held_out("a"))._repr_html_()
    heads = html[html.index("<tr>") : html.index("</tr>")].removeprefix("<tr><th>").removesuffix("</th>")
    assert heads.split("</th><th>") == [
        *(
            "name",
            "width",
            "rank",
            "nrc1",
            "nrc2",
            "nrc3",
            "nrc3_chance",
            "nrc4",
            "nrc4_ratio",
            "nrc4 held out",
        )
    ]
    row = ["a", "64", "3", "0.1 ✓", "-", "0.9 ?", "0.2", "0.125", "1.6 ·", "0.25"]
    assert "".join(f"<td>{cell}</td>" for cell in row) in html
    assert "<td>1.1 ✓</td><td>-</td></tr>" in html  # the second layer has no held-out error
    assert "the network&#x27;s own" not in html
    assert "first collapsed layer: none; the network's own R²: 0.9; on held-out rows: 0.8" in html
    assert "held out" not in a_result(layer)._repr_html_()


def test_the_notebook_says_what_is_to_be_minded() -> None:
    html = full_result()._repr_html_()
    for words_ in ("<p>warnings</p><ul><li>beware</li></ul>", "<li>a: dead</li>", "<li>ReLU is assumed</li>"):
        assert words_ in html
    assert "<p>not scored</p><ul><li>conv1: excluded by &#x27;conv1&#x27;</li></ul>" in html
    assert (
        "<p>"
        not in a_result(
            model=replace(a_result().model, assumptions=()), data=replace(a_result().data, assumptions=())
        )._repr_html_()
    )


def test_a_result_as_text_is_one_line_that_names_the_way_to_the_report() -> None:
    assert str(full_result()) == (
        "run/7.pth: 2 layers scored, NRC1 met from b on, R² 0.9 (nrc_probe.print_result shows the report)"
    )
    assert "NRC1 not met in the last one" in str(a_result(a_layer("a\x1b", 0.5)))
    assert str(a_result(a_layer("a\x1b", 0.1))).isprintable()


@pytest.mark.parametrize(
    ("shares", "first"),
    [
        ([0.5, 0.1, 0.1], "1"),
        ([0.1, 0.5, 0.2], "2"),
        ([0.1, 0.1, 0.1], "0"),
        ([0.1, 0.1, 0.3], None),
        ([0.1, 0.1, math.nan], None),
        ([], None),
    ],
)
def test_collapse_starts_where_it_and_every_later_layer_meet_nrc1(
    shares: list[float], first: str | None
) -> None:
    layers = [a_layer(str(k), share) for k, share in enumerate(shares)]
    assert first_collapsed(layers) == first


def test_conditions_hold_up_to_and_at_their_thresholds_and_never_for_nan() -> None:
    at = Thresholds(0.2, 0.6, 0.7, 1.5)
    assert all(conditions_met(0.2, 0.6, 0.7, 1.5, at).values())
    assert not any(conditions_met(0.21, 0.59, 0.69, 1.51, at).values())
    assert not any(conditions_met(*[math.nan] * 4, at).values())


def test_an_undecided_condition_is_not_met_whatever_its_number() -> None:
    met = conditions_met(0.1, 0.9, 0.9, 1.0, Thresholds(), ("nrc2", "nrc3"))
    assert met == {"nrc1": True, "nrc2": False, "nrc3": False, "nrc4": True}
