// Drawing on the open scan: what is drawn, undo and redo, loading and saving. `annotate` alone
// serves it. The mask and the rows that the viewer shows are those that are drawn on.
"use strict";
{ // names in here are no other file's

const MOST_STEPS = 200; // that can be undone

dme.edit = {
  sheet: null, // of the open scan, null until it is here
  states: [], // of all scans: name, saved, done
  trouble: null, // what went wrong: text, and whether another window saved this scan
};

// A sheet: index, values (of the viewer), revision, ungraded, done, undo, redo, original; version:
// counts what was drawn, sent: the version that is on its way, dirty: not all of it is saved
const originals = new WeakMap(); // values -> what the network found

function copyOf(values) {
  return {mask: values.mask?.slice() ?? null, rows: values.rows?.slice() ?? null};
}

// ---- loading ----------------------------------------------------------------------------------
async function asked(path, options = {}) {
  const answer = await fetch(path, {cache: "no-store", ...options});
  const content = await answer.json().catch(() => ({error: `answer ${answer.status}`}));
  return {status: answer.status, content};
}

dme.on("values", async () => {
  const values = dme.values;
  if (!values || dme.edit.sheet?.values === values) return;
  const index = dme.index;
  if (!originals.has(values)) originals.set(values, copyOf(values));
  try {
    const {status, content} = await asked(`edits/${index}`);
    if (dme.values !== values) return; // another scan was opened meanwhile
    if (status === 200) begin(index, values, content);
    else troubled(content.error);
  } catch {
    troubled("the server does not answer: start `annotate` again");
  }
});

function begin(index, values, content) {
  const found = originals.get(values);
  values.mask = content.fluid && maskOf(content.fluid);
  values.rows = content.boundaries && rowsOf(content.boundaries);
  const {revision, ungraded, done} = content;
  dme.edit.sheet = {index, values, revision, ungraded, done, undo: [], redo: []};
  Object.assign(dme.edit.sheet, {version: 0, sent: 0, dirty: false});
  if (!dme.edit.trouble?.sheet?.dirty) dme.edit.trouble = null; // else another scan is not saved

  // the first step back leads to what the network found
  const original = {
    mask: found.mask ?? (values.mask && new Uint8Array(values.mask.length)),
    rows: found.rows ?? (values.rows && new Float32Array(values.rows.length).fill(NaN)),
    ungraded: [],
    done: false,
  };
  dme.edit.sheet.original = packed(original);
  const now = packed(state());
  if (now.fluid !== dme.edit.sheet.original.fluid || now.rows !== dme.edit.sheet.original.rows) {
    dme.edit.sheet.undo.push(dme.edit.sheet.original);
  }
  dme.emit("values");
  dme.emit("sheet");
}

// What is drawn on the open scan
function state() {
  const {values, ungraded, done} = dme.edit.sheet;
  return {mask: values.mask, rows: values.rows, ungraded, done};
}

dme.on("start", async () => {
  try {
    dme.edit.states = (await asked("edits")).content;
    dme.emit("sheet");
  } catch {
    // the first scan says that the server is gone
  }
});

// ---- packing: see exchange.py -----------------------------------------------------------------
function runsOf(mask) {
  const runs = [];
  let value = 0;
  let start = 0;
  for (let place = 0; place <= mask.length; place++) {
    if (place < mask.length && Number(mask[place] === 1) === value) continue;
    runs.push(place - start);
    start = place;
    value = 1 - value;
  }
  return runs;
}

function maskOf(runs) {
  const {width, height} = dme.scan();
  const mask = new Uint8Array(width * height);
  let place = 0;
  runs.forEach((run, number) => {
    if (number % 2) mask.fill(1, place, place + run);
    place += run;
  });
  return mask;
}

function textOf(rows) {
  const bytes = new Uint8Array(rows.buffer, rows.byteOffset, rows.byteLength);
  let text = "";
  for (let start = 0; start < bytes.length; start += 4096) {
    text += String.fromCharCode(...bytes.subarray(start, start + 4096));
  }
  return btoa(text);
}

const rowsOf = text =>
  new Float32Array(Uint8Array.from(atob(text), letter => letter.charCodeAt(0)).buffer);

// A step of the history: everything that is drawn, as small texts
function packed({mask, rows, ungraded, done}) {
  return {
    fluid: mask && runsOf(mask).join(),
    rows: rows && textOf(rows),
    ungraded: ungraded.map(columns => [...columns]),
    done,
  };
}

function restore(step) {
  const {sheet} = dme.edit;
  dme.edit.forget(); // points that were dragged: the boundaries are others now
  if (step.fluid !== null) sheet.values.mask = maskOf(step.fluid.split(",").map(Number));
  if (step.rows !== null) sheet.values.rows = rowsOf(step.rows);
  sheet.ungraded = step.ungraded.map(columns => [...columns]);
  sheet.done = step.done;
  changed();
}

// ---- history ----------------------------------------------------------------------------------
// Call it before something is drawn
dme.edit.before = function () {
  const {sheet} = dme.edit;
  sheet.undo.push(packed(state()));
  if (sheet.undo.length > MOST_STEPS) sheet.undo.shift();
  sheet.redo = [];
};

// Call it after something was drawn
function changed() {
  dme.edit.sheet.dirty = true;
  dme.edit.sheet.version++;
  if (dme.values.mask) dme.maskChanged(dme.values.mask);
  dme.redraw();
  dme.emit("sheet");
}
dme.edit.changed = changed;

function travel(from, to) {
  const {sheet} = dme.edit;
  if (!sheet || !sheet[from].length) return;
  sheet[to].push(packed(state()));
  restore(sheet[from].pop());
}
dme.edit.undo = () => travel("undo", "redo");
dme.edit.redo = () => travel("redo", "undo");

dme.edit.reset = function () {
  if (!dme.edit.sheet) return;
  dme.edit.before();
  restore(dme.edit.sheet.original);
};

dme.edit.setDone = function (done) {
  if (!dme.edit.sheet) return;
  dme.edit.before();
  dme.edit.sheet.done = done;
  changed();
  dme.edit.save();
};

// ---- saving -----------------------------------------------------------------------------------
let saving = Promise.resolve(); // saves follow each other

dme.edit.save = function (sheet = dme.edit.sheet) {
  if (!sheet?.dirty || sheet.sent === sheet.version) return saving;
  const {values, ungraded, done, version} = sheet;
  const content = packed({mask: values.mask, rows: values.rows, ungraded, done});
  sheet.sent = version;
  saving = saving.then(() => send(sheet, content, version));
  return saving;
};

async function send(sheet, content, version) {
  const fluid = content.fluid === null ? null : content.fluid.split(",").map(Number);
  const body = JSON.stringify({
    revision: sheet.revision,
    fluid,
    boundaries: content.rows,
    ungraded: content.ungraded,
    done: content.done,
  });
  const headers = {"Content-Type": "application/json"};
  try {
    const {status, content: answer} = await asked(`edits/${sheet.index}`, {method: "PUT", headers, body});
    if (status === 200) {
      sheet.revision = answer.revision;
      if (sheet.version === version) sheet.dirty = false;
      if (dme.edit.trouble?.sheet === sheet) dme.edit.trouble = null;
      dme.edit.states[sheet.index] = {...dme.edit.states[sheet.index], saved: true, done: content.done};
      dme.emit("sheet");
      return;
    }
    sheet.sent = null;
    troubled(`not saved: ${answer.error}`, status === 409 ? answer.revision : null, sheet);
  } catch {
    sheet.sent = null;
    troubled("not saved: the server does not answer; leave this page open and start `annotate` again");
  }
}

// theirs: the revision of another window, if that is the trouble
function troubled(text, theirs = null, sheet = dme.edit.sheet) {
  dme.edit.trouble = {text, theirs, sheet};
  dme.emit("sheet");
}

// Two windows: what is drawn here replaces what the other one saved, or goes
dme.edit.keepMine = function () {
  const {theirs, sheet} = dme.edit.trouble;
  sheet.revision = theirs;
  dme.edit.save(sheet);
};
dme.edit.tryAgain = () => dme.edit.save(dme.edit.trouble.sheet);
dme.edit.takeTheirs = function () {
  dme.edit.trouble.sheet.dirty = false;
  dme.edit.trouble = null;
  dme.edit.sheet = null;
  dme.emit("values"); // asks again
};

// Leaving a scan saves it; leaving the page while something is not saved asks
dme.on("open", () => {
  dme.edit.save();
  dme.edit.sheet = null;
  dme.emit("sheet");
});
window.addEventListener("beforeunload", event => {
  const unsaved = dme.edit.sheet?.dirty || dme.edit.trouble?.sheet?.dirty;
  if (unsaved) event.preventDefault();
});
}
