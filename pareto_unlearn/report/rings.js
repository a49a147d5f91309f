"use strict";
// The ring around the selected model lies over a figure: to move a point of its own, Plotly would draw all anew.
const rings = (() => {
  const known = new WeakMap();

  const draw = (div) => {
    for (const ring of div.querySelectorAll(":scope > .ring")) ring.remove();
    const { positions, key } = known.get(div);
    positions.forEach((places, row) => {
      const place = places[key];
      if (!place) return;
      const suffix = row ? String(row + 1) : "";
      const axes = [div._fullLayout[`xaxis${suffix}`], div._fullLayout[`yaxis${suffix}`]];
      const [left, top] = axes.map((axis, index) => axis.d2p(place[index]));
      // A reader who zooms in may leave the model outside.
      if (left < -1 || left > axes[0]._length + 1 || top < -1 || top > axes[1]._length + 1) return;
      const ring = document.createElement("span");
      ring.className = "ring";
      Object.assign(ring.style, { left: `${axes[0]._offset + left}px`, top: `${axes[1]._offset + top}px` });
      div.append(ring);
    });
  };

  // `positions` has the places of all models by key, a list of them for each row of a figure.
  const place = (div, positions, key) => {
    if (!known.has(div)) div.on("plotly_afterplot", () => draw(div));
    known.set(div, { positions, key });
    draw(div);
  };

  return { place };
})();
