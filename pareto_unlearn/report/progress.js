"use strict";
// How far each method has come: the share of two fixed boxes that its models dominate, after each trial.
const progress = (() => {
  const figure = (lines, base, split, across) => {
    const layout = structuredClone(base);
    layout.xaxis.title.text = layout.xaxis2.title.text = across === "pairs" ? "pairs + measuring" : "trials";
    const trace = (line, box) => ({
      type: "scatter", mode: "lines+markers", showlegend: false, hoverinfo: "text",
      x: line[across], y: line.areas[split][box], line: { shape: "hv", width: 1.6, color: line.colour },
      marker: { size: 6, symbol: line.symbol, color: line.colour },
      hovertext: line.trials.map((count, index) => `${line.name}<br>${count} trials, ${Math.round(line.pairs[index]).toLocaleString("en")} pairs<br>share ${line.areas[split][box][index].toFixed(3)}`),
      xaxis: box ? "x2" : "x", yaxis: box ? "y2" : "y",
    });
    return { data: lines.flatMap((line) => [0, 1].map((box) => trace(line, box))), layout };
  };
  return { figure };
})();
