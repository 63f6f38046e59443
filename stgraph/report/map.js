// The map: sensors coloured by error, zoom, legend; by mouse, finger or keyboard.
const CLASSES = 7; // colours e0..e6 of the style sheet, small to large error
const PAD = 26, FOOT = 16, CELL = 20; // pixels: around the map, for its scale bar, between sensors without position
const map = { svg: byId("map"), frame: byId("map-frame"), tip: byId("map-tip"), at: [], dots: [] };
const hasCurve = new Set(curves.sensors), someCurves = hasCurve.size > 0 && hasCurve.size < sensors.length;

/** Classes of error with round bounds, the same for every lead; the last one takes the few errors beyond. */
const errorScale = (() => {
  const all = [page.error, ...Object.values(page.error_at)].flat().filter(known).sort((a, b) => a - b);
  const ends = all.length ? [all[0], all[Math.round(0.97 * (all.length - 1))]] : [0, 1];
  let values = scale(ends, CLASSES);
  for (let count = CLASSES - 1; values.ticks.length - 1 > CLASSES; count -= 1) values = scale(ends, count);
  return { bounds: values.ticks, text: values.text, beyond: all.at(-1) > values.high };
})();
const classCount = errorScale.bounds.length - 1;
const colourOf = (index) => `e${classCount > 1 ? Math.round((index * (CLASSES - 1)) / (classCount - 1)) : 3}`;
function classOf(error) {
  const above = errorScale.bounds.findIndex((bound) => error < bound);
  return above < 0 ? classCount - 1 : Math.max(0, above - 1);
}

/** Fit the plane into the frame: map.at[sensor] in unzoomed pixels; sensors without position go into a strip. */
function fitMap() {
  const { x, y } = page.map, width = Math.max(240, map.svg.clientWidth), inner = width - 2 * PAD;
  const lost = sensors.filter((i) => !known(x[i])), placed = sensors.length - lost.length;
  const [west, east] = extent(x), [south, north] = extent(y);
  const wide = Math.max(east - west, 1e-6), tall = Math.max(north - south, 1e-6);
  const wanted = (inner * tall) / wide + 2 * PAD + FOOT;
  const height = placed ? clamp(wanted, Math.min(300, width), width * 1.05) : 0;
  const factor = Math.min(inner / wide, (height - 2 * PAD - FOOT) / tall); // pixels per kilometre
  const columns = Math.max(1, Math.floor(inner / CELL));
  map.at = sensors.map((i) => (known(x[i]) ? [width / 2 + (x[i] - (west + east) / 2) * factor,
    (height - FOOT) / 2 - (y[i] - (south + north) / 2) * factor] : null));
  map.lost = new Map(lost.map((sensor, k) => [sensor,
    [PAD + 6 + (k % columns) * CELL, height + 38 + Math.floor(k / columns) * CELL]]));
  const total = height + (lost.length ? 38 + Math.ceil(lost.length / columns) * CELL : 0);
  const radius = clamp(Math.sqrt((width * height) / (placed || 1)) * 0.11, 2.4, 6.5);
  Object.assign(map, { width, height, total, factor, radius });
  if (state.zoom === 1) state.middle = [width / 2, height / 2];
}

/** Where a sensor stands on the screen, under the present zoom. */
function spot(sensor) {
  if (map.lost.has(sensor)) return map.lost.get(sensor);
  const [x, y] = map.at[sensor], [middleX, middleY] = state.middle;
  return [(x - middleX) * state.zoom + map.width / 2, (y - middleY) * state.zoom + map.height / 2];
}

/** Whether the zoom leaves a sensor outside the frame. */
function beyond(sensor) {
  const [x, y] = spot(sensor);
  return !map.lost.has(sensor) && (x < 0 || y < 0 || x > map.width || y > map.height);
}

