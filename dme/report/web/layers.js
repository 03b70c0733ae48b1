// What lies over the scan: fluid, its probability, boundaries, the graders' truth; and its switches.
"use strict";
{ // names in here are no other file's

const FLUID = [60, 220, 255];
const TRUTH = [64, 220, 120];
const WARM = [[0, 0, 0], [120, 28, 109], [237, 105, 37], [252, 255, 164]]; // of probabilities

const css = ([red, green, blue]) => `rgb(${red}, ${green}, ${blue})`;

dme.on("start", () => {
  dme.addLayer({
    id: "probability", title: "probability", group: "fluid", key: "p", colour: css(WARM[2]),
    shown: false, opacity: 0.6,
    available: values => values.probability,
    draw: (context, values) => drawProbability(context, values.probability),
  });
  dme.addLayer({
    id: "fluid", title: "fluid", group: "fluid", key: "f", colour: css(FLUID),
    available: values => values.mask,
    draw: (context, values) => dme.drawMask(context, values.mask, FLUID),
  });
  dme.boundaries.forEach(({name, colour}, k) => dme.addLayer({
    id: `boundary${k}`, title: name, group: "boundaries", key: "b", colour,
    available: values => values.rows,
    draw: (context, values) => dme.drawRow(context, values.rows, k, colour),
  }));
  dme.addLayer({
    id: "truth", title: "fluid", group: "truth", key: "t", colour: css(TRUTH),
    available: values => values.truth,
    draw: (context, values) => dme.drawMask(context, values.truth, TRUTH, 0),
  });
  dme.addLayer({
    id: "truthRows", title: "boundaries", group: "truth", key: "t", colour: "#fff", dashed: true,
    shown: false,
    available: values => values.truthRows,
    draw(context, values) {
      dme.boundaries.forEach((boundary, k) => {
        dme.drawRow(context, values.truthRows, k, boundary.colour, [5, 4]);
      });
    },
  });
});

// Boundary k of rows (8 x W); gaps where a column is unknown. dashes: in screen pixels
dme.drawRow = function (context, rows, k, colour, dashes = []) {
  const {width} = dme.scan();
  const pixel = dme.pixel();
  context.strokeStyle = colour;
  context.lineWidth = 1.6 * pixel;
  context.lineJoin = "round";
  context.setLineDash(dashes.map(length => length * pixel));
  context.beginPath();
  let drawing = false;
  for (let x = 0; x < width; x++) {
    const row = rows[k * width + x];
    if (Number.isNaN(row)) drawing = false;
    else if (drawing) context.lineTo(x + 0.5, row + 0.5);
    else {
      context.moveTo(x + 0.5, row + 0.5);
      drawing = true;
    }
  }
  context.stroke();
};

const heats = new WeakMap(); // probability -> canvas

function drawProbability(context, probability) {
  let canvas = heats.get(probability);
  if (!canvas) {
    canvas = heatPicture(probability);
    heats.set(probability, canvas);
  }
  context.imageSmoothingEnabled = false;
  context.drawImage(canvas, 0, 0);
}

function heatPicture(probability) {
  return dme.scanPicture(pixels => {
    for (let place = 0; place < probability.length; place++) {
      const share = probability[place] / 255;
      const step = Math.min(Math.floor(3 * share), 2);
      for (let channel = 0; channel < 3; channel++) {
        const [low, high] = [WARM[step][channel], WARM[step + 1][channel]];
        pixels[4 * place + channel] = low + (high - low) * (3 * share - step);
      }
      pixels[4 * place + 3] = 255 * Math.min(1, 4 * share);
    }
  });
}

// ---- the switches: one a layer, an opacity a group --------------------------------------------
const GROUPS = {fluid: "Fluid", boundaries: "Boundaries", truth: "Graders"};
const panel = document.querySelector("#layers");

dme.on("values", () => { // those that some scan has had so far
  for (const layer of dme.drawn) layer.seen ||= Boolean(dme.values && layer.available(dme.values));
  buildSwitches();
});
dme.on("layers", buildSwitches);

let built = "";

function buildSwitches() {
  const layers = dme.drawn.filter(layer => layer.seen);
  const now = layers.map(layer => `${layer.id} ${layer.shown} ${layer.opacity}`).join();
  if (now === built) return;
  const focused = document.activeElement?.dataset.layer;
  built = now;
  panel.replaceChildren();
  for (const group of new Set(layers.map(layer => layer.group))) {
    panel.append(groupOf(group, layers.filter(layer => layer.group === group)));
  }
  panel.querySelector(`[data-layer="${focused}"]`)?.focus();
}

function groupOf(group, layers) {
  const title = GROUPS[group] || group;
  const box = dme.element("fieldset", {className: "group"}, [dme.element("legend", {textContent: title})]);
  const switches = dme.element("div", {className: "switches"});
  if (layers.length > 3) switches.append(allSwitch(layers));
  for (const layer of layers) switches.append(switchOf(layer));
  const opacity = dme.element("input", {
    type: "range", min: 0, max: 100, value: 100 * layers.at(-1).opacity, className: "opacity",
    ariaLabel: `opacity of ${title}`, title: `opacity of ${title}`,
  });
  opacity.dataset.layer = `opacity of ${group}`;
  opacity.addEventListener("input", () => {
    for (const layer of layers) layer.opacity = opacity.value / 100;
    dme.redraw();
  });
  box.append(switches, opacity);
  return box;
}

function switchOf(layer) {
  const button = dme.element("button", {type: "button", className: "switch", ariaPressed: layer.shown});
  button.ariaLabel = `${GROUPS[layer.group] || layer.group}: ${layer.title}`;
  if (layer.key) button.title = `${button.ariaLabel} (key ${layer.key.toUpperCase()})`;
  const sample = dme.element("span", {className: layer.dashed ? "sample dashed" : "sample"});
  sample.style.setProperty("--colour", layer.colour);
  button.append(sample, layer.title);
  button.dataset.layer = layer.id;
  button.addEventListener("click", () => dme.toggle([layer]));
  return button;
}

function allSwitch(layers) {
  const all = layers.every(layer => layer.shown);
  const button = dme.element("button", {type: "button", className: "switch", textContent: "all"});
  button.ariaPressed = all;
  button.ariaLabel = `${GROUPS[layers[0].group] || layers[0].group}: all`;
  button.dataset.layer = `all ${layers[0].group}`;
  button.addEventListener("click", () => dme.toggle(layers));
  return button;
}

// Show or hide layers together: all are hidden only if all are shown
dme.toggle = function (layers) {
  const shown = !layers.every(layer => layer.shown);
  for (const layer of layers) layer.shown = shown;
  buildSwitches();
  dme.emit("view");
  dme.redraw();
};
}
