"use strict";
(() => {
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
    if (low >= 0 && low < 0.45 * high) low = 0; // a short way to zero is shown whole
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
  const marginFor = (values) => 14 + 7 * Math.max(...values.ticks.map((tick) => values.text(tick).length));

  const onChoice = (name, act) => byId(name).addEventListener("change", (event) => act(event.target.value));
  const choice = (name) => document.querySelector(`input[name="${name}"]:checked`)?.value;

  // ---- time ------------------------------------------------------------------------------------------------------
  const DAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
  const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
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
      const fresh = row === 0 ? clock[0] % step === 0 : Math.floor(clock[row] / step) !== Math.floor(clock[row - 1] / step);
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

  // ---- map -------------------------------------------------------------------------------------------------------
  const map = { svg: byId("map"), frame: byId("map-frame"), tip: byId("map-tip"), at: [], dots: [] };
  const hasCurve = new Set(curves.sensors);
  const errorScale = (() => {
    const all = [page.error, ...Object.values(page.error_at)].flat().filter(known).sort((a, b) => a - b);
    if (!all.length) return { breaks: [0, 1], text: String, open: false };
    const at = (share) => all[Math.round(share * (all.length - 1))];
    let values = scale(at(0.02), at(0.97), 6);
    for (let count = 5; values.ticks.length - 1 > CLASSES; count -= 1) values = scale(at(0.02), at(0.97), count);
    return { breaks: values.ticks, text: values.text, below: all[0] < values.low, above: all.at(-1) > values.high };
  })();
  const classCount = errorScale.breaks.length - 1;
  const colourOf = (index) => `e${classCount > 1 ? Math.round((index * (CLASSES - 1)) / (classCount - 1)) : 3}`;
  function classOf(error) {
    const above = errorScale.breaks.findIndex((edge) => error < edge);
    return above < 0 ? classCount - 1 : Math.max(0, above - 1);
  }
  const dotColour = (sensor) => (known(errorOf(sensor)) ? colourOf(classOf(errorOf(sensor))) : "e-none");

  /** Fit the plane into the frame: map.at[sensor] = [x, y] in unzoomed pixels; sensors without place go into a strip. */
  function fitMap() {
    const { x, y } = page.map, width = Math.max(240, map.svg.clientWidth), pad = 26;
    const placed = page.sensors.map((_, i) => i).filter((i) => known(x[i]));
    const [west, east] = extent([x]), [south, north] = extent([y]);
    const wide = Math.max(east - west, 1e-6), tall = Math.max(north - south, 1e-6);
    const height = placed.length ? clamp(((width - 2 * pad) * tall) / wide + 2 * pad + 16, Math.min(300, width), width * 1.05) : 0;
    const factor = Math.min((width - 2 * pad) / wide, (height - 2 * pad - 16) / tall);
    Object.assign(map, { width, height, factor, radius: clamp(Math.sqrt((width * height) / (placed.length || 1)) * 0.11, 2.4, 6.5) });
    map.at = page.sensors.map((_, i) => (known(x[i])
      ? [width / 2 + (x[i] - (west + east) / 2) * factor, (height - 16) / 2 - (y[i] - (south + north) / 2) * factor] : null));
    const lost = page.sensors.map((_, i) => i).filter((i) => !known(x[i]));
    const columns = Math.max(1, Math.floor((width - 2 * pad) / 20));
    map.lost = new Map(lost.map((sensor, k) => [sensor, [pad + 6 + (k % columns) * 20, height + 38 + Math.floor(k / columns) * 20]]));
    map.total = height + (lost.length ? 38 + Math.ceil(lost.length / columns) * 20 : 0);
    if (state.zoom === 1) state.middle = [width / 2, height / 2];
  }

  /** Where a sensor stands on the screen, under the present zoom. */
  function spot(sensor) {
    if (map.lost.has(sensor)) return map.lost.get(sensor);
    const [x, y] = map.at[sensor];
    return [(x - state.middle[0]) * state.zoom + map.width / 2, (y - state.middle[1]) * state.zoom + map.height / 2];
  }

  function drawMap() {
    fitMap();
    const { svg } = map;
    const held = svg.contains(document.activeElement);
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${map.width} ${map.total}`);
    svg.style.height = `${map.total}px`;
    const clip = draw(draw(svg, "defs"), "clipPath", { id: "map-clip" });
    draw(clip, "rect", { width: map.width, height: map.height });
    const ground = draw(svg, "g", { "clip-path": "url(#map-clip)", role: "presentation" });
    map.edges = draw(ground, "path", { class: "edges", role: "presentation" });
    const strip = draw(svg, "g", { role: "presentation" });
    if (map.lost.size) {
      if (map.height) draw(strip, "line", { class: "strip", x1: 0, x2: map.width, y1: map.height + 0.5, y2: map.height + 0.5 });
      draw(strip, "text", { x: 26, y: map.height + 20, text: `Position unknown (${map.lost.size})` });
    }
    const order = page.sensors.map((_, i) => i).sort((a, b) => (page.error[a] ?? -1) - (page.error[b] ?? -1));
    for (const sensor of order) { // the largest errors are drawn last, on top
      map.dots[sensor] = draw(map.lost.has(sensor) ? strip : ground, "circle", { r: map.radius, role: "option", tabindex: -1, "data-sensor": sensor });
    }
    map.mark = draw(svg, "circle", { class: "mark", r: map.radius + 4 });
    map.hover = draw(svg, "circle", { class: "hover", r: map.radius + 2 });
    map.scale = draw(svg, "g", { role: "presentation" });
    moveMap();
    colourMap();
    if (held && state.focus !== null) map.dots[state.focus].focus();
  }

  /** Put everything of the map where the zoom says. */
  function moveMap() {
    page.sensors.forEach((_, sensor) => {
      const [x, y] = spot(sensor);
      map.dots[sensor].setAttribute("cx", x.toFixed(1));
      map.dots[sensor].setAttribute("cy", y.toFixed(1));
    });
    const parts = [];
    if (page.map.kind !== "grid") for (const [a, b] of page.edges) {
      if (map.lost.has(a) || map.lost.has(b)) continue;
      const [x1, y1] = spot(a), [x2, y2] = spot(b);
      parts.push(`M${x1.toFixed(1)} ${y1.toFixed(1)}L${x2.toFixed(1)} ${y2.toFixed(1)}`);
    }
    map.edges.setAttribute("d", parts.join(""));
    map.svg.classList.toggle("zoomed", state.zoom > 1);
    byId("zoom-in").disabled = state.zoom > 200;
    byId("zoom-out").disabled = state.zoom === 1;
    ring(map.mark, state.sensor);
    showFocus();
    drawScale();
  }

  /** A bar of a round number of kilometres. */
  function drawScale() {
    map.scale.replaceChildren();
    const note = { layout: "Drawn by its connections: no positions known", grid: "In rows: no positions known" }[page.map.kind];
    const y = map.height - 12;
    if (note) { draw(map.scale, "text", { x: 14, y, text: note }); return; }
    const pixels = map.factor * state.zoom; // per kilometre
    const length = [1, 2, 5].flatMap((m) => [-3, -2, -1, 0, 1, 2, 3].map((p) => m * 10 ** p)).sort((a, b) => b - a).find((km) => km * pixels <= 120);
    if (!length || map.factor > 1e4) return;
    const end = 14 + length * pixels;
    draw(map.scale, "path", { class: "scale", d: `M14 ${y - 5}v5H${end.toFixed(1)}v-5` });
    draw(map.scale, "text", { x: end + 8, y: y + 1, text: length < 1 ? `${Math.round(length * 1000)} m` : `${length} km` });
  }

  function colourMap() {
    page.sensors.forEach((id, sensor) => {
      const dot = map.dots[sensor];
      dot.setAttribute("class", `sensor ${dotColour(sensor)}${hasCurve.has(sensor) && curves.sensors.length < page.sensors.length ? " curve" : ""}`);
      dot.setAttribute("aria-label", `Sensor ${id}, ${known(errorOf(sensor)) ? `error ${withUnit(errorOf(sensor))}` : "no reading to score"}`);
      dot.setAttribute("aria-selected", String(sensor === state.sensor));
    });
    const stop = state.focus ?? state.sensor ?? 0;
    map.dots.forEach((dot, sensor) => dot.setAttribute("tabindex", sensor === stop ? 0 : -1));
    drawLegend();
  }

  function drawLegend() {
    const { svg, width } = sheet("legend", 62);
    const counts = new Array(classCount).fill(0);
    page.sensors.forEach((_, sensor) => { if (known(errorOf(sensor))) counts[classOf(errorOf(sensor))] += 1; });
    const most = Math.max(...counts, 1), cell = Math.min(58, (width - 24) / classCount), left = 12;
    counts.forEach((count, i) => {
      const tall = (20 * count) / most;
      draw(svg, "rect", { class: "count", x: left + i * cell + 1, y: 22 - tall, width: cell - 2, height: tall });
      draw(svg, "rect", { class: colourOf(i), x: left + i * cell, y: 24, width: cell, height: 11 });
    });
    errorScale.breaks.forEach((edge, i) => {
      const end = (i === 0 && errorScale.below && edge > 0) ? "≤ " : (i === classCount && errorScale.above) ? "≥ " : "";
      draw(svg, "text", { x: left + i * cell, y: 49, "text-anchor": "middle", text: end + errorScale.text(edge) });
    });
    const title = { x: left + classCount * cell + 16, y: 34, text: `mean absolute error${unit ? `, ${unit}` : ""}` };
    if (width - title.x > 160) draw(svg, "text", title);
    else { draw(svg, "text", { ...title, x: 0, y: 66 }); svg.setAttribute("viewBox", `0 0 ${width} 70`); svg.style.height = "70px"; }
    const none = page.sensors.filter((_, sensor) => !known(errorOf(sensor))).length;
    if (none) draw(svg, "text", { x: width - 2, y: 12, "text-anchor": "end", text: `dashed: no reading to score (${none})` });
  }

  function ring(circle, sensor) {
    circle.setAttribute("visibility", sensor === null ? "hidden" : "visible");
    if (sensor === null) return;
    const [x, y] = spot(sensor);
    circle.setAttribute("cx", x.toFixed(1));
    circle.setAttribute("cy", y.toFixed(1));
    if (!map.lost.has(sensor) && (x < 0 || y < 0 || x > map.width || y > map.height)) circle.setAttribute("visibility", "hidden");
  }

  /** Ring and label of the sensor under the pointer or the keyboard. */
  function showFocus() {
    ring(map.hover, state.focus);
    map.tip.hidden = state.focus === null || map.hover.getAttribute("visibility") === "hidden";
    if (map.tip.hidden) return;
    const name = document.createElement("b");
    name.textContent = page.sensors[state.focus];
    map.tip.replaceChildren(name, known(errorOf(state.focus)) ? `error ${withUnit(errorOf(state.focus))}` : "no reading to score");
    const [x, y] = spot(state.focus);
    map.tip.style.left = `${clamp(x - map.tip.offsetWidth / 2, 4, Math.max(4, map.width - map.tip.offsetWidth - 4))}px`;
    map.tip.style.top = `${y - map.tip.offsetHeight - map.radius - 6 > 2 ? y - map.tip.offsetHeight - map.radius - 6 : y + map.radius + 8}px`;
  }
  function setFocus(sensor) {
    if (sensor === state.focus) return;
    state.focus = sensor;
    showFocus();
  }

  /** The sensor nearest to a pointer, no further than a fingertip. */
  function nearest(event) {
    const frame = map.svg.getBoundingClientRect();
    const px = event.clientX - frame.left, py = event.clientY - frame.top;
    let best = null, least = event.pointerType === "touch" ? 26 : 16;
    page.sensors.forEach((_, sensor) => {
      const [x, y] = spot(sensor), distance = Math.hypot(x - px, y - py);
      if (distance < least) { least = distance; best = sensor; }
    });
    return best;
  }

  /** The nearest sensor in the direction of an arrow key. */
  function neighbour(sensor, [dx, dy]) {
    const [x, y] = spot(sensor);
    let best = sensor, least = Infinity;
    page.sensors.forEach((_, other) => {
      const [ox, oy] = spot(other), along = (ox - x) * dx + (oy - y) * dy, aside = Math.abs((ox - x) * dy - (oy - y) * dx);
      if (other !== sensor && along > 0 && aside <= 2 * along && along + 2 * aside < least) { least = along + 2 * aside; best = other; }
    });
    return best;
  }

  function zoomBy(factor) {
    if (state.zoom === 1 && state.sensor !== null && !map.lost.has(state.sensor)) state.middle = [...map.at[state.sensor]];
    state.zoom = clamp(state.zoom * factor, 1, 256);
    if (state.zoom === 1) state.middle = [map.width / 2, map.height / 2];
    moveMap();
  }

  function listenToMap() {
    let grip = null;
    map.svg.addEventListener("pointerdown", (event) => { grip = { x: event.clientX, y: event.clientY, moved: false }; });
    map.svg.addEventListener("pointermove", (event) => {
      if (grip && event.buttons && state.zoom > 1) {
        const dx = event.clientX - grip.x, dy = event.clientY - grip.y;
        if (grip.moved || Math.hypot(dx, dy) > 4) {
          state.middle = [clamp(state.middle[0] - dx / state.zoom, 0, map.width), clamp(state.middle[1] - dy / state.zoom, 0, map.height)];
          grip = { x: event.clientX, y: event.clientY, moved: true };
          moveMap();
        }
        return;
      }
      setFocus(nearest(event));
    });
    map.svg.addEventListener("pointerleave", () => setFocus(null));
    map.svg.addEventListener("click", (event) => {
      const sensor = grip && grip.moved ? null : nearest(event);
      grip = null;
      if (sensor !== null) { setFocus(sensor); select(sensor); }
    });
    map.svg.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // a plain wheel scrolls the page
      event.preventDefault();
      zoomBy(event.deltaY < 0 ? 1.25 : 0.8);
    }, { passive: false });
    map.svg.addEventListener("focusin", (event) => { if (event.target.matches(":focus-visible")) setFocus(Number(event.target.dataset.sensor)); });
    map.svg.addEventListener("focusout", () => setFocus(null));
    map.svg.addEventListener("keydown", (event) => {
      const sensor = Number(event.target.dataset.sensor);
      const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      if (event.key in arrows) {
        const next = neighbour(sensor, arrows[event.key]);
        map.dots[sensor].setAttribute("tabindex", -1);
        map.dots[next].setAttribute("tabindex", 0);
        map.dots[next].focus();
        setFocus(next);
      } else if (event.key === "Enter" || event.key === " ") select(sensor);
      else if (event.key === "+" || event.key === "=") zoomBy(2);
      else if (event.key === "-") zoomBy(0.5);
      else return;
      event.preventDefault();
    });
    byId("zoom-in").addEventListener("click", () => zoomBy(2));
    byId("zoom-out").addEventListener("click", () => zoomBy(0.5));
    onChoice("map-lead", (lead) => { state.lead = lead; colourMap(); });
  }

  // ---- curves ----------------------------------------------------------------------------------------------------
  function select(sensor) {
    state.sensor = sensor;
    const held = curveOf(sensor) >= 0;
    if (held) byId("sensor").value = String(sensor);
    byId("curves").hidden = !held;
    ring(map.mark, sensor);
    map.dots.forEach((dot, i) => dot.setAttribute("aria-selected", String(i === sensor)));
    const name = document.createElement("b");
    name.textContent = `Sensor ${page.sensors[sensor]}`;
    const leads = Object.keys(page.error_at).map((step) => `${withUnit(errorOf(sensor, step))} at ${span(Number(step))}`);
    const about = known(errorOf(sensor, "all")) ? ` errs by ${[`${withUnit(errorOf(sensor, "all"))} on average`, ...leads].join(", ")}.` : " has no reading to score.";
    byId("about").replaceChildren(name, about + (held ? "" : " This page keeps no curve of it; the sensors with a strong outline have one."));
    if (held) drawCurves();
  }

  function drawCurves() {
    const k = curveOf(state.sensor);
    if (k < 0 || !curves.origins.length) return;
    const truth = curves.truth[k];
    const values = scale(...extent([truth, ...Object.values(curves.forecast_at).map((c) => c[k]), curves.forecast_from[k].flat()]), 4);
    drawDetail(k, truth, values);
    drawOverview(k, truth, values);
  }
  const axisTitle = page.quantity.charAt(0).toUpperCase() + page.quantity.slice(1) + (unit ? `, ${unit}` : "");

  function drawDetail(k, truth, values) {
    const { svg, width, height } = sheet("detail", 250);
    const forecast = curves.forecast_from[k][state.origin], origin = curves.origins[state.origin], steps = forecast.length;
    const box = { left: marginFor(values), right: width - 66, top: 26, bottom: height - 40 };
    const first = origin - 3 * steps, last = origin + steps;
    const x = (row) => box.left + ((row - first) / (last - first)) * (box.right - box.left);
    draw(svg, "rect", { class: "span", x: x(origin), y: box.top, width: box.right - x(origin), height: box.bottom - box.top });
    const y = verticalAxis(svg, box, values, axisTitle);
    timeAxis(svg, box, first, last, x);
    const from = Math.max(0, first), broken = (shift) => (i) => breaks.has(i + shift);
    draw(svg, "path", { class: "truth", d: line(truth.slice(from, origin + 1), (i) => x(i + from), y, broken(from)) });
    draw(svg, "path", { class: "truth after", d: line(truth.slice(origin, last + 1), (i) => x(i + origin), y, broken(origin)) });
    draw(svg, "line", { class: "now", x1: x(origin), x2: x(origin), y1: box.top, y2: box.bottom });
    draw(svg, "path", { class: "forecast", d: line(forecast, (i) => x(origin + 1 + i), y) });
    forecast.forEach((value, i) => { if (known(value)) draw(svg, "circle", { class: "dot", r: 2.4, cx: x(origin + 1 + i), cy: y(value) }); });
    const after = truth.slice(origin + 1, last + 1), end = after.findLastIndex(known);
    const labels = [{ text: "forecast", class: "of-model", at: y(forecast.at(-1) ?? values.low) }];
    if (end >= 0) labels.push({ text: "measured", class: "of-truth", at: y(after[end]) });
    spread(labels, box.top + 4, box.bottom - 4, 15).forEach((item) => draw(svg, "text", { class: item.class, x: box.right + 8, y: item.at + 4, text: item.text }));
    listenForReadout(svg, box, x, first, last, origin, truth, forecast);
    const errors = after.map((value, i) => (known(value) && known(forecast[i]) ? Math.abs(value - forecast[i]) : null)).filter(known);
    byId("origin-time").textContent = `made ${timeText(origin)}`;
    detailText(errors.length ? `This forecast errs by ${withUnit(errors.reduce((a, b) => a + b, 0) / errors.length)} on average over ${span(steps)}.` : "No reading to compare this forecast with.");
  }

  let restingText = "";
  function detailText(text) {
    restingText = text;
    byId("detail-readout").textContent = text;
  }

  /** Point at a time to read its values off. */
  function listenForReadout(svg, box, x, first, last, origin, truth, forecast) {
    const cross = draw(svg, "line", { class: "cross", y1: box.top, y2: box.bottom, visibility: "hidden" });
    svg.onpointermove = (event) => {
      const share = (event.clientX - svg.getBoundingClientRect().left - box.left) / (box.right - box.left);
      const row = Math.round(first + share * (last - first)), inside = row >= Math.max(0, first) && row <= Math.min(last, truth.length - 1);
      cross.setAttribute("visibility", inside ? "visible" : "hidden");
      cross.setAttribute("x1", x(row));
      cross.setAttribute("x2", x(row));
      const said = row > origin ? `, forecast ${withUnit(forecast[row - origin - 1])}` : "";
      byId("detail-readout").textContent = inside ? `${timeText(row)}: measured ${withUnit(truth[row])}${said}` : restingText;
    };
    svg.onpointerleave = () => { cross.setAttribute("visibility", "hidden"); byId("detail-readout").textContent = restingText; };
  }

  /** Push labels apart so that none lies on another; keeps their order. */
  function spread(labels, top, bottom, gap) {
    labels.sort((a, b) => a.at - b.at);
    labels.forEach((item, i) => { item.at = Math.max(item.at, i ? labels[i - 1].at + gap : top); });
    for (let i = labels.length - 1; i >= 0; i -= 1) labels[i].at = Math.min(labels[i].at, i === labels.length - 1 ? bottom : labels[i + 1].at - gap);
    return labels;
  }

  function drawOverview(k, truth, values) {
    const { svg, width, height } = sheet("overview", 150);
    const box = { left: marginFor(values), right: width - 8, top: 20, bottom: height - 38 };
    const origin = curves.origins[state.origin], steps = page.error_by_step.length, last = truth.length - 1;
    const x = (row) => box.left + (row / Math.max(1, last)) * (box.right - box.left);
    draw(svg, "rect", { class: "span", x: x(origin), y: box.top, width: Math.max(2, x(Math.min(last, origin + steps)) - x(origin)), height: box.bottom - box.top });
    const sparse = { ...values, ticks: values.ticks.filter((_, i) => i === 0 || i === values.ticks.length - 1) };
    const y = verticalAxis(svg, box, sparse, "");
    timeAxis(svg, box, 0, last, x);
    const broken = (i) => breaks.has(i);
    draw(svg, "path", { class: "truth", d: line(truth, x, y, broken) });
    const lead = choice("curve-lead");
    if (lead) draw(svg, "path", { class: "forecast", d: line(curves.forecast_at[lead][k], x, y, broken) });
    draw(svg, "line", { class: "now", x1: x(origin), x2: x(origin), y1: box.top, y2: box.bottom });
    svg.onclick = (event) => {
      const row = ((event.clientX - svg.getBoundingClientRect().left - box.left) / (box.right - box.left)) * last;
      moveOrigin(curves.origins.reduce((best, at, i) => (Math.abs(at - row) < Math.abs(curves.origins[best] - row) ? i : best), 0));
    };
    const slider = byId("origin"), left = x(curves.origins[0]), right = x(curves.origins.at(-1)), thumb = 16;
    slider.style.marginLeft = `${left - thumb / 2}px`; // the thumb stands below the line it moves
    slider.style.width = `${right - left + thumb}px`;
  }

  function moveOrigin(index) {
    state.origin = clamp(index, 0, curves.origins.length - 1);
    const slider = byId("origin");
    slider.value = String(state.origin);
    slider.setAttribute("aria-valuetext", timeText(curves.origins[state.origin]));
    drawCurves();
  }

  function listenToCurves() {
    const slider = byId("origin"), play = byId("play");
    slider.max = String(curves.origins.length - 1);
    let timer = null;
    const stop = () => { clearInterval(timer); timer = null; play.textContent = "Play"; };
    slider.addEventListener("input", () => { stop(); moveOrigin(Number(slider.value)); });
    play.addEventListener("click", () => {
      if (timer) { stop(); return; }
      play.textContent = "Pause";
      timer = setInterval(() => moveOrigin((state.origin + 1) % curves.origins.length), 250);
    });
    byId("sensor").addEventListener("change", (event) => select(Number(event.target.value)));
    onChoice("curve-lead", drawCurves);
  }

  // ---- error by horizon, error by hour ---------------------------------------------------------------------------
  function drawSteps() {
    const narrow = byId("steps").clientWidth < 560;
    const { svg, width, height } = sheet("steps", narrow ? 280 : 320);
    const lines = [{ name: page.model, values: page.error_by_step, ours: true },
      ...Object.entries(page.control_error_by_step).map(([name, values]) => ({ name: name.replaceAll("_", " "), values }))];
    const values = scale(0, extent(lines.map((item) => item.values))[1], 5), steps = page.error_by_step.length;
    const room = 7.2 * Math.max(...lines.map((item) => item.name.length)) + 14;
    const box = { left: marginFor(values), right: width - Math.min(room, width * 0.45), top: 30, bottom: height - 40 };
    const x = (i) => box.left + (steps > 1 ? i / (steps - 1) : 0.5) * (box.right - box.left);
    const y = verticalAxis(svg, box, values, `Mean absolute error${unit ? `, ${unit}` : ""}`);
    const every = [1, 2, 3, 4, 6, 12, 24].find((n) => steps / n <= (box.right - box.left) / 52) || steps;
    for (let step = every; step <= steps; step += every) {
      draw(svg, "line", { class: "axis", x1: x(step - 1), x2: x(step - 1), y1: box.bottom, y2: box.bottom + 4 });
      draw(svg, "text", { x: x(step - 1), y: box.bottom + 18, "text-anchor": "middle", text: span(step) });
    }
    draw(svg, "text", { class: "x-title", x: box.right, y: box.bottom + 36, "text-anchor": "end", text: "Time ahead" });
    const dashes = ["none", "7 3", "2 3", "8 3 2 3"];
    lines.map((item, i) => ({ ...item, dash: dashes[(i - 1) % dashes.length] })).reverse().forEach(({ ours, dash, values: errors }) => {
      draw(svg, "path", { class: ours ? "forecast" : "control", "stroke-dasharray": ours ? "none" : dash, d: line(errors, x, y) });
      if (ours) errors.forEach((error, i) => { if (known(error)) draw(svg, "circle", { class: "dot", r: 3, cx: x(i), cy: y(error) }); });
    });
    const labels = lines.filter((item) => known(item.values.at(-1))).map((item) => ({ text: item.name, class: item.ours ? "of-model" : "of-control", at: y(item.values.at(-1)) }));
    spread(labels, box.top, box.bottom, 16).forEach((item) => draw(svg, "text", { class: item.class, x: box.right + 10, y: item.at + 4, text: item.text }));
  }

  function drawHours() {
    if (!byId("hours")) return;
    const { svg, width, height } = sheet("hours", 190);
    const hours = page.summary.slices.hour, errors = Array.from({ length: 24 }, (_, h) => hours[h]?.mae ?? null);
    const values = scale(0, extent([errors])[1], 4);
    const box = { left: marginFor(values), right: width - 4, top: 12, bottom: height - 38 };
    const y = verticalAxis(svg, box, values, ""), cell = (box.right - box.left) / 24;
    errors.forEach((error, hour) => {
      const x = box.left + hour * cell;
      if (known(error)) {
        const bar = draw(svg, "rect", { class: "hour", x: x + cell * 0.14, y: y(error), width: cell * 0.72, height: box.bottom - y(error) });
        draw(bar, "title", { text: `${hour}:00 to ${hour + 1}:00: ${withUnit(error)}` });
      }
      if (hour % (cell < 22 ? 6 : 3) === 0) draw(svg, "text", { x: x + cell / 2, y: box.bottom + 18, "text-anchor": "middle", text: `${String(hour).padStart(2, "0")}:00` });
    });
    draw(svg, "text", { class: "x-title", x: box.right, y: box.bottom + 34, "text-anchor": "end", text: "Local time of the reading" });
  }

  // ---- the page --------------------------------------------------------------------------------------------------
  function listenToPage() {
    const theme = byId("theme"), system = matchMedia("(prefers-color-scheme: dark)"), root = document.documentElement;
    const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
    const name = () => { theme.textContent = dark() ? "Light" : "Dark"; };
    theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });
    system.addEventListener("change", name);
    name();
    document.querySelectorAll(".copy").forEach((button) => button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch { // no clipboard in this browser: mark the text for the reader to copy
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 1600);
    }));
  }

  function drawAll() {
    drawMap();
    drawCurves();
    drawSteps();
    drawHours();
  }

  listenToPage();
  listenToMap();
  drawMap();
  if (state.sensor !== null) {
    listenToCurves();
    state.origin = Math.floor(curves.origins.length / 2);
    select(state.sensor);
    moveOrigin(state.origin);
  } else byId("curves").hidden = true;
  drawSteps();
  drawHours();
  let drawnAt = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== drawnAt) { drawnAt = innerWidth; drawAll(); } });
  addEventListener("beforeprint", drawAll);
})();
