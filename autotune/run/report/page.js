"use strict";
const narrow = () => window.innerWidth < 520;
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function layoutOf(figure) {
  const text = colour("--soft");
  const layout = structuredClone(figure.layout);
  layout.font = { ...layout.font, color: text, size: narrow() ? 11 : 13 };
  layout.hoverlabel = { ...layout.hoverlabel, bgcolor: colour("--raised"), bordercolor: colour("--line") };
  layout.hoverlabel.font = { ...layout.hoverlabel.font, color: colour("--text") };
  return layout;
}

function draw() {
  for (const place of document.querySelectorAll(".picture")) {
    const data = document.getElementById(place.id.replace("-picture", "-data"));
    const figure = JSON.parse(data.textContent);
    Plotly.react(place, figure.data, layoutOf(figure), { displayModeBar: false, responsive: true });
  }
}

async function copy(event) {
  const said = document.querySelector(".said");
  try {
    await navigator.clipboard.writeText(event.target.dataset.command);
    said.textContent = "Copied.";
  } catch {
    const line = event.target.previousElementSibling;
    getSelection().selectAllChildren(line);
    said.textContent = "Marked; copy it with the keyboard.";
  }
  setTimeout(() => { said.textContent = ""; }, 2500);
}

if (window.Plotly) {
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}
for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", copy);
