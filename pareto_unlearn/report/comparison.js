"use strict";
// Draws the figures of a comparison. Texts are escaped where the figures are made.
(() => {
  const page = JSON.parse(document.getElementById("report-data").textContent);
  const drawAll = () => {
    for (const [name, figure] of Object.entries(page.figures)) theme.draw(document.getElementById(name), figure, page.config, name);
  };

  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("beforeprint", () => { Object.assign(document.documentElement.dataset, { theme: "light", printing: "" }); drawAll(); });
  addEventListener("afterprint", () => {
    delete document.documentElement.dataset.theme;
    delete document.documentElement.dataset.printing;
    drawAll();
    for (const name of Object.keys(page.figures)) Plotly.Plots.resize(document.getElementById(name));
  });
  document.documentElement.dataset.ready = "true";
})();
