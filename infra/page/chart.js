// One chart: lines over the steps, drawn as SVG. Its legend shows the values at the cursor.

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [340, 150, 46, 8, 8, 20];
const AXIS_TICKS = 4;

// About `n` round values from low to high.
function ticks(low, high, n = AXIS_TICKS) {
  const rough = (high - low) / n, power = 10 ** Math.floor(Math.log10(rough));
  const unit = [1, 2, 5, 10].find((u) => u * power >= rough) * power;
  const found = [];
  for (let v = Math.ceil(low / unit) * unit; v <= high + unit * 1e-9; v += unit) {
    found.push(Math.abs(v) < unit * 1e-9 ? 0 : v);
  }
  return found;
}

function logTicks(low, high) {
  const found = [];
  const last = Math.log10(high) + 1e-9;
  for (let e = Math.floor(Math.log10(low)); e <= last; e += 1) found.push(10 ** e);
  const every = Math.ceil(found.length / AXIS_TICKS);
  return found.filter((_, i) => i % every === 0);
}

// The lowest and the highest value of the lines. A share that reaches beyond a third of the axis
// gets all of it, so that charts of shares compare.
function rangeOf(lines, unit, log) {
  const all = lines.flatMap((line) => [...line.values, ...(line.low ?? []), ...(line.high ?? [])])
    .filter((v) => isNumber(v) && (!log || v > 0));
  let [low, high] = [Math.min(...all), Math.max(...all)];
  if (!all.length) return [0, 1];
  if (log) return low < high ? [low, high] : [low / 2, low * 2];
  if (unit === "share") return [0, high > 0.34 ? 1 : high || 0.01];
  if (low > 0 && low < 0.5 * high) low = 0;
  const size = Math.max(Math.abs(low), Math.abs(high)) || 1;
  if (high - low < 1e-6 * size) [low, high] = [low - size / 2, high + size / 2];
  return [low, high + (high - low) * 0.04];
}

// An SVG chart. lines: [{label, colour, steps, values, low, high, sparse}]. Sparse lines, such as
// evaluations, have dots. Returns {element, show(step)}; show moves the cursor's line.
function chart({ title, unit, lines, log, steps }) {
  const [low, high] = rangeOf(lines, unit, log);
  const [first, last] = [steps[0], Math.max(steps.at(-1), steps[0] + 1)];
  const scale = log ? Math.log10 : (v) => v;
  const x = (step) => LEFT + (step - first) / (last - first) * (WIDTH - LEFT - RIGHT);
  const y = (v) => HEIGHT - BOTTOM - (scale(v) - scale(low)) / (scale(high) - scale(low))
    * (HEIGHT - TOP - BOTTOM);
  const line = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  const dots = svg("g");
  const element = svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, tabindex: "0",
    role: "slider", "aria-label": `${title}, by step`, "aria-valuemin": first,
    "aria-valuemax": steps.at(-1), "aria-valuenow": steps.at(-1) },
  axes(low, high, unit, log, first, steps.at(-1), x, y),
  lines.map((l) => band(l, x, y, log)), lines.map((l) => curve(l, x, y, log)), line, dots);
  follow(element, steps, (event) => {
    const box = element.getBoundingClientRect();
    return first + ((event.clientX - box.left) / box.width * WIDTH - LEFT)
      / (WIDTH - LEFT - RIGHT) * (last - first);
  });

  function show(step) {
    line.setAttribute("visibility", step === null ? "hidden" : "visible");
    dots.replaceChildren();
    if (step === null) return;
    line.setAttribute("x1", x(step));
    line.setAttribute("x2", x(step));
    const said = [];
    for (const l of lines) {
      const value = valueAt(l, step);
      if (!isNumber(value)) continue;
      said.push(`${l.label} ${format(value, unit)}`);
      if (!log || value > 0) {
        dots.append(svg("circle", { class: `dot ${l.colour}`, cx: x(step), cy: y(value), r: 3 }));
      }
    }
    element.setAttribute("aria-valuenow", step);
    element.setAttribute("aria-valuetext", `step ${step}: ${said.join(", ")}`);
  }
  return { element, show };
}

