// The error by horizon and by hour, and the page as a whole: theme, copying, first drawing.
function drawSteps() {
  const { svg, width, height } = sheet("steps", byId("steps").clientWidth < 560 ? 280 : 320);
  const dashes = ["none", "7 3", "2 3", "8 3 2 3"];
  const controls = Object.entries(page.control_error_by_step).map(([key, errors], i) => (
    { name: key.replaceAll("_", " "), errors, line: "control", look: "of-control", dash: dashes[i % 4] }));
  const ours = { name: page.model, errors: page.error_by_step, line: "forecast", look: "of-model", dash: "none" };
  const entries = [...controls, ours], steps = ours.errors.length; // ours last, on top
  const values = scale([0, extent(entries.flatMap((entry) => entry.errors))[1]], 5);
  const room = 7.2 * Math.max(...entries.map((entry) => entry.name.length)) + 26; // for the names beside the lines
  const box = { left: marginFor(values), right: width - Math.min(room, width * 0.45), top: 30, bottom: height - 40 };
  const x = (i) => box.left + (steps > 1 ? i / (steps - 1) : 0.5) * (box.right - box.left);
  const y = verticalAxis(svg, box, values, `Mean absolute error${unit ? `, ${unit}` : ""}`);
  const every = [1, 2, 3, 4, 6, 12, 24].find((n) => steps / n <= (box.right - box.left) / 52) || steps;
  for (let step = every; step <= steps; step += every) {
    rule(svg, "axis", x(step - 1), box.bottom, x(step - 1), box.bottom + 4);
    label(svg, x(step - 1), box.bottom + 18, span(step), "middle");
  }
  label(svg, box.right, box.bottom + 36, "Time ahead", "end");
  for (const { errors, line: look, dash } of entries) {
    draw(svg, "path", { class: look, "stroke-dasharray": dash, d: line(errors, x, y) });
  }
  dots(svg, ours.errors, x, y);
  const named = entries.filter(({ errors }) => known(errors.at(-1)));
  const labels = named.map(({ name, look, errors }) => ({ name, look, end: y(errors.at(-1)), at: y(errors.at(-1)) }));
  for (const { name, look, end, at } of spread(labels, box.top, box.bottom, 16)) {
    draw(svg, "path", { class: "leader", d: `M${box.right + 5} ${end}L${box.right + 18} ${at}` });
    label(svg, box.right + 22, at + 4, name, "start", look);
  }
}

function drawHours() {
  if (!byId("hours")) return;
  const { svg, width, height } = sheet("hours", 190), errors = Array(24).fill(null);
  for (const [hour, scores] of Object.entries(page.summary.slices.hour)) errors[parseInt(hour, 10)] = scores.mae;
  const values = scale([0, extent(errors)[1]], 4), hourName = (hour) => `${String(hour).padStart(2, "0")}:00`;
  const box = { left: marginFor(values), right: width - 4, top: 12, bottom: height - 38 };
  const y = verticalAxis(svg, box, values, ""), cell = (box.right - box.left) / 24;
  errors.forEach((error, hour) => {
    const x = box.left + hour * cell;
    if (hour % (cell < 22 ? 6 : 3) === 0) label(svg, x + cell / 2, box.bottom + 18, hourName(hour), "middle");
    if (!known(error)) return;
    const bar = { x: x + cell * 0.14, y: y(error), width: cell * 0.72, height: box.bottom - y(error) };
    const text = `${hourName(hour)} to ${hourName(hour + 1)}: ${withUnit(error)}`;
    draw(draw(svg, "rect", { class: "hour", ...bar }), "title", { text });
  });
  label(svg, box.right, box.bottom + 34, "Local time of the reading", "end");
}

function listenToTheme() {
  const theme = byId("theme"), system = matchMedia("(prefers-color-scheme: dark)"), root = document.documentElement;
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const name = () => { theme.textContent = dark() ? "Light" : "Dark"; };
  theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });
  system.addEventListener("change", name);
  name();
}

async function copy(button) {
  const code = button.parentElement.querySelector("code");
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch { // no clipboard in this browser: mark the text for the reader to copy
    getSelection().selectAllChildren(code);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1600);
}

function drawAll() {
  drawMap();
  drawCurves();
  drawSteps();
  drawHours();
}

listenToTheme();
listenToPointer();
listenToKeys();
document.querySelectorAll(".copy").forEach((button) => button.addEventListener("click", () => copy(button)));
drawAll();
if (state.sensor !== null) select(state.sensor);
byId("curves").hidden = !curves.origins.length || state.sensor === null;
if (!byId("curves").hidden) {
  listenToCurves();
  moveOrigin(state.origin);
}
let drawnAt = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === drawnAt) return; // a phone's address bar changes the height only
  drawnAt = innerWidth;
  drawAll();
});
