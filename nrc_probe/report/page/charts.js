// Line charts as SVG: across layers, and over training.

const SVG = "http://www.w3.org/2000/svg";
const BOX = { width: 320, height: 190, left: 38, right: 8, top: 8 };

function shape(name, attributes = {}, text = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

// A scale from values to pixels; logarithmic only where all that is shown is above 0.
function scale(low, high, from, to, logarithmic) {
  const map = logarithmic ? Math.log10 : (value) => value;
  const start = map(low);
  const span = map(high) - start || 1;
  const place = (value) => from + ((map(value) - start) / span) * (to - from);
  place.inverse = (pixel) => {
    const value = start + ((pixel - from) / (to - from)) * span;
    return logarithmic ? 10 ** value : value;
  };
  return place;
}

function ticks(low, high, logarithmic) {
  if (!logarithmic) {
    const rough = (high - low) / 4 || 1;
    const unit = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((k) => k * unit).find((s) => s >= rough);
    const found = [];
    const first = Math.ceil(low / step - 1e-9);
    // counted from 0: beyond 2^53, adding 1 changes nothing
    for (let n = 0; n < 12 && (first + n) * step <= high + 1e-9 * step; n += 1) found.push((first + n) * step);
    return found;
  }
  const decades = Math.log10(high / low);
  const subs = decades < 1.3 ? [1, 2, 5] : [1];
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += decades > 5 ? 2 : 1) {
    for (const sub of subs) {
      const value = sub * 10 ** power;
      if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
    }
  }
  return found;
}

function spoken(value) {
  return value !== 0 && (Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3)
    ? value.toExponential(0)
    : String(Number(value.toPrecision(3)));
}

function range(values, condition) {
  if (condition && condition.most === 1) return { low: 0, high: 1, logarithmic: false };
  const known = values.filter((value) => value !== null && Number.isFinite(value));
  if (!known.length) return { low: 0, high: 1, logarithmic: false };
  const low = Math.min(...known);
  const high = Math.max(...known);
  if (low > 0) return { low: low / 1.1, high: high * 1.1, logarithmic: true };
  return { low, high: high === low ? low + 1 : high, logarithmic: false };
}

// Points as path data; a gap where a number is undefined, or beyond what can be drawn.
function path(points) {
  let pen = "M";
  let data = "";
  for (const [x, y] of points) {
    if (y === null || !Number.isFinite(y)) {
      pen = "M";
    } else {
      data += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
      pen = "L";
    }
  }
  return data;
}

// One chart with left axis and threshold; `lines`: [{name, points: [[x, y or null]], colour, dash, thin}].
function frame(title, words, extent, bottom, level) {
  const height = BOX.height + bottom;
  const svg = shape("svg", { viewBox: `0 0 ${BOX.width} ${height}`, role: "img", "aria-label": `${title}: ${words}` });
  const y = scale(extent.low, extent.high, BOX.height - 4, BOX.top, extent.logarithmic);
  for (const tick of ticks(extent.low, extent.high, extent.logarithmic)) {
    const at = y(tick);
    svg.append(shape("line", { class: "grid", x1: BOX.left, x2: BOX.width - BOX.right, y1: at, y2: at }));
    svg.append(shape("text", { x: BOX.left - 5, y: at + 3.5, "text-anchor": "end" }, spoken(tick)));
  }
  svg.append(shape("line", { class: "axis", x1: BOX.left, x2: BOX.left, y1: BOX.top, y2: BOX.height - 4 }));
  if (level !== null && level >= extent.low && level <= extent.high) {
    svg.append(shape("line", { class: "threshold", x1: BOX.left, x2: BOX.width - BOX.right, y1: y(level), y2: y(level) }));
  }
  return { svg, y };
}

