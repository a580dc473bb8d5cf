"use strict";
// Draws the report from the JSON beside it.  Texts of the traced program only ever go through
// textContent, never into markup.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

// ---- words and numbers

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];
function size(bytes) {
  let unit = 0;
  while (Math.abs(bytes) >= 1024 && unit < UNITS.length - 1) { bytes /= 1024; unit++; }
  return (unit ? bytes.toFixed(1) : bytes) + " " + UNITS[unit];
}
const count = (n) => n.toLocaleString("en");
const percent = (part, whole) => (whole ? (100 * part / whole).toFixed(1) + " %" : "");

function element(tag, { text, parent, ...attributes } = {}, svg = false) {
  const made = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function legend(where, kinds) {
  for (const kind of kinds) {
    const item = element("span", { parent: where });
    element("i", { parent: item, style: `background: var(--${kind.color})` });
    item.append(kind.title);
  }
}

// A small table that follows the pointer inside a box.
function tip(box) {
  const made = element("div", { class: "tip", parent: box });
  made.hidden = true;
  return {
    hide() { made.hidden = true; },
    show(x, y, title, rows) {
      made.replaceChildren(element("b", { text: title }));
      const table = element("table", { parent: made });
      for (const cells of rows) {
        const row = element("tr", { parent: table });
        for (const cell of cells) element("td", { text: cell, parent: row, style: "border: 0" });
      }
      made.hidden = false;
      const left = x + 16 + made.offsetWidth > box.clientWidth ? x - 16 - made.offsetWidth : x + 16;
      made.style.left = Math.max(left, 0) + "px";
      made.style.top = y + "px";
    },
  };
}

// Draw again when a box has become wider or narrower.
function onNewWidth(box, draw) {
  let width = box.clientWidth;
  new ResizeObserver(() => {
    if (box.clientWidth === width) return;
    width = box.clientWidth;
    draw();
  }).observe(box);
}

// ---- the run as stacked areas

const STEPS = [1, 2, 2.5, 5, 10];
function ticks(low, high, about, base = 10) {
  const rough = (high - low) / about || 1;
  const power = base ** Math.floor(Math.log(rough) / Math.log(base));
  const steps = base === 10 ? STEPS : [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
  const step = power * (steps.find((s) => s * power >= rough) ?? base);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high; at += step) found.push(at);
  return found;
}

function timeline(box, series) {
  const { kinds, line, x, xTitle } = series;
  let W, H;
  const L = 68, R = 8, T = 10, B = 34;
  const note = tip(box);
  let from = x[0], to = x[x.length - 1];

  function draw() {
    box.querySelector("svg")?.remove();
    W = Math.max(box.clientWidth, 300);
    H = Math.round(Math.min(360, 180 + W / 6));
    const svg = element("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", parent: box }, true);
    const inside = [...x.keys()].filter((i) => x[i] >= from && x[i] <= to);
    const sums = x.map((_, i) => kinds.reduce((sum, k) => sum + k.values[i], 0));
    const most = Math.max(...inside.map((i) => Math.max(sums[i], line.values[i])), 1) * 1.04;
    const px = (value) => L + (W - L - R) * (to > from ? (value - from) / (to - from) : 0.5);
    const py = (value) => H - B - (H - T - B) * value / most;
    axes(svg, most, px, py);
    const base = x.map(() => 0);
    // What was seen holds until it is seen again: between two looks nothing is known to change.
    const steps = (values) => inside.flatMap((i, k) => {
      const y = py(values[i]).toFixed(1), next = inside[k + 1];
      return [[px(x[i]).toFixed(1), y], ...(next === undefined ? [] : [[px(x[next]).toFixed(1), y]])];
    });
    for (const kind of kinds) {
      const upper = base.map((b, i) => b + kind.values[i]);
      const points = [...steps(upper), ...steps(base).reverse()];
      element("polygon", { points: points.join(" "), style: `fill: var(--${kind.color})`, parent: svg }, true);
      upper.forEach((value, i) => { base[i] = value; });
    }
    element("polyline", { points: steps(line.values).join(" "), fill: "none", style: "stroke: var(--rss); stroke-width: 1.6", parent: svg }, true);
    const cursor = element("line", { y1: T, y2: H - B, style: "stroke: var(--ink); stroke-dasharray: 3 3", visibility: "hidden", parent: svg }, true);
    const band = element("rect", { y: T, height: H - T - B, style: "fill: var(--ink); opacity: .12", visibility: "hidden", parent: svg }, true);
    listen(svg, inside, px, cursor, band);
  }

  function axes(svg, most, px, py) {
    for (const value of ticks(0, most, 6, 1024)) {
      element("line", { x1: L, x2: W - R, y1: py(value), y2: py(value), class: "grid", parent: svg }, true);
      element("text", { x: L - 8, y: py(value) + 4, "text-anchor": "end", class: "axis", text: size(value), parent: svg }, true);
    }
    for (const value of ticks(from, to, Math.max(Math.min(W / 130, 8), 2)))
      element("text", { x: px(value), y: H - B + 16, "text-anchor": px(value) > W - R - 30 ? "end" : "middle", class: "axis", text: series.xText(value), parent: svg }, true);
    element("text", { x: W - R, y: H - 4, "text-anchor": "end", class: "axis", text: xTitle, parent: svg }, true);
  }

  function listen(svg, inside, px, cursor, band) {
    let start = null;
    const at = (event) => {
      const frame = svg.getBoundingClientRect();
      const wanted = from + ((event.clientX - frame.left) / frame.width * W - L) / (W - L - R) * (to - from);
      return inside.reduce((best, i) => (Math.abs(x[i] - wanted) < Math.abs(x[best] - wanted) ? i : best), inside[0]);
    };
    svg.addEventListener("pointermove", (event) => {
      const i = at(event), frame = box.getBoundingClientRect();
      for (const side of ["x1", "x2"]) cursor.setAttribute(side, px(x[i]));
      cursor.setAttribute("visibility", "visible");
      if (start !== null) {
        band.setAttribute("visibility", "visible");
        band.setAttribute("x", Math.min(px(x[start]), px(x[i])));
        band.setAttribute("width", Math.abs(px(x[i]) - px(x[start])));
      }
      const rows = [[line.title, size(line.values[i])], ...[...kinds].reverse().map((k) => [k.title, size(k.values[i])])];
      note.show(event.clientX - frame.left, 20, series.pointText(i), rows);
    });
    svg.addEventListener("pointerleave", () => { note.hide(); cursor.setAttribute("visibility", "hidden"); });
    svg.addEventListener("pointerdown", (event) => { start = at(event); });
    svg.addEventListener("pointerup", (event) => {
      const end = at(event);
      if (start !== null && Math.abs(end - start) > 2) { from = x[Math.min(start, end)]; to = x[Math.max(start, end)]; draw(); }
      start = null;
      band.setAttribute("visibility", "hidden");
    });
    svg.addEventListener("dblclick", () => { from = x[0]; to = x[x.length - 1]; draw(); });
  }

  draw();
  onNewWidth(box, draw);
}

