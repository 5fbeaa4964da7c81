// Puts the sections on the page.

const PARTS = [["glance", "At a glance", glance], ["curves", "Curves", curves],
  ["rollouts", "Rollouts", rollouts], ["time", "Over time", overTime]];

function build() {
  document.title = `${plain(DATA.title)} — report`;
  const main = document.getElementById("main");
  const links = [];
  for (const [id, label, part] of PARTS) {
    const made = part();
    if (!made) continue;
    main.append(made);
    links.push(el("a", { href: `#${id}`, text: label }));
  }
  document.querySelector(".bar").append(el("nav", { "aria-label": "Sections" }, links),
    el("span", { class: "name", text: DATA.title }), themeSwitch());
}

build();
