// The list of scans: the doubtful ones first, or by name or any number; a click opens one.
"use strict";
{ // names in here are no other file's

const list = document.querySelector("#scans");
const sorting = document.querySelector("#sorting");
const direction = document.querySelector("#direction");
const onlyFlagged = document.querySelector("#flagged");
const order = {key: "", down: false};
let follows = false; // the list scrolls to the open scan

dme.on("start", () => {
  const doubtful = dme.scans.some(scan => scan.flags.length);
  const choices = [["", "name"]];
  if (doubtful) choices.push(["flags", "doubt"]);
  for (const column of dme.columns) choices.push([column.key, column.title]);
  for (const [value, text] of choices) sorting.append(new Option(text, value));
  onlyFlagged.parentElement.hidden = !doubtful;
  follows = dme.named(dme.hashName()) !== undefined; // else the doubtful ones at its top are seen
  sorting.value = doubtful ? "flags" : "";
  sort();
});

const names = new Intl.Collator(undefined, {numeric: true});

// What a scan is sorted by, NaN where it is unknown
function valueOf(scan) {
  if (order.key === "flags") return scan.flags.length;
  return scan.numbers[order.key] ?? NaN;
}

// Of scans that are as doubtful, those with the widest interval of their first number come first
function widthOf(scan) {
  const ends = dme.columns.find(column => column.interval)?.interval.map(key => scan.numbers[key]);
  return ends?.every(Number.isFinite) ? ends[1] - ends[0] : 0;
}

function compare(a, b) {
  const sign = order.down ? -1 : 1;
  if (order.key === "") return sign * names.compare(a.name, b.name);
  const [first, second] = [valueOf(a), valueOf(b)];
  if (Number.isNaN(first) || Number.isNaN(second)) { // unknown: last
    return Number.isNaN(first) - Number.isNaN(second);
  }
  const wider = order.key === "flags" ? widthOf(a) - widthOf(b) : 0;
  return sign * (first - second || wider) || names.compare(a.name, b.name);
}

function buildList() {
  const scans = dme.scans.filter(scan => !onlyFlagged.checked || scan.flags.length);
  scans.sort(compare);
  direction.textContent = order.down ? "\u2193" : "\u2191";
  direction.ariaLabel = order.down ? "largest first" : "smallest first";
  direction.title = direction.ariaLabel;
  const column = dme.columns.find(other => other.key === order.key) || dme.columns[0];
  list.replaceChildren(...scans.map(scan => itemOf(scan, column)));
  mark();
}

function itemOf(scan, column) {
  const item = dme.element("li", {role: "option", id: `scan${scan.index}`});
  item.dataset.index = scan.index;
  item.append(dme.element("span", {className: "name", textContent: scan.name, title: scan.name}));
  if (scan.flags.length) {
    const flag = dme.element("span", {className: "flag", textContent: "!", title: scan.flags.join("; ")});
    flag.role = "img";
    flag.ariaLabel = `doubtful: ${scan.flags.join("; ")}`;
    item.append(flag);
  }
  if (column) item.append(dme.element("span", {className: "number", textContent: listed(scan, column)}));
  return item;
}

// The number in the list: of a scan without scale that in pixels
function listed(scan, column) {
  const inPx = scan.numbers[column.inPx];
  const known = Number.isFinite(scan.numbers[column.key]);
  return known || !Number.isFinite(inPx) ? dme.shown(scan, column) : `${inPx} px`;
}

// A number of a scan as text, with its interval if there is one
dme.shown = function (scan, column) {
  const value = scan.numbers[column.key];
  if (!Number.isFinite(value)) return "\u2013"; // unknown
  const text = value.toFixed(column.digits);
  const ends = column.interval?.map(key => scan.numbers[key]);
  if (!ends || !ends.every(Number.isFinite)) return text;
  return `${text} (${ends.map(end => end.toFixed(column.digits)).join(" to ")})`;
};

// The open scan in the list
function mark() {
  for (const item of list.querySelectorAll("[aria-selected=true]")) item.ariaSelected = "false";
  const item = document.getElementById(`scan${dme.index}`);
  list.setAttribute("aria-activedescendant", item ? item.id : "");
  if (!item) return;
  item.ariaSelected = "true";
  if (!follows) return;
  const above = item.offsetTop - list.scrollTop;
  if (above < 0 || above + item.offsetHeight > list.clientHeight) {
    list.scrollTop = item.offsetTop - list.clientHeight / 2;
  }
}

function sort() {
  order.key = sorting.value;
  order.down = sorting.value !== ""; // numbers start with the largest, names with the first
  buildList();
}

dme.on("open", () => {
  mark();
  follows = true; // whoever opens another one wants to see it
});
sorting.addEventListener("change", sort);
direction.addEventListener("click", () => {
  order.down = !order.down;
  buildList();
});
onlyFlagged.addEventListener("change", buildList);
list.addEventListener("click", event => {
  const item = event.target.closest("li");
  if (item) dme.open(Number(item.dataset.index));
});
list.addEventListener("keydown", event => {
  const steps = {ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity};
  const by = steps[event.key];
  if (!by) return;
  event.preventDefault();
  const items = [...list.children];
  const place = items.findIndex(item => Number(item.dataset.index) === dme.index) + by;
  const item = items[Math.min(Math.max(place, 0), items.length - 1)];
  if (item) dme.open(Number(item.dataset.index));
});
}
