"""The page in a browser: clicked, slid, typed into and read. Needs chromium and the extra `browser`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from runs import a_layer, a_result
from studies import LAYERS, at_epoch, settled, study, unfolding
from test_page import HOSTILE, hostile

from nrc_probe.report.onset import holds_from, is_last_only, settled_from, training_errors
from nrc_probe.report.page import to_html
from nrc_probe.report.study import Study, with_thresholds
from nrc_probe.result import CONDITIONS, Thresholds

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no chromium on the PATH", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra 'browser'")

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # no sandbox: tests may run as root, where chromium has none
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens a study from file://; fails on any script error and any request beyond the page itself."""
    contexts, errors, requests = [], [], []

    def call(shown: Study, width: int = 1280, scheme: str = "light") -> Any:
        path = tmp_path / "page.html"
        path.write_text(to_html(shown, 0.1), encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        opened = context.new_page()
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.on("console", lambda said: said.type == "error" and errors.append(said.text))
        opened.on("request", lambda request: requests.append(request.url))
        opened.on("dialog", lambda dialog: errors.append(dialog.message))
        opened.goto(path.as_uri())
        return opened

    yield call
    for context in contexts:
        context.close()
    assert errors == []
    assert {url.rpartition("/")[2] for url in requests} <= {"page.html"}


def two_runs() -> Study:
    return study(*unfolding(1e-3), *unfolding(0.0, shift=0.3))


def column(page: Any, table: str, field: str) -> list[str]:
    return page.locator(f"#{table} tbody [data-field={field}]").all_text_contents()


def settle(page: Any) -> None:
    """Let what waits for the next frame be drawn."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def set_threshold(page: Any, name: str, value: float) -> None:
    page.fill(f"[data-threshold={name}]", str(value))
    settle(page)


# ------------------------------------------------------------------------------------------- reading


def test_the_tables_show_the_numbers_of_the_results(show: Open) -> None:
    page = show(study(*unfolding()))
    assert column(page, "checkpoints", "epoch") == ["1", "2", "10", "100"]
    assert column(page, "checkpoints", "mse") == ["1", "0.500", "0.105", "0.100"]
    assert column(page, "checkpoints", "first") == ["-", "-", "fc3", "fc2"]
    assert column(page, "checkpoints", "four") == ["1 / 3", "0 / 3", "1 / 3", "2 / 3"]
    assert column(page, "layers", "nrc1") == ["0.900 ·", "0.150 ✓", "0.0500 ✓"]
    assert column(page, "layers", "since") == ["-", "last only", "10"]
    assert "runs/a/100.pth" in page.inner_text("#provenance")


def test_the_slider_moves_layer_table_charts_and_provenance_through_training(show: Open) -> None:
    page = show(study(*unfolding()))
    assert page.inner_text("#now-value") == "100"
    page.focus("#now")
    page.keyboard.press("ArrowLeft")
    settle(page)
    assert page.inner_text("#now-value") == "10"
    assert column(page, "layers", "nrc1") == ["0.900 ·", "0.300 ·", "0.100 ✓"]
    assert "runs/a/10.pth" in page.inner_text("#provenance")
    page.click("#earlier")
    page.click("#earlier")
    assert column(page, "layers", "nrc1") == ["0.900 ·", "0.100 ✓", "0.500 ·"]
    page.click("#earlier")
    assert page.inner_text("#now-value") == "1"
    page.click("#later")
    assert page.inner_text("#now-value") == "2"


def test_thresholds_judge_in_the_page_as_they_do_in_python(show: Open) -> None:
    shown = two_runs()
    page = show(shown)
    for at in (Thresholds(nrc1=0.3), Thresholds(0.55, 0.9, 0.7, 1.5), Thresholds(1.2, 0.8, 0.9, 1.1)):
        for name in ("nrc1", "nrc2", "nrc3"):
            set_threshold(page, name, getattr(at, name))
        set_threshold(page, "nrc4", at.nrc4_ratio)
        judged = [with_thresholds(result, at) for result in shown.results]
        assert column(page, "checkpoints", "first") == [r.first_collapsed_layer or "-" for r in judged]
        met = [sum(all(layer.conditions.values()) for layer in r.layers) for r in judged]
        assert column(page, "checkpoints", "four") == [f"{count} / 3" for count in met]
    page.click("#reset")
    assert column(page, "checkpoints", "first") == [r.first_collapsed_layer or "-" for r in shown.results]


def test_since_when_a_condition_holds_is_found_in_the_page_as_in_python(show: Open) -> None:
    shown = study(*settled(1e-3), *unfolding(0.0, shift=0.03), at_epoch(1, [0.1, 0.1, 0.1], decay=0.1))
    page = show(shown)
    for number, run in enumerate(shown.runs):
        for name in LAYERS:
            for place, condition in enumerate(CONDITIONS):
                found = page.evaluate(f"holdsFrom(study.runs[{number}], '{name}', CONDITIONS[{place}])")
                assert found == holds_from(run, name, condition)
                alone = page.evaluate(f"isLastOnly(study.runs[{number}], '{name}', CONDITIONS[{place}])")
                assert alone == is_last_only(run, name, condition)
        found = page.evaluate(f"settledFrom(study.runs[{number}], 'mse')")
        assert found == settled_from(run, training_errors(run))


def test_what_only_the_last_checkpoint_shows_has_words_and_no_line(show: Open) -> None:
    page = show(study(*unfolding()[:2], at_epoch(100, [0.9, 0.15, 0.05], mse=0.1)))
    page.select_option("#layer", "fc2")
    charts = page.locator("#time-charts figure")
    assert page.locator("#time-charts figure:first-child .onset").count() == 0
    captions = charts.locator("figcaption").all_text_contents()
    assert captions[0] == "NRC1 fc2; last only: a"
    assert "not settled within these checkpoints: a" in captions[-1]
    assert page.locator("#time-charts .settled").count() == 0
    page.click("#layers [data-sort=since]")
    assert column(page, "layers", "since") == ["last only", "last only", "-"]


def test_a_number_that_rounding_picked_is_marked_and_never_met(show: Open) -> None:
    layers = [a_layer("fc1", 0.1, undecided=("nrc3",)), a_layer("fc2", 0.1)]
    facts = a_result().checkpoint
    page = show(study(*(a_result(*layers, checkpoint=replace(facts, epoch=k)) for k in (1, 2))))
    set_threshold(page, "nrc3", 0.0)
    assert column(page, "layers", "nrc3") == ["0.900 ?", "0.900 ✓"]
    assert column(page, "checkpoints", "four") == ["1 / 2", "1 / 2"]
    assert page.is_visible("#undecided")


# --------------------------------------------------------------------------------------- interacting


def test_a_click_on_a_heat_map_chooses_layer_and_time(show: Open) -> None:
    page = show(study(*unfolding()))
    canvas = page.locator("canvas[data-condition=nrc1]")
    box = canvas.bounding_box()
    cell = page.evaluate(
        "heatLayout(focusRun(), document.querySelector('canvas[data-condition]').clientWidth)"
    )
    x, y = cell["left"] + 1.5 * cell["cell"], cell["top"] + 0.8 * cell["row"]
    page.mouse.click(box["x"] + x, box["y"] + y)
    assert page.inner_text("#heat-readout").startswith("fc1, epoch 2: NRC1 0.900 ·, NRC2 0.800 ✓")
    assert page.inner_text("#now-value") == "2"
    assert page.input_value("#layer") == "fc1"
    assert page.locator("#layers tr.now").get_attribute("data-layer") == "fc1"


def test_a_heat_map_obeys_the_arrow_keys_and_stops_at_its_edges(show: Open) -> None:
    page = show(study(*unfolding()))
    page.focus("canvas[data-condition=nrc3]")
    for key in ("ArrowUp", "ArrowUp", "ArrowUp", "ArrowLeft", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    assert page.inner_text("#heat-readout").startswith("fc1, epoch 100:")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#heat-readout").startswith("fc2, epoch 100:")
    assert page.evaluate("document.activeElement.dataset.condition") == "nrc3"


def test_the_colour_of_a_heat_map_follows_the_number(show: Open) -> None:
    page = show(study(*unfolding()))
    read = """([column, row]) => {
        const canvas = document.querySelector("canvas[data-condition=nrc1]");
        const box = heatLayout(focusRun(), canvas.clientWidth);
        const x = box.left + (column + 0.5) * box.cell, y = box.top + (row + 0.3) * box.row;
        return [...canvas.getContext("2d").getImageData(x, y, 1, 1).data];
    }"""
    for place, value in (((0, 0), 0.9), ((1, 1), 0.4), ((2, 2), 0.1)):
        expected = page.evaluate(f"heatColour({value})")
        assert page.evaluate(read, list(place))[:3] == pytest.approx(expected, abs=6)


def test_a_heat_map_outlines_what_the_threshold_makes_of_it(show: Open) -> None:
    page = show(study(*unfolding()))
    picture = "document.querySelector('canvas[data-condition=nrc1]').toDataURL()"
    before = page.evaluate(picture)
    set_threshold(page, "nrc1", 0.45)
    assert page.evaluate(picture) != before
    set_threshold(page, "nrc1", 0.2)
    assert page.evaluate(picture) == before


def test_a_run_can_be_taken_out_of_the_charts_and_a_checkpoint_pinned_into_them(show: Open) -> None:
    page = show(two_runs())
    lines = page.locator("#layer-charts figure:first-child path")
    assert lines.count() == 2
    page.uncheck("[data-run='1']")
    assert lines.count() == 1
    page.check("[data-pin='1:0']")
    page.check("[data-pin='0:1']")
    assert lines.count() == 3
    page.click("#unpin")
    assert lines.count() == 1
    assert page.locator("#checkpoints input:checked").count() == 0


def test_runs_that_share_an_onset_and_a_settling_have_lines_beside_each_other(show: Open) -> None:
    page = show(study(*settled(1e-3), *settled(0.0)))
    for kind in ("figure:first-child .onset", "figure:last-child .settled"):
        places = page.locator(f"#time-charts {kind}").evaluate_all("ls => ls.map(l => +l.getAttribute('x1'))")
        assert len(set(places)) == 2, kind


def test_the_since_of_what_is_met_at_the_first_checkpoint_is_open_to_the_left(show: Open) -> None:
    page = show(study(*(at_epoch(epoch, [0.9, 0.1]) for epoch in (5, 6))))
    assert column(page, "layers", "since") == ["-", "<=5"]


def test_runs_that_share_a_first_layer_have_lines_beside_each_other(show: Open) -> None:
    page = show(study(*(at_epoch(1, [0.9, 0.1], decay=k / 100) for k in range(3))))
    read = "lines => lines.map(line => [line.getAttribute('x1'), line.getAttribute('stroke')])"
    lines = page.locator("#layer-charts figure:first-child .first").evaluate_all(read)
    places = sorted(float(x) for x, _ in lines)
    assert len({colour for _, colour in lines}) == 3
    assert [b - a for a, b in pairwise(places)] == pytest.approx([2.5, 2.5])


def test_a_row_of_the_table_brings_its_checkpoint_into_focus(show: Open) -> None:
    page = show(two_runs())
    page.click("[data-checkpoint='1:2'] [data-field=label]")
    assert page.inner_text("h2 .focus-name") == "weight decay 0.001"
    assert page.inner_text("#now-value") == "10"
    assert page.locator("#checkpoints tr.now").get_attribute("data-checkpoint") == "1:2"
    page.check("[data-focus='0']")
    assert page.inner_text("h2 .focus-name") == "weight decay 0"


def test_column_heads_sort_up_down_and_not_with_the_undefined_last(show: Open) -> None:
    page = show(study(*unfolding(), at_epoch(200, [0.9, 0.1, 0.05], mse=float("nan"))))
    as_run = column(page, "checkpoints", "label")
    head = page.locator("#checkpoints [data-sort=mse]")
    head.click()
    assert column(page, "checkpoints", "mse") == ["0.100", "0.105", "0.500", "1", "-"]
    head.click()
    assert column(page, "checkpoints", "mse") == ["1", "0.500", "0.105", "0.100", "-"]
    assert page.locator("#checkpoints th[aria-sort=descending]").count() == 1
    page.keyboard.press("Enter")
    assert column(page, "checkpoints", "label") == as_run


def test_every_control_is_reached_by_the_keyboard_and_has_a_name(show: Open) -> None:
    page = show(two_runs())
    nameless = """[...document.querySelectorAll("input, select, button, canvas[tabindex]")].filter(
        (e) => e.offsetParent && !(e.ariaLabel || e.labels?.length || e.textContent.trim())).length"""
    assert page.evaluate(nameless) == 0
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"theme", "now", "later", "layer", "log-time", "unpin", "CANVAS"} <= reached


# -------------------------------------------------------------------------------------------- looks


@pytest.mark.parametrize("width", [1280, 800, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window_and_the_theme_follows_the_system(
    width: int, scheme: str, show: Open
) -> None:
    page = show(two_runs(), width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = page.evaluate("""(() => {
        const style = getComputedStyle(document.body);
        return [style.color, style.backgroundColor].map((colour) => Number(colour.match(/\\d+/)[0]));
    })()""")
    assert (paper > ink) == (scheme == "light")
    page.click("#theme")
    other = page.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")
    assert (other > 128) == (scheme == "dark")


def test_a_table_says_that_it_has_more_columns_until_they_are_reached(show: Open) -> None:
    page = show(two_runs(), 800)
    hint = page.locator("section[aria-labelledby=h-table] .more")
    assert hint.is_visible()
    page.evaluate("document.querySelector('#layers').parentElement.scrollLeft = 10000")
    page.wait_for_function("document.querySelector('section[aria-labelledby=h-table] .more').hidden")
    page = show(two_runs(), 1280)
    assert not page.locator("section[aria-labelledby=h-checkpoints] .more").is_visible()


def test_one_checkpoint_has_a_page_without_a_time_axis(show: Open) -> None:
    page = show(study(at_epoch(7, [0.9, 0.1])))
    assert not page.is_visible("#training")
    assert not page.is_visible("#now")
    assert page.locator("#layer-charts figure").count() == 4
    assert column(page, "layers", "nrc1") == ["0.900 ·", "0.100 ✓"]


def test_results_without_layers_or_with_undefined_numbers_are_shown(show: Open) -> None:
    page = show(study(a_result()))
    assert page.locator("#layers tbody tr").count() == 0
    nan = float("nan")
    page = show(study(*(at_epoch(k, [nan, 0.1], mse=nan) for k in (1, 2))))
    assert column(page, "layers", "nrc1") == ["-", "0.100 ✓"]


@pytest.mark.parametrize("extreme", [1e308, -1e308, 5e-324, 0.0])
def test_extreme_numbers_are_drawn_in_bounded_time(extreme: float, show: Open) -> None:
    facts = a_result().checkpoint
    layers = [a_layer("fc1", extreme, nrc4_ratio=extreme), a_layer("fc2", 0.1)]
    far = [
        a_result(*layers, model_mse=abs(extreme), checkpoint=replace(facts, epoch=2**62 + k)) for k in (0, 1)
    ]
    page = show(study(*far))
    assert page.locator("#time-charts figure").count() == 5
    page.evaluate("redraw()")


# -------------------------------------------------------------------------------------------- safety


def test_names_with_markup_are_shown_and_do_nothing(show: Open) -> None:
    page = show(hostile())
    assert page.evaluate("window.pwned === undefined && document.images.length === 0")
    assert column(page, "layers", "layer") == [HOSTILE, "fc2"]
    page.focus("canvas[data-condition=nrc1]")
    page.keyboard.press("ArrowUp")
    page.hover("#layer-charts svg")
    assert HOSTILE in page.inner_text("#heat-readout")
    assert page.evaluate("window.pwned === undefined && document.images.length === 0")


def test_the_policy_stops_requests_and_injected_code(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(to_html(study(*unfolding()), 0.1), encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    tried = """async () => {
        const script = document.createElement("script");
        script.textContent = "window.pwned = 1";
        document.head.append(script);
        document.body.insertAdjacentHTML("beforeend", "<img src='x' onerror='window.pwned = 2'>");
        const answer = await fetch("https://example.org/").then(() => "sent", () => "refused");
        return [answer, window.pwned ?? null];
    }"""
    assert page.evaluate(tried) == ["refused", None]
    page.close()


@pytest.mark.slow
def test_500_checkpoints_of_40_layers_stay_responsive(show: Open) -> None:
    names = [f"layer{k // 10}.{k % 10}.conv" for k in range(40)]
    results = [
        replace(
            a_result(*(a_layer(name, abs((k + 3 * row) % 97) / 97) for row, name in enumerate(names))),
            checkpoint=replace(a_result().checkpoint, path=f"r/{k}.pth", epoch=k),
        )
        for k in range(500)
    ]
    page = show(study(*results))
    assert page.locator("#checkpoints tbody tr").count() == 500
    for drawing in ("redraw()", "rejudge()", "drawCheckpoints()"):
        took = page.evaluate(
            f"(() => {{ const t = performance.now(); {drawing}; return performance.now() - t; }})()"
        )
        assert took < 1000, drawing  # milliseconds; a tenth of it on an idle machine
