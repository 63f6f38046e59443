// The map: sensors coloured by error, zoom, legend; by mouse, finger or keyboard.
const map = { svg: byId("map"), frame: byId("map-frame"), tip: byId("map-tip"), at: [], dots: [] };
const hasCurve = new Set(curves.sensors), someCurves = hasCurve.size > 0 && hasCurve.size < page.sensors.length;
const errorScale = (() => {
  const all = [page.error, ...Object.values(page.error_at)].flat().filter(known).sort((a, b) => a - b);
  if (!all.length) return { breaks: [0, 1], text: String, above: false };
  const at = (share) => all[Math.round(share * (all.length - 1))];
  let values = scale(all[0], at(0.97), CLASSES);
  for (let count = CLASSES - 1; values.ticks.length - 1 > CLASSES; count -= 1) values = scale(all[0], at(0.97), count);
  return { breaks: values.ticks, text: values.text, above: all.at(-1) > values.high };
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
  const back = svg.contains(document.activeElement) ? state.focus : null; // keyboard focus outlives a new drawing
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
  if (back !== null) map.dots[back].focus();
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
    dot.setAttribute("class", `sensor ${dotColour(sensor)}${someCurves && hasCurve.has(sensor) ? " curve" : ""}`);
    dot.setAttribute("aria-label", `Sensor ${id}, ${known(errorOf(sensor)) ? `error ${withUnit(errorOf(sensor))}` : "no reading to score"}`);
    dot.setAttribute("aria-selected", String(sensor === state.sensor));
  });
  const stop = state.focus ?? state.sensor ?? 0;
  map.dots.forEach((dot, sensor) => dot.setAttribute("tabindex", sensor === stop ? 0 : -1));
  drawLegend();
}

function drawLegend() {
  const { svg, width } = sheet("legend", 54);
  const counts = new Array(classCount).fill(0);
  page.sensors.forEach((_, sensor) => { if (known(errorOf(sensor))) counts[classOf(errorOf(sensor))] += 1; });
  const most = Math.max(...counts, 1), cell = Math.min(58, (width - 24) / classCount), left = 12;
  counts.forEach((count, i) => {
    const tall = (20 * count) / most;
    draw(svg, "rect", { class: "count", x: left + i * cell + 1, y: 22 - tall, width: cell - 2, height: tall });
    draw(svg, "rect", { class: colourOf(i), x: left + i * cell, y: 24, width: cell, height: 11 });
  });
  errorScale.breaks.forEach((edge, i) => {
    const text = errorScale.text(edge) + (i === classCount && errorScale.above ? "+" : "");
    draw(svg, "text", { x: left + i * cell, y: 49, "text-anchor": "middle", text });
  });
  const none = page.sensors.filter((_, sensor) => !known(errorOf(sensor))).length;
  byId("legend-text").textContent = [`Mean absolute error${unit ? `, ${unit}` : ""}; bars count the sensors of a class.`,
    someCurves ? "Strong outline: curves on this page." : "", none ? `Dashed: no reading to score (${none}).` : ""].join(" ");
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
      const [x, y] = spot(next);
      if (map.at[next] && (x < 0 || y < 0 || x > map.width || y > map.height)) { state.middle = [...map.at[next]]; moveMap(); }
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
