// SPDX-License-Identifier: Apache-2.0
"use strict";
// The page is whole without this script: it adds hover, keyboard, sorting, saving, and the live page.
const one = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
let data = JSON.parse(one("#data").textContent);
const sorted = new Map(); // from a table to the column and direction that were asked for
const tip = one("#tip"), said = one("#said");
const SPACE = "http://www.w3.org/2000/svg";

const percent = (share) => (share === null ? "–" : `${(100 * share).toFixed(2)}%`);
const rate = (value) => value.toExponential(2).replace("e+", "e");

function setUp() {
  document.documentElement.classList.add("scripted");
  for (const plot of all(".plot")) {
    plot.tabIndex = 0;
    plot.setAttribute("role", "application");
    plot.setAttribute("aria-label", `${one("title", plot).textContent}: ${one("desc", plot).textContent} ` +
      "Left and right arrows go along the points, up and down to another curve.");
  }
  for (const [table, [column, way]] of sorted) sort(table, column, way);
  if (shown) {
    const plot = document.getElementById(shown.plot);
    if (plot && document.activeElement === plot) show(plot, shown.curve, shown.point, false);
    else hide();
  }
}

// -- points of figures -----------------------------------------------------------------------------

let shown = null; // {plot, curve, point} that the tip tells of
const curvesOf = (plot) => all(".curve", plot).map((group) => Number(group.dataset.i));

function place(curve, point) {
  const a = data.axis, c = data.curves[curve];
  const x = a.left + ((Math.log10(c.rate[point]) - a.low) / (a.high - a.low)) * (a.right - a.left);
  return [x, a.bottom - (c.accuracy[point] / a.highest) * (a.bottom - a.top)];
}

function words(curve, point) {
  const c = data.curves[curve], [low, high] = c.interval[point], n = c.count[point];
  const trials = c.correct[point].map((right) => (100 * right / c.images).toFixed(2));
  const more = n > trials.length ? ` and ${n - trials.length} more` : "";
  return [c.label, `bit error rate ${rate(c.rate[point])}`,
    `${c.measure} ${percent(c.accuracy[point])} (95%: ${percent(low)} to ${percent(high)})`,
    `${n} ${n === 1 ? "trial" : "trials"}: ${trials.join(", ")}%${more}`,
    `midpoint ${c.midpoint}`].join("\n");
}

function show(plot, curve, point, speak) {
  const svg = one("svg", plot), [x, y] = place(curve, point);
  emphasize(svg, curve);
  let ring = one(".ring", svg);
  if (!ring) {
    ring = document.createElementNS(SPACE, "circle");
    ring.setAttribute("class", "ring");
    ring.setAttribute("r", "6.5");
    svg.append(ring);
  }
  ring.setAttribute("cx", x);
  ring.setAttribute("cy", y);
  tell(words(curve, point), svgPoint(svg, x, y), speak);
  shown = { plot: plot.id, curve, point };
}

function svgPoint(svg, x, y) {
  const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
  return [box.left + x * scale, box.top + y * scale];
}

function tell(text, [x, y], speak) {
  tip.textContent = text;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = x + 16 + width > innerWidth ? x - 16 - width : x + 16;
  tip.style.left = `${Math.max(4, Math.min(left, innerWidth - width - 4))}px`;
  tip.style.top = `${Math.max(4, Math.min(y + 12, innerHeight - height - 4))}px`;
  if (speak) said.textContent = text.replaceAll("\n", "; ");
}

function hide() {
  tip.hidden = true;
  shown = null;
  all(".ring").forEach((ring) => ring.remove());
  all(".ns.focus").forEach((svg) => emphasize(svg, null));
  all(".map .on").forEach((cell) => cell.classList.remove("on"));
}

function emphasize(svg, curve) {
  svg.classList.toggle("focus", curve !== null);
  for (const part of all("[data-i]", svg)) part.classList.toggle("on", Number(part.dataset.i) === curve);
}

function nearest(plot, event) {
  const svg = one("svg", plot);
  let best = null, least = 28;
  for (const curve of curvesOf(plot)) {
    data.curves[curve].rate.forEach((_, point) => {
      if (data.curves[curve].accuracy[point] === null) return;
      const [x, y] = svgPoint(svg, ...place(curve, point));
      const away = Math.hypot(x - event.clientX, y - event.clientY);
      if (away < least) [best, least] = [[curve, point], away];
    });
  }
  return best;
}

