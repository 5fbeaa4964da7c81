// A response as boxes, one a token. The colour of a box shows one of its numbers.

const blue = "pos", orange = "neg", teal = "seq";
const EPS = 1e-12;

// How a number becomes a colour. values(response): a number per token, or nothing. Diverging
// colours: orange is below `middle`, blue above. Else the colour is stronger for higher values.
const MEANINGS = {
  none: { label: "no colour" },
  logp: { label: "log-prob", values: (r) => r.logp, shown: (v) => -v, least: 1,
    low: "certain", high: "unlikely",
    text: (v) => `${number(v)} (${format(Math.exp(v), "share")})` },
  entropy: { label: "entropy", values: (r) => r.entropy, shown: (v) => v, least: 0.5,
    low: "certain", high: "open choice" },
  ratio: { label: "ratio after the update", values: (r) => r.ratio, diverging: true, middle: 1,
    shown: (v) => Math.log(Math.max(v, EPS)), least: 0.02, low: "less likely now",
    high: "more likely now" },
  advantage: { label: "advantage", values: advantagesOf, diverging: true, middle: 0,
    shown: (v) => v, least: 0.1, low: "pushed down", high: "pushed up" },
  value: { label: "critic's value", values: (r) => r.values, shown: (v) => v, least: 0.1,
    low: "expects little", high: "expects much" },
  score: { label: "step score", values: (r) => r.scores, diverging: true, middle: 0.5,
    shown: (v) => v - 0.5, least: 0.5, low: "bad step", high: "good step" },
};

// The advantage of each token: its own, or that of the whole response.
function advantagesOf(response) {
  if (response.advantages) return response.advantages;
  return response.ids && isNumber(response.advantage)
    ? response.ids.map(() => response.advantage) : undefined;
}

const isMasked = (response, i) => response.mask?.[i] === 0;

// The meanings for which some response of the group has numbers.
function meaningsOf(group) {
  return Object.keys(MEANINGS).filter((name) => name === "none"
    || group.responses.some((r) => MEANINGS[name].values(r)?.some(isNumber)));
}

// The largest number of the group, which gets the strongest colour. One token in a hundred may be
// stronger, so that a single outlier does not make all others pale.
function largest(group, name) {
  const { values, shown, least } = MEANINGS[name];
  const all = group.responses.flatMap((r) => (values(r) ?? []).filter((v, i) => isNumber(v)
    && !isMasked(r, i)).map((v) => Math.abs(shown(v)))).sort((a, b) => a - b);
  return Math.max(least, all[Math.floor(0.99 * (all.length - 1))] ?? 0);
}

// Colours the boxes of a response by a meaning.
function paint(boxes, response, name, most) {
  const meaning = MEANINGS[name];
  const values = name === "none" ? undefined : meaning.values(response);
  boxes.forEach((box, i) => {
    const value = values?.[i], coloured = isNumber(value) && !isMasked(response, i);
    const shown = coloured ? meaning.shown(value) : 0;
    const side = meaning.diverging ? (shown < 0 ? orange : blue) : teal;
    box.classList.remove(blue, orange, teal);
    if (coloured) box.classList.add(side);
    const strength = Math.round(100 * Math.min(1, Math.abs(shown) / most));
    box.style.setProperty("--strength", `${strength}%`);
  });
}

// The scale under the choice of colours.
function scale(group, name) {
  if (name === "none") return el("div", { class: "scale" });
  const { diverging, low, high } = MEANINGS[name], most = largest(group, name);
  const end = name === "ratio" ? [Math.exp(-most), Math.exp(most)]
    : name === "score" ? [0, 1] : name === "logp" ? [0, -most]
      : diverging ? [-most, most] : [0, most];
  const digits = name === "ratio" ? 3 : 2;
  return el("div", { class: "scale" },
    el("span", { text: `${number(end[0], digits)} ${low}` }),
    el("span", { class: `ramp ${diverging ? "diverging" : "sequential"}` }),
    el("span", { text: `${high} ${number(end[1], digits)}` }));
}

