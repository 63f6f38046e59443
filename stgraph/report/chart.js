"use strict";
// What every chart of the page needs: the content, scales, axes, time, and what the reader has chosen.
const page = JSON.parse(document.getElementById("content").textContent);
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const CLASSES = 7; // colours e0..e6 of the style sheet, small to large error
const unit = ["1", "count"].includes(page.unit) ? "" : page.unit;

// ---- small helpers -------------------------------------------------------------------------------------------
/** An SVG element with attributes, appended to a parent; a text attribute becomes its content. */
function draw(parent, tag, { text, ...attributes } = {}) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

const known = (value) => value !== null && value !== undefined;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** Three significant digits, in plain notation. */
function number(value) {
  if (!known(value)) return "–";
  if (value === 0) return "0";
  const places = clamp(2 - Math.floor(Math.log10(Math.abs(value))), 0, 8);
  return value.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places }).replace("-", "−");
}
const withUnit = (value) => (known(value) && unit ? `${number(value)} ${unit}` : number(value));

function niceStep(span, count) {
  const rough = Math.max(span, 1e-9) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 2.5, 5, 10].map((m) => m * power).find((step) => step >= rough * 0.999);
}

/** A scale from round number to round number: {low, high, ticks, places}. */
function scale(low, high, count) {
  const step = niceStep(high - low || Math.abs(high) || 1, count);
  const first = Math.floor(low / step + 1e-9), last = Math.max(first + 1, Math.ceil(high / step - 1e-9));
  const ticks = Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
  const places = Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) + (String(step).includes("25") && step < 10 ? 1 : 0);
  return { low: ticks[0], high: ticks.at(-1), ticks, text: (v) => v.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places }).replace("-", "−") };
}

function extent(lists) {
  let low = Infinity, high = -Infinity;
  for (const list of lists) for (const value of list) if (known(value)) { low = Math.min(low, value); high = Math.max(high, value); }
  return low <= high ? [low, high] : [0, 1];
}

/** The same, from zero where zero is not far below. */
const scaleOf = ([low, high], count) => scale(low >= 0 && low < 0.45 * high ? 0 : low, high, count);

/** A line through values[i] at x(i), broken where a value or time is missing; a lone value becomes a dot. */
function line(values, x, y, broken = () => false) {
  const parts = [];
  let open = false;
  values.forEach((value, i) => {
    if (!known(value)) { open = false; return; }
    const joined = open && !broken(i);
    parts.push(`${joined ? "L" : "M"}${x(i).toFixed(1)} ${y(value).toFixed(1)}`);
    const last = !known(values[i + 1]) || broken(i + 1);
    if (!joined && last) parts.push("h.01");
    open = true;
  });
  return parts.join("");
}

/** Empty a chart and give it a size in pixels, so that its text keeps its size at any width. */
function sheet(id, height) {
  const svg = byId(id), width = Math.max(240, svg.clientWidth);
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.style.height = `${height}px`;
  return { svg, width, height };
}

/** Horizontal grid lines with their numbers, and the title of the vertical axis above them. */
function verticalAxis(svg, box, values, title) {
  const y = (v) => box.bottom - ((v - values.low) / (values.high - values.low)) * (box.bottom - box.top);
  for (const tick of values.ticks) {
    draw(svg, "line", { class: tick === values.low ? "axis" : "grid", x1: box.left, x2: box.right, y1: y(tick), y2: y(tick) });
    draw(svg, "text", { x: box.left - 8, y: y(tick) + 4, "text-anchor": "end", text: values.text(tick) });
  }
  draw(svg, "text", { class: "y-title", x: 0, y: 12, text: title });
  return y;
}
/** Push labels apart so that none lies on another; keeps their order. */
function spread(labels, top, bottom, gap) {
  labels.sort((a, b) => a.at - b.at);
  labels.forEach((item, i) => { item.at = Math.max(item.at, i ? labels[i - 1].at + gap : top); });
  for (let i = labels.length - 1; i >= 0; i -= 1) labels[i].at = Math.min(labels[i].at, i === labels.length - 1 ? bottom : labels[i + 1].at - gap);
  return labels;
}
const marginFor = (values) => 14 + 7 * Math.max(...values.ticks.map((tick) => values.text(tick).length));

