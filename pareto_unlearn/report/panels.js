"use strict";
// The metric panels: what stands across, how far the axes reach, and all metrics of a model as one line.
// Knows no element of the page; script.js draws what these functions return.
const panels = (() => {
  const known = (values) => values.filter((value) => value !== null && Number.isFinite(value));

  // Limits that show the core and whatever lies near it; far values do not stretch the axis.
  const limitsOf = (core, others) => {
    if (new Set(core).size < 2) [core, others] = [[...core, ...others], []];
    if (!core.length) return [0, 1];
    let [low, high] = [Math.min(...core), Math.max(...core)];
    const reach = (high - low) / 2;
    const near = others.filter((value) => low - reach <= value && value <= high + reach);
    [low, high] = [Math.min(low, ...near), Math.max(high, ...near)];
    const pad = 0.07 * (high - low) || 0.1 * Math.abs(high) || 1;
    return [low - pad, high + pad];
  };

  // The shortest interval that holds three quarters of the values.
  const crowdOf = (values) => {
    const sorted = [...values].sort((a, b) => a - b);
    const count = Math.ceil(0.75 * sorted.length);
    let best = [sorted[0], sorted.at(-1)];
    for (let first = 0; first + count <= sorted.length; first += 1) {
      const [low, high] = [sorted[first], sorted[first + count - 1]];
      if (high - low < best[1] - best[0]) best = [low, high];
    }
    return best;
  };

  // Where most models lie in a third of the axis, the axis shows that third only, and the page says so.
  const reachAcross = (quantity, core, wish) => {
    const scale = quantity.log ? (value) => (value > 0 ? Math.log10(value) : null) : (value) => value;
    const places = quantity.values.map((value) => (value === null ? null : scale(value)));
    const inner = known(places.filter((_, key) => core.has(key)));
    const outer = known(places.filter((_, key) => !core.has(key)));
    const all = limitsOf(inner, outer);
    const crowd = inner.length > 3 ? crowdOf(inner) : all;
    const isCrowded = crowd[1] - crowd[0] < (all[1] - all[0]) / 3;
    const range = wish === "auto" ? (isCrowded ? "most" : "all") : wish;
    if (range === "most") {
      const limits = limitsOf(crowd, []);
      const count = inner.filter((value) => clamp(value, limits) === value).length;
      return { range, limits, places, isChosen: wish === "auto", count, of: inner.length };
    }
    if (range === "zero" && !quantity.log) return { range, limits: [Math.min(0, all[0]), all[1]], places };
    return { range: "all", limits: all, places };
  };

  const clamp = (value, [low, high]) => Math.min(Math.max(value, low), high);
  const unlog = (quantity, value) => (quantity.log ? 10 ** value : value);
  const round = (value) => Number(value.toPrecision(3));

  const saysReach = (quantity, across) => {
    const ends = across.limits.map((value) => round(unlog(quantity, value)));
    if (across.range !== "most") return "";
    const who = across.isChosen ? "The page chose the range" : "The axis shows the range";
    return `${who} ${ends[0]} to ${ends[1]} of ${quantity.name}, where ${across.count} of ${across.of} models of the front lie. Others stand open on its edge.`;
  };

  const decades = ([low, high]) => {
    const steps = high - low <= 3 ? [1, 2, 5] : [1];
    const ticks = [];
    for (let power = Math.floor(low); power <= high; power += 1) for (const step of steps) ticks.push(step * 10 ** power);
    const shown = ticks.filter((tick) => Math.log10(tick) >= low && Math.log10(tick) <= high);
    return { tickvals: shown, ticktext: shown.map((tick) => String(round(tick))) };
  };

  const openSymbol = (symbol) => (symbol.endsWith("-open") ? symbol : `${symbol}-open`);

  // A figure with its points placed along a quantity and within the axes; `positions` are by row and model.
  const place = (figure, quantity, across, core, fromZero, solutions) => {
    const rows = figure.rows;
    const layout = structuredClone(figure.layout);
    const points = (trace) => trace.customdata.map((key, index) => ({ key, x: across.places[key], y: trace.y[index] }));
    const isInside = (point) => point.x !== null && clamp(point.x, across.limits) === point.x;
    const traces = figure.data.filter((trace) => trace.customdata);
    const limits = rows.map((row) => {
      const own = traces.filter((trace) => trace.yaxis === row.yaxis).flatMap(points).filter(isInside);
      const [low, high] = limitsOf(own.filter((one) => core.has(one.key)).map((one) => one.y), own.filter((one) => !core.has(one.key)).map((one) => one.y));
      return fromZero ? [Math.min(0, low), Math.max(0, high)] : [low, high];
    });
    const positions = rows.map(() => ({}));
    const data = figure.data.map((trace) => {
      if (!trace.customdata) return trace;
      const row = rows.findIndex((one) => one.yaxis === trace.yaxis);
      const drawn = points(trace).map(({ key, x, y }) => (x === null ? [null, null, true] : [unlog(quantity, clamp(x, across.limits)), clamp(y, limits[row]), x === clamp(x, across.limits) && y === clamp(y, limits[row])]));
      drawn.forEach(([x, y], index) => { if (x !== null) positions[row][trace.customdata[index]] = [x, y]; });
      const symbol = drawn.map(([, , isWhole]) => (isWhole ? trace.marker.symbol : openSymbol(trace.marker.symbol)));
      const line = { ...trace.marker.line, color: drawn.map(([, , isWhole]) => (isWhole ? trace.marker.line.color : trace.marker.color)) };
      const hovertext = trace.customdata.map((key, index) => `<b>${solutions[key].plain}</b><br>${rows[row].set}: ${Number(trace.y[index].toPrecision(4))}<br>completeness ${solutions[key].bars.train[0][2]}`);
      return { ...trace, hovertext, x: drawn.map(([x]) => x), y: drawn.map(([, y]) => y), marker: { ...trace.marker, symbol, line } };
    });
    rows.forEach((row, index) => {
      const suffix = row.yaxis.slice(1);
      const axis = layout[`xaxis${suffix}`];
      Object.assign(axis, { type: quantity.log ? "log" : "linear", range: quantity.log ? [...across.limits].reverse() : across.limits });
      if (quantity.log) Object.assign(axis, decades(across.limits));
      if (index === rows.length - 1) axis.title.text = quantity.name;
      layout[`yaxis${suffix}`].range = limits[index];
    });
    return { data, layout, positions };
  };

  // All metrics of every model but those left out, one line a model; models far off the axis sit on its end.
  const parallel = (axes, solutions, core, leftOut) => {
    const scales = axes.map(({ values }) => limitsOf(known(values.filter((_, key) => core.has(key))), known(values.filter((_, key) => !core.has(key)))));
    const level = (index, value) => {
      const [low, high] = scales[index];
      return value === null ? null : (clamp(value, [low, high]) - low) / (high - low);
    };
    const lineOf = (key) => axes.map((axis, index) => level(index, axis.values[key]));
    const byColour = new Map();
    solutions.forEach((solution, key) => {
      if (leftOut.has(key) || !axes.some((axis) => axis.values[key] !== null)) return;
      if (!byColour.has(solution.colour)) byColour.set(solution.colour, []);
      byColour.get(solution.colour).push(key);
    });
    const trace = (keys, colour, width, opacity) => ({
      type: "scatter", mode: "lines+markers", connectgaps: false, opacity, hoverinfo: "text", cliponaxis: false,
      x: keys.flatMap(() => [...axes.keys(), null]),
      y: keys.flatMap((key) => [...lineOf(key), null]),
      customdata: keys.flatMap((key) => [...axes.map(() => key), null]),
      hovertext: keys.flatMap((key) => [...axes.map((axis) => `${solutions[key].plain}<br>${axis.title}: ${axis.values[key] === null ? "" : round(axis.values[key])}`), ""]),
      line: { width, color: colour }, marker: { size: width + 3, color: colour },
    });
    const named = (axis, index) => `${[...axis.words, axis.set].join("<br>")}<br>${scales[index].map((value) => String(round(value))).join("<br>to ")}`;
    return {
      data: [...byColour].map(([colour, keys]) => trace(keys, colour, 1.2, 0.55)),
      chosen: (key) => trace(key === null ? [] : [key], "var(--ink)", 3, 1),
      ticktext: axes.map(named),
    };
  };

  return { reachAcross, saysReach, place, parallel };
})();