function valueAt(line, step) {
  return line.values[line.steps.indexOf(step)];
}

function axes(low, high, unit, log, first, last, x, y) {
  const group = svg("g", { class: "axes", "aria-hidden": "true" });
  const marks = log ? logTicks(low, high).filter((v) => v >= low * 0.999) : ticks(low, high);
  const gap = log ? 0 : marks[1] - marks[0];
  for (const v of marks) {
    group.append(svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(v), y2: y(v) }),
      svg("text", { x: LEFT - 5, y: y(v) + 3.5, "text-anchor": "end",
        text: axisLabel(v, unit, gap) }));
  }
  const between = ticks(first, Math.max(last, first + 1), 4).filter((s) => Number.isInteger(s)
    && x(s) - x(first) > 24 && x(last) - x(s) > 24);
  for (const step of [...new Set([first, ...between, last])]) {
    const anchor = step === first ? "start" : step === last ? "end" : "middle";
    group.append(svg("text", { x: x(step), y: HEIGHT - 5, "text-anchor": anchor, text: step }));
  }
  return group;
}

// gap: the distance of the marks, which decides how many digits they need; 0 on a log axis.
function axisLabel(v, unit, gap) {
  if (unit === "share") return `${Number((100 * v).toPrecision(3))}%`;
  if (Math.abs(v) >= 1e4 && Math.abs(v) < 1e6) return `${number(v / 1000)}k`;
  const digits = gap ? Math.max(1, Math.ceil(Math.log10(Math.abs(v) / gap)) + 1) : 1;
  return number(v, digits);
}

function curve(line, x, y, log) {
  let path = "", pen = false;
  const group = svg("g", { class: `line ${line.colour} ${line.thin ? "thin" : ""}` });
  line.values.forEach((v, i) => {
    if (!isNumber(v) || (log && v <= 0)) {
      pen = pen && line.sparse;  // a sparse line joins its dots over the steps between
      return;
    }
    path += `${pen ? "L" : "M"}${x(line.steps[i]).toFixed(1)} ${y(v).toFixed(1)}`;
    pen = true;
    if (line.sparse) group.append(svg("circle", { cx: x(line.steps[i]), cy: y(v), r: 2.6 }));
  });
  group.prepend(svg("path", { d: path || "M0 0" }));
  return group;
}

function band(line, x, y, log) {
  if (!line.low) return null;
  const there = line.steps.map((_, i) => i).filter((i) => isNumber(line.low[i])
    && (!log || line.low[i] > 0));
  const point = (values) => (i) => `${x(line.steps[i]).toFixed(1)} ${y(values[i]).toFixed(1)}`;
  const path = there.map(point(line.high)).concat(there.map(point(line.low)).reverse());
  if (!path.length) return null;
  return svg("path", { class: `band ${line.colour}`, d: `M${path.join("L")}Z` });
}

// Moves the cursor with the pointer and with the keys. stepOf(event) is the step under the pointer.
function follow(element, steps, stepOf) {
  const nearest = (step) => nearestOf(steps, step);
  const at = () => (steps.includes(cursor.step) ? steps.indexOf(cursor.step) : steps.length - 1);
  element.addEventListener("pointermove", (event) => cursor.set(nearest(stepOf(event))));
  element.addEventListener("pointerleave", () => cursor.set(null));
  element.addEventListener("click", (event) => {  // a finger looks at values, and stays
    if (event.pointerType === "mouse") openRollouts(cursor.step);
  });
  element.addEventListener("focus", () => cursor.set(steps[at()]));
  element.addEventListener("blur", () => cursor.set(null));
  element.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10,
      PageUp: 10, Home: -steps.length, End: steps.length }[event.key];
    if (move) {
      event.preventDefault();
      cursor.set(steps[Math.max(0, Math.min(steps.length - 1, at() + move))]);
    } else if (event.key === "Enter") openRollouts(cursor.step);
    else if (event.key === "Escape") cursor.set(null);
  });
}
