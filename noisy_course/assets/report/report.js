// Draws each figure when it comes into view, and offers to look at one setting or one method alone.
"use strict";
const plots = [...document.querySelectorAll(".plot")];
let chosen = "";
// No button may send a figure to the net.
const CONFIG = { responsive: true, displaylogo: false, plotlyServerURL: "", modeBarButtonsToRemove: ["select2d", "lasso2d", "sendChartToCloud", "sendDataToCloud"] };

const shown = fig => fig.data.map(t => !chosen || !t.legendgroup || t.legendgroup === chosen);

function draw(div) {
  if (div.fig || !window.Plotly) return;
  const fig = div.fig = JSON.parse(div.querySelector("script").textContent);
  if (innerWidth < 640 && !div.classList.contains("wide")) {
    fig.layout.legend = { orientation: "h", y: -0.22 };
    Object.assign(fig.layout.margin, { l: 55, r: 10 });
  }
  const visible = shown(fig);
  fig.data.forEach((trace, i) => { if (!visible[i]) trace.visible = false; });
  Plotly.newPlot(div, fig.data, fig.layout, CONFIG);
}

function choose(label, options, act) {
  const box = document.createElement("label"), select = document.createElement("select");
  for (const [value, text] of options) select.add(new Option(text, value));
  select.addEventListener("change", () => act(select.value));
  box.append(label + " ", select);
  return box;
}

function choosers() {
  const row = document.querySelector(".chooser"), sections = [...new Set(plots.map(div => div.closest("section")))];
  if (!row || sections.length < 2) return;
  const titles = sections.map((s, i) => [i, s.querySelector("h2, h3").firstChild.textContent]);
  row.append(choose("Show", [["", "all settings"], ...titles], v => sections.forEach((s, i) => { s.hidden = v !== "" && v !== String(i); })));
  const methods = new Map();
  for (const div of plots) for (const t of JSON.parse(div.querySelector("script").textContent).data) if (t.legendgroup && t.name) methods.set(t.legendgroup, t.name);
  if (methods.size > 1) row.append(choose("Method", [["", "all methods"], ...methods], v => {
    chosen = v;
    for (const div of plots) if (div.fig) Plotly.restyle(div, { visible: shown(div.fig) });
  }));
}

choosers();
const seen = new IntersectionObserver(all => all.forEach(e => { if (e.isIntersecting) draw(e.target); }), { rootMargin: "400px" });
plots.forEach(div => seen.observe(div));
addEventListener("beforeprint", () => plots.forEach(draw));
