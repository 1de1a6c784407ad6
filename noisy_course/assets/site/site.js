// Opens the code that is not a check or a solution, and folds all of it at a click.
"use strict";
const code = [...document.querySelectorAll(".cell details.above-input")];
code.forEach(fold => { fold.open = fold.closest(".cell").classList.contains("tag_open"); });

if (code.length) {
  const button = document.createElement("button");
  const name = () => { button.textContent = code.some(fold => fold.open) ? "Fold all code" : "Show all code"; };
  button.className = "fold";
  button.addEventListener("click", () => {
    const open = !code.some(fold => fold.open);
    code.forEach(fold => { fold.open = open; });
    name();
  });
  name();
  document.querySelector("h1").after(button);
}
