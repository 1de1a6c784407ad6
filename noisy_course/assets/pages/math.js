// Formulas stand where a class says so, and nowhere else.
"use strict";
window.MathJax = { options: { ignoreHtmlClass: "as-it-is", processHtmlClass: "math" } };
