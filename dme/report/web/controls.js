// Slider, volumes, zoom buttons and keys; what stands under the scan, and what is read aloud.
"use strict";
{ // names in here are no other file's

const slider = document.querySelector("#slider");
const volumes = document.querySelector("#volumes");
const place = document.querySelector("#place");
const readout = document.querySelector("#readout");
const aloud = document.querySelector("#aloud");
const about = document.querySelector("#about");

dme.on("start", () => {
  const groups = [...new Set(dme.scans.map(scan => scan.volume))];
  for (const name of groups) volumes.append(new Option(name ?? "single scans", name ?? ""));
  volumes.parentElement.hidden = groups.length < 2;
});

dme.on("open", () => {
  const scan = dme.scan();
  const together = dme.together();
  const number = together.indexOf(scan);
  slider.max = together.length - 1;
  slider.value = number;
  volumes.value = scan.volume ?? "";
  const kind = scan.volume === null ? "scan" : "B-scan";
  place.textContent = `${kind} ${number + 1} of ${together.length}`;
  slider.setAttribute("aria-valuetext", place.textContent);
  showAbout(scan);
  sayAloud(`${scan.name}, ${place.textContent}. ${spoken(scan)}`);
  dme.stage.canvas.ariaLabel = `${scan.name}: ${spoken(scan)}`;
  showReadout();
});

// ---- numbers of the open scan -----------------------------------------------------------------
function showAbout(scan) {
  about.querySelector("h3").textContent = scan.name;
  const numbers = about.querySelector("dl");
  numbers.replaceChildren();
  for (const column of dme.columns.filter(other => !other.end)) {
    numbers.append(dme.element("div", {}, [
      dme.element("dt", {textContent: column.title}),
      dme.element("dd", {textContent: dme.shown(scan, column)}),
    ]));
  }
  const flags = about.querySelector("ul");
  flags.replaceChildren(...scan.flags.map(flag => dme.element("li", {textContent: flag})));
  flags.hidden = scan.flags.length === 0;
}

function spoken(scan) {
  const parts = dme.columns.slice(0, 2).map(column => `${column.title} ${dme.shown(scan, column)}`);
  return [...parts, ...scan.flags.map(flag => `doubtful: ${flag}`)].join(", ");
}

let waiting = null;

function sayAloud(text) { // of many steps in a row only the last
  clearTimeout(waiting);
  waiting = setTimeout(() => { aloud.textContent = text; }, 400);
}

// ---- values under the cursor ------------------------------------------------------------------
dme.on("cursor", showReadout);

// Texts: what is known of a pixel of the open scan
dme.valuesAt = function ([x, y]) {
  const {width, scale} = dme.scan();
  const values = dme.values || {};
  const at = y * width + x;
  const parts = [["column", String(x)], ["row", String(y)]];
  if (values.probability) {
    const share = (values.probability[at] / 255).toFixed(2);
    parts.push(["fluid probability", values.mask[at] ? `${share}, fluid` : share]);
  }
  if (values.rows) parts.push(...thicknessAt(values.rows, x, y, width, scale[0]));
  if (values.mask && !values.rows) parts.push(["fluid in this column", fluidIn(values.mask, x, scale[0])]);
  if (values.truth) {
    parts.push(["grader", {0: "no fluid", 1: "fluid"}[values.truth[at]] ?? "not graded"]);
  }
  return parts;
};

const lengthOf = (pixels, axial) =>
  axial ? `${(pixels * axial).toFixed(0)} \u00b5m` : `${pixels.toFixed(1)} px`;

function thicknessAt(rows, x, y, width, axial) {
  const row = k => rows[k * width + x];
  const last = dme.boundaries.length - 1;
  const retina = row(last) - row(0);
  if (Number.isNaN(retina)) return [["retina", "unknown"]];
  const parts = [["retina", lengthOf(retina, axial)]];
  let k = 0; // the layer in which the centre of the pixel lies
  while (k <= last && y >= row(k)) k++;
  if (k > 0 && k <= last) parts.unshift([dme.layers[k - 1], lengthOf(row(k) - row(k - 1), axial)]);
  else parts.unshift(["layer", k ? "below the retina" : "above the retina"]);
  return parts;
}

function fluidIn(mask, x, axial) {
  const {width, height} = dme.scan();
  let pixels = 0;
  for (let y = 0; y < height; y++) pixels += mask[y * width + x] === 1;
  return lengthOf(pixels, axial);
}

function showReadout() {
  const {cursor} = dme.stage;
  readout.replaceChildren();
  if (!cursor) {
    const text = dme.missing() || "Point at the scan for thickness and probability.";
    readout.append(dme.element("span", {className: "hint", textContent: text}));
    return;
  }
  for (const [name, value] of dme.valuesAt(cursor)) {
    readout.append(dme.element("span", {}, [`${name} `, dme.element("b", {textContent: value})]));
  }
}

// That files beside the page are not there
dme.missing = function () {
  if (!dme.loaded) return "";
  if (!dme.picture) return "The picture of this scan is not beside this page: keep the folder together.";
  return dme.values ? "" : "The values of this scan are not beside this page: keep the folder together.";
};
dme.on("open", () => { dme.loaded = false; });
dme.on("values", () => {
  dme.loaded = true;
  showReadout();
});

// ---- slider and buttons -----------------------------------------------------------------------
slider.addEventListener("input", () => dme.open(dme.together()[slider.value].index));
volumes.addEventListener("change", () => {
  dme.open(dme.scans.find(scan => (scan.volume ?? "") === volumes.value).index);
});
const actions = {
  previous: () => dme.step(-1),
  next: () => dme.step(1),
  in: () => dme.zoomBy(1.5),
  out: () => dme.zoomBy(1 / 1.5),
  fit: () => dme.fit(),
};
for (const button of document.querySelectorAll("[data-action]")) {
  button.addEventListener("click", () => actions[button.dataset.action]());
}
dme.on("view", () => {
  document.querySelector("#zoom").textContent = `${Math.round(100 * dme.stage.zoom)} %`;
});

// ---- keys -------------------------------------------------------------------------------------
// Arrows page wherever the focus is, unless it is on something that uses them itself; letters only
// within the viewer, so that none is typed by accident.
const ARROWS = {ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10};
const KEYS = {
  "+": actions.in,
  "=": actions.in,
  "-": actions.out,
  "0": actions.fit,
};
const viewer = document.querySelector("#viewer");

document.addEventListener("keydown", event => {
  const target = event.target;
  const takesKeys = target.closest("input, select, textarea, dialog, [role=listbox], [role=slider]");
  if (takesKeys || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const within = viewer.contains(target) || target === document.body;
  if (!within) return;
  if (event.shiftKey && event.key.startsWith("Arrow")) moveCursor(event.key);
  else if (event.key.startsWith("Page") && target === document.body) return; // the page scrolls
  else if (ARROWS[event.key]) dme.step(ARROWS[event.key]);
  else if (!viewer.contains(target) || !pressed(event.key)) return;
  event.preventDefault();
});

// Whether a key of the viewer did something
function pressed(key) {
  const layers = dme.drawn.filter(layer => layer.seen && layer.key === key.toLowerCase());
  if (layers.length) dme.toggle(layers);
  else if (KEYS[key]) KEYS[key]();
  else return false;
  return true;
}

// The cursor by keys: a screen pixel or more at a time, what is seen follows
function moveCursor(key) {
  const {width, height} = dme.scan();
  const step = Math.max(1, Math.round(4 * dme.pixel()));
  const [right, down] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[key];
  const [x, y] = dme.stage.cursor || dme.stage.centre.map(Math.floor);
  dme.setCursor([
    Math.min(Math.max(x + right * step, 0), width - 1),
    Math.min(Math.max(y + down * step, 0), height - 1),
  ]);
  dme.keepCursorInView();
  sayAloud(dme.valuesAt(dme.stage.cursor).map(part => part.join(" ")).join(", "));
}
}
