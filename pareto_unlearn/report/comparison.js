"use strict";
// Draws the figures of a comparison in the theme of the reader. Texts are escaped where the figures are made.
(() => {
  const page = JSON.parse(document.getElementById("report-data").textContent);

  // Figures are written with CSS variables as colours; Plotly needs the values of the present theme.
  const themed = (node, css) => {
    if (typeof node === "string") {
      const variable = /^var\((--[a-z-]+)\)$/.exec(node);
      return variable ? css.getPropertyValue(variable[1]).trim() : node;
    }
    if (Array.isArray(node)) return node.map((part) => themed(part, css));
    if (node === null || typeof node !== "object") return node;
    return Object.fromEntries(Object.entries(node).map(([name, part]) => [name, themed(part, css)]));
  };

  const drawAll = () => {
    const css = getComputedStyle(document.documentElement);
    for (const [name, figure] of Object.entries(page.figures)) {
      const { data, layout } = themed(figure, css);
      layout.font.family = layout.hoverlabel.font.family = getComputedStyle(document.body).fontFamily;
      Plotly.react(document.getElementById(name), data, layout, page.config);
    }
  };

  // Plotly measures a box again by itself, but not while the browser prepares to print.
  const fit = () => {
    for (const name of Object.keys(page.figures)) {
      const div = document.getElementById(name);
      Plotly.relayout(div, { width: div.clientWidth, height: div.clientHeight });
    }
  };

  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  matchMedia("print").addEventListener("change", fit);
})();
