// Forecast against truth: one forecast close up, all test rows, and the slider that moves the origin.
function select(sensor) {
  state.sensor = sensor;
  const held = curveOf(sensor) >= 0;
  if (held) byId("sensor").value = String(sensor);
  byId("curves").hidden = !held;
  ring(map.mark, sensor);
  map.dots.forEach((dot, i) => dot.setAttribute("aria-selected", String(i === sensor)));
  const name = document.createElement("b");
  name.textContent = `Sensor ${page.sensors[sensor]}`;
  const leads = Object.keys(page.error_at).map((step) => `${number(errorOf(sensor, step))} at ${span(Number(step))}`);
  const about = known(errorOf(sensor, "all")) ? [` mean error ${withUnit(errorOf(sensor, "all"))}`, ...leads].join(" · ") : " has no reading to score.";
  byId("about").replaceChildren(name, about + (held ? "" : ". This page keeps no curve of it; the sensors with a strong outline have one."));
  if (held) drawCurves();
}

function drawCurves() {
  const k = curveOf(state.sensor);
  if (k < 0 || !curves.origins.length) return;
  const truth = curves.truth[k];
  const values = scaleOf(extent([truth, ...Object.values(curves.forecast_at).map((c) => c[k]), curves.forecast_from[k].flat()]), 4);
  drawDetail(k, truth, values);
  drawOverview(k, truth, values);
}
const axisTitle = page.quantity.charAt(0).toUpperCase() + page.quantity.slice(1) + (unit ? `, ${unit}` : "");

function drawDetail(k, truth, values) {
  const { svg, width, height } = sheet("detail", 280);
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
  if (end >= 0) labels.push({ text: "reading", class: "of-truth", at: y(after[end]) });
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
    byId("detail-readout").textContent = inside ? `${timeText(row)}: reading ${withUnit(truth[row])}${said}` : restingText;
  };
  svg.onpointerleave = () => { cross.setAttribute("visibility", "hidden"); byId("detail-readout").textContent = restingText; };
}

function drawOverview(k, truth, values) {
  const { svg, width, height } = sheet("overview", 165);
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
