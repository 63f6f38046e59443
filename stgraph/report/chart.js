"use strict";
// What every chart of the page needs: the content, scales, axes, time, and what the reader has chosen.
const page = JSON.parse(document.getElementById("content").textContent);
const byId = (id) => document.getElementById(id);
const unit = ["1", "count"].includes(page.unit) ? "" : page.unit;
const known = (value) => value !== null && value !== undefined;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const range = (count) => [...Array(count).keys()];
const onChoice = (name, act) => byId(name).addEventListener("change", (event) => act(event.target.value));

// ---- drawing ---------------------------------------------------------------------------------------------------
/** An SVG element with attributes, appended to a parent; a text attribute becomes its content. */
function draw(parent, tag, { text, ...attributes } = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}
const rule = (parent, look, x1, y1, x2, y2) => draw(parent, "line", { class: look, x1, y1, x2, y2 });
const label = (parent, x, y, text, anchor = "start", look = "") =>
  draw(parent, "text", { class: look, x, y, "text-anchor": anchor, text });
function moveTo(circle, [x, y]) {
  circle.setAttribute("cx", x.toFixed(1));
  circle.setAttribute("cy", y.toFixed(1));
}

/** Empty a chart and give it a size in pixels, so that its text keeps its size at any width. */
function sheet(id, height) {
  const svg = byId(id), width = Math.max(240, svg.clientWidth);
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.style.height = `${height}px`;
  return { svg, width, height };
}

/** A line through values[i] at x(i), broken where a value or time is missing; a lone value becomes a dot. */
function line(values, x, y, broken = () => false) {
  const parts = [];
  let open = false;
  values.forEach((value, i) => {
    const joined = open && !broken(i);
    open = known(value);
    if (!open) return;
    parts.push(`${joined ? "L" : "M"}${x(i).toFixed(1)} ${y(value).toFixed(1)}`);
    if (!joined && (!known(values[i + 1]) || broken(i + 1))) parts.push("h.01");
  });
  return parts.join("");
}

/** Push labels [{at, ...}] apart so that none lies on another; keeps their order. */
function spread(labels, top, bottom, gap) {
  labels.sort((a, b) => a.at - b.at);
  labels.forEach((item, i) => { item.at = Math.max(item.at, i ? labels[i - 1].at + gap : top); });
  labels.reverse().forEach((item, i) => { item.at = Math.min(item.at, i ? labels[i - 1].at - gap : bottom); });
  return labels;
}

// ---- numbers and scales ----------------------------------------------------------------------------------------
const decimals = (value, places) => value.toLocaleString("en", {
  minimumFractionDigits: places, maximumFractionDigits: places }).replace("-", "−");

/** Three significant digits, in plain notation. */
function number(value) {
  if (!known(value)) return "–";
  return value === 0 ? "0" : decimals(value, clamp(2 - Math.floor(Math.log10(Math.abs(value))), 0, 8));
}
const withUnit = (value) => (known(value) && unit ? `${number(value)} ${unit}` : number(value));

/** Smallest and largest known value. */
function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values.filter(known)) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return low <= high ? [low, high] : [0, 1];
}

/** A scale of about so many steps from round number to round number: {low, high, ticks, text(value)}. */
function scale([low, high], count) {
  const rough = (high - low || Math.abs(high) || 1) / count, power = 10 ** Math.floor(Math.log10(rough));
  const [factor, digits] = [[1, 0], [2, 0], [2.5, 1], [5, 0], [10, -1]].find(([m]) => m * power >= rough * 0.999);
  const step = factor * power, places = Math.max(0, digits - Math.round(Math.log10(power)));
  const first = Math.floor(low / step + 1e-9), last = Math.max(first + 1, Math.ceil(high / step - 1e-9));
  const ticks = range(last - first + 1).map((i) => (first + i) * step);
  return { low: ticks[0], high: ticks.at(-1), ticks, text: (value) => decimals(value, places) };
}