const onChoice = (name, act) => byId(name).addEventListener("change", (event) => act(event.target.value));
const choice = (name) => document.querySelector(`input[name="${name}"]:checked`)?.value;

// ---- time ------------------------------------------------------------------------------------------------------
const DAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const MONDAY = 5760; // minutes from the start of 1970, a Thursday, to the first Monday
/** Minutes on the local clock, whatever the clock of the reader. */
const clock = page.times.map((time) => {
  const [year, month, day, hour = 0, minute = 0] = time.match(/\d+/g).map(Number);
  return Date.UTC(year, month - 1, day, hour, minute) / 60000;
});
const daily = page.step_seconds >= 86400;
function dayText(row) {
  const date = new Date(clock[row] * 60000);
  return `${DAYS[date.getUTCDay()]} ${date.getUTCDate()} ${MONTHS[date.getUTCMonth()]}`;
}
const hourText = (row) => new Date(clock[row] * 60000).toISOString().slice(11, 16);
const timeText = (row) => (daily ? dayText(row) : `${dayText(row)}, ${hourText(row)}`);
const breaks = new Set(page.breaks);
/** How long so many steps are. */
function span(steps) {
  const seconds = steps * page.step_seconds;
  for (const [size, name] of [[86400, "d"], [3600, "h"], [60, "min"]]) if (seconds % size === 0) return `${seconds / size} ${name}`;
  return `${seconds} s`;
}

/** Round local times below a chart whose columns are rows first..last. */
function timeAxis(svg, box, first, last, x) {
  const room = Math.max(2, (box.right - box.left) / 62);
  const minutes = (last - first + 1) * page.step_seconds / 60;
  const step = [5, 10, 15, 30, 60, 120, 180, 240, 360, 720, 1440, 2880, 10080, 20160, 40320, 131040, 525600].find((m) => minutes / m <= room) || 525600;
  let shownDay = null, free = -Infinity;
  for (let row = Math.max(0, first); row <= Math.min(last, clock.length - 1); row += 1) {
    const fresh = row === 0 ? (clock[0] - MONDAY) % step === 0 : Math.floor((clock[row] - MONDAY) / step) !== Math.floor((clock[row - 1] - MONDAY) / step);
    if (!fresh || x(row) < free) continue;
    draw(svg, "line", { class: "axis", x1: x(row), x2: x(row), y1: box.bottom, y2: box.bottom + 4 });
    const day = dayText(row);
    if (step < 1440) draw(svg, "text", { x: x(row), y: box.bottom + 17, "text-anchor": "middle", text: hourText(row) });
    if (day !== shownDay) draw(svg, "text", { x: clamp(x(row), box.left + 20, box.right - 20), y: box.bottom + (step < 1440 ? 32 : 17), "text-anchor": "middle", text: day });
    shownDay = day;
    free = x(row) + 44;
  }
  draw(svg, "text", { class: "x-title", x: box.right, y: box.bottom + 32, "text-anchor": "end", text: daily ? "Date" : "Local time" });
}

// ---- state -----------------------------------------------------------------------------------------------------
const curves = page.curves;
const state = {
  lead: "all", // error shown on the map
  sensor: curves.sensors.length ? Number(byId("sensor").value) : null,
  origin: 0, // index into curves.origins
  focus: null, // sensor under the pointer or the keyboard
  zoom: 1, middle: [0, 0], // of the map, in its unzoomed pixels
};
const errorOf = (sensor, lead = state.lead) => (lead === "all" ? page.error : page.error_at[lead])[sensor];
const curveOf = (sensor) => curves.sensors.indexOf(sensor);
