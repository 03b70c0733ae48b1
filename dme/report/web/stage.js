// The stage: the open scan on a canvas, what is drawn over it, zoom, pan, and the cursor.
"use strict";
{ // names in here are no other file's

const MOST_ZOOM = 24;
const SMOOTH_BELOW = 3; // screen pixels per scan pixel; larger ones are squares

dme.stage = {
  canvas: document.querySelector("#stage canvas"),
  zoom: 1, // 1: the whole scan fits
  centre: null, // x, y of the scan in the middle of the canvas
  cursor: null, // x, y of the pixel under the pointer: whole numbers, or null
};

// ---- what is drawn over the scan --------------------------------------------------------------
// A layer: {id, title, colour, group, key, shown, opacity, available(values), draw(context,
// values)}; the letter `key` turns it on and off, with all others that have it.
// The context is in pixels of the scan: pixel (x, y) covers x to x + 1 and y to y + 1, so a
// boundary at row r is a line at y = r + 0.5. dme.pixel() is the size of a screen pixel there.
dme.drawn = [];

dme.addLayer = function (layer) {
  dme.drawn.push({shown: true, opacity: 1, ...layer});
  dme.emit("layers");
  dme.redraw();
};

dme.layer = id => dme.drawn.find(layer => layer.id === id);

// A picture of a mask, Uint8Array of H x W, drawn where it is 1: its rim, and inside a tint (0 to
// 255). It is made once; whoever changes the mask calls dme.maskChanged(mask).
const maskPictures = new WeakMap();

dme.maskChanged = function (mask) {
  maskPictures.delete(mask);
  dme.redraw();
};

dme.drawMask = function (context, mask, colour, tint = 70) {
  const {width, height} = dme.scan();
  let picture = maskPictures.get(mask);
  if (!picture) {
    picture = maskPicture(mask, colour, tint);
    maskPictures.set(mask, picture);
  }
  context.imageSmoothingEnabled = false;
  context.drawImage(picture, 0, 0);
};

function maskPicture(mask, [red, green, blue], tint) {
  const {width, height} = dme.scan();
  return dme.scanPicture(pixels => {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const place = y * width + x;
        if (mask[place] !== 1) continue;
        const inside = x > 0 && x < width - 1 && y > 0 && y < height - 1 &&
          mask[place - 1] === 1 && mask[place + 1] === 1 &&
          mask[place - width] === 1 && mask[place + width] === 1;
        pixels.set([red, green, blue, inside ? tint : 255], 4 * place);
      }
    }
  });
}

// A canvas of the scan's size; paint(pixels) fills its red, green, blue, opacity, row by row.
dme.scanPicture = function (paint) {
  const {width, height} = dme.scan();
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  paint(image.data);
  context.putImageData(image, 0, 0);
  return canvas;
};

// ---- drawing ----------------------------------------------------------------------------------
let asked = false;

dme.redraw = function () {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    dme.drawNow();
  });
};

// Screen pixels per pixel of the scan
dme.scale = function () {
  const {canvas, zoom} = dme.stage;
  const {width, height} = dme.scan();
  return zoom * Math.min(canvas.clientWidth / width, canvas.clientHeight / height);
};

// A screen pixel, in pixels of the scan
dme.pixel = () => 1 / dme.scale();

dme.drawNow = function () {
  const {canvas, centre, cursor} = dme.stage;
  const ratio = window.devicePixelRatio || 1;
  const sides = [canvas.clientWidth, canvas.clientHeight].map(side => Math.round(side * ratio));
  if (canvas.width !== sides[0] || canvas.height !== sides[1]) [canvas.width, canvas.height] = sides;
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (!dme.scan() || !centre) return;

  // the scan, then what lies over it
  const scale = dme.scale() * ratio;
  const left = canvas.width / 2 - centre[0] * scale;
  const top = canvas.height / 2 - centre[1] * scale;
  context.setTransform(scale, 0, 0, scale, left, top);
  if (dme.picture) {
    context.imageSmoothingEnabled = scale < SMOOTH_BELOW * ratio;
    context.imageSmoothingQuality = "high";
    context.drawImage(dme.picture, 0, 0);
  }
  for (const layer of dme.drawn) {
    if (!layer.shown || !dme.values || !layer.available(dme.values)) continue;
    context.save();
    context.globalAlpha = layer.opacity;
    layer.draw(context, dme.values);
    context.restore();
  }
  if (cursor) drawCursor(context, cursor);
  dme.emit("drawn");
};

function drawCursor(context, [x, y]) {
  const {width, height} = dme.scan();
  context.lineWidth = dme.pixel();
  context.strokeStyle = "rgba(255, 255, 255, .35)";
  context.beginPath();
  context.moveTo(x + 0.5, 0);
  context.lineTo(x + 0.5, height);
  context.moveTo(0, y + 0.5);
  context.lineTo(width, y + 0.5);
  context.stroke();
}

new ResizeObserver(() => dme.redraw()).observe(dme.stage.canvas);

// ---- zoom and pan -----------------------------------------------------------------------------
// Zoom by a factor around a place of the scan, by default the middle of what is seen
dme.zoomBy = function (factor, around = dme.stage.centre) {
  const {stage} = dme;
  const before = stage.zoom;
  stage.zoom = Math.min(Math.max(before * factor, 1), MOST_ZOOM);
  const share = before / stage.zoom;
  stage.centre = stage.centre.map((value, axis) => around[axis] + (value - around[axis]) * share);
  keepInView();
  dme.emit("view");
  dme.redraw();
};