function pointed(event) {
  const plot = event.target.closest?.(".plot");
  if (!plot) {
    const cell = event.target.closest?.(".map td[data-tell]");
    if (cell) tell(cell.dataset.tell, [event.clientX, event.clientY], false);
    else if (!document.activeElement?.closest(".plot, .map")) hide();
    return;
  }
  const found = nearest(plot, event), row = event.target.closest(".row");
  if (found) show(plot, ...found, false);
  else if (!plot.contains(document.activeElement)) {
    hide();
    if (row) emphasize(one("svg", plot), Number(row.dataset.i));
  }
}

function stepPlot(plot, key) {
  const curves = curvesOf(plot).filter((i) => data.curves[i].accuracy.some((a) => a !== null));
  if (!curves.length) return false;
  let { curve, point } = shown && shown.plot === plot.id ? shown : { curve: curves[0], point: -1 };
  const last = data.curves[curve].rate.length - 1;
  if (key === "ArrowRight") point = Math.min(point + 1, last);
  else if (key === "ArrowLeft") point = Math.max(point - 1, 0);
  else if (key === "Home") point = 0;
  else if (key === "End") point = last;
  else if (key === "ArrowUp" || key === "ArrowDown") {
    const step = key === "ArrowDown" ? 1 : curves.length - 1;
    const at = data.curves[curve].rate[Math.max(point, 0)];
    curve = curves[(curves.indexOf(curve) + step) % curves.length];
    const away = data.curves[curve].rate.map((r) => Math.abs(Math.log(r / at)));
    point = away.indexOf(Math.min(...away));
  } else return false;
  show(plot, curve, point, true);
  return true;
}

function stepMap(map, key) {
  const rows = all("tbody tr", map).map((row) => all("td", row));
  const now = one("td.on", map);
  let r = rows.findIndex((row) => row.includes(now)), c = r < 0 ? 0 : rows[r].indexOf(now);
  const move = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[key];
  if (!move) return false;
  [r, c] = r < 0 ? [0, 0] : [r + move[0], c + move[1]];
  const cell = rows[r]?.[c];
  if (!cell) return true;
  now?.classList.remove("on");
  cell.classList.add("on");
  cell.scrollIntoView({ block: "nearest", inline: "nearest" });
  const box = cell.getBoundingClientRect();
  tell(cell.dataset.tell, [box.left, box.bottom], true);
  return true;
}

document.addEventListener("pointermove", pointed);
document.addEventListener("pointerdown", pointed);
document.addEventListener("focusout", hide);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") return hide();
  const plot = event.target.closest?.(".plot"), map = event.target.closest?.(".mapbox");
  if ((plot && stepPlot(plot, event.key)) || (map && stepMap(map, event.key))) event.preventDefault();
});
addEventListener("scroll", () => { if (!document.activeElement?.closest(".plot, .mapbox")) hide(); }, { passive: true });

// -- tables, files, theme --------------------------------------------------------------------------

function sort(key, column, way) {
  const table = document.getElementById(`t-${key}`);
  if (!table) return;
  const value = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
  const numbers = all("thead th", table)[column].classList.contains("n");
  const compare = (a, b) => {
    if (!numbers) return value(a).localeCompare(value(b), "en", { numeric: true }) * way;
    const [x, y] = [a, b].map((row) => Number(row.cells[column].dataset.v ?? NaN));
    // What has no number stands last, whichever way.
    return Number.isNaN(x) - Number.isNaN(y) || (x - y) * way || 0;
  };
  one("tbody", table).append(...all("tbody tr", table).sort(compare));
  all("thead th", table).forEach((th, i) =>
    th.setAttribute("aria-sort", i !== column ? "none" : way > 0 ? "ascending" : "descending"));
  sorted.set(key, [column, way]);
}

