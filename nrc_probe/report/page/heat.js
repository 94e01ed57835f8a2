// Heat maps: a row a layer, a column a checkpoint, drawn on canvas since there may be 20,000 cells.

// cividis (Nunez, Anderton & Renslow 2018): even in lightness, the same to colour-blind eyes.
const CIVIDIS = [
  [0, 32, 77], [0, 52, 110], [57, 72, 107], [87, 92, 109], [112, 113, 115], [138, 134, 120], [166, 157, 117], [196, 181, 108], [228, 207, 91], [255, 234, 70],
];
const UNDEFINED = [0, 0, 0, 0]; // the page shows through: no colour of the scale

// 0 at what is collapsed, 1 at what is farthest from it; ratios by their logarithm from 1 to 16.
function farness(condition, value) {
  const share = condition.most === 1 ? (condition.falls ? value : 1 - value) : Math.log2(Math.max(value, 1)) / 4;
  return Math.max(0, Math.min(1, share));
}

function heatColour(share) {
  const place = share * (CIVIDIS.length - 1);
  const below = Math.min(CIVIDIS.length - 2, Math.floor(place));
  return CIVIDIS[below].map((c, k) => Math.round(c + (place - below) * (CIVIDIS[below + 1][k] - c)));
}

function heatLayout(run, width) {
  const longest = Math.max(...run.layers.map((name) => Math.min(18, name.length)));
  const left = Math.min(width * 0.34, 12 + longest * 6.6);
  const cell = (width - left - 4) / run.checkpoints.length;
  const row = run.layers.length > 24 ? 11 : run.layers.length > 12 ? 15 : 19;
  return { left, top: 3, cell, row, width, height: row * run.layers.length + 22 };
}

function makeHeatMaps() {
  const figures = CONDITIONS.map((condition) => {
    const label = `${condition.title} over layers and checkpoints; arrow keys choose`;
    const canvas = element("canvas", { tabindex: 0, role: "img", "aria-label": label, "data-condition": condition.key });
    canvas.addEventListener("click", (event) => choose(heatPlace(canvas, event)));
    canvas.addEventListener("pointermove", (event) => {
      const place = heatPlace(canvas, event);
      if (place) tip(event, cellWords(place));
      else hideTip();
    });
    canvas.addEventListener("pointerleave", hideTip);
    canvas.addEventListener("keydown", heatKey);
    return element("figure", {}, element("figcaption", { text: `${condition.title} ` }, element("span", { text: condition.words })), canvas, heatLegend(condition));
  });
  document.getElementById("heat-maps").replaceChildren(...figures);
}

function heatLegend(condition) {
  const bar = element("canvas", { width: 110, height: 9, "aria-hidden": "true" });
  const pen = bar.getContext("2d");
  for (let x = 0; x < 110; x += 1) {
    pen.fillStyle = `rgb(${heatColour(condition.falls ? x / 109 : 1 - x / 109).join(",")})`;
    pen.fillRect(x, 0, 1, 9);
  }
  const ends = condition.most === 1 ? ["0", "1"] : ["1", "16 and above"];
  return element("div", { class: "legend" }, element("span", { text: ends[0] }), bar, element("span", { text: ends[1] }), element("span", { text: "· outlined: met · blank: undefined" }));
}

function drawHeatMaps() {
  document.querySelectorAll("#heat-maps canvas[data-condition]").forEach((canvas) => {
    drawHeatMap(canvas, CONDITIONS.find((condition) => condition.key === canvas.dataset.condition));
  });
  document.getElementById("heat-readout").textContent = state.layer ? cellWords({ checkpoint: checkpointAt(focusRun()), layer: state.layer }) : "";
}

const painted = new Map();

// The cells are painted once for each threshold, run and size; the crosshair moves over the picture.
function drawHeatMap(canvas, condition) {
  const run = focusRun();
  const box = heatLayout(run, canvas.clientWidth || 480);
  const dense = window.devicePixelRatio || 1;
  const key = [run.number, threshold(condition), box.width, dense, theme()].join();
  if (painted.get(condition.key)?.key !== key) {
    painted.set(condition.key, { key, picture: paint(run, condition, box, dense) });
  }
  canvas.width = Math.round(box.width * dense);
  canvas.height = Math.round(box.height * dense);
  canvas.style.height = `${box.height}px`;
  const pen = canvas.getContext("2d");
  pen.drawImage(painted.get(condition.key).picture, 0, 0);
  pen.scale(dense, dense);
  crosshair(pen, box, run);
}

