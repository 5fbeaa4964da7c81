// The curves of one run, or of several runs over each other. Seeds of one setting share a colour
// and may be drawn as their mean, with a band from the lowest to the highest seed.

const COLOURS = 7;  // classes c0 to c6 in page.css

// Runs with equal settings but for the seed: [{label, colour, runs}].
function settingsOfRuns(runs) {
  const found = new Map();
  for (const run of runs) {
    if (!found.has(run.setting)) found.set(run.setting, []);
    found.get(run.setting).push(run);
  }
  return [...found.values()].map((members, i) => ({
    label: labelOf(members), colour: `c${i % COLOURS}`, runs: members }));
}

// The name of a run; of several seeds what their names begin with: "grpo-wait" of "grpo-wait-0".
function labelOf(runs) {
  const names = runs.map(shortName);
  if (names.length === 1) return names[0];
  let length = names[0].length;
  while (!names.every((name) => name.startsWith(names[0].slice(0, length)))) length -= 1;
  const common = names[0].slice(0, length).replace(/[-_.\d]*$/, "");
  return `${common || settingsOf(runs[0]).replace(/ · seed.*/, "")}, ${names.length} seeds`;
}

function curves() {
  const settings = settingsOfRuns(DATA.runs);
  const steps = [...new Set(DATA.runs.flatMap((run) => run.steps))].sort((a, b) => a - b);
  if (!steps.length) return null;
  const view = { band: settings.some((s) => s.runs.length > 1), hidden: new Set() };
  const several = DATA.runs.length > 1;
  const panels = DATA.charts.map((spec) => panel(spec, settings, steps, view, several));
  const redraw = () => panels.forEach((p) => p.draw());
  const readout = el("span", { class: "muted", "aria-hidden": "true" });
  const tell = (step) => {
    readout.textContent = step === null ? `last values, step ${steps.at(-1)}` : `step ${step}`;
    panels.forEach((p) => p.show(step));
  };
  cursor.listeners.push(tell);
  redraw();
  tell(null);
  return section("curves", "Curves",
    el("div", { class: "tools" }, readout,
      several ? legend(settings, view, redraw) : null,
      settings.some((s) => s.runs.length > 1) ? choice("Seeds of one setting",
        [["band", "Mean and band"], ["lines", "A line a seed"]], "band",
        (value) => { view.band = value === "band"; redraw(); }) : null),
    el("div", { class: "charts" }, panels.map((p) => p.element)));
}

// The settings, each with a box that shows or hides it.
function legend(settings, view, redraw) {
  return el("div", { class: "legend", role: "group", "aria-label": "Runs" },
    settings.map((setting) => el("label", { class: setting.colour },
      el("input", { type: "checkbox", checked: true, onchange: (event) => {
        view.hidden[event.target.checked ? "delete" : "add"](setting);
        redraw();
      } }), el("span", { class: "swatch" }), setting.label)));
}

// A chart with its title, its values and its buttons.
function panel(spec, settings, steps, view, several) {
  let drawn = null, log = false, chosen = spec.series[0].name;
  const values = el("div", { class: "values" });
  const place = el("div", { class: "place" });
  const logButton = el("button", { type: "button", class: "quiet small", "aria-pressed": "false",
    text: "log", title: "logarithmic axis", onclick: () => {
      log = !log;
      logButton.setAttribute("aria-pressed", String(log));
      api.draw();
    } });
  const pick = several && spec.series.length > 1 ? select("",
    spec.series.map((s) => [s.name, s.label]), chosen,
    (name) => { chosen = name; api.draw(); }) : null;
  pick?.querySelector("select").setAttribute("aria-label", `${spec.title}: which`);
  const api = {
    element: el("figure", { class: "panel" }, el("figcaption", {},
      el("h3", { text: spec.title }), pick, spec.unit === "share" ? null : logButton),
    place, values),
    draw() {
      const lines = several
        ? settings.filter((s) => !view.hidden.has(s)).flatMap((s) => linesOf(s, chosen, view.band))
        : spec.series.map((series, i) => lineOf(DATA.runs[0], series.name, series.label,
          `c${i % COLOURS}`));
      const shown = lines.filter((line) => line.values.some(isNumber));
      drawn = { lines: shown, ...chart({ ...spec, lines: shown, log, steps }) };
      place.replaceChildren(drawn.element);
      api.show(cursor.step);
    },
    show(step) {
      drawn.show(step);
      values.replaceChildren(...drawn.lines.map((line) => el("span", { class: line.colour },
        el("span", { class: "swatch" }), el("span", { text: line.label }),
        el("b", { text: valueText(line, step, spec.unit) }))));
    },
  };
  return api;
}

function valueText(line, step, unit) {
  const last = line.values.findLastIndex(isNumber);
  const i = step === null ? last : line.steps.indexOf(step);
  const text = format(line.values[i], unit);
  return line.low && isNumber(line.low[i])
    ? `${text} (${format(line.low[i], unit)} to ${format(line.high[i], unit)})` : text;
}

function lineOf(run, name, label, colour) {
  const values = run.curves[name] ?? [];
  const there = values.filter(isNumber).length;
  return { label, colour, steps: run.steps, values, sparse: there < 0.5 * values.length };
}

// The lines of a setting's runs: one with a band, or one for each seed.
function linesOf(setting, name, asBand) {
  const lines = setting.runs.map((run) => lineOf(run, name, shortName(run), setting.colour));
  if (lines.length === 1) return [{ ...lines[0], label: setting.label }];
  if (!asBand) return lines.map((line) => ({ ...line, thin: true }));
  const steps = [...new Set(lines.flatMap((line) => line.steps))].sort((a, b) => a - b);
  const at = steps.map((step) => lines.map((line) => valueAt(line, step)).filter(isNumber));
  const of = (summary) => at.map((seeds) => (seeds.length ? summary(seeds) : null));
  return [{ label: setting.label, colour: setting.colour, steps, sparse: lines[0].sparse,
    values: of((seeds) => seeds.reduce((a, b) => a + b) / seeds.length),
    low: of((seeds) => Math.min(...seeds)), high: of((seeds) => Math.max(...seeds)) }];
}