// ---- where it sits, at the peak and at the end

function bars(box, moments) {
  const most = Math.max(...moments.map((m) => m.held), 1);
  for (const moment of moments) {
    const row = element("div", { class: "row", parent: box });
    element("span", { text: moment.title, parent: row });
    const bar = element("div", { class: "bar", parent: row, style: `width: ${100 * moment.held / most}%` });
    for (const kind of data.kinds) {
      const value = moment.bytes[kind.name];
      if (value) element("span", { parent: bar, style: `flex: ${value}; background: var(--${kind.color})`,
        title: `${kind.title}: ${size(value)}, ${percent(value, moment.held)}` });
    }
    element("span", { text: size(moment.held), parent: row });
  }
}

// The same in words: what each colour is, and how much of it there is.
function where(box, moments) {
  const made = element("table", { parent: box }), head = element("tr", { parent: made });
  for (const title of ["", ...moments.map((m) => "at the " + m.title), ""]) element("th", { text: title, parent: head });
  for (const kind of data.kinds) {
    if (!moments.some((m) => m.bytes[kind.name])) continue;
    const row = element("tr", { parent: made }), name = element("td", { parent: row });
    element("span", { class: "swatch", style: `background: var(--${kind.color})`, parent: name });
    name.append(kind.title);
    for (const m of moments) element("td", { text: size(m.bytes[kind.name]), parent: row });
    element("td", { text: kind.what, parent: row });
  }
}

// ---- the heap as cells

function color(name) {
  const probe = element("span", { style: `color: var(--${name})`, parent: document.body });
  const found = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
  probe.remove();
  return found;
}
const mix = (a, b, part) => a.map((value, i) => Math.round(value + (b[i] - value) * part));

function cellColor(region, cell, colors) {
  const whole = region.pages * 4096, used = region.bytes[0][cell];
  let best = 0, most = 0;
  for (let kind = 1; kind < region.bytes.length; kind++)
    if (region.bytes[kind][cell] > most) { most = region.bytes[kind][cell]; best = kind; }
  if (used === 0 && best) return mix(colors.paper, colors.kinds[best], region.resident[cell] ? 0.9 : 0.35);
  if (used === 0) return colors.none;
  return mix(mix(colors.paper, colors.kinds[0], 0.25), colors.kinds[0], used / whole);
}

