"use strict";
// Reads values off the pictures, sorts tables, and a few comforts. The page is whole without it.

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const made = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);
const SVG = "http://www.w3.org/2000/svg";

function drawn(tag, attributes, parent) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return parent.appendChild(node);
}

// Theme: follows the system until the button is pressed.
const theme = document.getElementById("theme");
const system = matchMedia("(prefers-color-scheme: dark)");
let dark = system.matches;
function showTheme() {
  theme.textContent = dark ? "Light theme" : "Dark theme";
}
theme.hidden = false;
theme.addEventListener("click", () => {
  dark = !dark;
  document.documentElement.style.colorScheme = dark ? "dark" : "light";
  showTheme();
});
system.addEventListener("change", () => {
  if (!document.documentElement.style.colorScheme) dark = system.matches;
  showTheme();
});
showTheme();

// Commands.
for (const button of all(".copy")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      // A page opened from a file may not write to the clipboard: then it is selected, for Ctrl+C.
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
}

// Tables: a button in each heading sorts; empty cells stay below.
for (const table of all("table.sortable")) {
  const heads = all("thead th", table);
  heads.forEach((head, column) => {
    if ("unsorted" in head.dataset) return;
    const button = made("button", { type: "button", className: "sort" });
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      // Numbers first from large to small, words from A to Z.
      const first = head.classList.contains("number") ? "descending" : "ascending";
      const order = before === "none" ? first : before === "ascending" ? "descending" : "ascending";
      for (const other of heads) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
    });
  });
}

// Pictures: the values at the nearest x, by pointer, touch or arrow keys.
const digits = (value, percent) =>
  percent ? `${(100 * value).toFixed(1)} %` : Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(2) : String(+value.toPrecision(4));

function readable(figure) {
  const svg = figure.querySelector("svg.plot");
  const data = JSON.parse(figure.querySelector("script").textContent);
  const xs = [...new Set(data.lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  const at = (x) => data.x[0] + x * data.x[1];
  const tip = figure.appendChild(made("div", { className: "tip", hidden: true }));
  tip.setAttribute("role", "status");
  const marks = drawn("g", {}, svg);
  let place = xs.length - 1;

  function show(index) {
    place = Math.min(Math.max(index, 0), xs.length - 1);
    const x = xs[place];
    marks.replaceChildren();
    tip.replaceChildren(made("b", { textContent: `${data.xLabel} ${data.xNames[x] ?? (+x.toFixed(1)).toLocaleString("en")}` }));
    drawn("path", { class: "cross", d: `M${at(x)} ${svg.dataset.top}V${svg.dataset.bottom}` }, marks);
    for (const line of data.lines) {
      const shown = svg.querySelector(`.line.${line.class}`);
      if (getComputedStyle(shown).display === "none") continue;
      // The line's own nearest point: methods may have been looked at on other steps.
      let near = 0;
      line.x.forEach((one, i) => { if (Math.abs(one - x) < Math.abs(line.x[near] - x)) near = i; });
      if (line.y[near] === null || x > line.x.at(-1)) continue;
      drawn("circle", { class: `spot ${line.class}`, cx: at(line.x[near]), cy: line.at[near], r: 3.2 }, marks);
      const row = made("div", { className: line.class });
      row.append(made("i"), `${line.name} ${digits(line.y[near], data.percent)}`);
      if (line.low && line.low[near] !== null) {
        row.append(made("span", { className: "spread", textContent: ` (${digits(line.low[near], data.percent)} to ${digits(line.high[near], data.percent)})` }));
      }
      tip.append(row);
    }
    tip.hidden = false;
    // Below the picture, which stays in view, and inside the window.
    const [box, own] = [svg.getBoundingClientRect(), figure.getBoundingClientRect()];
    const wish = box.left + (at(x) / svg.viewBox.baseVal.width) * box.width - tip.offsetWidth / 2;
    const last = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${Math.max(8, Math.min(wish, last)) - own.left}px`;
    tip.style.top = `${box.bottom - own.top + 2}px`;
  }
  function hide() {
    tip.hidden = true;
    marks.replaceChildren();
  }
  function nearest(event) {
    const box = svg.getBoundingClientRect();
    const x = (((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width - data.x[0]) / data.x[1];
    let near = 0;
    xs.forEach((one, i) => { if (Math.abs(one - x) < Math.abs(xs[near] - x)) near = i; });
    show(near);
  }
  svg.tabIndex = 0;
  svg.addEventListener("pointermove", nearest);
  svg.addEventListener("pointerdown", nearest);
  // A finger that is lifted leaves too: what it showed stays until another place is touched.
  svg.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
  svg.addEventListener("focus", () => { if (svg.matches(":focus-visible")) show(place); });
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 10 : 1;
    const to = { ArrowLeft: place - step, ArrowRight: place + step, Home: 0, End: xs.length - 1 }[event.key];
    if (event.key === "Escape") hide();
    if (to === undefined) return;
    event.preventDefault();
    show(to);
  });
}
all("figure.chart").forEach(readable);

// Confusion matrices: one stop for Tab, arrow keys within; a sentence says what the cell means.
for (const table of all("table.confusion")) {
  const output = made("p", { className: "reading", textContent: "Point at a cell, or use the arrow keys in the table." });
  output.setAttribute("role", "status");
  table.closest(".scroll").after(output);
  const names = all("thead th", table).slice(1).map((head) => head.textContent);
  const cells = [...table.tBodies[0].rows].map((row) => [...row.cells].slice(1));
  const say = (i, j) => {
    const total = cells[i].reduce((sum, cell) => sum + Number(cell.textContent), 0);
    const count = Number(cells[i][j].textContent);
    const share = total ? ` (${((100 * count) / total).toFixed(1)} %)` : "";
    output.textContent = `${count} of ${total} images of ${names[i]}${share} ${i === j ? "are recognised" : `are taken for ${names[j]}`}.`;
  };
  cells.forEach((row, i) => row.forEach((cell, j) => {
    cell.tabIndex = i || j ? -1 : 0;
    cell.addEventListener("pointerenter", () => say(i, j));
    cell.addEventListener("focus", () => say(i, j));
    cell.addEventListener("keydown", (event) => {
      const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [];
      const next = cells[i + down]?.[j + right];
      if (!next) return;
      event.preventDefault();
      cell.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  }));
}

// What scrolls is a stop for Tab, so that arrow keys can move it; what fits is none.
const fits = new ResizeObserver((entries) => {
  for (const { target } of entries) target.tabIndex = target.scrollWidth > target.clientWidth ? 0 : -1;
});
for (const box of all(".scroll")) fits.observe(box);

// A link into something folded unfolds it, and so does printing.
function unfold() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (const folded of [target.querySelector(":scope > details"), target.closest("details")]) if (folded) folded.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", unfold);
unfold();
let folded = [];
addEventListener("beforeprint", () => {
  folded = all("details:not([open])");
  for (const one of folded) one.open = true;
});
addEventListener("afterprint", () => {
  for (const one of folded) one.open = false;
});