function drawLine(svg, points, look) {
  const attributes = { d: path(points), fill: "none", stroke: look.colour, "stroke-width": look.thin ? 1 : 1.8 };
  if (look.dash) attributes["stroke-dasharray"] = look.dash;
  svg.append(shape("path", attributes));
  if (points.length > 60 || look.thin) return;
  for (const [x, y] of points) {
    if (y !== null && Number.isFinite(y)) svg.append(shape("circle", { cx: x, cy: y, r: 2.2, fill: look.colour }));
  }
}

function figureOf(title, words, svg) {
  const caption = element("figcaption", { text: `${title} ` });
  caption.append(element("span", { text: words }));
  return element("figure", {}, caption, svg);
}

// ------------------------------------------------------------------------------------ across layers

// What is drawn across layers: ticked runs at the chosen time, then the pinned checkpoints.
function shownCheckpoints() {
  const now = drawnRuns().map((run) => ({ run, checkpoint: checkpointAt(run), pinned: false }));
  const pinned = [...state.pins.values()].map((pin) => ({ run: study.runs[pin.run], checkpoint: pin.checkpoint, pinned: true }));
  return [...now, ...pinned];
}

function drawLayerCharts() {
  const shown = shownCheckpoints();
  const names = study.layers.filter((name) => shown.some(({ run }) => run.place.has(name)));
  const charts = CONDITIONS.map((condition) => layerChart(condition, names, shown));
  document.getElementById("layer-charts").replaceChildren(...charts);
}

function layerChart(condition, names, shown) {
  const columns = shown.map(({ run, checkpoint }) => names.map((name) => valueOf(run, checkpoint, name, condition.value)));
  const level = threshold(condition);
  const extent = range([...columns.flat(), ...(condition.most === 1 ? [] : [level])], condition);
  const longest = Math.max(4, ...names.map((name) => name.length));
  const bottom = Math.min(84, 14 + longest * 4.4);
  const { svg, y } = frame(condition.title, condition.words, extent, bottom, level);
  const x = scale(0, Math.max(1, names.length - 1), BOX.left + 9, BOX.width - BOX.right - 9, false);
  layerNames(svg, names, x);
  const chosen = names.indexOf(state.layer);
  if (chosen >= 0) {
    svg.prepend(shape("rect", { class: "chosen", x: x(chosen) - 7, width: 14, y: BOX.top, height: BOX.height - 4 - BOX.top }));
  }
  drawFirsts(svg, names, x, shown.filter(({ pinned }) => !pinned));
  shown.forEach(({ run, pinned }, number) => {
    const colour = colourOf(run);
    const points = columns[number].map((value, place) => [x(place), value === null ? null : y(value)]);
    drawLine(svg, points, { colour, dash: pinned ? "1.5 3" : dashOf(run), thin: pinned });
  });
  const nearest = (event) => names[Math.max(0, Math.min(names.length - 1, Math.round(x.inverse(pixelOf(svg, event)))))];
  svg.addEventListener("click", (event) => chooseLayer(nearest(event)));
  svg.addEventListener("pointermove", (event) => tip(event, layerWords(nearest(event), condition, shown)));
  svg.addEventListener("pointerleave", hideTip);
  return figureOf(condition.title, condition.words, svg);
}

// A vertical line for each run where NRC1 begins to hold; those that share a layer stand beside each other.
function drawFirsts(svg, names, x, shown) {
  const firsts = shown.map(({ run, checkpoint }) => names.indexOf(firstCollapsed(run, checkpoint)));
  uprights(svg, "first", shown.map(({ run }, number) => ({ run, at: firsts[number] < 0 ? null : x(firsts[number]), dash: dashOf(run) })));
}

// Vertical lines [{run, at: pixel or null, dash}]; those at one place stand beside each other, so that each is seen.
function uprights(svg, kind, lines) {
  for (const { run, at, dash } of lines) {
    if (at === null) continue;
    const sharing = lines.filter((other) => other.at === at).map((other) => other.run);
    const x = at + 2.5 * (sharing.indexOf(run) - (sharing.length - 1) / 2);
    const line = { class: kind, x1: x, x2: x, y1: BOX.top, y2: BOX.height - 4, stroke: colourOf(run), "stroke-width": 1.1 };
    svg.append(shape("line", dash ? { ...line, "stroke-dasharray": dash } : line));
  }
}

