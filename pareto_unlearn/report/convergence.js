"use strict";
// The convergence of one trial: f1 and f2 beside eta, both gradient norms and their cosine, against the step.
const convergence = (() => {
  const GAP = 0.06;
  // On a wide page what is minimised stands left and how it is steered right; on a phone all stand below one another.
  const PLACES = {
    wide: [[0, 0.47, 0.54, 1], [0, 0.47, 0, 0.46], [0.56, 1, 0.72, 1], [0.56, 1, 0.36, 0.64], [0.56, 1, 0, 0.28]],
    narrow: [0, 1, 2, 3, 4].map((row) => [0, 1, 1 - (row + 1) * (1 + GAP) / 5 + GAP, 1 - row * (1 + GAP) / 5]),
  };

  const trace = (curve, panel, name, label, look) => ({
    type: "scatter", mode: "lines", name: label, x: curve.step, y: curve[name], line: { width: 1.4, ...look },
    xaxis: panel ? `x${panel + 1}` : "x", yaxis: panel ? `y${panel + 1}` : "y",
  });

  const figure = (curve, colour, base, isWide) => {
    const layout = structuredClone(base);
    PLACES[isWide ? "wide" : "narrow"].forEach(([left, right, bottom, top], panel) => {
      const suffix = panel ? String(panel + 1) : "";
      layout[`xaxis${suffix}`].domain = [left, right];
      layout[`yaxis${suffix}`].domain = [Math.max(0, bottom), Math.min(1, top)];
      if (!isWide && panel === 1) Object.assign(layout.xaxis2, { showticklabels: false, title: { text: "" } });
    });
    const parts = [
      [0, "f1", "f1", { color: colour }], [0, "epsilon", "epsilon", { dash: "dash", color: "var(--ink-soft)" }],
      [1, "f2", "f2", { color: colour }], [2, "multiplier", "eta", { color: colour }],
      [3, "gradient_norm_f1", "|gradient of f1|", { color: "var(--vermillion)" }], [3, "gradient_norm_f2", "|gradient of f2|", { color: "var(--blue)" }],
      [4, "cosine", "cosine", { color: colour }],
    ];
    const drawn = parts.filter(([, name]) => curve[name].some((value) => value !== null));
    return { data: drawn.map(([panel, name, label, look]) => trace(curve, panel, name, label, look)), layout };
  };

  return { figure };
})();
