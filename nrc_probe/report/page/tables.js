// The tables of checkpoints and of layers, and where everything came from.

const CHECKPOINT_COLUMNS = [
  { key: "run", title: "run", text: true, of: (row) => row.run.name },
  { key: "label", title: "checkpoint", text: true, of: (row) => row.at.label },
  { key: "epoch", title: "epoch", of: (row) => row.at.epoch },
  { key: "weightDecay", title: "weight decay", of: (row) => row.at.weightDecay, show: (row) => plain(row.at.weightDecay) },
  { key: "mse", title: "error", of: (row) => row.at.mse },
  { key: "heldoutMse", title: "held out", of: (row) => row.at.heldoutMse },
  { key: "r2", title: "R²", of: (row) => row.at.r2 },
  { key: "first", title: "NRC1 from", text: true, of: (row) => firstCollapsed(row.run, row.number) },
  { key: "four", title: "all four", of: (row) => allFour(row.run, row.number)[0], show: (row) => allFour(row.run, row.number).join(" / ") },
];

// Sorted by time, what is met at the last checkpoint only after all of them.
const SINCE = {
  of: (row) => sinceWords(focusRun(), row.layer, CONDITIONS[0]),
  order: (row) => (isLastOnly(focusRun(), row.layer, CONDITIONS[0]) ? Infinity : holdsFrom(focusRun(), row.layer, CONDITIONS[0])),
  show: (row) => sinceWords(focusRun(), row.layer, CONDITIONS[0]),
};

const LAYER_COLUMNS = [
  { key: "layer", title: "layer", text: true, of: (row) => row.layer, order: (row) => row.place },
  ...["width", "rank"].map((key) => ({ key, title: key, of: (row) => row.get(key) })),
  ...CONDITIONS.map((condition) => ({ key: condition.value, title: condition.title, condition, of: (row) => row.get(condition.value) })),
  ...(unfolds() ? [{ key: "since", title: "NRC1 since", ...SINCE }] : []),
  ...[
    ["nrc4", "NRC4"], ["nrc4_heldout", "NRC4 held out"], ["nrc3_chance", "NRC3 chance"], ["nrc3_noise", "NRC3 noise"], ["cka", "CKA"],
    ["effective_rank", "eff. rank"], ["stable_rank_covariance", "stable rank S"], ["stable_rank_weight", "stable rank W"],
  ].map(([key, title]) => ({ key, title, of: (row) => row.get(key) })),
];

const sorting = { checkpoints: null, layers: null };

// Short names stay on one line.
function textKind(text) {
  return text.length > 44 ? "text long" : "text";
}

// Rows in the order that was asked for; what is undefined stands last either way.
function sorted(rows, columns, how) {
  if (!how) return rows;
  const column = columns.find((c) => c.key === how.key);
  const value = column.order || column.of;
  const sign = how.descending ? -1 : 1;
  return [...rows].sort((a, b) => {
    const [left, right] = [value(a), value(b)];
    if (left === right) return 0;
    if (left === null) return 1;
    if (right === null) return -1;
    return sign * (typeof left === "string" ? left.localeCompare(right, undefined, { numeric: true }) : left - right);
  });
}

function headRow(table, columns, leading, redraw) {
  const row = element("tr");
  if (leading) row.append(element("th", { class: "text", text: leading }));
  for (const column of columns) {
    const how = sorting[table];
    const active = how && how.key === column.key;
    const arrow = active ? (how.descending ? " ↓" : " ↑") : "";
    const button = element("button", {
      type: "button",
      "data-sort": column.key,
      text: column.title + arrow,
      onclick: () => {
        sorting[table] = active && how.descending ? null : { key: column.key, descending: Boolean(active) };
        redraw();
        document.querySelector(`#${table} [data-sort="${column.key}"]`).focus();
      },
    });
    const sort = active ? (how.descending ? "descending" : "ascending") : "none";
    row.append(element("th", { class: column.text ? "text" : null, "aria-sort": sort }, button));
  }
  return element("thead", {}, row);
}

// Says so where a table has columns beyond its right edge.
function hintAtColumns() {
  document.querySelectorAll(".scroll").forEach((box) => {
    const beyond = box.scrollWidth - box.clientWidth - box.scrollLeft > 2;
    box.classList.toggle("wide", beyond);
    box.previousElementSibling.hidden = !beyond;
  });
}

// ------------------------------------------------------------------------------------- checkpoints

function checkpointRows() {
  return study.runs.flatMap((run) => run.checkpoints.map((at, number) => ({ run, at, number })));
}

function drawCheckpoints() {
  const table = document.getElementById("checkpoints");
  const rows = sorted(checkpointRows(), CHECKPOINT_COLUMNS, sorting.checkpoints);
  const body = element("tbody", {}, ...rows.map(checkpointRow));
  table.replaceChildren(headRow("checkpoints", CHECKPOINT_COLUMNS, "pin", drawCheckpoints), body);
  markNow();
  hintAtColumns();
}