// Every name where there is room, else some of them, evenly spread; the pointer tells the others.
function layerNames(svg, names, x) {
  const every = Math.ceil(names.length / 20);
  names.forEach((name, place) => {
    svg.append(shape("line", { class: "axis", x1: x(place), x2: x(place), y1: BOX.height - 4, y2: BOX.height }));
    if (place % every) return;
    const cut = name.length > 18 ? `…${name.slice(-17)}` : name;
    const at = { transform: `translate(${x(place) + 3} ${BOX.height + 8}) rotate(-45)`, "text-anchor": "end" };
    const label = shape("text", at, cut);
    label.append(shape("title", {}, name));
    svg.append(label);
  });
}

function layerWords(layer, condition, shown) {
  const lines = shown.slice(0, 10).map(({ run, checkpoint, pinned }) => {
    const at = study.runs[run.number].checkpoints[checkpoint];
    return `${run.name}, ${run.clock} ${at.time}${pinned ? " (pinned)" : ""}: ${marked(run, checkpoint, layer, condition)}`;
  });
  return [`${layer}, ${condition.title}`, ...lines].join("\n");
}

function pixelOf(svg, event) {
  const box = svg.getBoundingClientRect();
  return ((event.clientX - box.left) / box.width) * BOX.width;
}

// ------------------------------------------------------------------------------------ over training

function drawTimeCharts() {
  const runs = drawnRuns();
  const charts = CONDITIONS.map((condition) => timeChart(condition, runs));
  document.getElementById("time-charts").replaceChildren(...charts, errorChart(runs));
}

function timeScale(runs) {
  const times = runs.flatMap((run) => run.checkpoints.map((c) => c.time));
  const low = times.length ? Math.min(...times) : 0;
  const high = times.length ? Math.max(...times) : 1;
  const logarithmic = state.logTime && low > 0;
  return { x: scale(low, high === low ? low + 1 : high, BOX.left + 4, BOX.width - BOX.right - 4, logarithmic), low, high, logarithmic };
}

function timeAxis(svg, time, clock) {
  let free = -Infinity;
  for (const tick of ticks(time.low, time.high, time.logarithmic)) {
    const at = time.x(tick);
    svg.append(shape("line", { class: "axis", x1: at, x2: at, y1: BOX.height - 4, y2: BOX.height }));
    if (at - free < 26) continue;
    free = at;
    svg.append(shape("text", { x: at, y: BOX.height + 10, "text-anchor": "middle" }, spoken(tick)));
  }
  svg.append(shape("text", { x: BOX.width - BOX.right, y: BOX.height + 22, "text-anchor": "end" }, clock));
  const at = time.x(Math.max(time.low, Math.min(time.high, state.now)));
  svg.prepend(shape("rect", { class: "chosen", x: at - 3, width: 6, y: BOX.top, height: BOX.height - 4 - BOX.top }));
}

function timeChart(condition, runs) {
  const columns = runs.map((run) => run.checkpoints.map((_, number) => valueOf(run, number, state.layer, condition.value)));
  const level = threshold(condition);
  const extent = range([...columns.flat(), ...(condition.most === 1 ? [] : [level])], condition);
  const { svg, y } = frame(condition.title, condition.words, extent, 26, level);
  const time = timeScale(runs);
  timeAxis(svg, time, focusRun().clock);
  const since = runs.map((run) => holdsFrom(run, state.layer, condition));
  uprights(svg, "onset", runs.map((run, number) => ({ run, at: since[number] === null ? null : time.x(since[number]), dash: dashOf(run) })));
  runs.forEach((run, number) => {
    const look = { colour: colourOf(run), dash: dashOf(run) };
    const points = run.checkpoints.map((c, k) => [time.x(c.time), columns[number][k] === null ? null : y(columns[number][k])]);
    drawLine(svg, points, look);
  });
  timePointer(svg, time, (now) => timeWords(now, condition, runs));
  const alone = runs.filter((run) => isLastOnly(run, state.layer, condition));
  return figureOf(condition.title, [state.layer ?? "", ...remark(LAST_ONLY, alone)].join("; "), svg);
}