function drawMap() {
  fitMap();
  const { svg } = map;
  const back = svg.contains(document.activeElement) ? state.focus : null; // keyboard focus outlives a new drawing
  sheet("map", map.total);
  draw(draw(draw(svg, "defs"), "clipPath", { id: "map-clip" }), "rect", { width: map.width, height: map.height });
  const ground = draw(svg, "g", { "clip-path": "url(#map-clip)", role: "presentation" });
  map.edges = draw(ground, "path", { class: "edges", role: "presentation" });
  const strip = draw(svg, "g", { role: "presentation" });
  if (map.lost.size) {
    rule(strip, "strip", 0, map.height + 0.5, map.width, map.height + 0.5);
    label(strip, PAD, map.height + 20, `Position unknown (${map.lost.size})`);
  }
  const order = [...sensors].sort((a, b) => (page.error[a] ?? -1) - (page.error[b] ?? -1));
  for (const sensor of order) { // the largest errors are drawn last, on top
    const dot = { r: map.radius, role: "option", tabindex: -1, "data-sensor": sensor };
    map.dots[sensor] = draw(map.lost.has(sensor) ? strip : ground, "circle", dot);
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
  const at = sensors.map(spot), pixels = ([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`;
  map.dots.forEach((dot, sensor) => moveTo(dot, at[sensor]));
  const drawn = page.edges.filter(([a, b]) => page.map.kind !== "grid" && !map.lost.has(a) && !map.lost.has(b));
  map.edges.setAttribute("d", drawn.map(([a, b]) => `M${pixels(at[a])}L${pixels(at[b])}`).join(""));
  map.svg.classList.toggle("zoomed", state.zoom > 1);
  byId("zoom-in").disabled = state.zoom > 200;
  byId("zoom-out").disabled = state.zoom === 1;
  ring(map.mark, state.sensor);
  showFocus();
  drawScale();
}

/** Move the map, never beyond its edge. */
function lookAt([x, y]) {
  const halfWidth = map.width / 2 / state.zoom, halfHeight = map.height / 2 / state.zoom;
  state.middle = [clamp(x, halfWidth, map.width - halfWidth), clamp(y, halfHeight, map.height - halfHeight)];
  moveMap();
}

function zoomBy(factor) {
  const start = state.zoom === 1 && state.sensor !== null && map.at[state.sensor]; // zoom in on what is selected
  state.zoom = clamp(state.zoom * factor, 1, 256);
  lookAt(start || state.middle);
}

/** A bar of a round number of kilometres, or a word on how the map was drawn. */
function drawScale() {
  map.scale.replaceChildren();
  const y = map.height - 12, pixels = map.factor * state.zoom;
  if (page.map.kind === "grid") label(map.scale, 14, y, "In rows: no positions known");
  if (page.map.kind === "layout") label(map.scale, 14, y, "Drawn by its connections: no positions known");
  const lengths = [-2, -1, 0, 1, 2, 3].flatMap((power) => [1, 2, 5].map((m) => m * 10 ** power));
  const length = lengths.findLast((km) => km * pixels <= 120);
  if (page.map.kind !== "places" || !length) return;
  const end = 14 + length * pixels, text = length < 1 ? `${Math.round(length * 1000)} m` : `${length} km`;
  draw(map.scale, "rect", { class: "back", x: 6, y: y - 12, width: end + 8 * text.length, height: 19, rx: 4 });
  draw(map.scale, "path", { class: "scale", d: `M14 ${y - 5}v5H${end.toFixed(1)}v-5` });
  label(map.scale, end + 8, y + 1, text);
}

/** Colours and names for the chosen lead. */
function colourMap() {
  map.dots.forEach((dot, sensor) => {
    const colour = known(errorOf(sensor)) ? colourOf(classOf(errorOf(sensor))) : "e-none";
    dot.setAttribute("class", `sensor ${colour}${someCurves && hasCurve.has(sensor) ? " curve" : ""}`);
    dot.setAttribute("aria-label", `Sensor ${page.sensors[sensor]}, ${errorText(sensor)}`);
  });
  stopAt(state.focus ?? state.sensor ?? 0);
  drawLegend();
}

/** Let the Tab key stop at one sensor; arrow keys go on from there. */
function stopAt(sensor) {
  map.dots.forEach((dot, i) => {
    dot.setAttribute("tabindex", i === sensor ? 0 : -1);
    dot.setAttribute("aria-selected", String(i === state.sensor));
  });
}

function drawLegend() {
  const { svg, width } = sheet("legend", 54), cell = Math.min(58, (width - 24) / classCount), left = 12;
  const scored = sensors.filter((sensor) => known(errorOf(sensor))), counts = Array(classCount).fill(0);
  scored.forEach((sensor) => { counts[classOf(errorOf(sensor))] += 1; });
  counts.forEach((count, i) => {
    const x = left + i * cell, tall = (20 * count) / Math.max(...counts, 1);
    draw(svg, "rect", { class: "count", x: x + 1, y: 22 - tall, width: cell - 2, height: tall });
    draw(svg, "rect", { class: colourOf(i), x, y: 24, width: cell, height: 11 });
  });
  errorScale.bounds.forEach((bound, i) => {
    const open = i === classCount && errorScale.beyond ? "+" : "";
    label(svg, left + i * cell, 49, errorScale.text(bound) + open, "middle");
  });
  const said = [`Mean absolute error${unit ? `, ${unit}` : ""}; bars count the sensors of a class.`];
  if (someCurves) said.push("Strong outline: curves on this page.");
  if (scored.length < sensors.length) said.push(`Dashed: no reading to score (${sensors.length - scored.length}).`);
  byId("legend-text").textContent = said.join(" ");
}

/** Put a ring around a sensor, if it can be seen; says whether. */
function ring(circle, sensor) {
  const shown = sensor !== null && !beyond(sensor);
  circle.setAttribute("visibility", shown ? "visible" : "hidden");
  if (shown) moveTo(circle, spot(sensor));
  return shown;
}

/** Ring and label of the sensor under the pointer or the keyboard. */
function showFocus() {
  const { tip } = map;
  tip.hidden = !ring(map.hover, state.focus);
  if (tip.hidden) return;
  const name = document.createElement("b"), [x, y] = spot(state.focus);
  name.textContent = page.sensors[state.focus];
  tip.replaceChildren(name, errorText(state.focus));
  const above = y - tip.offsetHeight - map.radius - 6;
  tip.style.left = `${clamp(x - tip.offsetWidth / 2, 4, Math.max(4, map.width - tip.offsetWidth - 4))}px`;
  tip.style.top = `${above > 2 ? above : y + map.radius + 8}px`;
}
function setFocus(sensor) {
  if (sensor === state.focus) return;
  state.focus = sensor;
  showFocus();
}

/** The sensor nearest to a pointer, no further than a fingertip. */
function nearest(event) {
  const frame = map.svg.getBoundingClientRect();
  let best = null, least = event.pointerType === "touch" ? 26 : 16;
  for (const sensor of sensors) {
    const [x, y] = spot(sensor), distance = Math.hypot(x - event.clientX + frame.left, y - event.clientY + frame.top);
    if (distance < least && !beyond(sensor)) [least, best] = [distance, sensor];
  }
  return best;
}

/** The nearest sensor in the direction of an arrow key. */
function neighbour(from, [right, down]) {
  const [x, y] = spot(from);
  let best = from, least = Infinity;
  for (const sensor of sensors) {
    const dx = spot(sensor)[0] - x, dy = spot(sensor)[1] - y;
    const along = dx * right + dy * down, aside = Math.abs(dx * down - dy * right);
    if (along > 0 && aside <= 2 * along && along + 2 * aside < least) [least, best] = [along + 2 * aside, sensor];
  }
  return best;
}

function listenToPointer() {
  let grip = null; // where the map is held while it is dragged
  map.svg.addEventListener("pointerdown", (event) => { grip = { x: event.clientX, y: event.clientY, moved: false }; });
  map.svg.addEventListener("pointermove", (event) => {
    if (!grip || !event.buttons || state.zoom === 1) { setFocus(nearest(event)); return; }
    const dx = event.clientX - grip.x, dy = event.clientY - grip.y;
    if (!grip.moved && Math.hypot(dx, dy) < 5) return;
    grip = { x: event.clientX, y: event.clientY, moved: true };
    lookAt([state.middle[0] - dx / state.zoom, state.middle[1] - dy / state.zoom]);
  });
  map.svg.addEventListener("pointerleave", () => setFocus(null));
  map.svg.addEventListener("click", (event) => {
    const sensor = grip && grip.moved ? null : nearest(event);
    grip = null;
    if (sensor === null) return;
    setFocus(sensor);
    select(sensor);
  });
  byId("zoom-in").addEventListener("click", () => zoomBy(2));
  byId("zoom-out").addEventListener("click", () => zoomBy(0.5));
  onChoice("map-lead", (lead) => { state.lead = lead; colourMap(); });
}

/** On the frame, not the drawing: an SVG that listens for focus becomes a stop of the Tab key itself. */
function listenToKeys() {
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  map.frame.addEventListener("focusin", ({ target }) => {
    if (target.matches(".sensor:focus-visible")) setFocus(Number(target.dataset.sensor));
  });
  map.frame.addEventListener("focusout", () => setFocus(null));
  map.frame.addEventListener("keydown", (event) => {
    if (!event.target.matches(".sensor")) return;
    const sensor = Number(event.target.dataset.sensor);
    if (event.key in arrows) {
      const next = neighbour(sensor, arrows[event.key]);
      if (beyond(next)) lookAt(map.at[next]);
      stopAt(next);
      map.dots[next].focus();
      setFocus(next);
    } else if (event.key === "Enter" || event.key === " ") select(sensor);
    else if (event.key === "+" || event.key === "-") zoomBy(event.key === "+" ? 2 : 0.5);
    else return;
    event.preventDefault();
  });
}
