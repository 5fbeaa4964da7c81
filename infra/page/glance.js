// At a glance: what the run is, the diagnoses, and the measurements before and after.

const settingsOf = (run) => {
  const o = run.options;
  return [o.algo, `${o.task}${o.task === "file" ? "" : ` level ${o.level}`}`,
    o.init ? "pretrained" : o.size, `seed ${o.seed}`].filter(Boolean).join(" · ");
};

const shortName = (run) => run.name.replace(/\/+$/, "").split("/").pop();

function progressOf(run) {
  const step = run.steps.at(-1) ?? 0;
  const of = run.options.token_budget ? "" : ` of ${run.options.steps}`;
  return run.measures.length ? `${step} steps, ended` : `step ${step}${of}, not ended`;
}

function glance() {
  const run = DATA.runs[0];
  return el("section", { id: "glance", "aria-label": "At a glance" },
    el("div", { class: "title" },
      el("h1", { text: settingsOf(run) }),
      el("p", { class: "muted", text: `${run.name} — ${progressOf(run)}` })),
    el("code", { class: "command", text: run.command, tabindex: "0" }),
    el("p", { class: "muted", text: run.key_settings }),
    diagnoses(),
    DATA.runs.length > 1 ? runsTable() : null,
    el("div", { class: "columns" }, beforeAfter(run), facts(run)),
    DATA.notes.length ? el("ul", { class: "notes" },
      DATA.notes.map((note) => el("li", { text: note }))) : null);
}

// --- diagnoses

function diagnoses() {
  const found = DATA.runs.flatMap((run) => run.diagnoses.map((d) => ({ ...d, run })));
  if (!found.length) {
    return el("p", { class: "verdict" }, el("span", { class: "mark", text: "✓" }),
      " No diagnosis: none of the rules found a fault.");
  }
  found.sort((a, b) => a.step - b.step);
  return el("ul", { class: "diagnoses", "aria-label": "Diagnoses" }, found.map((d) => el("li", {},
    el("div", { class: "when" },
      el("button", { type: "button", class: "link", text: `step ${d.step}`,
        title: "show the rollouts of this step",
        onclick: () => { cursor.set(d.step); openRollouts(d.step); } }),
      el("span", { class: "muted", text: d.name.replaceAll("_", " ") })),
    el("p", {}, DATA.runs.length > 1 ? el("b", { text: `${shortName(d.run)}: ` }) : null,
      el("span", { text: d.text })))));
}

// --- several runs

function runsTable() {
  return el("div", { class: "scroll" }, el("table", { class: "measures runs" },
    el("caption", { text: "Runs on this page; all but the curves shows the first one" }),
    el("thead", {}, el("tr", {}, ["run", "before", "after", "time", "command"].map(
      (text) => el("th", { scope: "col", text })))),
    el("tbody", {}, DATA.runs.map((run) => {
      const accuracy = run.measures.find((m) => m.label === "accuracy, greedy") ?? {};
      return el("tr", {}, el("th", { scope: "row", text: run.name }),
        el("td", { text: format(accuracy.before, "share") }),
        el("td", { class: "after", text: format(accuracy.after, "share") }),
        el("td", { text: duration(run.summary.seconds_total) }),
        el("td", {}, el("code", { text: run.command })));
    }))));
}

// --- before and after

const AXIS = 330;  // length of the axis of a measurement, in units of its drawing

function beforeAfter(run) {
  if (!run.measures.length) {
    return el("p", { class: "muted", text: "Before and after: known when the run has ended." });
  }
  return el("table", { class: "measures" },
    el("caption", { text: "Held-out problems, with 95% intervals" }),
    el("thead", {}, el("tr", {}, ["", "before", "after"].map((text) => el("th",
      { scope: "col", text })), el("th", { class: "wide", "aria-hidden": "true" },
      el("div", { class: "ends" }, el("span", { text: "0%" }), el("span", { text: "100%" }))))),
    el("tbody", {}, run.measures.map((m) => el("tr", {},
      el("th", { scope: "row", text: m.label }),
      ["before", "after"].map((when) => el("td", { class: when },
        isNumber(m[when]) ? format(m[when], m.unit) : "none", interval(m[`ci_${when}`]))),
      el("td", { class: "wide" }, m.unit === "share" ? dumbbell(m) : null)))));
}

function interval(ci) {
  if (!Array.isArray(ci)) return null;
  const ends = ci.map((x) => (100 * x).toFixed(1));
  return el("small", { text: ` ${ends[0]}–${ends[1]}` });
}

// A share before and after, on an axis from 0 to 100%, with its intervals.
function dumbbell(m) {
  const x = (value) => 6 + value * (AXIS - 12);
  const whisker = (ci, y, name) => Array.isArray(ci) ? svg("line",
    { class: `whisker ${name}`, x1: x(ci[0]), x2: x(ci[1]), y1: y, y2: y }) : null;
  const dot = (value, r, name) => isNumber(value) ? svg("circle",
    { class: name, cx: x(value), cy: 10, r }) : null;
  return svg("svg", { class: "dumbbell", viewBox: `0 0 ${AXIS} 20`, "aria-hidden": "true" },
    [0, 0.25, 0.5, 0.75, 1].map((v) => svg("line",
      { class: "grid", x1: x(v), x2: x(v), y1: 1, y2: 19 })),
    isNumber(m.before) && isNumber(m.after) ? svg("line",
      { class: "change", x1: x(m.before), x2: x(m.after), y1: 10, y2: 10 }) : null,
    whisker(m.ci_before, 10, "before"), whisker(m.ci_after, 10, "after"),
    dot(m.before, 4, "before"), dot(m.after, 4.5, "after"));
}

// --- facts

function facts(run) {
  const s = run.summary, o = run.options;
  const sum = (name) => (run.curves[name] ?? []).reduce((a, b) => a + (b ?? 0), 0);
  const training = Object.keys(run.curves).filter((name) => name.startsWith("seconds_"))
    .reduce((total, name) => total + sum(name), 0);
  const rows = [
    ["time, in all", duration(s.seconds_total)],
    ["base model", duration(s.seconds_base)],
    ["training", duration(s.seconds_rl ?? training)],
    ["evaluation", duration(s.seconds_eval)],
    ["per step", run.steps.length ? `${number(training / run.steps.length)} s` : "–"],
    ["sampled tokens", number(s.tokens_sampled ?? sum("tokens"))],
    ["problems × answers a step", o.prompts ? `${o.prompts} × ${o.group_size}` : "–"],
    ["learning rate", number(o.lr)],
    ["parameters", number(s.parameters)],
    ["device", s.device],
    ["largest memory", isNumber(s.peak_rss_mb) ? `${number(s.peak_rss_mb)} MB` : "–"],
  ].filter(([, value]) => value && value !== "–");
  return el("dl", { class: "facts" }, rows.map(([name, value]) => el("div", {},
    el("dt", { text: name }), el("dd", { text: String(value) }))));
}
