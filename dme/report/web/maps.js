// The volume from the front: its maps, the line of the open B-scan in them, a click that opens one.
"use strict";
{ // names in here are no other file's

const holder = document.querySelector("#maps");
let shownVolume = null;
let maps = []; // of the open volume: {map, canvas, picture}

dme.on("open", () => {
  const {volume} = dme.scan();
  if (volume !== shownVolume) showVolume(volume);
  maps.forEach(drawMap);
});

function showVolume(name) {
  shownVolume = name;
  const volume = dme.volumes.find(other => other.name === name);
  maps = (volume?.maps || []).map(map => ({map, canvas: document.createElement("canvas")}));
  holder.replaceChildren(...maps.map(figureOf));
  holder.hidden = maps.length === 0;
}

function figureOf(shown) {
  const {map, canvas} = shown;
  const [width, height] = map.size;
  canvas.width = width;
  canvas.height = height;
  canvas.tabIndex = 0;
  canvas.role = "slider";
  canvas.ariaOrientation = "vertical";
  canvas.ariaLabel = `B-scan in the map of ${map.title}`;
  canvas.style.aspectRatio = `${width} / ${height}`;
  for (const event of ["click", "pointermove", "pointerleave", "keydown"]) {
    canvas.addEventListener(event, pointed => follow[event](shown, pointed));
  }
  shown.picture = new Image();
  shown.picture.onload = () => drawMap(shown);
  shown.picture.src = dme.path(map.file);
  const caption = dme.element("figcaption", {}, [dme.element("b", {textContent: map.title})]);
  if (map.text) caption.append(dme.element("span", {textContent: map.text}));
  const figure = dme.element("figure", {}, [caption, canvas]);
  if (map.span) figure.append(colourBar(map));
  return figure;
}

function colourBar({span, unit, colours}) {
  const bar = dme.element("div", {className: "colours"});
  const strip = dme.element("i");
  strip.style.background = `linear-gradient(to right, ${colours.join()})`;
  const [low, high] = span.map(value => String(Math.round(value)));
  bar.append(dme.element("span", {textContent: low}), strip,
    dme.element("span", {textContent: `${high} ${unit}`}));
  return bar;
}

// The ends of a B-scan's line on the canvas of a map: x, y, x, y. Of a raster it is a row; else
// `lines` has the ends in pixels of the picture
dme.lineOf = function (map, bscan) {
  const [width, height] = map.size;
  if (map.lines) {
    const [left, top, wide, high] = map.area;
    const line = map.lines[bscan];
    return line && line.map((value, i) =>
      i % 2 ? (value - top) / high * height : (value - left) / wide * width);
  }
  const y = (map.count - map.rows[bscan - map.first] - 0.5) / map.count * height;
  return [0, y, width, y];
};

function drawMap(shown) {
  const {map, canvas, picture, hovered} = shown;
  const context = canvas.getContext("2d");
  const [width, height] = map.size;
  context.clearRect(0, 0, width, height);
  if (picture.naturalWidth) context.drawImage(picture, ...map.area, 0, 0, width, height);
  if (hovered) drawLine(context, dme.lineOf(map, hovered.bscan), 1, "rgba(255, 255, 255, .6)");
  const scan = dme.scan();
  const line = scan.volume === shownVolume && dme.lineOf(map, scan.bscan);
  if (line) {
    const thick = Math.max(2, width / 260);
    drawLine(context, line, 2.4 * thick, "rgba(0, 0, 0, .75)");
    drawLine(context, line, thick, "#4dff88");
    drawPlace(context, line, thick);
  }
  canvas.ariaValueMin = map.first;
  canvas.ariaValueMax = map.first + map.rows.length - 1;
  canvas.ariaValueNow = scan.bscan;
  canvas.ariaValueText = `B-scan ${scan.bscan}`;
}

function drawLine(context, [x, y, toX, toY], width, colour) {
  context.lineWidth = width;
  context.strokeStyle = colour;
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(toX, toY);
  context.stroke();
}

// Where on the line the cursor is
function drawPlace(context, [x, y, toX, toY], thick) {
  const {cursor} = dme.stage;
  if (!cursor) return;
  const share = (cursor[0] + 0.5) / dme.scan().width;
  context.beginPath();
  context.arc(x + share * (toX - x), y + share * (toY - y), 3 * thick, 0, 7);
  context.fillStyle = "#4dff88";
  context.strokeStyle = "#000";
  context.lineWidth = thick / 2;
  context.fill();
  context.stroke();
}

dme.on("cursor", () => maps.forEach(drawMap));

// ---- the pointer and the keys -----------------------------------------------------------------
// The scan of the volume whose line is nearest to the pointer
function scanAt({map, canvas}, event) {
  const box = canvas.getBoundingClientRect();
  const [width, height] = map.size;
  const x = (event.clientX - box.left) / box.width * width;
  const y = (event.clientY - box.top) / box.height * height;
  let nearest = null;
  let least = Infinity;
  for (const scan of dme.scans) {
    if (scan.volume !== shownVolume) continue;
    const line = dme.lineOf(map, scan.bscan);
    const away = line ? distance(x, y, line) : Infinity;
    if (away < least) {
      least = away;
      nearest = scan;
    }
  }
  return nearest;
}

function distance(x, y, [fromX, fromY, toX, toY]) {
  const along = [toX - fromX, toY - fromY];
  const length = along[0] ** 2 + along[1] ** 2 || 1;
  const share = ((x - fromX) * along[0] + (y - fromY) * along[1]) / length;
  const on = Math.min(Math.max(share, 0), 1);
  return Math.hypot(x - fromX - on * along[0], y - fromY - on * along[1]);
}

const follow = {
  click(shown, event) {
    const scan = scanAt(shown, event);
    if (scan) dme.open(scan.index);
  },
  pointermove(shown, event) {
    shown.hovered = scanAt(shown, event);
    shown.canvas.title = shown.hovered ? `B-scan ${shown.hovered.bscan}` : "";
    drawMap(shown);
  },
  pointerleave(shown) {
    shown.hovered = null;
    drawMap(shown);
  },
  keydown(shown, event) {
    const by = {ArrowUp: 1, ArrowDown: -1}[event.key]; // the last B-scan is at the top
    if (!by) return;
    event.preventDefault();
    dme.step(by);
  },
};
}
