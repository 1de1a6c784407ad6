// Draws each figure when it comes into view, shows which boxes scroll sideways, offers one setting or one
// method alone, folds code, searches, and remembers who wants it dark.
"use strict";
const plots = [...document.querySelectorAll(".plot")];
let chosen = "";
// No button may send a figure to the net.
const CONFIG = {
  responsive: true, displaylogo: false, plotlyServerURL: "",
  modeBarButtonsToRemove: ["select2d", "lasso2d", "sendChartToCloud", "sendDataToCloud"],
};

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
  const row = document.querySelector(".chooser");
  const sections = [...new Set(plots.map(div => div.closest("section")))];
  if (!row || sections.length < 2) return;
  const titles = sections.map((s, i) => [i, s.querySelector("h2, h3").firstChild.textContent]);
  const show = v => sections.forEach((s, i) => { s.hidden = v !== "" && v !== String(i); });
  row.append(choose("Show", [["", "all settings"], ...titles], show));
  const traces = plots.flatMap(div => JSON.parse(div.querySelector("script").textContent).data);
  const methods = new Map(traces.filter(t => t.legendgroup && t.name).map(t => [t.legendgroup, t.name]));
  if (methods.size > 1) row.append(choose("Method", [["", "all methods"], ...methods], v => {
    chosen = v;
    for (const div of plots) if (div.fig) Plotly.restyle(div, { visible: shown(div.fig) });
  }));
}

// A box that is cut fades at the side where there is more, and can be reached with the keyboard.
const BOXES = [...document.querySelectorAll(".scroll, .output, .math, pre")];

function sign(box) {
  const hidden = box.scrollWidth - box.clientWidth, more = box.clientWidth > 0 && hidden > 1;
  const left = more && box.scrollLeft > 1, right = more && box.scrollLeft < hidden - 1;
  for (const [name, on] of Object.entries({ more, left, right })) box.classList.toggle(name, on);
  if (more) box.tabIndex = 0;
}

function signs() {
  const boxOf = part => part.matches(".inside") ? part.parentElement : part;
  const grows = new ResizeObserver(all => all.forEach(e => sign(boxOf(e.target))));
  for (const box of BOXES) {
    for (const child of box.children) child.classList.add("inside");
    for (const part of [box, ...box.children]) grows.observe(part);
    box.addEventListener("scroll", () => sign(box), { passive: true });
  }
}

// Code that is no check and no solution is open; one button folds all of it.
function folds() {
  const code = [...document.querySelectorAll("details.code")];
  if (!code.length) return;
  const button = document.createElement("button"), some = () => code.some(fold => fold.open);
  const name = () => { button.textContent = some() ? "Fold all code" : "Show all code"; };
  button.className = "fold";
  button.addEventListener("click", () => {
    const open = !some();
    code.forEach(fold => { fold.open = open; });
    name();
  });
  name();
  document.querySelector("h1").after(button);
}

// A menu closes where one clicks beside it, and with Escape. What a page has is open where there is room.
function menus() {
  const all = [...document.querySelectorAll("header details")];
  const close = () => all.forEach(menu => { menu.open = false; });
  addEventListener("click", e => { if (!e.target.closest("header details")) close(); });
  addEventListener("keydown", e => { if (e.key === "Escape") close(); });
  const contents = document.querySelector(".prose > .contents");
  if (contents) contents.open = matchMedia("(min-width: 80rem)").matches;
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  document.querySelector(".theme")?.addEventListener("click", () => {
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    try { localStorage.theme = root.dataset.theme; } catch {}
  });
}

// A text is found if it has all words; a word in a title counts more than many in the text.
function search() {
  const list = document.querySelector(".found"), asked = new URLSearchParams(location.search).get("q") ?? "";
  const words = asked.toLowerCase().split(/\s+/).filter(Boolean);
  if (!list || !words.length) return;
  document.querySelector("[name=q]").value = asked;
  const weight = ([, page, title, text], word) => [page, title, text].reduce(
    (sum, part, i) => sum + (part.toLowerCase().split(word).length - 1) * [20, 10, 1][i], 0);
  const scored = TEXTS.map(entry => [entry, Math.min(...words.map(word => weight(entry, word)))])
    .filter(([, least]) => least > 0).sort((a, b) => b[1] - a[1]);
  for (const [[link, page, title, text]] of scored.slice(0, 50)) {
    const item = document.createElement("li"), a = document.createElement("a");
    const at = text.toLowerCase().indexOf(words[0]);
    Object.assign(a, { href: link, textContent: title === page ? title : `${title} · ${page}` });
    item.append(a, document.createElement("br"), text.slice(Math.max(0, at - 80), Math.max(0, at) + 120));
    list.append(item);
  }
  const more = scored.length > 50 ? "; the first 50:" : ".";
  document.querySelector(".count").textContent = `${scored.length} places have “${asked}”${more}`;
}

// The observer tells of changes only: what is in view when all is loaded is drawn then, whichever script came
// first.
function near(div) {
  const r = div.getBoundingClientRect();
  return r.height > 0 && r.top < innerHeight + 400 && r.bottom > -400;
}

for (const start of [choosers, folds, signs, menus, search]) start();
const seen = new IntersectionObserver(
  all => all.forEach(e => { if (e.isIntersecting) draw(e.target); }), { rootMargin: "400px" });
plots.forEach(div => seen.observe(div));
addEventListener("load", () => { plots.filter(near).forEach(draw); BOXES.forEach(sign); });
addEventListener("beforeprint", () => plots.forEach(draw));
