// Draws each figure when it comes into view, shows which boxes scroll sideways, and offers to look at one setting or one method alone.
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

// A box that is cut fades at the side where there is more, and can be reached with the keyboard.
const BOXES = [...document.querySelectorAll(".scroll, .output, .math, .table-wrapper, pre")];

function sign(box) {
  const hidden = box.scrollWidth - box.clientWidth, more = box.clientWidth > 0 && hidden > 1;
  for (const [name, on] of Object.entries({ more, left: more && box.scrollLeft > 1, right: more && box.scrollLeft < hidden - 1 })) box.classList.toggle(name, on);
  if (more) box.tabIndex = 0;
}

function signs() {
  const grows = new ResizeObserver(all => all.forEach(e => sign(e.target.matches(".inside") ? e.target.parentElement : e.target)));
  for (const box of BOXES) {
    for (const child of box.children) child.classList.add("inside");
    for (const part of [box, ...box.children]) grows.observe(part);
    box.addEventListener("scroll", () => sign(box), { passive: true });
  }
}

// The observer tells of changes only: what is in view when all is loaded is drawn then, whichever script came first.
const near = div => { const r = div.getBoundingClientRect(); return r.height > 0 && r.top < innerHeight + 400 && r.bottom > -400; };

choosers();
signs();
const seen = new IntersectionObserver(all => all.forEach(e => { if (e.isIntersecting) draw(e.target); }), { rootMargin: "400px" });
plots.forEach(div => seen.observe(div));
addEventListener("load", () => { plots.filter(near).forEach(draw); BOXES.forEach(sign); });
addEventListener("beforeprint", () => plots.forEach(draw));
