// Forecast against truth: one forecast close up, all test rows, and the slider that moves the origin.
function select(sensor) {
  const held = hasCurve.has(sensor) && curves.origins.length > 0, name = document.createElement("b");
  state.sensor = sensor;
  ring(map.mark, sensor);
  stopAt(sensor);
  if (held) byId("sensor").value = String(sensor);
  byId("curves").hidden = !held;
  name.textContent = `Sensor ${page.sensors[sensor]}`;
  const leads = Object.keys(page.error_at).map((step) => `${number(errorOf(sensor, step))} at ${span(Number(step))}`);
  const errors = [`mean error ${withUnit(errorOf(sensor, "all"))}`, ...leads].join(" · ");
  const without = held ? "" : ". This page keeps no curve of it; the sensors with a strong outline have one.";
  const about = known(errorOf(sensor, "all")) ? errors : "has no reading to score";
  byId("about").replaceChildren(name, ` ${about}${without}`);
  if (held) drawCurves();
}

function drawCurves() {
  const k = curves.sensors.indexOf(state.sensor);
  if (k < 0 || !curves.origins.length) return;
  const forecasts = Object.values(curves.forecast_at).flatMap((table) => table[k]);
  const [low, high] = extent([curves.truth[k], forecasts, curves.forecast_from[k].flat()].flat());
  const values = scale([low >= 0 && low < 0.45 * high ? 0 : low, high], 4); // a short way to zero is shown whole
  drawDetail(curves.truth[k], curves.forecast_from[k][state.origin], values);
  drawOverview(curves.truth[k], curves.forecast_at, k, values);
}

/** One forecast with the readings before and after it. */
function drawDetail(truth, forecast, values) {
  const { svg, width, height } = sheet("detail", 280), origin = curves.origins[state.origin], steps = forecast.length;
  const box = { left: marginFor(values), right: width - 66, top: 26, bottom: height - 40 };
  const first = origin - 3 * steps, last = origin + steps, from = Math.max(0, first);
  const x = (row) => box.left + ((row - first) / (last - first)) * (box.right - box.left);
  const after = truth.slice(origin + 1, last + 1), end = after.findLastIndex(known);
  const wash = { x: x(origin), y: box.top, width: box.right - x(origin), height: box.bottom - box.top };
  draw(svg, "rect", { class: "span", ...wash });
  const quantity = page.quantity.charAt(0).toUpperCase() + page.quantity.slice(1);
  const y = verticalAxis(svg, box, values, unit ? `${quantity}, ${unit}` : quantity);
  timeAxis(svg, box, first, last, x);
  const reading = (start, stop) =>
    line(truth.slice(start, stop + 1), (i) => x(start + i), y, (i) => breaks.has(start + i));
  draw(svg, "path", { class: "truth", d: reading(from, origin) });
  draw(svg, "path", { class: "truth after", d: reading(origin, last) });
  rule(svg, "now", x(origin), box.top, x(origin), box.bottom);
  draw(svg, "path", { class: "forecast", d: line(forecast, (i) => x(origin + 1 + i), y) });
  dots(svg, forecast, (i) => x(origin + 1 + i), y);
  const labels = [{ text: "forecast", look: "of-model", at: y(forecast.at(-1) ?? values.low) }];
  if (end >= 0) labels.push({ text: "reading", look: "of-truth", at: y(after[end]) });
  for (const { text, look, at } of spread(labels, box.top + 4, box.bottom - 4, 15)) {
    label(svg, box.right + 8, at + 4, text, "start", look);
  }
  const errors = after.flatMap((value, i) => (known(value) && known(forecast[i]) ? Math.abs(value - forecast[i]) : []));
  const mean = withUnit(errors.reduce((sum, error) => sum + error, 0) / errors.length);
  byId("origin-time").textContent = `made ${timeText(origin)}`;
  readOff(svg, box, x, [from, Math.min(last, truth.length - 1)], (row) => `${timeText(row)}: reading ${
    withUnit(truth[row])}${row > origin ? `, forecast ${withUnit(forecast[row - origin - 1])}` : ""}`,
  errors.length ? `This forecast errs by ${mean} on average over ${span(steps)}.` : "No reading to compare it with.");
}
function dots(svg, values, x, y) {
  values.forEach((value, i) => {
    if (known(value)) draw(svg, "circle", { class: "dot", r: 2.6, cx: x(i), cy: y(value) });
  });
}

