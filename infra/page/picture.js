// The image of a problem, and where the policy looks while it writes a token.

const isPicture = (image) => Array.isArray(image) && image.length && image.length <= 64
  && image.every((line) => typeof line === "string" && line.length <= 64);

// A picture of an image, which is a list of lines with "#" for black. show(shares) darkens the
// patches by their shares of the attention, in percent, row by row. Returns {element, show}.
function picture(image, caption) {
  const size = image.length, pixels = [];
  image.forEach((line, y) => [...line].forEach((pixel, x) => {
    if (pixel === "#") pixels.push(svg("rect", { class: "ink", x, y, width: 1, height: 1 }));
  }));
  const overlay = svg("g", {}), note = el("figcaption", { class: "muted", text: caption });
  const element = el("figure", { class: "picture" },
    svg("svg", { viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": "the image" },
      svg("rect", { class: "paper", width: size, height: size }), pixels, overlay), note);
  return { element, show(shares) {
    if (!Array.isArray(shares) || !shares.every(isNumber)) return;
    const side = Math.round(Math.sqrt(shares.length)), width = size / side;
    const most = Math.max(1, ...shares);
    overlay.replaceChildren(...shares.map((share, i) => svg("rect", { class: "look",
      x: width * (i % side), y: width * Math.floor(i / side), width, height: width,
      "fill-opacity": 0.7 * share / most })));
    const sum = shares.reduce((a, b) => a + b, 0);
    note.textContent = `${number(sum)}% of the attention goes to the image`;
  } };
}
