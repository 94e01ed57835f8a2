// What the controls do, and the first drawing.

let waiting = false;

// At most one drawing a frame, however fast a slider moves.
function soon(draw) {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    draw();
  });
}

function chooseLayer(layer) {
  state.layer = layer;
  redraw();
}

function chooseTime(time) {
  state.now = time;
  redraw();
}

function choose(place) {
  if (!place) return;
  state.layer = place.layer;
  state.now = focusRun().checkpoints[place.checkpoint].time;
  redraw();
}

function redraw() {
  gatherTimes();
  if (!focusRun().place.has(state.layer)) state.layer = focusRun().layers[focusRun().layers.length - 1] ?? null;
  drawControls();
  drawRuns();
  drawLayerCharts();
  if (unfolds()) {
    drawHeatMaps();
    drawTimeCharts();
  }
  drawLayers();
  drawProvenance();
  markNow();
}

// ---------------------------------------------------------------------------------------- controls

function drawControls() {
  const slider = document.getElementById("now");
  const place = state.times.indexOf(closest(state.times, state.now));
  slider.max = state.times.length - 1;
  slider.value = place;
  slider.setAttribute("aria-valuetext", `${focusRun().clock} ${state.times[place]}`);
  document.getElementById("clock").textContent = focusRun().clock;
  document.getElementById("now-value").textContent = state.times[place];
  const select = document.getElementById("layer");
  if (select.dataset.run !== String(state.focus)) {
    select.dataset.run = state.focus;
    select.replaceChildren(...focusRun().layers.map((name) => element("option", { value: name, text: name })));
  }
  select.value = state.layer;
}

function drawRuns() {
  const made = study.runs.map((run) => {
    const tick = element("input", { type: "checkbox", "data-run": run.number, "aria-label": `draw ${run.name}` });
    tick.checked = state.drawn.has(run.number);
    tick.addEventListener("change", () => {
      if (tick.checked) state.drawn.add(run.number);
      else state.drawn.delete(run.number);
      keepFocus(`[data-run="${run.number}"]`, redraw);
    });
    const radio = element("input", { type: "radio", name: "focus", "data-focus": run.number });
    radio.checked = state.focus === run.number;
    radio.addEventListener("change", () => {
      state.focus = run.number;
      keepFocus(`[data-focus="${run.number}"]`, redraw);
    });
    const swatch = shape("svg", { width: 26, height: 8, "aria-hidden": "true" });
    swatch.append(shape("line", { x1: 0, x2: 26, y1: 4, y2: 4, stroke: colourOf(run), "stroke-width": 2.5, "stroke-dasharray": dashOf(run) }));
    const many = run.checkpoints.length === 1 ? "1 checkpoint" : `${run.checkpoints.length} checkpoints`;
    const label = element("label", {}, radio, `${run.name} (${many})`);
    return element("div", { class: state.focus === run.number ? "run focus" : "run" }, tick, swatch, label);
  });
  document.getElementById("runs").replaceChildren(...made);
}

// Redrawing replaces elements: the keyboard's place among them stays.
function keepFocus(selector, draw) {
  draw();
  document.querySelector(selector)?.focus();
}

function makeThresholds() {
  const made = CONDITIONS.map((condition) => {
    const most = condition.most;
    const step = most === 1 ? 0.01 : 0.05;
    const common = { min: 0, max: most, step, "aria-label": `${condition.title} threshold` };
    const slider = element("input", { ...common, type: "range", "data-slider": condition.key });
    const number = element("input", { ...common, type: "number", "data-threshold": condition.key, step: "any" });
    for (const [mine, other] of [[slider, number], [number, slider]]) {
      mine.value = threshold(condition);
      mine.addEventListener("input", () => {
        const value = mine.valueAsNumber;
        if (!Number.isFinite(value)) return;
        other.value = value;
        state.thresholds[condition.value] = value;
        soon(rejudge);
      });
    }
    const sign = condition.falls ? "≤" : "≥";
    return element("label", {}, `${condition.title} ${sign}`, element("span", { class: "row" }, slider, number));
  });
  const reset = element("button", { type: "button", id: "reset", text: "as recorded" });
  reset.addEventListener("click", () => {
    Object.assign(state.thresholds, focusRun().thresholds);
    makeThresholds();
    rejudge();
  });
  document.getElementById("thresholds").replaceChildren(...made, reset);
}

function rejudge() {
  drawLayerCharts();
  if (unfolds()) {
    drawHeatMaps();
    drawTimeCharts();
  }
  drawLayers();
  rejudgeCheckpoints();
}

function step(by) {
  const place = state.times.indexOf(closest(state.times, state.now)) + by;
  if (place >= 0 && place < state.times.length) chooseTime(state.times[place]);
}

function start() {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const follow = () => {
    document.documentElement.dataset.theme = dark.matches ? "dark" : "light";
    redraw();
  };
  document.documentElement.dataset.theme = dark.matches ? "dark" : "light";
  gatherTimes();
  state.now = state.times[state.times.length - 1];
  const run = focusRun();
  state.logTime = run.checkpoints[0].time > 0 && run.checkpoints[run.checkpoints.length - 1].time > 20 * run.checkpoints[0].time;
  state.layer = firstCollapsed(run, checkpointAt(run));
  document.getElementById("log-time").checked = state.logTime;
  const checkpoints = study.runs.reduce((sum, each) => sum + each.checkpoints.length, 0);
  const counts = [[checkpoints, "checkpoint"], [study.runs.length, "run"], [study.layers.length, "layer"]];
  document.getElementById("counts").textContent = counts.map(([n, kind]) => `${n} ${kind}${n === 1 ? "" : "s"}`).join(", ");
  const undecided = study.runs.some((run) => [...run.undecidedAt.values()].some((places) => places.size));
  document.getElementById("undecided").hidden = !undecided;
  document.getElementById("training").hidden = !unfolds();
  document.getElementById("runs-section").hidden = study.runs.length === 1;
  document.getElementById("time-control").hidden = state.times.length < 2;
  makeThresholds();
  makeHeatMaps();
  redraw();
  drawCheckpoints();
  drawBroken();
  dark.addEventListener("change", follow);
  document.getElementById("now").addEventListener("input", (event) => {
    state.now = state.times[event.target.valueAsNumber];
    soon(redraw);
  });
  document.getElementById("earlier").addEventListener("click", () => step(-1));
  document.getElementById("later").addEventListener("click", () => step(1));
  document.getElementById("layer").addEventListener("change", (event) => chooseLayer(event.target.value));
  document.getElementById("log-time").addEventListener("change", (event) => {
    state.logTime = event.target.checked;
    drawTimeCharts();
  });
  document.getElementById("unpin").addEventListener("click", () => {
    state.pins.clear();
    drawCheckpoints();
    drawLayerCharts();
  });
  document.getElementById("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = theme() === "dark" ? "light" : "dark";
    redraw();
  });
  document.querySelectorAll(".scroll").forEach((box) => box.addEventListener("scroll", hintAtColumns));
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    soon(redraw);
  });
}

start();
