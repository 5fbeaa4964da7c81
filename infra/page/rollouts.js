// Rollouts: a step, its problems, and all responses of one problem's group side by side.

let openRollouts = () => {};  // shows a step; set below, called by the curves

const isRight = (r) => (isNumber(r.parts?.correct) ? r.parts.correct >= 1 : r.reward > 0.5);
const FILTERS = {
  all: ["All", () => true], right: ["Right", isRight], wrong: ["Wrong", (r) => !isRight(r)],
  cut: ["Cut off", (r) => r.truncated],
};
const SORTS = {
  order: ["as sampled", () => 0], longest: ["longest first", (a, b) => b.length - a.length],
  shortest: ["shortest first", (a, b) => a.length - b.length],
  best: ["highest advantage", (a, b) => (b.advantage ?? 0) - (a.advantage ?? 0)],
  worst: ["lowest advantage", (a, b) => (a.advantage ?? 0) - (b.advantage ?? 0)],
};

function rollouts() {
  if (!DATA.groups.length) {
    return section("rollouts", "Rollouts", el("p", { class: "muted",
      text: "This run has no recorded rollouts: its folder holds no samples.jsonl with groups." }));
  }
  const steps = [...new Set(DATA.groups.map((g) => g.step))].sort((a, b) => a - b);
  const view = { step: steps.at(-1), group: null, filter: "all", text: "", sort: "order",
    colour: "advantage" };
  const problems = el("nav", { class: "problems", "aria-label": "Problems of the step" });
  const place = el("div", { class: "group" });
  const chooser = stepChooser(steps, (step) => openStep(step));

  function openStep(step) {
    view.step = step;
    chooser.show(step);
    const groups = DATA.groups.filter((g) => g.step === step);
    problems.replaceChildren(...groups.map(
      (group) => problemButton(group, () => openGroup(group))));
    openGroup(groups.find((g) => new Set(g.responses.map(isRight)).size > 1) ?? groups[0]);
  }
  function openGroup(group) {
    view.group = group;
    for (const button of problems.children) {
      const here = button.group === group;
      button.setAttribute("aria-current", here ? "true" : "false");
    }
    place.replaceChildren(...groupView(group, view));
  }
  openRollouts = (step) => {
    if (step === null) return;
    openStep(nearestOf(steps, step));
    document.getElementById("rollouts").scrollIntoView({ behavior: "smooth" });
  };
  openStep(view.step);
  return section("rollouts", "Rollouts", chooser.element,
    el("div", { class: "browser" }, problems, place));
}

// --- choosing a step and a problem

function stepChooser(steps, onchange) {
  const slider = el("input", { type: "range", min: 0, max: steps.length - 1, "aria-label": "Step",
    oninput: () => onchange(steps[slider.value]) });
  const label = el("output", {});
  const go = (by) => {
    const i = Number(slider.value) + by;
    onchange(steps[Math.max(0, Math.min(steps.length - 1, i))]);
  };
  const arrow = (text, by, name) => el("button", { type: "button", class: "quiet", text,
    "aria-label": name, onclick: () => go(by) });
  return {
    element: el("div", { class: "tools steps" }, arrow("‹", -1, "earlier step"), slider,
      arrow("›", 1, "later step"), label),
    show(step) {
      slider.value = steps.indexOf(step);
      slider.setAttribute("aria-valuetext", `step ${step}`);
      label.textContent = `step ${step} (${steps.indexOf(step) + 1} of ${steps.length} recorded)`;
    },
  };
}

const outcome = (r) => (isRight(r) ? "right" : r.truncated ? "cut" : "wrong");

// A problem as a button: the question, and a mark for each response.
function problemButton(group, onclick) {
  const right = group.responses.filter(isRight).length;
  const button = el("button", { type: "button", onclick, class: group.dropped ? "dropped" : null },
    el("span", { class: "question", text: group.question }),
    el("span", { class: "outcomes", "aria-label": `${right} of ${group.responses.length} right` },
      group.responses.map((r) => el("i", { class: outcome(r) }))),
    group.dropped ? el("span", { class: "muted", text: dropText(group) }) : null);
  button.group = group;
  return button;
}

// --- a group

