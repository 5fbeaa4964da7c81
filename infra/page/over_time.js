// The same held-out problem at each evaluation: greedy answers, one under the other.

function overTime() {
  if (!DATA.held_out.length) return null;
  const place = el("ol", { class: "timeline" }), drawing = el("div", {});
  const show = (i) => {
    const { answers, image } = DATA.held_out[i];
    drawing.replaceChildren(...(isPicture(image) ? [picture(image, "the image").element] : []));
    place.replaceChildren(...answers.map((answer, k) => {
      const same = k > 0 && answers[k - 1].text === answer.text;
      const verdict = answer.correct === null || answer.correct === undefined ? "?"
        : answer.correct ? "✓ right" : "✗ wrong";
      return el("li", {},
        el("div", { class: "when" }, el("b", { text: `step ${answer.step}` }),
          el("span", { class: answer.correct ? "mark right" : "mark wrong", text: verdict }),
          el("span", { class: "muted", text: `${answer.text.length} characters` })),
        same ? el("p", { class: "muted", text: "the same answer" })
          : el("div", { class: "text" }, visible(answer.text, { breaks: false })));
    }));
  };
  const named = ({ question, answer }) => `${question.slice(0, 70)} `
    + `(answer ${answer})`;
  show(0);
  return section("time", "The same problem over time",
    el("div", { class: "tools" },
      select("Problem", DATA.held_out.map((problem, i) => [i, named(problem)]), 0, show),
      el("span", { class: "muted", text: "greedy answers; ↵ is a new line" })),
    drawing, place);
}