// Move what is seen by so many pixels of the scan
dme.panBy = function (x, y) {
  dme.stage.centre = [dme.stage.centre[0] + x, dme.stage.centre[1] + y];
  keepInView();
  dme.emit("view");
  dme.redraw();
};

dme.fit = function () {
  const {width, height} = dme.scan();
  dme.stage.zoom = 1;
  dme.stage.centre = [width / 2, height / 2];
  dme.emit("view");
  dme.redraw();
};

// No more emptiness beside the scan than there has to be
function keepInView() {
  const {canvas, centre} = dme.stage;
  const scan = dme.scan();
  const seen = [canvas.clientWidth, canvas.clientHeight].map(side => side / dme.scale());
  const sides = [scan.width, scan.height];
  dme.stage.centre = centre.map((value, axis) => {
    const half = seen[axis] / 2;
    if (2 * half >= sides[axis]) return sides[axis] / 2;
    return Math.min(Math.max(value, half), sides[axis] - half);
  });
}

dme.on("view", () => { // a finger pans what is enlarged, else it scrolls the page
  dme.stage.canvas.classList.toggle("zoomed", dme.stage.zoom > 1);
});

dme.keepCursorInView = function () {
  const {canvas, centre, cursor} = dme.stage;
  const sides = [canvas.clientWidth, canvas.clientHeight];
  const beyond = cursor.map((value, axis) => {
    const half = 0.45 * sides[axis] / dme.scale();
    const away = value + 0.5 - centre[axis];
    return Math.sign(away) * Math.max(Math.abs(away) - half, 0);
  });
  dme.panBy(...beyond);
};

let size = "";
dme.on("open", () => { // scans of one size keep zoom and place
  const {width, height} = dme.scan();
  if (size === `${width} x ${height}`) return;
  size = `${width} x ${height}`;
  dme.stage.canvas.parentElement.style.setProperty("--ratio", `${width} / ${height}`);
  dme.stage.cursor = null;
  dme.fit();
});
dme.on("values", dme.redraw);

// ---- the pointer ------------------------------------------------------------------------------
// A tool takes the pointer: {id, title, down(place, event), move(place, event), up(place, event)}.
// Places are x, y of the scan, not rounded. Without a tool a drag pans; two fingers always zoom.
dme.tool = null;

dme.useTool = function (tool) {
  dme.tool = tool;
  dme.stage.canvas.dataset.tool = tool ? tool.id : "";
  dme.emit("tool");
};

// Where an event lies in the scan
dme.placeOf = function (event) {
  const {canvas, centre} = dme.stage;
  const box = canvas.getBoundingClientRect();
  const scale = dme.scale();
  return [
    centre[0] + (event.clientX - box.left - box.width / 2) / scale,
    centre[1] + (event.clientY - box.top - box.height / 2) / scale,
  ];
};

dme.setCursor = function (place) {
  const {width, height} = dme.scan();
  const pixel = place && place.map(Math.floor);
  const inside = pixel && pixel[0] >= 0 && pixel[1] >= 0 && pixel[0] < width && pixel[1] < height;
  dme.stage.cursor = inside ? pixel : null;
  dme.emit("cursor");
  dme.redraw();
};

// Whether a pointer is outside the canvas; WebKit says after each click that it left
dme.isOutside = event =>
  document.elementFromPoint(event.clientX, event.clientY) !== dme.stage.canvas;

const fingers = new Map(); // pointer -> its last event

const handlers = {
  pointerdown(event) {
    if (event.button > 1) return;
    fingers.set(event.pointerId, event);
    try {
      dme.stage.canvas.setPointerCapture(event.pointerId);
    } catch {
      // it left again already
    }
    if (fingers.size === 1) dme.tool?.down?.(dme.placeOf(event), event);
    dme.setCursor(dme.placeOf(event));
  },
  pointermove(event) {
    const last = fingers.get(event.pointerId);
    if (last && fingers.size === 2) pinch(event, last);
    else if (dme.tool) dme.tool.move?.(dme.placeOf(event), event);
    else if (last) dme.panBy(...dragged(event, last));
    if (last) fingers.set(event.pointerId, event);
    dme.setCursor(dme.placeOf(event));
  },
  pointerup(event) {
    if (fingers.delete(event.pointerId)) dme.tool?.up?.(dme.placeOf(event), event);
  },
  pointerleave(event) {
    if (event.pointerType === "mouse" && dme.isOutside(event)) dme.setCursor(null);
  },
  wheel(event) { // the page scrolls, unless the scan was clicked before
    const zooms = event.ctrlKey || event.metaKey || document.activeElement === dme.stage.canvas;
    if (!zooms) return;
    event.preventDefault();
    dme.zoomBy(1.0015 ** -event.deltaY, dme.placeOf(event));
  },
  dblclick(event) {
    if (dme.tool) return;
    if (dme.stage.zoom > 1) dme.fit();
    else dme.zoomBy(3, dme.placeOf(event));
  },
};
handlers.pointercancel = handlers.pointerup;
for (const [name, handler] of Object.entries(handlers)) {
  dme.stage.canvas.addEventListener(name, handler, {passive: false});
}

function dragged(event, last) {
  const scale = dme.scale();
  return [(last.clientX - event.clientX) / scale, (last.clientY - event.clientY) / scale];
}

function pinch(event, last) {
  const other = [...fingers.values()].find(finger => finger.pointerId !== event.pointerId);
  const distance = finger => Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY);
  dme.zoomBy(distance(event) / Math.max(distance(last), 1), dme.placeOf(other));
}
}
