// What the pointer does while a tool is chosen: brush, eraser, assisted brush, fill, boundaries,
// columns that nobody grades. Places are x, y of the scan, not rounded.
"use strict";
{ // names in here are no other file's

const NEAR = 14; // screen pixels within which a boundary or a point is taken hold of
const MOST_FILLED = 0.25; // of the scan: more comes from an outline that is open

dme.edit.settings = {
  radius: 4, // of the brush, in pixels of the scan
  above: 0.3, // probability from which the assisted brush paints
  reach: 60, // columns on each side that follow a dragged point
  boundary: 0, // that is drawn where there is none yet
};
const {settings} = dme.edit;

function row(k, x) {
  return dme.values.rows[k * dme.scan().width + x];
}

// ---- brushes ----------------------------------------------------------------------------------
let last = null; // place of the stroke that is drawn

function brush(id, title, value, allowed = () => true) {
  return {
    id, title,
    available: () => dme.values.mask,
    down(place) {
      dme.edit.before();
      last = place;
      stroke(place, value, allowed);
    },
    move(place) {
      if (last) stroke(place, value, allowed);
      last &&= place;
    },
    up() { last = null; },
  };
}

// Discs along the way from the last place
function stroke(place, value, allowed) {
  const distance = Math.hypot(place[0] - last[0], place[1] - last[1]);
  const steps = Math.max(1, Math.ceil(2 * distance / settings.radius));
  for (let step = 1; step <= steps; step++) {
    const share = step / steps;
    disc(last.map((start, axis) => start + (place[axis] - start) * share), value, allowed);
  }
  dme.edit.changed();
}

// Pixels whose centres lie within the radius; at least the one under the pointer
function disc([x, y], value, allowed) {
  const {width, height} = dme.scan();
  const {mask} = dme.values;
  const {radius} = settings;
  for (let down = Math.max(0, Math.floor(y - radius)); down <= Math.min(height - 1, y + radius); down++) {
    for (let across = Math.max(0, Math.floor(x - radius)); across <= Math.min(width - 1, x + radius); across++) {
      const under = down === Math.floor(y) && across === Math.floor(x);
      const inside = Math.hypot(across + 0.5 - x, down + 0.5 - y) <= radius;
      const pixel = down * width + across;
      if ((inside || under) && allowed(pixel)) mask[pixel] = value;
    }
  }
}

// ---- fill -------------------------------------------------------------------------------------
// Of an outline the inside, within the layer that was clicked; of fluid the region goes
function fill(place) {
  const {width, height} = dme.scan();
  const {mask} = dme.values;
  const [x, y] = place.map(Math.floor);
  if (x < 0 || y < 0 || x >= width || y >= height) return;
  const value = mask[y * width + x];
  const layer = layerOf(x, y);
  const same = (across, down) =>
    mask[down * width + across] === value && (value === 1 || layerOf(across, down) === layer);

  const region = [];
  const seen = new Uint8Array(width * height);
  const waiting = [[x, y]];
  seen[y * width + x] = 1;
  while (waiting.length) {
    const [across, down] = waiting.pop();
    region.push(down * width + across);
    for (const [right, below] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      const [next, under] = [across + right, down + below];
      if (next < 0 || under < 0 || next >= width || under >= height) continue;
      if (seen[under * width + next] || !same(next, under)) continue;
      seen[under * width + next] = 1;
      waiting.push([next, under]);
    }
  }
  if (value === 0 && region.length > MOST_FILLED * width * height) {
    dme.edit.say("nothing is filled: the outline around this place is open");
    return;
  }
  dme.edit.before();
  for (const pixel of region) mask[pixel] = 1 - value;
  dme.edit.changed();
}

// How many boundaries lie above the centre of a pixel; the same without boundaries
function layerOf(x, y) {
  if (!dme.values.rows) return 0;
  let layer = 0;
  dme.boundaries.forEach((boundary, k) => { layer += y >= row(k, x); });
  return layer;
}

// ---- boundaries -------------------------------------------------------------------------------
// A dragged point takes its neighbours along, less and less up to the reach or to the next point
// that was dragged before. Where there is no boundary yet, a smooth curve joins the points.
let held = null; // k, x, base: its rows until now; fromNothing
let points = []; // of the open scan: k, x
let joined = new Map(); // k -> all [x, row] that were set where there was no boundary, unknown:
// the columns without one

dme.edit.forget = function () {
  points = [];
  joined = new Map();
};
dme.on("open", dme.edit.forget);

// Whether a column of a boundary is drawn from nothing
function isUnknown(k, x) {
  return joined.has(k) ? joined.get(k).unknown[x] === 1 : Number.isNaN(row(k, x));
}

const boundaryTool = {
  id: "boundary", title: "boundary",
  available: () => dme.values.rows,
  down(place) {
    const {width} = dme.scan();
    const x = Math.min(Math.max(Math.floor(place[0]), 0), width - 1);
    const near = nearestBoundary(x, place[1] - 0.5);
    const k = near ?? settings.boundary;
    const fromNothing = isUnknown(k, x);
    if (near === null && !fromNothing) return; // nothing is taken hold of
    dme.edit.before();
    const start = k * width;
    held = {k, x, fromNothing, base: dme.values.rows.slice(start, start + width)};
    if (fromNothing) addPoint(k, x, place[1] - 0.5);
  },
  move(place) {
    if (held?.fromNothing) addPoint(held.k, held.x, place[1] - 0.5);
    else if (held) drag(held, place[1] - 0.5);
  },
  up() {
    if (held) points.push({k: held.k, x: held.x});
    held = null;
  },
};

function nearestBoundary(x, y) {
  let best = null;
  let least = NEAR * dme.pixel();
  dme.boundaries.forEach((boundary, k) => {
    const distance = Math.abs(row(k, x) - y);
    if (distance <= least) [best, least] = [k, distance];
  });
  return best;
}

function drag({k, x, base}, y) {
  const {width} = dme.scan();
  const others = points.filter(point => point.k === k && point.x !== x).map(point => point.x);
  const left = Math.min(settings.reach, ...others.filter(other => other < x).map(other => x - other));
  const right = Math.min(settings.reach, ...others.filter(other => other > x).map(other => other - x));
  const by = y - base[x];
  for (let column = Math.max(0, x - left); column <= Math.min(width - 1, x + right); column++) {
    const share = (column - x) / (column < x ? left : right) || 0;
    const follows = 0.5 * (1 + Math.cos(Math.PI * share));
    setRow(k, column, base[column] + by * follows);
  }
  dme.edit.changed();
}

// Boundaries stay in order and within the scan
function setRow(k, x, value) {
  const {width, height} = dme.scan();
  let lowest = 0;
  let highest = height;
  dme.boundaries.forEach((boundary, other) => {
    const at = row(other, x);
    if (other < k && at > lowest) lowest = at;
    if (other > k && at < highest) highest = at;
  });
  dme.values.rows[k * width + x] = Math.min(Math.max(value, lowest), highest);
}

function addPoint(k, x, y) {
  const {width} = dme.scan();
  if (!joined.has(k)) {
    const unknown = Uint8Array.from({length: width}, (_, column) => Number.isNaN(row(k, column)));
    joined.set(k, {all: [], unknown});
  }
  const {all, unknown} = joined.get(k);
  const others = all.filter(point => point[0] !== x);
  const sorted = [...others, [x, y]].sort((a, b) => a[0] - b[0]);
  joined.set(k, {all: sorted, unknown});
  setRow(k, x, y);
  for (const [column, value] of curve(sorted)) {
    if (unknown[column]) setRow(k, column, value);
  }
  dme.edit.changed();
}

// A curve through points that overshoots none (monotone cubic, Fritsch and Carlson 1980)
function curve(all) {
  const slopes = [];
  for (let i = 0; i + 1 < all.length; i++) {
    slopes.push((all[i + 1][1] - all[i][1]) / (all[i + 1][0] - all[i][0]));
  }
  const tangent = i => {
    const [before, after] = [slopes[i - 1], slopes[i]];
    if (before === undefined || after === undefined) return before ?? after;
    return before * after <= 0 ? 0 : 2 * before * after / (before + after);
  };
  const values = [];
  for (let i = 0; i + 1 < all.length; i++) {
    const [[from, low], [to, high]] = [all[i], all[i + 1]];
    const length = to - from;
    for (let x = from; x <= to; x++) {
      const t = (x - from) / length;
      const start = low + t * t * (3 - 2 * t) * (high - low);
      const bend = length * t * (1 - t) * ((1 - t) * tangent(i) - t * tangent(i + 1));
      values.push([x, start + bend]);
    }
  }
  return values;
}

// ---- columns that nobody grades ---------------------------------------------------------------
let first = null; // column in which the drag began

const ungradedTool = {
  id: "ungraded", title: "ungraded columns",
  available: () => true,
  down(place) { first = columnOf(place); },
  move(place) {
    if (first !== null) dme.edit.range = [first, columnOf(place)].sort((a, b) => a - b);
    dme.redraw();
  },
  up(place) {
    if (first === null) return;
    const range = [first, columnOf(place)].sort((a, b) => a - b);
    first = null;
    dme.edit.range = null;
    dme.edit.before();
    const {sheet} = dme.edit;
    const within = sheet.ungraded.find(columns => columns[0] <= range[0] && range[1] <= columns[1]);
    if (within && range[0] === range[1]) { // a click on a range takes it away
      sheet.ungraded = sheet.ungraded.filter(columns => columns !== within);
    } else if (range[0] !== range[1]) sheet.ungraded = merged([...sheet.ungraded, range]);
    dme.edit.changed();
  },
};

function columnOf(place) {
  return Math.min(Math.max(Math.floor(place[0]), 0), dme.scan().width - 1);
}

// Ranges in order, those that touch as one
function merged(ranges) {
  const whole = [];
  for (const [from, to] of ranges.sort((a, b) => a[0] - b[0])) {
    const before = whole.at(-1);
    if (before && from <= before[1] + 1) before[1] = Math.max(before[1], to);
    else whole.push([from, to]);
  }
  return whole;
}

// ---- the tools, and what they show on the scan ------------------------------------------------
dme.edit.tools = [
  brush("brush", "brush", 1),
  brush("eraser", "eraser", 0),
  {
    ...brush("assisted", "assisted brush", 1, pixel => dme.values.probability[pixel] > 255 * settings.above),
    available: () => dme.values.mask && dme.values.probability,
  },
  {id: "fill", title: "fill", available: () => dme.values.mask, down: fill},
  boundaryTool,
  ungradedTool,
];

dme.on("start", () => dme.addLayer({
  id: "ungraded", title: "not graded", group: "editor", colour: "#b5b5b5", opacity: 0.75,
  available: () => dme.edit.sheet,
  draw(context) {
    const ranges = [...dme.edit.sheet.ungraded, ...dme.edit.range ? [dme.edit.range] : []];
    for (const [from, to] of ranges) hatch(context, from, to + 1);
  },
}));

function hatch(context, left, right) {
  const {height} = dme.scan();
  const step = 12 * dme.pixel();
  context.save();
  context.beginPath();
  context.rect(left, 0, right - left, height);
  context.fillStyle = "rgba(0, 0, 0, .45)";
  context.fill();
  context.clip();
  context.strokeStyle = "#b5b5b5";
  context.lineWidth = 1.5 * dme.pixel();
  context.beginPath();
  for (let x = left - height; x < right; x += step) {
    context.moveTo(x, height);
    context.lineTo(x + height, 0);
  }
  context.stroke();
  context.restore();
}

dme.on("drawn", () => { // the brush, and the points that were dragged
  if (!dme.tool || !dme.edit.sheet) return;
  const context = dme.stage.canvas.getContext("2d");
  const pixel = dme.pixel();
  context.lineWidth = 1.5 * pixel;
  context.strokeStyle = "#fff";
  if (["brush", "eraser", "assisted"].includes(dme.tool.id) && dme.edit.pointer) {
    context.beginPath();
    context.arc(...dme.edit.pointer, settings.radius, 0, 2 * Math.PI);
    context.stroke();
  }
  if (dme.tool.id !== "boundary") return;
  for (const {k, x} of [...points, ...held ? [held] : []]) {
    context.fillStyle = dme.boundaries[k].colour;
    context.beginPath();
    context.arc(x + 0.5, row(k, x) + 0.5, 4 * pixel, 0, 2 * Math.PI);
    context.fill();
    context.stroke();
  }
});

dme.stage.canvas.addEventListener("pointermove", event => { dme.edit.pointer = dme.placeOf(event); });
dme.stage.canvas.addEventListener("pointerleave", event => {
  if (dme.isOutside(event)) dme.edit.pointer = null;
});

// A tool draws only on a sheet that is here, and not with the second finger of a pinch
dme.edit.choose = function (id) {
  const tool = dme.edit.tools.find(other => other.id === id);
  if (!tool || !dme.edit.sheet || !tool.available()) {
    dme.useTool(null);
    return;
  }
  const guarded = {id, title: tool.title};
  for (const name of ["down", "move", "up"]) {
    guarded[name] = place => {
      if (dme.edit.sheet) tool[name]?.(place);
    };
  }
  dme.useTool(guarded);
};
}