function csv(rows) {
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    if (typeof value === "number") return String(value);
    // A spreadsheet would take such a text for a formula, or its part after another separator.
    const text = /^[=+\-@\t\r\n']/.test(value) ? `'${value}` : value;
    return `"${text.replaceAll('"', '""')}"`;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

function pointRows() {
  const names = ["model", "network", "format", "mask", "noisy", "board", "data", "directions", "settings", "file"];
  const rows = [[...names, "bit_error_rate", "trial_of_rate", "correct", "images", "measure", "value"]];
  for (const c of data.curves) {
    c.rate.forEach((value, i) => c.correct[i].forEach((right, trial) =>
      rows.push([...names.map((name) => c[name]), value, trial, right, c.images, c.measure, right / c.images])));
  }
  return rows;
}

function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function plainSvg(svg) {
  const copy = svg.cloneNode(true);
  copy.classList.remove("focus");
  all(".ring", copy).forEach((ring) => ring.remove());
  const style = document.createElementNS(SPACE, "style"), paper = document.createElementNS(SPACE, "rect");
  style.textContent = data.style;
  for (const [name, value] of [["width", "100%"], ["height", "100%"], ["fill", "#ffffff"]]) paper.setAttribute(name, value);
  one("desc", copy).after(style, paper);
  return new XMLSerializer().serializeToString(copy);
}

async function savePicture(button) {
  const figure = button.closest("figure"), svg = one("svg", figure);
  const name = one("figcaption", figure).textContent.replace(/[^\p{L}\p{N}.-]+/gu, "-").slice(0, 80) || "figure";
  const blob = new Blob([plainSvg(svg)], { type: "image/svg+xml" });
  if (button.dataset.picture === "svg") return save(`${name}.svg`, blob);
  const image = new Image(), canvas = document.createElement("canvas"), scale = 3;
  image.src = URL.createObjectURL(blob);
  await image.decode();
  canvas.width = svg.viewBox.baseVal.width * scale;
  canvas.height = svg.viewBox.baseVal.height * scale;
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(image.src);
  canvas.toBlob((png) => save(`${name}.png`, png), "image/png");
}

document.addEventListener("click", (event) => {
  const button = event.target.closest?.("button");
  if (!button) return;
  if (button.id === "theme") {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  } else if (button.dataset.csv) {
    const rows = button.dataset.csv === "points" ? pointRows() : data.csv[button.dataset.csv];
    save(`${button.dataset.csv}.csv`, new Blob([csv(rows)], { type: "text/csv;charset=utf-8" }));
  } else if (button.dataset.picture) savePicture(button);
  else if (button.classList.contains("sort")) {
    const th = button.closest("th"), key = button.closest("table").id.slice(2);
    sort(key, Number(button.dataset.column), th.getAttribute("aria-sort") === "ascending" ? -1 : 1);
    said.textContent = `sorted by ${button.textContent}, ${th.getAttribute("aria-sort")}`;
  }
});

// -- a page of a sweep that runs -------------------------------------------------------------------

function redraw(state) {
  const focused = document.activeElement?.id, picked = one("fieldset input:checked")?.id;
  const open = all("details[open]").map((part) => part.id);
  const boxes = all(".box").map((box) => [box.scrollLeft, box.scrollTop]);
  data = state.data;
  one("#main").innerHTML = state.main;
  one("#about").textContent = state.about;
  if (one("#links").innerHTML !== state.links) one("#links").innerHTML = state.links;
  const again = picked && document.getElementById(picked);
  if (again) again.checked = true;
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  setUp();
  all(".box").forEach((box, i) => { if (boxes[i]) [box.scrollLeft, box.scrollTop] = boxes[i]; });
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

async function follow(known, failed) {
  try {
    const answer = await fetch(`state?known=${encodeURIComponent(known)}`, { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    const state = await answer.json();
    if (state.main !== undefined) redraw(state);
    one("#progress-text").textContent = state.text;
    const bar = one("#progress-bar");
    bar.hidden = state.share === null;
    if (state.share !== null) bar.value = state.share;
    if (state.ended) return;
    setTimeout(follow, 2000, state.known, 0);
  } catch (error) {
    const lost = failed >= 2;
    one("#progress-text").textContent = lost
      ? "Nobody serves this page any more: it shows what was measured until then." : "No answer; trying again.";
    if (!lost) setTimeout(follow, 2000, known, failed + 1);
  }
}

setUp();
if (document.documentElement.dataset.live !== undefined) follow("", 0);
