// What all parts of the page share: the data, elements, numbers as text, and text of a model.
// Text is set by textContent alone. Nothing on this page is made from a string of markup.

const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

// --- elements

// An element. attributes: "text", in which characters that cannot be seen are escaped; handlers,
// such as onclick; attributes of HTML, which null and false leave out.
function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") element.textContent = plain(String(value));
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : plain(String(value)));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

function section(id, title, ...children) {
  return el("section", { id, "aria-labelledby": `${id}-title` },
    el("h2", { id: `${id}-title`, text: title }), ...children);
}

// A row of buttons of which one is pressed. choices: [[value, label]].
function choice(label, choices, value, onchange) {
  const buttons = choices.map(([each, text]) => el("button", {
    type: "button", "aria-pressed": String(each === value), "data-value": each, text,
    onclick: (event) => {
      for (const button of buttons) {
        button.setAttribute("aria-pressed", String(button === event.currentTarget));
      }
      onchange(each);
    },
  }));
  return el("div", { class: "choice", role: "group", "aria-label": label }, buttons);
}

function select(label, choices, value, onchange) {
  const input = el("select", { onchange: () => onchange(input.value) },
    choices.map(([each, text]) => el("option", { value: each, text })));
  input.value = value;
  return el("label", { class: "field" }, el("span", { text: label }), input);
}

// --- numbers

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const MINUS = "\u2212";

function number(value, digits = 3) {
  if (!isNumber(value)) return "–";
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-3 || size >= 1e7)
    ? value.toExponential(Math.max(0, Math.min(digits - 1, 2))).replace(/\.?0*e\+?/, "e")
    : size >= 1e6 ? `${Number((value / 1e6).toPrecision(3))} M`
    : size >= 1000 ? Math.round(value).toLocaleString("en")
    : String(Number(value.toPrecision(digits)));
  return text.replace("-", MINUS);
}

function format(value, unit) {
  if (!isNumber(value)) return "–";
  if (unit === "share") {
    const percent = 100 * value;
    const size = Math.abs(percent);
    const digits = size === 0 || size >= 99.95 ? 0 : size < 0.1 ? 2 : 1;
    return `${percent.toFixed(digits).replace("-", MINUS)}%`;
  }
  if (unit === "seconds") return `${number(value)} s`;
  return number(value);
}

const signed = (value) => (value > 0 ? "+" : "") + value.toFixed(2).replace("-", MINUS);

const nearestOf = (values, wanted) => values.reduce(
  (a, b) => (Math.abs(b - wanted) < Math.abs(a - wanted) ? b : a));

function duration(seconds) {
  if (!isNumber(seconds)) return "–";
  if (seconds < 100) return `${Math.round(seconds)} s`;
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  return hours ? `${hours} h ${minutes} min` : `${minutes} min ${Math.round(seconds % 60)} s`;
}

// --- text of a model

// Control, format (right-to-left marks), surrogate, private and unassigned characters, line and
// paragraph separators, and spaces that look like a space and are none.
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu;

function escape(character) {
  const known = { "\n": "↵", "\t": "⇥" }[character];
  if (known) return known;
  const code = character.codePointAt(0).toString(16);
  return code.length <= 2 ? `\\x${code.padStart(2, "0")}`
    : code.length <= 4 ? `\\u${code.padStart(4, "0")}` : `\\u{${code}}`;
}

// Nodes for a text, in which each character that cannot be seen stands as a mark. breaks: lines
// end where the text has them. spaces: a space is a faint dot.
function visible(text, { breaks = true, spaces = false } = {}) {
  const nodes = [];
  const marks = spaces ? new RegExp(`${HIDDEN.source}| `, "gu") : HIDDEN;
  let last = 0;
  for (const match of text.matchAll(marks)) {
    if (match.index > last) nodes.push(text.slice(last, match.index));
    last = match.index + match[0].length;
    const mark = match[0] === " " ? "·" : escape(match[0]);
    nodes.push(el("span", { class: mark.length > 1 ? "hidden-mark code" : "hidden-mark",
      text: mark }));
    if (match[0] === "\n") nodes.push(breaks ? "\n" : " ");
  }
  nodes.push(text.slice(last));
  return nodes;
}

const plain = (text) => text.replace(HIDDEN, escape);

// --- the theme

function readStored(name) {
  try { return localStorage.getItem(name); } catch { return null; }  // storage may be forbidden
}

function themeSwitch() {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const show = (theme) => {
    root.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `${button.textContent} theme`);
  };
  const button = el("button", { type: "button", class: "quiet", id: "theme", onclick: () => {
    const theme = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("theme", theme); } catch { /* the choice is not kept */ }
    show(theme);
  } });
  show(readStored("theme") ?? (dark.matches ? "dark" : "light"));
  dark.addEventListener("change", () => show(dark.matches ? "dark" : "light"));
  return button;
}

// --- the step that the whole page looks at

const cursor = {
  step: null,
  listeners: [],
  set(step) {
    if (step === this.step) return;
    this.step = step;
    for (const listener of this.listeners) listener(step);
  },
};
