// Buttons, sliders and keys of the editor, and what it says.
"use strict";
{ // names in here are no other file's

const {edit} = dme;
const bar = dme.element("div", {className: "editor"});
bar.setAttribute("role", "toolbar");
bar.setAttribute("aria-label", "drawing");
document.querySelector("#stage").before(bar);

function button(text, title, action) {
  const made = dme.element("button", {type: "button", textContent: text, title});
  made.addEventListener("click", action);
  return made;
}

// ---- tools ------------------------------------------------------------------------------------
const move = button("move", "drag to pan (M)", () => choose(null));
const tools = dme.element("div", {className: "tools"}, [move]);
edit.tools.forEach((tool, number) => {
  const made = button(tool.title, `${tool.title} (${number + 1})`, () => choose(tool.id));
  made.dataset.tool = tool.id;
  tools.append(made);
});
let chosen = null; // stays from scan to scan

function choose(id) {
  chosen = id;
  edit.choose(id);
  show();
}

function slider(key, title, properties, shown) {
  const input = dme.element("input", {type: "range", ...properties, value: edit.settings[key]});
  const text = dme.element("output", {textContent: shown(edit.settings[key])});
  input.dataset.setting = key;
  input.addEventListener("input", () => {
    edit.settings[key] = Number(input.value);
    text.textContent = shown(edit.settings[key]);
    dme.redraw();
  });
  return dme.element("label", {}, [`${title} `, input, text]);
}

const options = {
  radius: slider("radius", "size", {min: 1, max: 40, step: 1}, value => `${2 * value} px`),
  above: slider("above", "where the network gives more than", {min: 0, max: 0.95, step: 0.05},
    value => `${Math.round(100 * value)} %`),
  reach: slider("reach", "reach", {min: 5, max: 300, step: 5}, value => `${value} columns`),
  boundary: dme.element("label", {}, ["draw "]),
};
const which = dme.element("select", {});
which.dataset.setting = "boundary";
which.addEventListener("change", () => { edit.settings.boundary = Number(which.value); });
options.boundary.append(which);
const OF_TOOL = {
  brush: ["radius"], eraser: ["radius"], assisted: ["radius", "above"], boundary: ["reach", "boundary"],
};
dme.on("start", () => {
  which.append(...dme.boundaries.map(({name}, k) => new Option(name, k)));
});

// ---- history, saving, done --------------------------------------------------------------------
const undo = button("undo", "undo (Ctrl+Z)", edit.undo);
const redo = button("redo", "redo (Ctrl+Shift+Z)", edit.redo);
const reset = button("as it was found", "back to what the network found", edit.reset);
const save = button("save", "save (Ctrl+S); leaving the scan saves too", () => edit.save());
const done = dme.element("input", {type: "checkbox"});
done.addEventListener("change", () => edit.setDone(done.checked));
const doneLabel = dme.element("label", {className: "done", title: "this scan is done (D)"},
  [done, " this scan is done"]);
const next = button("next not done", "the next scan that is not done (N)", openNext);
const says = dme.element("p", {className: "says"});
says.setAttribute("role", "status");
const conflict = dme.element("span", {hidden: true}, [
  button("show theirs", "what is drawn here goes", edit.takeTheirs),
  button("keep mine", "what the other window saved goes", edit.keepMine),
]);
const again = button("try again", "save what is not saved", edit.tryAgain);
bar.append(
  tools,
  dme.element("div", {className: "options"}, Object.values(options)),
  dme.element("div", {className: "tools"}, [undo, redo, reset, save, doneLabel, next]),
  dme.element("div", {className: "tools"}, [says, conflict, again]),
);

function openNext() {
  const count = dme.scans.length;
  for (let step = 1; step < count; step++) {
    const index = (dme.index + step) % count;
    if (!edit.states[index]?.done) {
      dme.open(index);
      return;
    }
  }
  edit.say("all scans are done");
}

edit.say = function (text) { says.textContent = text; };

// ---- what is shown ----------------------------------------------------------------------------
function show() {
  const {sheet, trouble} = edit;
  for (const made of tools.children) {
    const tool = edit.tools.find(other => other.id === made.dataset.tool);
    made.hidden = Boolean(tool && sheet && !tool.available());
    made.ariaPressed = (dme.tool?.id ?? null) === (tool?.id ?? null);
  }
  for (const [key, label] of Object.entries(options)) {
    label.hidden = !(OF_TOOL[dme.tool?.id] ?? []).includes(key);
  }
  for (const made of [undo, redo, reset, save, done]) made.disabled = !sheet;
  if (sheet) {
    undo.disabled = !sheet.undo.length;
    redo.disabled = !sheet.redo.length;
    save.disabled = !sheet.dirty;
    done.checked = sheet.done;
  }
  bar.classList.toggle("trouble", Boolean(trouble));
  conflict.hidden = trouble === null || trouble.theirs === null;
  again.hidden = !trouble?.sheet?.dirty || trouble.theirs !== null;
  edit.say(trouble ? trouble.text : statusText(sheet));
  markList();
}

function statusText(sheet) {
  const count = edit.states.filter(state => state.done).length;
  const all = `${count} of ${dme.scans.length} scans done`;
  if (!sheet) return all;
  if (sheet.dirty) return `not saved; ${all}`;
  return edit.states[sheet.index]?.saved ? `saved; ${all}` : `as it was found; ${all}`;
}

function markList() {
  for (const item of document.querySelectorAll("#scans li")) {
    const state = edit.states[Number(item.dataset.index)];
    item.classList.toggle("is-done", Boolean(state?.done));
    item.classList.toggle("is-saved", Boolean(state?.saved));
  }
}
new MutationObserver(markList).observe(document.querySelector("#scans"), {childList: true});

dme.on("sheet", () => {
  if (edit.sheet && dme.tool?.id !== chosen) edit.choose(chosen);
  show();
});
dme.on("tool", () => {
  dme.stage.canvas.classList.toggle("drawing", dme.tool !== null);
});

// ---- keys -------------------------------------------------------------------------------------
document.addEventListener("keydown", event => {
  if (event.target.closest("select, textarea, input[type=text], dialog")) return;
  const key = event.key.toLowerCase();
  const command = event.ctrlKey || event.metaKey;
  if (command && key === "z") (event.shiftKey ? edit.redo : edit.undo)();
  else if (command && key === "y") edit.redo();
  else if (command && key === "s") edit.save();
  else if (command || event.altKey) return;
  else if (key === "m") choose(null);
  else if (key === "d") edit.setDone(!edit.sheet?.done);
  else if (key === "n") openNext();
  else if (edit.tools[key - 1]) choose(edit.tools[key - 1].id);
  else if (key === "[" || key === "]") resize(key === "]" ? 1 : -1);
  else return;
  event.preventDefault();
});

function resize(by) {
  const input = bar.querySelector("[data-setting=radius]");
  input.value = Number(input.value) + by;
  input.dispatchEvent(new Event("input"));
}
}
