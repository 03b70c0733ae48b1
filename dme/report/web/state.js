// What the viewer knows: the scans, which of them is open, and what is known of its pixels.
// All scripts of the page share this one object; README.md of dme/report lists what it offers.
"use strict";

const dme = {
  scans: [], // of scans.js, in the order of the results
  volumes: [], // with their maps
  columns: [], // numbers of a scan that the list shows: key, title, digits
  boundaries: [], // name, colour
  layers: [], // names of what lies between boundaries
  index: -1, // of the open scan
  values: null, // of the open scan, null until they are here
  picture: null, // of the open scan, an Image, null until it is here
};

{ // names in here are no other file's
// ---- events -----------------------------------------------------------------------------------
// start: the scans are known. open: another scan is open. values: its pixels are here (or null).
// view: zoom, place or what is shown changed. cursor: the pointer is over another pixel.
dme.listeners = {};

dme.on = function (event, listener) {
  (dme.listeners[event] ||= []).push(listener);
};

dme.emit = function (event) {
  for (const listener of dme.listeners[event] || []) listener();
};

// ---- the scans --------------------------------------------------------------------------------
dme.start = function (content) {
  Object.assign(dme, content);
  dme.scans.forEach((scan, index) => { scan.index = index; });
  dme.emit("start");
  dme.open(dme.named(dme.hashName()) ?? dme.first ?? 0);
};

dme.scan = () => dme.scans[dme.index];

dme.named = function (name) {
  const index = dme.scans.findIndex(scan => scan.name === name);
  return index < 0 ? undefined : index;
};

// The scans that are paged through together: those of a volume by their place, or all single ones
dme.together = function (scan = dme.scan()) {
  const same = dme.scans.filter(other => other.volume === scan.volume);
  return scan.volume === null ? same : same.sort((a, b) => a.bscan - b.bscan);
};

dme.open = function (index) {
  if (index === dme.index || !dme.scans[index]) return;
  dme.index = index;
  dme.values = null;
  dme.picture = null;
  dme.emit("open");
  dme.showOpen(index);
};

// Step within the volume, such as by 1 or by -1
dme.step = function (by) {
  const together = dme.together();
  const place = together.indexOf(dme.scan()) + by;
  dme.open(together[Math.min(Math.max(place, 0), together.length - 1)].index);
};

dme.showOpen = async function (index) {
  const [picture, values] = await Promise.all([dme.loadPicture(index), dme.load(index)]);
  if (index !== dme.index) return; // another one was opened meanwhile
  dme.picture = picture;
  dme.values = values;
  dme.emit("values");
  for (const scan of [1, -1].map(by => dme.neighbour(by))) { // the next one opens at once
    if (scan) {
      dme.load(scan.index);
      dme.loadPicture(scan.index);
    }
  }
};

dme.neighbour = function (by) {
  const together = dme.together();
  return together[together.indexOf(dme.scan()) + by];
};

// ---- the address: report.html#scan=NAME -------------------------------------------------------
dme.hashName = function () {
  const match = /^#scan=(.*)$/.exec(location.hash);
  try {
    return match && decodeURIComponent(match[1]);
  } catch {
    return null; // someone typed it
  }
};

window.addEventListener("hashchange", () => {
  const index = dme.named(dme.hashName());
  if (index !== undefined) dme.open(index);
});

dme.on("open", () => {
  const hash = `#scan=${encodeURIComponent(dme.scan().name)}`;
  if (location.hash === hash) return;
  try {
    history.replaceState(null, "", hash);
  } catch {
    // some browsers refuse after a hundred of them: paging goes on without
  }
});

// ---- pixels, from script files beside the page ------------------------------------------------
const KEPT = 24; // scans whose pixels stay in memory
const kept = new Map(); // index -> promise of values
const pictures = new Map(); // index -> promise of a picture
const expected = new Map(); // name -> what to call with the record of a file

dme.path = file => file.split("/").map(encodeURIComponent).join("/");

function remembered(map, index, make) {
  const promise = map.get(index) || make(dme.scans[index]);
  map.delete(index); // the latest is the last
  map.set(index, promise);
  while (map.size > KEPT) map.delete(map.keys().next().value);
  return promise;
}

// Values of a scan: mask, probability, truth (Uint8Array of H x W), rows, truthRows (Float32Array
// of 8 x W); each null where there is none. The promise is of null if their file is not there.
dme.load = index => remembered(kept, index, async scan => {
  const record = await new Promise(resolve => {
    const script = document.createElement("script");
    expected.set(scan.name, resolve);
    script.onerror = () => resolve(null);
    script.onload = () => script.remove();
    script.src = dme.path(scan.values);
    document.head.append(script);
  });
  if (record === null) return null;
  const values = {
    mask: await unpacked(record.mask, Uint8Array),
    probability: await unpacked(record.probability, Uint8Array),
    truth: await unpacked(record.truth, Uint8Array),
    rows: await unpacked(record.rows, Float32Array),
    truthRows: await unpacked(record.truth_rows, Float32Array),
  };
  return values;
});

dme.loadPicture = index => remembered(pictures, index, async scan => {
  const picture = new Image();
  picture.src = dme.path(scan.image);
  try {
    await picture.decode();
  } catch {
    return null; // the page was moved without its pictures
  }
  return picture;
});

// What the file of a scan calls
dme.receive = function (record) {
  expected.get(record.name)?.(record);
  expected.delete(record.name);
};

// Numbers from base64 of a zlib stream
async function unpacked(text, Type) {
  if (!text) return null;
  const packed = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Type(await new Response(stream).arrayBuffer());
}

// An element with properties and children
dme.element = function (name, properties = {}, children = []) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};
}