function paint(run, condition, box, dense) {
  const picture = element("canvas", { width: Math.round(box.width * dense), height: Math.round(box.height * dense) });
  const pen = picture.getContext("2d");
  pen.scale(dense, dense);
  const columns = run.checkpoints.length;
  const rows = run.layers.length;
  pen.imageSmoothingEnabled = false;
  pen.drawImage(cells(run.values[condition.value], condition, columns, rows), box.left, box.top, box.cell * columns, box.row * rows);
  const met = run.values[condition.value].map((value, place) => judged(condition, value) && !isUndecided(run, place, condition));
  outline(pen, box, met, columns, rows);
  heatLabels(pen, box, run);
  return picture;
}

// One pixel a cell.
function cells(values, condition, columns, rows) {
  const small = element("canvas", { width: columns, height: rows });
  const pen = small.getContext("2d");
  const image = pen.createImageData(columns, rows);
  values.forEach((value, place) => {
    const at = 4 * ((place % rows) * columns + Math.floor(place / rows));
    image.data.set(value === null ? UNDEFINED : [...heatColour(farness(condition, value)), 255], at);
  });
  pen.putImageData(image, 0, 0);
  return small;
}

// A line around everything that is met: white below black shows on every colour.
function outline(pen, box, met, columns, rows) {
  const is = (column, row) => column >= 0 && row >= 0 && column < columns && row < rows && met[column * rows + row];
  pen.beginPath();
  for (let column = 0; column < columns; column += 1) {
    for (let row = 0; row < rows; row += 1) {
      if (!is(column, row)) continue;
      const x = box.left + column * box.cell;
      const y = box.top + row * box.row;
      if (!is(column - 1, row)) { pen.moveTo(x, y); pen.lineTo(x, y + box.row); }
      if (!is(column + 1, row)) { pen.moveTo(x + box.cell, y); pen.lineTo(x + box.cell, y + box.row); }
      if (!is(column, row - 1)) { pen.moveTo(x, y); pen.lineTo(x + box.cell, y); }
      if (!is(column, row + 1)) { pen.moveTo(x, y + box.row); pen.lineTo(x + box.cell, y + box.row); }
    }
  }
  const fine = box.cell < 5;
  for (const [colour, width] of [["#ffffff", fine ? 2 : 3.5], ["#111111", fine ? 0.8 : 1.4]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.lineCap = "square";
    pen.stroke();
  }
}

function heatLabels(pen, box, run) {
  const ink = getComputedStyle(document.documentElement).getPropertyValue("--quiet");
  pen.font = `${Math.min(11, box.row - 1)}px ${getComputedStyle(document.body).fontFamily}`;
  pen.fillStyle = ink;
  pen.textBaseline = "middle";
  pen.textAlign = "right";
  run.layers.forEach((name, row) => {
    const cut = name.length > 18 ? `…${name.slice(-17)}` : name;
    pen.fillText(cut, box.left - 6, box.top + (row + 0.5) * box.row, box.left - 8);
  });
  pen.textAlign = "center";
  pen.font = `10.5px ${getComputedStyle(document.body).fontFamily}`;
  let free = -Infinity;
  run.checkpoints.forEach((checkpoint, column) => {
    const x = box.left + (column + 0.5) * box.cell;
    const room = 12 + 6.5 * String(checkpoint.time).length;
    if (x - free < room) return;
    free = x;
    pen.fillText(String(checkpoint.time), Math.min(x, box.width - 14), box.height - 9);
  });
}

function crosshair(pen, box, run) {
  const column = checkpointAt(run);
  const row = run.layers.indexOf(state.layer);
  pen.strokeStyle = "#E0218A";
  pen.lineWidth = 2;
  pen.strokeRect(box.left + column * box.cell, box.top, Math.max(box.cell, 2), box.row * run.layers.length);
  if (row >= 0) pen.strokeRect(box.left, box.top + row * box.row, box.cell * run.checkpoints.length, box.row);
}

function heatPlace(canvas, event) {
  const run = focusRun();
  const box = heatLayout(run, canvas.clientWidth);
  const at = canvas.getBoundingClientRect();
  const column = Math.floor((event.clientX - at.left - box.left) / box.cell);
  const row = Math.floor((event.clientY - at.top - box.top) / box.row);
  if (row < 0 || row >= run.layers.length || column >= run.checkpoints.length) return null;
  return { checkpoint: Math.max(0, column), layer: run.layers[row] };
}

function heatKey(event) {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!step) return;
  event.preventDefault();
  const run = focusRun();
  const column = Math.max(0, Math.min(run.checkpoints.length - 1, checkpointAt(run) + step[0]));
  const row = Math.max(0, Math.min(run.layers.length - 1, run.layers.indexOf(state.layer) + step[1]));
  choose({ checkpoint: column, layer: run.layers[row] });
}

function cellWords({ checkpoint, layer }) {
  const run = focusRun();
  const parts = CONDITIONS.map((condition) => `${condition.title} ${marked(run, checkpoint, layer, condition)}`);
  return `${layer}, ${run.clock} ${run.checkpoints[checkpoint].time}: ${parts.join(", ")}`;
}