function groupView(group, view) {
  const responses = group.responses.map((r, i) => ({ ...r, number: i + 1,
    length: r.length ?? r.ids?.length ?? r.text.length }));
  const look = inspector();
  const image = isPicture(group.image)
    ? picture(group.image, "the image; point at a token to see where the policy looks") : null;
  const show = (response, i) => {
    look.show(response, i);
    image?.show(response.attention?.[i]);
  };
  const cards = el("div", { class: "cards" });
  const meanings = meaningsOf(group);
  const colour = meanings.includes(view.colour) ? view.colour : meanings.at(-1);
  const scaleBox = el("div", { class: "scale-box" });
  let painted = [];

  function repaint(name) {
    const most = name === "none" ? 1 : largest(group, name);
    for (const { boxes, response } of painted) paint(boxes, response, name, most);
    scaleBox.replaceChildren(scale(group, name));
  }
  function redraw() {
    painted = [];
    const wanted = view.text.toLowerCase();
    const shown = responses.filter((r) => FILTERS[view.filter][1](r)
      && r.text.toLowerCase().includes(wanted)).sort(SORTS[view.sort][1]);
    cards.replaceChildren(...shown.map((r) => card(r, show, painted)));
    if (!shown.length) {
      cards.append(el("p", { class: "muted", text: "No answer fits the filter." }));
    }
    repaint(meanings.includes(view.colour) ? view.colour : colour);
  }
  const set = (name, draw) => (value) => { view[name] = value; draw(); };
  redraw();
  return [groupHead(group), image ? image.element : null,
    el("div", { class: "tools" },
      choice("Filter", Object.entries(FILTERS).map(([name, [label]]) => [name, label]),
        view.filter, set("filter", redraw)),
      el("input", { type: "search", placeholder: "text in the answer", value: view.text,
        "aria-label": "text in the answer",
        oninput: (event) => set("text", redraw)(event.target.value) }),
      select("Sort", Object.entries(SORTS).map(([name, [label]]) => [name, label]),
        view.sort, set("sort", redraw)),
      meanings.length > 1 ? select("Colour", meanings.map((name) => [name, MEANINGS[name].label]),
        colour, set("colour", () => repaint(view.colour))) : null,
      meanings.length > 1 ? scaleBox
        : el("span", { class: "muted", text: "no numbers per token for this group" })),
    cards, meanings.length > 1 ? look.element : null].filter(Boolean);
}

const dropText = (group) => `dropped: ${group.dropped}`;
const dropTag = (group) => (group.dropped
  ? el("span", { class: "tag", text: dropText(group) }) : null);

function groupHead(group) {
  const right = group.responses.filter(isRight).length;
  return el("div", { class: "group-head" },
    el("h3", { class: "question" }, visible(group.question, { breaks: false })),
    el("p", { class: "muted" },
      group.answer ? ["answer ", el("b", {}, visible(String(group.answer))), " · "] : null,
      `${right} of ${group.responses.length} right`, dropTag(group)));
}

// One response: how it did, and its text.
function card(response, show, painted) {
  const right = isRight(response);
  const parts = Object.entries(response.parts ?? {}).map(
    ([name, value]) => `${name} ${number(value)}`);
  const body = response.ids ? tokenBoxes(response, `answer ${response.number}, by token`,
    (i) => show(response, i)) : null;
  if (body) painted.push({ boxes: body.boxes, response });
  return el("article", { class: right ? "card right" : "card wrong" },
    el("header", {},
      el("span", { class: "mark", text: right ? "✓ right" : "✗ wrong" }),
      response.truncated ? el("span", { class: "tag", text: "cut off" }) : null,
      el("span", { class: "muted", text: `#${response.number}` }), pushBar(response.advantage)),
    el("p", { class: "muted facts-line", text: [
      `reward ${number(response.reward)}${parts.length ? ` (${parts.join(", ")})` : ""}`,
      `${response.length} ${response.ids || response.ending ? "tokens" : "characters"}`,
      response.ending].filter(Boolean).join(" · ") }),
    body ? body.element
      : el("div", { class: "text", tabindex: "0" }, visible(response.text)),
    response.words ? [el("p", { class: "muted facts-line", text: "the judge" }),
      el("div", { class: "text", tabindex: "0" }, visible(response.words))] : null);
}

// The advantage as a bar from the middle: blue to the right, orange to the left.
function pushBar(advantage) {
  if (!isNumber(advantage)) return null;
  const width = 24 * Math.min(1, Math.abs(advantage) / 3);
  return el("span", { class: "push" }, svg("svg", { viewBox: "0 0 50 10", "aria-hidden": "true" },
    svg("line", { x1: 25, x2: 25, y1: 0, y2: 10 }),
    svg("rect", { class: advantage < 0 ? "neg" : "pos", x: advantage < 0 ? 25 - width : 25, y: 2,
      width, height: 6 })), el("span", { title: "advantage", text: signed(advantage) }));
}