// --- boxes

// The piece of a token: nodes, in which bytes that are no text stand as \xe2.
function pieceNodes(id, options) {
  const piece = DATA.tokens[id];
  if (typeof piece === "string" && piece) return visible(piece, { spaces: true, ...options });
  const hex = (byte) => `\\x${byte.toString(16).padStart(2, "0")}`;
  const bytes = Array.isArray(piece) ? piece.map(hex).join("") : `⟨${id}⟩`;
  return [el("span", { class: "hidden-mark code", text: bytes })];
}

// A response as boxes. The arrow keys move from box to box. look(i) is called for the box under the
// pointer or with the focus. Returns {element, boxes}.
function tokenBoxes(response, label, look) {
  const boxes = response.ids.map((id, i) => el("span", { class: "token", "data-i": i,
    tabindex: i ? "-1" : "0" }, pieceNodes(id)));
  boxes.forEach((box, i) => { if (isMasked(response, i)) box.classList.add("masked"); });
  const of = (event) => event.target.closest(".token");
  const element = el("div", { class: "text tokens", role: "group", "aria-label": label,
    onpointerover: (event) => { if (of(event)) look(Number(of(event).dataset.i)); },
    onfocusin: (event) => { if (of(event)) look(Number(of(event).dataset.i)); },
    onkeydown: (event) => {
      const i = Number(of(event)?.dataset.i);
      const to = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: boxes.length - 1,
        ArrowUp: above(boxes, i, -1), ArrowDown: above(boxes, i, 1) }[event.key];
      if (to === undefined || !boxes[to]) return;
      event.preventDefault();
      boxes[i].tabIndex = -1;
      boxes[to].tabIndex = 0;
      boxes[to].focus();
    } }, boxes);
  return { element, boxes };
}

// The index of the box on the line above (-1) or below (1) that is nearest.
function above(boxes, i, direction) {
  const here = boxes[i].getBoundingClientRect();
  let line = null, best = i;
  for (let j = i + direction; boxes[j]; j += direction) {
    const box = boxes[j].getBoundingClientRect();
    if (Math.abs(box.top - here.top) < 4) continue;
    line ??= box.top;
    if (Math.abs(box.top - line) >= 4) break;
    const distance = (k) => Math.abs(boxes[k].getBoundingClientRect().left - here.left);
    if (best === i || distance(j) < distance(best)) best = j;
  }
  return best;
}

// --- the numbers of one token

function inspector() {
  const element = el("div", { class: "inspector", role: "status" });
  element.append(el("p", { class: "muted",
    text: "Point at a token, or move to it with Tab and the arrow keys, to see its numbers." }));
  return { element, show(response, i) {
    const facts = Object.values(MEANINGS).map((meaning) => {
      const value = meaning.values?.(response)?.[i];
      return isNumber(value) ? [meaning.label, (meaning.text ?? number)(value)] : null;
    }).filter(Boolean);
    const masked = isMasked(response, i) ? ", masked: not chosen by the policy" : "";
    element.replaceChildren(
      el("div", { class: "which" },
        el("span", { class: "token" }, pieceNodes(response.ids[i], { breaks: false })),
        el("span", { class: "muted",
          text: `token ${i + 1} of ${response.ids.length}, id ${response.ids[i]}` + masked })),
      el("dl", {}, facts.map(([name, text]) => el("div", {}, el("dt", { text: name }),
        el("dd", { text })))),
      ...alternatives(response.alternatives?.[i]));
  } };
}

function alternatives(others) {
  if (!others?.length) return [];
  return [el("div", { class: "others" },
    el("span", { class: "muted", text: "likeliest others" }),
    others.map(([id, logp]) => el("span", { class: "other" },
      el("span", { class: "token" }, pieceNodes(id, { breaks: false })),
      format(Math.exp(logp), "share"))))];
}
