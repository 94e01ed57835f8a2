"use strict";
// What is shown, and what the thresholds make of the numbers. Texts from files are only ever set as text.

const study = JSON.parse(document.getElementById("study").textContent);

const CONDITIONS = [
  { key: "nrc1", title: "NRC1", words: "noise share", value: "nrc1", falls: true, most: 1 },
  { key: "nrc2", title: "NRC2", words: "signal-target alignment", value: "nrc2", falls: false, most: 1 },
  { key: "nrc3", title: "NRC3", words: "feature-weight alignment", value: "nrc3", falls: false, most: 1 },
  { key: "nrc4", title: "NRC4 / model", words: "linear probe's relative error", value: "nrc4_ratio", falls: true, most: 10 },
];

const COLOURS = {
  light: ["#0072B2", "#D55E00", "#009E73", "#B5548F", "#C58800", "#3F9BD1"],
  dark: ["#58B4EC", "#F58A4B", "#3FCBA0", "#E39BC4", "#F0C04A", "#9CD7F7"],
};
const DASHES = ["", "7 3", "2 3", "8 3 2 3"];
const DRAWN_AT_FIRST = 8;

study.runs.forEach((run, number) => {
  run.number = number;
  run.place = new Map(run.layers.map((name, place) => [name, place]));
  run.undecidedAt = new Map(Object.entries(run.undecided).map(([key, places]) => [key, new Set(places)]));
});

const state = {
  drawn: new Set(study.runs.slice(0, DRAWN_AT_FIRST).map((run) => run.number)),
  focus: study.runs.reduce((most, run) => (run.checkpoints.length > study.runs[most].checkpoints.length ? run.number : most), 0),
  times: [],
  now: 0,
  layer: null,
  thresholds: { ...study.runs[0].thresholds },
  pins: new Map(),
  logTime: false,
};

function focusRun() {
  return study.runs[state.focus];
}

function unfolds() {
  return study.runs.some((run) => run.checkpoints.length > 1);
}

function drawnRuns() {
  return study.runs.filter((run) => state.drawn.has(run.number));
}

// The times at which any drawn run, or the one in focus, has a checkpoint.
function gatherTimes() {
  const shown = study.runs.filter((run) => state.drawn.has(run.number) || run.number === state.focus);
  state.times = [...new Set(shown.flatMap((run) => run.checkpoints.map((c) => c.time)))].sort((a, b) => a - b);
}

// Number of the run's last checkpoint at or before the chosen time; its first where all are later.
function checkpointAt(run) {
  let found = 0;
  run.checkpoints.forEach((checkpoint, number) => {
    if (checkpoint.time <= state.now) found = number;
  });
  return found;
}

function valueOf(run, checkpoint, layer, column) {
  const place = run.place.get(layer);
  if (place === undefined) return null;
  return run.values[column][checkpoint * run.layers.length + place];
}

function threshold(condition) {
  return state.thresholds[condition.value];
}

// As in Python: an undefined number meets nothing.
function judged(condition, value) {
  if (value === null) return false;
  return condition.falls ? value <= threshold(condition) : value >= threshold(condition);
}

// Whether rounding picked the number at this place of a column: it is then not counted as met.
function isUndecided(run, place, condition) {
  return run.undecidedAt.get(condition.key)?.has(place) ?? false;
}

function meets(run, checkpoint, layer, condition) {
  const value = valueOf(run, checkpoint, layer, condition.value);
  return judged(condition, value) && !isUndecided(run, checkpoint * run.layers.length + run.place.get(layer), condition);
}

// A number with what stands beside it in the terminal: met, not met, undecided.
function marked(run, checkpoint, layer, condition) {
  const value = valueOf(run, checkpoint, layer, condition.value);
  if (value === null) return "-";
  const undecided = isUndecided(run, checkpoint * run.layers.length + run.place.get(layer), condition);
  return `${short(value)} ${undecided ? "?" : judged(condition, value) ? "✓" : "·"}`;
}

function scoredLayers(run, checkpoint) {
  return run.layers.filter((layer) => valueOf(run, checkpoint, layer, "width") !== null);
}

// The first layer such that it and every later one meet NRC1; null where there is none.
function firstCollapsed(run, checkpoint) {
  let first = null;
  for (const layer of scoredLayers(run, checkpoint).reverse()) {
    if (!meets(run, checkpoint, layer, CONDITIONS[0])) break;
    first = layer;
  }
  return first;
}

function allFour(run, checkpoint) {
  const layers = scoredLayers(run, checkpoint);
  const met = layers.filter((layer) => CONDITIONS.every((c) => meets(run, checkpoint, layer, c)));
  return [met.length, layers.length];
}

// As in Python: the last checkpoint alone shows neither that a condition stays met nor that an error has settled.
const LAST_ONLY = "last only";
const NOT_SETTLED = "not settled within these checkpoints";

// The time of the first of the checkpoints at the end for which `holds` is true; null where the last is not, or alone.
function firstOfTail(run, holds) {
  let start = run.checkpoints.length;
  while (start > 0 && holds(start - 1)) start -= 1;
  return start < run.checkpoints.length - 1 ? run.checkpoints[start].time : null;
}

function holdsFrom(run, layer, condition) {
  return firstOfTail(run, (checkpoint) => meets(run, checkpoint, layer, condition));
}

function isLastOnly(run, layer, condition) {
  const last = run.checkpoints.length - 1;
  return last > 0 && meets(run, last, layer, condition) && !meets(run, last - 1, layer, condition);
}

// Since when, in words: what is met at the first checkpoint may have been so before.
function sinceWords(run, layer, condition) {
  const since = holdsFrom(run, layer, condition);
  if (since === null) return isLastOnly(run, layer, condition) ? LAST_ONLY : "-";
  return since === run.checkpoints[0].time ? `<=${since}` : String(since);
}

function canSettle(run, field) {
  const last = run.checkpoints[run.checkpoints.length - 1][field];
  return last !== null && last > 0;
}

function settledFrom(run, field) {
  if (!canSettle(run, field)) return null;
  const last = run.checkpoints[run.checkpoints.length - 1][field];
  return firstOfTail(run, (number) => {
    const error = run.checkpoints[number][field];
    return error !== null && Math.abs(error - last) <= study.settledWithin * last;
  });
}

function theme() {
  return document.documentElement.dataset.theme === "dark" ? "dark" : "light";
}

function colourOf(run) {
  const colours = COLOURS[theme()];
  return colours[run.number % colours.length];
}

function dashOf(run) {
  return DASHES[Math.floor(run.number / COLOURS.light.length) % DASHES.length];
}

// Three significant digits, "-" where undefined.
function short(value) {
  if (value === null || value === undefined) return "-";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(1);
  return size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : size >= 1 ? value.toFixed(2) : value.toPrecision(3);
}

// As it was recorded, without digits that only the machine's numbers have.
function plain(value) {
  return value === null ? "-" : String(Number(value.toPrecision(6)));
}

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "text") made.textContent = value;
    else if (value !== false && value !== null) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}
