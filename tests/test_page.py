"""The page: one file, inert to what names say, its numbers those of the results."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from dataclasses import replace

from runs import a_layer, a_result
from studies import at_epoch, settled, study, unfolding

from nrc_probe.layers import Skipped
from nrc_probe.report.page import to_html
from nrc_probe.report.study import Broken, Study
from nrc_probe.result import Result

HOSTILE = "</script><img src=x onerror=window.pwned=1>"


def page(shown: Study) -> str:
    return to_html(shown, 0.1)


def embedded(text: str) -> dict:
    (body,) = re.findall(r'<script id="study" type="application/json">(.*?)</script>', text, re.DOTALL)
    return json.loads(body)


def hostile() -> Study:
    """Markup wherever a file can put text."""
    results = [
        a_result(
            a_layer(HOSTILE, 0.1, notes=(HOSTILE,), type=HOSTILE),
            a_layer("fc2", 0.1),
            checkpoint=replace(a_result().checkpoint, path=f"{HOSTILE}/{k}.pth", epoch=k),
            model=replace(a_result().model, summary=HOSTILE, assumptions=(HOSTILE,)),
            data=replace(a_result().data, path=HOSTILE),
            warnings=(HOSTILE, "\x1b[31m\u202e"),
            skipped=(Skipped(HOSTILE, "Linear", HOSTILE),),
        )
        for k in (1, 2)
    ]
    broken = (Broken(HOSTILE, HOSTILE),)
    return replace(study(*results), failed=broken, unread=broken)


def test_the_page_names_no_other_place() -> None:
    text = page(study(*unfolding()))
    addresses = set(re.findall(r"[a-z]+://[^\s\"'<)]*", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "file://"}  # a namespace, not a place
    assert not re.search(r"<link|<iframe|@import|url\(|\bsrc=", text)


def test_its_policy_lets_only_its_own_script_and_style_run() -> None:
    text = page(study(*unfolding()))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for element in ("script", "style"):
        (body,) = re.findall(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy


def test_names_with_markup_end_no_element() -> None:
    text = page(hostile())
    assert "<img" not in text
    assert text.count("</script>") == 2
    assert embedded(text)["layers"] == [HOSTILE, "fc2"]


def test_characters_that_do_not_print_are_written_out() -> None:
    text = page(hostile())
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", text)
    assert "\\x1b[31m\\u202e" in embedded(text)["runs"][0]["checkpoints"][0]["remarks"]


def test_the_page_holds_every_number_of_every_layer_and_checkpoint() -> None:
    results = [at_epoch(1, [1 / 3, math.nan]), at_epoch(2, [0.2])]
    (run,) = embedded(page(study(*results)))["runs"]
    assert run["layers"] == ["fc1", "fc2"]
    assert run["values"]["nrc1"] == [1 / 3, None, 0.2, None]
    assert run["values"]["nrc2"] == [0.8, 0.8, 0.8, None]
    assert run["values"]["nrc4_heldout"] == [0.25, 0.25, 0.25, None]
    assert [c["time"] for c in run["checkpoints"]] == [1, 2]
    assert {len(column) for column in run["values"].values()} == {4}


def test_the_same_results_give_the_same_page() -> None:
    assert page(study(*unfolding())) == page(study(*unfolding()))


def test_the_words_and_the_provenance_are_in_the_page() -> None:
    shown = study(*settled())
    text = page(shown)
    assert "Collapse reached its final extent after the error had settled." in text
    (run,) = embedded(text)["runs"]
    assert ["NRC4 cutoff", "0.001"] in run["facts"]
    assert "torch 2" in run["checkpoints"][0]["made"]


def test_provenance_joins_sentences_and_shows_where_paths_lead() -> None:
    one = a_result(
        a_layer("fc1", notes=("a note.",)),
        model=replace(a_result().model, assumptions=("ReLU is assumed.", "no bias")),
        data=replace(a_result().data, path="fixtures/runs/../swimmer/train.npz", assumptions=()),
        warnings=("a warning.",),
    )
    (run,) = embedded(page(study(one)))["runs"]
    facts = dict(run["facts"])
    assert facts["assumed"] == "ReLU is assumed; no bias"
    assert facts["data"].startswith("fixtures/swimmer/train.npz: 400 rows")
    assert run["checkpoints"][0]["remarks"] == "a warning; fc1: a note"


def test_a_result_without_layers_has_a_page_too() -> None:
    nothing: Result = a_result(warnings=("no layer could be scored",))
    assert embedded(page(study(nothing)))["runs"][0]["layers"] == []