function errorChart(runs) {
  const fields = ["mse", "heldoutMse"];
  const extent = range(runs.flatMap((run) => run.checkpoints.flatMap((c) => fields.map((field) => c[field]))), null);
  const { svg, y } = frame("error", "mean squared error", extent, 26, null);
  const time = timeScale(runs);
  timeAxis(svg, time, focusRun().clock);
  const settled = runs.map((run) => settledFrom(run, "mse"));
  uprights(svg, "settled", runs.map((run, number) => ({ run, at: settled[number] === null ? null : time.x(settled[number]), dash: "1.5 3" })));
  for (const run of runs) {
    for (const field of fields) {
      const points = run.checkpoints.map((c) => [time.x(c.time), c[field] === null ? null : y(c[field])]);
      drawLine(svg, points, { colour: colourOf(run), dash: field === "mse" ? dashOf(run) : "4 3", thin: field !== "mse" });
    }
  }
  timePointer(svg, time, (now) => errorWords(now, runs));
  const open = runs.filter((run) => run.checkpoints.length > 1 && canSettle(run, "mse") && settledFrom(run, "mse") === null);
  const words = ["mean squared error", "thin and dashed: held out", ...remark(NOT_SETTLED, open)];
  return figureOf("error", words.join("; "), svg);
}

// What is said of some of the drawn runs, each of which has no line for it.
function remark(words, runs) {
  const more = runs.length > 4 ? ` and ${runs.length - 4} more` : "";
  const names = runs.slice(0, 4).map((run) => run.name).join(", ");
  return runs.length ? [`${words}: ${names}${more}`] : [];
}

function timePointer(svg, time, words) {
  const nearest = (event) => closest(state.times, time.x.inverse(pixelOf(svg, event)));
  svg.addEventListener("click", (event) => chooseTime(nearest(event)));
  svg.addEventListener("pointermove", (event) => tip(event, words(nearest(event))));
  svg.addEventListener("pointerleave", hideTip);
}

function closest(values, wanted) {
  return values.reduce((best, value) => (Math.abs(value - wanted) < Math.abs(best - wanted) ? value : best), values[0]);
}

function timeWords(now, condition, runs) {
  const lines = runs.slice(0, 10).map((run) => {
    const number = run.checkpoints.findIndex((c) => c.time === now);
    return `${run.name}: ${number < 0 ? "-" : short(valueOf(run, number, state.layer, condition.value))}`;
  });
  return [`${condition.title} of ${state.layer} at ${focusRun().clock} ${now}`, ...lines].join("\n");
}

function errorWords(now, runs) {
  const lines = runs.slice(0, 10).map((run) => {
    const found = run.checkpoints.find((c) => c.time === now);
    return found ? `${run.name}: ${short(found.mse)}, held out ${short(found.heldoutMse)}` : `${run.name}: -`;
  });
  return [`error at ${focusRun().clock} ${now}`, ...lines].join("\n");
}

function tip(event, text) {
  const box = document.getElementById("tip");
  box.textContent = text;
  box.hidden = false;
  const left = Math.min(event.clientX + 14, window.innerWidth - box.offsetWidth - 8);
  const below = event.clientY + 16 + box.offsetHeight < window.innerHeight;
  box.style.left = `${Math.max(4, left)}px`;
  box.style.top = `${below ? event.clientY + 16 : event.clientY - box.offsetHeight - 10}px`;
}

function hideTip() {
  document.getElementById("tip").hidden = true;
}
