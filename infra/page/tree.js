// The tree of a search (search.py --show-html). Each node is a step with its score. Steps without
// a branch stand under each other. What the search pruned is dashed; the way to the chosen answer
// has a thick border.

function treePage() {
  document.title = `${plain(DATA.title)} — search`;
  const bar = document.querySelector(".bar");
  bar.append(el("span", { class: "name", text: DATA.title }), themeSwitch());
  document.getElementById("main").append(
    el("div", { class: "title" }, el("h1", {}, visible(DATA.question, { breaks: false })),
      el("p", { class: "muted", text: [DATA.method, `n = ${DATA.n}`,
        `${number(DATA.tokens)} sampled tokens`, `answer ${DATA.answer}`,
        DATA.correct ? "chosen answer right" : "chosen answer wrong"].join(" · ") })),
    section("tree", "Steps",
      el("div", { class: "tree-box", tabindex: "0" }, branch(DATA.tree, "tree"))),
    section("chosen", "Chosen answer", el("div", { class: "card" },
      el("div", { class: "text" }, visible(DATA.chosen)))));
}

function branch(nodes, name) {
  return el("ul", { class: name }, nodes.map((node) => {
    const chain = [node];
    while (chain.at(-1).below.length === 1) chain.push(chain.at(-1).below[0]);
    const below = chain.at(-1).below;
    return el("li", {}, el("div", { class: "chain" }, chain.map(nodeBox)),
      below.length ? branch(below) : null);
  }));
}

function nodeBox(node) {
  const kind = node.chosen ? "chosen" : node.pruned ? "pruned" : "";
  return el("div", { class: `node ${kind}` },
    el("div", { class: "text" }, visible(node.text)),
    el("footer", {}, isNumber(node.score) ? scoreBar(node.score) : null,
      node.count > 1 ? el("span", { text: `${node.count} samples` }) : null,
      kind ? el("span", { class: "mark", text: kind }) : null));
}

function scoreBar(score) {
  const bar = el("span", { class: `score-bar ${score < 0.5 ? "low" : ""}` }, el("i"));
  bar.style.setProperty("--score", `${100 * Math.max(0, Math.min(1, score))}%`);
  return el("span", { class: "score" }, bar, score.toFixed(2));
}

treePage();