function heap(box, regions) {
  box.replaceChildren();
  const colors = { paper: color("paper"), none: color("none"), kinds: data.mapKinds.map((k) => color(k.color)) };
  // a cell is a whole number of the screen's own dots, so that the gaps between cells are alike
  const dots = window.devicePixelRatio || 1, zoom = Math.round((box.clientWidth < 700 ? 6 : 8) * dots);
  const across = Math.max(Math.floor(box.clientWidth * dots / zoom), 1);
  for (const region of regions) {
    const cells = region.bytes[0].length, down = Math.ceil(cells / across);
    const holder = element("div", { class: "region chart", parent: box });
    element("p", { class: "faint", parent: holder, text: `${region.arena ? "arena " + region.arena : "main arena"}, from 0x${region.start.toString(16)}: ${count(cells)} cells of ${size(region.pages * 4096)}` });
    const canvas = element("canvas", { width: across * zoom, height: down * zoom, style: `width: ${across * zoom / dots}px`, parent: holder });
    const pen = canvas.getContext("2d");
    for (let cell = 0; cell < cells; cell++) {
      pen.fillStyle = `rgb(${cellColor(region, cell, colors)})`;
      pen.fillRect((cell % across) * zoom, Math.floor(cell / across) * zoom, zoom - 1, zoom - 1);
    }
    const note = tip(holder);
    canvas.addEventListener("pointermove", (event) => {
      const frame = canvas.getBoundingClientRect();
      const cell = Math.floor((event.clientX - frame.left) / frame.width * across) + across * Math.floor((event.clientY - frame.top) / frame.height * down);
      if (cell < 0 || cell >= cells) { note.hide(); return; }
      const rows = data.mapKinds.map((k, i) => [k.title, size(region.bytes[i][cell])]).filter((_, i) => region.bytes[i][cell]);
      rows.push(["pages in memory", `${region.resident[cell]} of ${region.pages}`]);
      note.show(event.clientX - frame.left, canvas.offsetTop + event.clientY - frame.top + 14, "0x" + (region.start + cell * region.pages * 4096).toString(16), rows);
    });
    canvas.addEventListener("pointerleave", () => note.hide());
  }
}

// ---- tables

function table(box, columns, rows, barColumn = -1) {
  let key = -1, down = true;
  const most = barColumn >= 0 ? Math.max(...rows.map((r) => r[barColumn]), 1) : 1;
  function draw() {
    box.replaceChildren();
    const made = element("table", { parent: box }), head = element("tr", { parent: made });
    columns.forEach((column, i) => {
      const button = element("button", { text: column.title, parent: element("th", { parent: head }) });
      button.addEventListener("click", () => { down = key === i ? !down : true; key = i; draw(); });
    });
    const order = key < 0 ? rows : [...rows].sort((a, b) => (a[key] > b[key] ? 1 : a[key] < b[key] ? -1 : 0) * (down ? -1 : 1));
    for (const row of order) {
      const line = element("tr", { parent: made });
      row.forEach((value, i) => {
        const cell = element("td", { parent: line });
        if (i === barColumn) element("span", { class: "fill", style: `width: ${120 * value / most}px`, parent: cell });
        cell.append(columns[i].text ? columns[i].text(value) : value);
      });
    }
  }
  draw();
}

// ---- the page

byId("command").textContent = data.command;
byId("about").textContent = data.about;
byId("verdict").textContent = data.verdict;
for (const note of data.notes) element("p", { text: note.text, class: note.bad ? "bad" : "faint", parent: byId("notes") });
for (const tile of data.tiles) {
  const box = element("div", { class: "tile", parent: byId("tiles") });
  element("b", { text: tile.value, parent: box });
  element("span", { text: tile.title, parent: box });
}
for (const name of ["run", "where", "heap", "sizes"]) byId(name + "-section").hidden = !data.sizes.length;
if (data.timeline.x.length > 1) {
  legend(byId("timeline-legend"), [...data.kinds, data.timeline.line]);
  const t = data.timeline;
  timeline(byId("timeline"), {
    kinds: data.kinds.map((k) => ({ ...k, values: t.values[k.name] })), line: t.line, x: t.x, xTitle: t.xTitle,
    xText: (value) => (t.seconds ? Number(value.toPrecision(3)) + " s" : count(value)),
    pointText: (i) => (t.seconds ? `${Number(t.x[i].toPrecision(4))} s, ` : "") + `call ${count(t.calls[i])}`,
  });
}
bars(byId("bars"), data.moments);
where(byId("where"), data.moments);

const moments = data.maps.filter((m) => m.regions.length);
byId("cell").textContent = moments.length ? size(moments[0].regions[0].pages * 4096) : "a page";
legend(byId("map-legend"), data.mapKinds);
let shown = moments.length - 1;
function showMap() {
  if (moments.length) heap(byId("map"), moments[shown].regions);
  for (const [i, button] of [...byId("map-choice").children].entries()) button.setAttribute("aria-pressed", i === shown);
}
moments.forEach((moment, i) => element("button", { text: moment.title, parent: byId("map-choice") })
  .addEventListener("click", () => { shown = i; showMap(); }));
showMap();
onNewWidth(byId("map"), showMap);

if (data.sites.length) {
  table(byId("sites"), [{ title: "call site" }, { title: "calls", text: count }, { title: "bytes in all", text: size },
    { title: "live at the peak", text: size }, { title: "live at the end", text: size }], data.sites, 3);
} else byId("sites-section").remove();
table(byId("sizes"), [{ title: "up to", text: size }, { title: "calls", text: count }, { title: "bytes", text: size }], data.sizes, 1);
const half = Math.ceil(data.figures.length / 2);
for (const rows of [data.figures.slice(0, half), data.figures.slice(half)])
  table(element("div", { parent: byId("figures") }), [{ title: "figure" }, { title: "value" }], rows);
if (data.addressSpace) byId("maps").textContent = data.addressSpace; else byId("maps-section").remove();

byId("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  showMap();
});