/** Say what stands at the time that the pointer is at, and something else at rest. */
function readOff(svg, box, x, [first, last], say, atRest) {
  const cross = draw(svg, "line", { class: "cross", y1: box.top, y2: box.bottom, visibility: "hidden" });
  const readout = byId("detail-readout"), pixelsPerRow = x(1) - x(0);
  svg.onpointermove = (event) => {
    const row = Math.round((event.clientX - svg.getBoundingClientRect().left - x(0)) / pixelsPerRow);
    const inside = row >= first && row <= last;
    cross.setAttribute("visibility", inside ? "visible" : "hidden");
    for (const end of ["x1", "x2"]) cross.setAttribute(end, x(row));
    readout.textContent = inside ? say(row) : atRest;
  };
  svg.onpointerleave = () => {
    cross.setAttribute("visibility", "hidden");
    readout.textContent = atRest;
  };
  readout.textContent = atRest;
}

/** All test rows: readings, the forecasts made a chosen time ahead, and where the close-up stands. */
function drawOverview(truth, forecastAt, k, values) {
  const { svg, width, height } = sheet("overview", 165), last = truth.length - 1;
  const box = { left: marginFor(values), right: width - 8, top: 20, bottom: height - 38 };
  const x = (row) => box.left + (row / Math.max(1, last)) * (box.right - box.left);
  const origin = curves.origins[state.origin], end = Math.min(last, origin + page.error_by_step.length);
  const wash = { x: x(origin), y: box.top, width: Math.max(2, x(end) - x(origin)), height: box.bottom - box.top };
  draw(svg, "rect", { class: "span", ...wash });
  const y = verticalAxis(svg, box, { ...values, ticks: [values.low, values.high] }, "");
  timeAxis(svg, box, 0, last, x);
  const lead = document.querySelector("#curve-lead input:checked")?.value, broken = (row) => breaks.has(row);
  draw(svg, "path", { class: "truth", d: line(truth, x, y, broken) });
  if (lead) draw(svg, "path", { class: "forecast", d: line(forecastAt[lead][k], x, y, broken) });
  rule(svg, "now", x(origin), box.top, x(origin), box.bottom);
  svg.onclick = (event) => {
    const away = (index) => Math.abs(x(curves.origins[index]) - event.clientX + svg.getBoundingClientRect().left);
    moveOrigin(range(curves.origins.length).reduce((best, index) => (away(index) < away(best) ? index : best)));
  };
  const slider = byId("origin"), left = x(curves.origins[0]), right = x(curves.origins.at(-1)), thumb = 16;
  slider.style.marginLeft = `${left - thumb / 2}px`; // the thumb stands below the line it moves
  slider.style.width = `${right - left + thumb}px`;
}

function moveOrigin(index) {
  const slider = byId("origin");
  state.origin = index;
  slider.value = String(index);
  slider.setAttribute("aria-valuetext", timeText(curves.origins[index]));
  drawCurves();
}

function listenToCurves() {
  const slider = byId("origin"), play = byId("play");
  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  };
  slider.max = String(curves.origins.length - 1);
  slider.addEventListener("input", () => { stop(); moveOrigin(Number(slider.value)); });
  play.addEventListener("click", () => {
    if (timer) { stop(); return; }
    play.textContent = "Pause";
    timer = setInterval(() => moveOrigin((state.origin + 1) % curves.origins.length), 250);
  });
  byId("sensor").addEventListener("change", (event) => select(Number(event.target.value)));
  onChoice("curve-lead", drawCurves);
}
