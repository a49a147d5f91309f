"use strict";
// Draws figures in the theme of the reader. They are written with CSS variables as colours; Plotly needs the
// values of the present theme.
const theme = (() => {
  const themed = (node, css) => {
    if (typeof node === "string") {
      const variable = /^var\((--[a-z-]+)\)$/.exec(node);
      return variable ? css.getPropertyValue(variable[1]).trim() : node;
    }
    // Numbers are most of a figure; an array of them is taken as it is.
    if (Array.isArray(node)) return typeof node[0] === "number" ? node : node.map((part) => themed(part, css));
    if (node === null || typeof node !== "object") return node;
    return Object.fromEntries(Object.entries(node).map(([name, part]) => [name, themed(part, css)]));
  };

  const draw = (div, figure, config, revision) => {
    const css = getComputedStyle(document.documentElement);
    const { data, layout } = themed({ data: figure.data, layout: figure.layout }, css);
    layout.uirevision = revision;
    // Plotly measures the box again by itself, but not while the browser prepares to print.
    if ("printing" in document.documentElement.dataset) Object.assign(layout, { width: div.clientWidth, height: div.clientHeight });
    layout.font.family = layout.hoverlabel.font.family = getComputedStyle(document.body).fontFamily;
    return Plotly.react(div, data, layout, config);
  };

  return { draw };
})();