/** Horizontal grid lines with their numbers, and the title of the vertical axis above them; gives value -> pixel. */
function verticalAxis(svg, box, values, title) {
  const y = (value) => box.bottom - ((value - values.low) / (values.high - values.low)) * (box.bottom - box.top);
  for (const tick of values.ticks) {
    rule(svg, tick === values.low ? "axis" : "grid", box.left, y(tick), box.right, y(tick));
    label(svg, box.left - 8, y(tick) + 4, values.text(tick), "end");
  }
  label(svg, 0, 12, title);
  return y;
}
const marginFor = (values) => 14 + 7 * Math.max(...values.ticks.map((tick) => values.text(tick).length));

// ---- time ------------------------------------------------------------------------------------------------------
const DAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAY = 86400;
const TIME_STEPS = [5, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 14400, 21600, 43200,
  ...[1, 2, 7, 14, 28, 91, 365, 3650].map((days) => days * DAY)];
/** Seconds on the local clock since a Monday, whatever the clock of the reader. */
const clock = page.times.map((time) => {
  const [year, month, day, hour = 0, minute = 0, second = 0] = time.match(/\d+/g).map(Number);
  return (Date.UTC(year, month - 1, day, hour, minute, time.length > 18 ? second : 0) - Date.UTC(1970, 0, 5)) / 1000;
});
const breaks = new Set(page.breaks);
const dateOf = (row) => new Date(clock[row] * 1000 + Date.UTC(1970, 0, 5));
function dayText(row) {
  const date = dateOf(row);
  return `${DAYS[date.getUTCDay()]} ${date.getUTCDate()} ${MONTHS[date.getUTCMonth()]}`;
}
const hourText = (row) => dateOf(row).toISOString().slice(11, page.step_seconds % 60 ? 19 : 16);
const timeText = (row) => (page.step_seconds >= DAY ? dayText(row) : `${dayText(row)}, ${hourText(row)}`);
/** How long so many steps are. */
function span(steps) {
  const seconds = steps * page.step_seconds;
  const [size, name] = [[DAY, "d"], [3600, "h"], [60, "min"], [1, "s"]].find(([length]) => seconds % length === 0);
  return `${seconds / size} ${name}`;
}

/** Round local times below a chart whose columns are rows first..last. */
function timeAxis(svg, box, first, last, x) {
  const labelWidth = (step) => (step < DAY ? 62 : 80), seconds = (last - first + 1) * page.step_seconds;
  const step = TIME_STEPS.find((s) => (seconds / s) * labelWidth(s) <= box.right - box.left) || seconds;
  const under = step < DAY ? 32 : 17; // the day stands in a second line below the hours
  let shownDay = null, free = -Infinity;
  for (let row = Math.max(0, first); row <= Math.min(last, clock.length - 1); row += 1) {
    const before = row ? clock[row - 1] : clock[0] - 1;
    if (Math.floor(clock[row] / step) === Math.floor(before / step) || x(row) < free) continue;
    const day = dayText(row);
    rule(svg, "axis", x(row), box.bottom, x(row), box.bottom + 4);
    if (step < DAY) label(svg, x(row), box.bottom + 17, hourText(row), "middle");
    if (day !== shownDay) label(svg, clamp(x(row), box.left + 16, box.right - 30), box.bottom + under, day, "middle");
    shownDay = day;
    free = x(row) + labelWidth(step) * 0.8;
  }
  label(svg, box.right, box.bottom + 32, page.step_seconds >= DAY ? "Date" : "Local time", "end");
}

// ---- what the reader has chosen --------------------------------------------------------------------------------
const curves = page.curves, sensors = range(page.sensors.length);
const state = {
  lead: "all", // error shown on the map
  sensor: curves.sensors.length ? Number(byId("sensor").value) : null,
  origin: Math.floor(curves.origins.length / 2), // index into curves.origins
  focus: null, // sensor under the pointer or the keyboard
  zoom: 1, middle: [0, 0], // of the map, in its unzoomed pixels
};
const errorOf = (sensor, lead = state.lead) => (lead === "all" ? page.error : page.error_at[lead])[sensor];
const errorText = (sensor) => (known(errorOf(sensor)) ? `error ${withUnit(errorOf(sensor))}` : "no reading to score");
