// The page around the viewer: tables that sort, pictures that enlarge, light and dark.
"use strict";
{ // names in here are no other file's

// ---- tables -----------------------------------------------------------------------------------
const collator = new Intl.Collator(undefined, {numeric: true});

for (const table of document.querySelectorAll("table")) {
  table.querySelectorAll("th button").forEach(button => {
    button.addEventListener("click", () => withAllRows(table, () => sort(table, button.parentElement)));
  });
}

function sort(table, head) {
  const body = table.tBodies[0];
  const place = head.cellIndex;
  const numbers = body.rows[0].cells[place].classList.contains("number");
  // numbers start with the largest, names with the first; a second click turns the order round
  const first = numbers ? "descending" : "ascending";
  const second = numbers ? "ascending" : "descending";
  const order = head.ariaSort === first ? second : first;
  table.querySelectorAll("th[aria-sort]").forEach(other => { other.ariaSort = "none"; });
  head.ariaSort = order;
  const value = row => {
    const cell = row.cells[place];
    return numbers ? (cell.dataset.value === "" ? NaN : Number(cell.dataset.value)) : cell.textContent;
  };
  const rows = Array.from(body.rows, row => [value(row), row]);
  const sign = order === "ascending" ? 1 : -1;
  rows.sort(([a], [b]) => {
    if (!numbers) return sign * collator.compare(a, b);
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // unknown: last
    return sign * (a - b);
  });
  body.append(...rows.map(([, row]) => row));
}

// Of long tables the page holds the first rows only; the others are in a script file beside it
function withAllRows(table, then) {
  const button = table.parentElement.parentElement.querySelector(".rest");
  if (!button) return then();
  const script = document.createElement("script");
  window.dmeRows = html => {
    table.tBodies[0].insertAdjacentHTML("beforeend", html);
    button.remove();
  };
  script.onload = then;
  script.onerror = () => {
    button.disabled = true;
    button.textContent = "The other rows are not beside this page: keep the folder together";
  };
  script.src = button.dataset.rows;
  document.head.append(script);
  return undefined;
}

for (const button of document.querySelectorAll(".rest")) {
  const table = button.parentElement.querySelector("table");
  button.addEventListener("click", () => withAllRows(table, () => {}));
}

// ---- pictures ---------------------------------------------------------------------------------
const dialog = document.querySelector("dialog");
const large = dialog.querySelector("img");
let current = null;

function show(link) {
  current = link;
  const small = link.querySelector("img");
  large.onerror = () => { // the page was moved without its pictures
    large.onerror = null;
    if (small) large.src = small.src;
    dialog.querySelector("p").textContent += " (large picture not found beside this page)";
  };
  const heads = link.closest("table").tHead.rows[0].cells;
  const cells = Array.from(link.closest("tr").cells).slice(1, 5);
  dialog.querySelector("p").textContent = cells.map((cell, i) =>
    (i ? heads[i + 1].textContent + " " : "") + cell.textContent).join(", ");
  large.src = link.href;
  large.alt = link.title;
  if (!dialog.open) dialog.showModal();
}

function step(by) {
  const links = Array.from(current.closest("tbody").querySelectorAll(".picture"));
  show(links[(links.indexOf(current) + by + links.length) % links.length]);
}

document.addEventListener("click", event => {
  const link = event.target.closest(".picture");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  show(link);
});
dialog.addEventListener("click", event => {
  if (event.target === dialog) dialog.close();
  if (event.target.value) step(Number(event.target.value));
});
dialog.addEventListener("keydown", event => {
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") step(event.key === "ArrowLeft" ? -1 : 1);
});
dialog.addEventListener("close", () => { large.onerror = null; large.removeAttribute("src"); current.focus(); });

// ---- a scan in a table opens in the viewer ----------------------------------------------------
document.addEventListener("click", event => {
  if (event.target.closest("a[href^='#scan=']")) document.querySelector("#viewer").scrollIntoView();
});

// ---- light and dark ---------------------------------------------------------------------------
const theme = document.querySelector("#theme");
theme.addEventListener("click", () => {
  const root = document.documentElement;
  const dark = getComputedStyle(root).colorScheme === "dark" ||
    !root.style.colorScheme && matchMedia("(prefers-color-scheme: dark)").matches;
  root.style.colorScheme = dark ? "light" : "dark";
});
}