function checkpointRow(row) {
  const id = `${row.run.number}:${row.number}`;
  const pin = element("input", { type: "checkbox", "aria-label": `pin ${row.run.name}, ${row.at.label}`, "data-pin": id });
  pin.checked = state.pins.has(id);
  pin.addEventListener("change", () => {
    if (pin.checked) state.pins.set(id, { run: row.run.number, checkpoint: row.number });
    else state.pins.delete(id);
    drawLayerCharts();
  });
  const cells = CHECKPOINT_COLUMNS.map((column) => {
    const value = column.of(row);
    const shown = column.show ? column.show(row) : column.text ? (value ?? "-") : short(value);
    return element("td", { class: column.text ? textKind(shown) : null, "data-field": column.key, text: shown });
  });
  const made = element("tr", { "data-checkpoint": id }, element("td", { class: "text" }, pin), ...cells);
  made.addEventListener("click", (event) => {
    if (event.target === pin) return;
    state.focus = row.run.number;
    state.drawn.add(row.run.number);
    state.now = row.at.time;
    redraw();
  });
  return made;
}

// The row of the checkpoint that heat maps, layer table and provenance are about.
function markNow() {
  const id = `${state.focus}:${checkpointAt(focusRun())}`;
  document.querySelectorAll("#checkpoints tbody tr").forEach((row) => row.classList.toggle("now", row.dataset.checkpoint === id));
}

// What the thresholds change, in the rows as they stand.
function rejudgeCheckpoints() {
  if (sorting.checkpoints && ["first", "four"].includes(sorting.checkpoints.key)) {
    drawCheckpoints();
    return;
  }
  document.querySelectorAll("#checkpoints tbody tr").forEach((made) => {
    const [run, number] = made.dataset.checkpoint.split(":").map(Number);
    made.querySelector('[data-field="first"]').textContent = firstCollapsed(study.runs[run], number) ?? "-";
    made.querySelector('[data-field="four"]').textContent = allFour(study.runs[run], number).join(" / ");
  });
}

// ------------------------------------------------------------------------------------------ layers

function drawLayers() {
  const run = focusRun();
  const checkpoint = checkpointAt(run);
  const rows = scoredLayers(run, checkpoint).map((layer, place) => ({
    layer,
    place,
    get: (key) => valueOf(run, checkpoint, layer, key),
    marked: (condition) => marked(run, checkpoint, layer, condition),
  }));
  const body = element("tbody", {}, ...sorted(rows, LAYER_COLUMNS, sorting.layers).map(layerRow));
  document.getElementById("layers").replaceChildren(headRow("layers", LAYER_COLUMNS, null, drawLayers), body);
  hintAtColumns();
}

function layerRow(row) {
  const cells = LAYER_COLUMNS.map((column) => {
    const value = column.of(row);
    const shown = column.show ? column.show(row) : column.condition ? row.marked(column.condition) : column.text ? value : short(value);
    const kind = column.text ? textKind(value) : shown.endsWith("✓") ? "met" : null;
    return element("td", { class: kind, "data-field": column.key, text: shown });
  });
  const made = element("tr", { "data-layer": row.layer }, ...cells);
  made.classList.toggle("now", row.layer === state.layer);
  made.addEventListener("click", () => chooseLayer(row.layer));
  return made;
}

// -------------------------------------------------------------------------------------- provenance

function drawProvenance() {
  const run = focusRun();
  const at = run.checkpoints[checkpointAt(run)];
  const name = `${run.name}, ${at.label}`;
  document.querySelectorAll(".focus-name").forEach((place) => { place.textContent = run.name; });
  document.querySelectorAll(".checkpoint-name").forEach((place) => { place.textContent = name; });
  const facts = [
    ["checkpoint", at.path ?? "a live module"],
    ["sha256", at.sha256 ?? "-"],
    ["training", `epoch ${at.epoch ?? "-"}, step ${at.step ?? "-"}, weight decay ${plain(at.weightDecay)}, learning rate ${plain(at.learningRate)}`],
    ["error", `MSE ${short(at.mse)}, R² ${short(at.r2)}; held out: MSE ${short(at.heldoutMse)}, R² ${short(at.heldoutR2)}`],
    ...run.facts,
    ["computed by", at.made],
    ["remarks", at.remarks || "none"],
  ];
  const pairs = facts.flatMap(([term, words]) => [element("dt", { text: term }), element("dd", { text: words })]);
  document.getElementById("provenance").replaceChildren(...pairs);
}

function drawBroken() {
  const lists = [["Could not be scored", study.failed], ["Could not be read", study.unread]].filter(([, files]) => files.length);
  const made = lists.flatMap(([title, files]) => [
    element("h2", { text: `${title} (${files.length})` }),
    element("ul", {}, ...files.map((file) => element("li", { text: `${file.path}: ${file.reason}` }))),
  ]);
  document.getElementById("broken").replaceChildren(...made);
}
