// The error by horizon and by hour, and the page as a whole: theme, copying, first drawing.
function drawSteps() {
  const narrow = byId("steps").clientWidth < 560;
  const { svg, width, height } = sheet("steps", narrow ? 280 : 320);
  const lines = [{ name: page.model, values: page.error_by_step, ours: true },
    ...Object.entries(page.control_error_by_step).map(([name, values]) => ({ name: name.replaceAll("_", " "), values }))];
  const values = scale(0, extent(lines.map((item) => item.values))[1], 5), steps = page.error_by_step.length;
  const room = 7.2 * Math.max(...lines.map((item) => item.name.length)) + 26;
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
  const labels = lines.filter((item) => known(item.values.at(-1))).map((item) => ({ text: item.name, class: item.ours ? "of-model" : "of-control", at: y(item.values.at(-1)), end: y(item.values.at(-1)) }));
  spread(labels, box.top, box.bottom, 16).forEach((item) => {
    draw(svg, "path", { class: "leader", d: `M${box.right + 5} ${item.end}L${box.right + 18} ${item.at}` });
    draw(svg, "text", { class: item.class, x: box.right + 22, y: item.at + 4, text: item.text });
  });
}

function drawHours() {
  if (!byId("hours")) return;
  const { svg, width, height } = sheet("hours", 190);
  const errors = new Array(24).fill(null);
  for (const [hour, scores] of Object.entries(page.summary.slices.hour)) errors[parseInt(hour, 10)] = scores.mae;
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
if (state.sensor !== null && curves.origins.length) {
  listenToCurves();
  state.origin = Math.floor(curves.origins.length / 2);
  select(state.sensor);
  moveOrigin(state.origin);
} else byId("curves").hidden = true;
drawSteps();
drawHours();
let drawnAt = innerWidth;
addEventListener("resize", () => { if (innerWidth !== drawnAt) { drawnAt = innerWidth; drawAll(); } });
