"use strict";
// Joins the parts of the page: one selection shown in figures, images, tables and details.
// Texts come from the store, so they enter the page through textContent only.
(() => {
  const byId = (id) => document.getElementById(id);
  const report = JSON.parse(byId("report-data").textContent);
  const state = { key: report.start, split: "train", scale: "linear", seed: report.seedSliders[0]?.[0] };
  const STRIP = 5;

  // A thousand models share the names of their numbers.
  for (const one of report.solutions) {
    one.evidence = report.evidence.map((name, index) => [name, one.evidence[index]]).filter(([, shown]) => shown !== "\u2013");
    for (const split of Object.keys(one.bars)) one.bars[split] = report.bars.map((name, index) => [name, ...one.bars[split][index]]);
  }

  const { make } = elements;
  // Of the models of a large run the page has rows and points, but pictures of some only.
  const leftOut = new Set(report.leftOut);
  const trials = trialRows(byId("trials"), leftOut.size > 0);
  const seen = whenSeen(leftOut.size > 0);
  const draw = (div, figure, revision) => theme.draw(div, figure, report.config, revision);

  // A figure whose points are models; a click selects one.
  const drawModels = (div, figure, revision) => {
    const isNew = !div.classList.contains("js-plotly-plot");
    draw(div, figure, revision);
    if (isNew) div.on("plotly_click", (event) => {
      const key = event.points[0]?.customdata;
      if (key !== undefined && key !== null) select(Number(key));
    });
  };

  const markOf = (key) => trials.row(key).querySelector(".mark").cloneNode(true);

  const viewName = () => `${state.split}-${state.scale}`;

  const hoverOf = (key) => {
    const one = report.solutions[key];
    const bars = Object.fromEntries(one.bars[state.split].map(([name, , shown]) => [name, shown]));
    const numbers = Object.fromEntries(one.evidence);
    const [f1, f2] = ["f1", "f2"].map((name) => numbers[`${name}, ${state.split === "train" ? "training" : "held out"}`] ?? "\u2013");
    const lines = [
      `<b>${one.plain}</b>`, ...("epsilon" in numbers ? [`epsilon ${numbers.epsilon}`] : []), `f1 ${f1} · f2 ${f2}`, `completeness ${bars.completeness}`,
      `worst class ${bars["worst class"]} · worst 5 % of images ${bars["worst 5 % of images"]}`, `retained quality ${bars["retained quality"]}`,
      `${one.state.toUpperCase()} · ${report.splits[state.split]}`,
    ];
    return lines.join("<br>");
  };

  const withHover = (trace, positions) => {
    const texts = {
      models: hoverOf,
      requested: (key, x) => `${report.solutions[key].plain}<br>requested ${x.toFixed(1)} %, reached ${positions[key][0].toFixed(1)} %`,
    };
    return trace.meta ? { ...trace, hovertext: trace.customdata.map((key, index) => texts[trace.meta](key, trace.x[index])) } : trace;
  };

  const drawFront = () => {
    const div = byId("figure-front");
    const figure = report.front[viewName()];
    drawModels(div, { ...figure, data: figure.data.map((trace) => withHover(trace, figure.positions)) }, viewName());
    rings.place(div, [figure.positions], state.key);
    for (const part of document.querySelectorAll("[data-view]")) part.hidden = part.dataset.view !== viewName();
  };

  const core = new Set(report.metricData.core);
  // What can stand across: the quantities of the front, then every metric itself.
  const quantities = [...report.metricData.quantities, ...report.metricData.axes.map((axis) => ({ name: axis.title, log: false, values: axis.values }))];
  let placed = [];
  const partOf = (index) => byId(`figure-metric-${index}`).closest(".panel");

  const drawMetrics = () => {
    if (!report.metrics.length) return;
    const quantity = quantities[Number(byId("metric-across").value)];
    const across = panels.reachAcross(quantity, core, byId("metric-range").value);
    const shown = byId("metric-choice").value;
    placed = report.metrics.map((figure) => ({ ...panels.place(figure, quantity, across, core, byId("metric-zero").checked, report.solutions), isDrawn: false }));
    placed.forEach((figure, index) => { partOf(index).hidden = shown !== "all" && shown !== String(index); });
    byId("metric-said").textContent = panels.saysReach(quantity, across);
    followMetrics();
  };

  // A panel that comes into view late is drawn then, with the ring where it has to be by that time.
  const followMetrics = () => placed.forEach((figure, index) => seen.later(partOf(index), () => {
    if (partOf(index).hidden) return;
    const div = byId(`figure-metric-${index}`);
    if (!figure.isDrawn) drawModels(div, figure, "metric");
    figure.isDrawn = true;
    rings.place(div, figure.positions, state.key);
  }));

  const drawProgress = () => {
    const div = byId("figure-progress");
    if (div) draw(div, progress.figure(report.progress, report.progressLayout, byId("progress-split").value, byId("progress-across").value), "progress");
  };

  let lines = null;

  const drawParallel = () => {
    const div = byId("figure-parallel");
    if (!div) return;
    lines = panels.parallel(report.metricData.axes, report.solutions, core, leftOut);
    const layout = structuredClone(report.parallelLayout);
    Object.assign(layout.xaxis, { tickvals: lines.ticktext.map((_, index) => index), ticktext: lines.ticktext, range: [-0.2, lines.ticktext.length - 0.8] });
    drawModels(div, { data: [...lines.data, lines.chosen(state.key)], layout }, "parallel");
  };

  const placeLine = () => {
    if (lines === null) return drawParallel();
    const { x, y, customdata, hovertext } = lines.chosen(state.key);
    Plotly.restyle(byId("figure-parallel"), { x: [x], y: [y], customdata: [customdata], hovertext: [hovertext] }, [lines.data.length]);
  };

  const drawCurve = () => {
    const choice = byId("curve-choice");
    const div = byId("figure-curve");
    const key = choice.value;
    const curve = report.curves[key];
    const solution = report.solutions[Number(key)];
    byId("curve-none").hidden = Boolean(curve);
    byId("curve-none").textContent = solution ? solution.noCurve : "";
    div.hidden = !curve;
    byId("curve-text").textContent = solution ? [solution.state, solution.reason].filter(Boolean).join(" · ") : "";
    byId("curve-answers").replaceChildren(...(solution ? solution.answers.map(elements.answer) : []));
    if (curve) draw(div, convergence.figure(curve, solution.colour, report.curveLayout, div.clientWidth > 700), `curve-${key}`);
  };

  // A figure of the selected model; the section is missing where no model has one.
  const drawOwn = (name, figures) => {
    const div = byId(`figure-${name}`);
    if (!div) return;
    const figure = figures[state.key];
    byId(`${name}-none`).hidden = Boolean(figure);
    div.hidden = !figure;
    byId(`${name}-text`).textContent = report.solutions[state.key]?.label ?? "";
    if (figure) draw(div, figure, `${name}-${state.key}`);
  };

  const drawEmbedding = () => drawOwn("embedding", report.embeddings);
  const drawRelearning = () => drawOwn("relearning", report.relearning);

  // Every part below the front that follows the selection, each when it is in view.
  const followRest = () => {
    const parts = [["figure-parallel", placeLine], ["figure-curve", followCurve], ["figure-embedding", drawEmbedding], ["figure-relearning", drawRelearning]];
    for (const [name, work] of parts) {
      const part = byId(name)?.closest("section, article");
      if (part) seen.later(part, work);
    }
  };

  const drawAll = () => { drawFront(); drawProgress(); drawMetrics(); drawParallel(); drawCurve(); drawEmbedding(); drawRelearning(); };

  // The first images of a set as the input, the truth and this model have them; empty without its pictures.
  const stripOf = (set) => {
    const rows = [...document.querySelectorAll(`#grid tr[data-set="${set}"]`)].slice(0, STRIP);
    const own = `td[data-key="${state.key}"]`;
    const shown = rows[0]?.querySelector(own) ? [["input", '[data-role="input"]'], ["truth", '[data-role="truth"]'], ["this model", own]] : [];
    return elements.strip(set, shown.map(([label, selector]) => [label, rows.map((row) => row.querySelector(`${selector} img`))]), STRIP);
  };

  const takeOut = (solution) => {
    const part = make("div", "take-out");
    const head = make("p", "minor", "trial ");
    head.append(make("code", "", solution.trial), solution.export ? "; to write its model to a file:" : "");
    part.append(head, ...(solution.export ? elements.command(solution.export, "Copy the export command") : []));
    return part;
  };

  const pictures = (solution) => {
    if (!byId("grid") || !leftOut.has(state.key)) return [stripOf("forget"), stripOf("retain")];
    const part = make("div", "take-out");
    part.append(
      make("p", "minor", "This page leaves out the pictures of this model. This writes it with them:"),
      ...elements.command(`${report.picturesLine} ${solution.trial}`, "Copy the command"),
    );
    return [part];
  };

  // Between two trials no model is measured; the line makes one there.
  const dialAt = (value) => {
    const [left, right] = [Math.floor(value), Math.ceil(value)].map((place) => report.solutions[sliderKeys()[place]]);
    if (!report.dial || left === right || [left, right].some((one) => one.fraction === null)) return null;
    const fraction = left.fraction + (value - Math.floor(value)) * (right.fraction - left.fraction);
    return fraction > 0 && fraction < 1 ? { left, right, fraction: Number(fraction.toPrecision(3)) } : null;
  };

  const showBetween = ({ left, right, fraction }) => {
    const percent = `${Number((100 * fraction).toPrecision(3))}\u00a0%`;
    byId("dial-mark").replaceChildren();
    byId("dial-label").textContent = ` between ${left.label} and ${right.label}`;
    byId("dial-numbers").textContent = `epsilon ${percent} · not measured`;
    byId("epsilon").setAttribute("aria-valuetext", `epsilon ${percent}, between two models, not measured`);
    const seed = report.severalSeeds ? ` --seed ${right.seed}` : "";
    const [before, file] = report.dial;
    const part = make("div", "take-out between");
    part.append(
      make("p", "minor", `Not measured: no model lies at epsilon ${percent}. This line mixes one from its neighbours within seconds, measures it and writes it:`),
      ...elements.command(`${before}${file}-${fraction}.safetensors --epsilon ${fraction}${seed}`, "Copy the export command"),
    );
    document.querySelector("#details .between")?.remove();
    byId("details").prepend(part);
  };

  const onDial = (value) => {
    const between = dialAt(value);
    select(sliderKeys()[Math.round(value)]);
    if (between === null) {
      if (document.querySelector("#details .between") || !Number.isInteger(value)) show();
      return;
    }
    byId("epsilon").value = String(value);
    showBetween(between);
  };

  // Keys go from trial to trial; only the pointer stops between them.
  const onDialKey = (event) => {
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -3, PageUp: 3, Home: -Infinity, End: Infinity };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const last = sliderKeys().length - 1;
    const place = Math.min(Math.max(Math.round(Number(event.target.value)) + steps[event.key], 0), last);
    event.target.value = String(place);
    onDial(place);
  };

  const showDetails = (solution) => {
    const head = make("h3");
    head.append(markOf(state.key), ` ${solution.label}`);
    const sub = make("p", "sub");
    sub.append(make("span", `state state-${solution.state}`, `${solution.stateMark} ${solution.state}`), ` ${solution.reason}`);
    const advice = solution.advice ? [make("p", "advice", solution.advice)] : [];
    if (solution.overSeeds) advice.push(make("p", "advice", solution.overSeeds[state.split]));
    byId("details").replaceChildren(head, sub, ...advice, elements.bars(solution.bars[state.split]), elements.evidence(solution.evidence), takeOut(solution), ...pictures(solution));
  };

  // From three seeds on the slider runs over the models of one of them.
  const seedLists = new Map(report.seedSliders);
  const sliderKeys = () => seedLists.get(state.seed) ?? report.slider;

  const followSeed = () => {
    if (!seedLists.size || sliderKeys().includes(state.key)) return;
    const found = [...seedLists].find(([, keys]) => keys.includes(state.key));
    if (!found) return;
    [state.seed] = found;
    byId("seed").value = String(state.seed);
  };

  // The model of another seed that has the same name, or else the same place on the slider.
  const changeSeed = (seed) => {
    const { name } = report.solutions[state.key];
    const place = sliderKeys().indexOf(state.key);
    state.seed = seed;
    const keys = sliderKeys();
    select(keys.find((key) => report.solutions[key].name === name) ?? keys[Math.min(Math.max(place, 0), keys.length - 1)]);
  };

  const showDial = (solution) => {
    const shown = Object.fromEntries(solution.bars[state.split].map(([name, , value]) => [name, value]));
    byId("dial-mark").replaceChildren(markOf(state.key));
    byId("dial-label").textContent = ` ${solution.label}`;
    const numbers = `completeness ${shown.completeness} · retained quality ${shown["retained quality"]}`;
    byId("dial-numbers").textContent = numbers;
    const slider = byId("epsilon");
    followSeed();
    const place = sliderKeys().indexOf(state.key);
    slider.max = String(Math.max(0, sliderKeys().length - 1));
    if (place >= 0) slider.value = String(place);
    slider.setAttribute("aria-valuetext", `${solution.label}, ${numbers}`);
  };

  const showInTables = () => {
    trials.select(state.key);
    seen.later(byId("trials-section"), trials.reveal);
    for (const cell of document.querySelectorAll(":is(th, td).selected")) cell.classList.remove("selected");
    for (const cell of document.querySelectorAll(`:is(th, td)[data-key="${state.key}"]`)) {
      cell.classList.add("selected");
      if (cell.tagName === "TH") reveal(cell);
    }
  };

  // Scrolls the table sideways, never the page.
  const reveal = (cell) => {
    const box = cell.closest(".scroll");
    const fixed = [...cell.parentElement.querySelectorAll(".stick")].reduce((sum, head) => sum + head.offsetWidth, 0);
    const left = cell.offsetLeft - fixed - 8;
    const right = cell.offsetLeft + cell.offsetWidth - box.clientWidth + 8;
    if (box.scrollLeft > left) box.scrollLeft = left;
    else if (box.scrollLeft < right) box.scrollLeft = right;
  };

  const showWorst = (solution) => {
    const place = byId("worst-class");
    if (!place) return;
    const sentence = solution.worst[state.split];
    place.textContent = sentence ? `Forgotten least at ${solution.label}: ${sentence}.` : "";
  };

  const show = () => {
    const solution = report.solutions[state.key];
    if (!solution) return;
    showDetails(solution);
    showDial(solution);
    showInTables();
    showWorst(solution);
  };

  const select = (key) => {
    if (!report.solutions[key] || key === state.key) return;
    state.key = key;
    remember();
    show();
    rings.place(byId("figure-front"), [report.front[viewName()].positions], state.key);
    followMetrics();
    followRest();
  };

  // While its sweep runs, the page reads itself again; the address keeps what the reader has chosen.
  const remember = () => {
    if (!report.reload) return;
    const { key, split, scale } = state;
    const chosen = { trial: report.solutions[key]?.trial ?? "", split, scale, hide: String(byId("hide-forget")?.checked ?? false) };
    history.replaceState(null, "", `#${new URLSearchParams(chosen)}`);
  };

  const recall = () => {
    const chosen = new URLSearchParams(location.hash.slice(1));
    const key = report.solutions.findIndex((one) => one.trial === chosen.get("trial"));
    if (key >= 0) state.key = key;
    for (const control of document.querySelectorAll('input[name="split"], input[name="scale"]')) {
      control.checked = control.value === (chosen.get(control.name) ?? state[control.name]);
      if (control.checked) state[control.name] = control.value;
    }
    for (const table of document.querySelectorAll("[data-split]")) table.hidden = table.dataset.split !== state.split;
    const hide = byId("hide-forget");
    if (hide) hide.checked = chosen.get("hide") === "true";
    document.body.classList.toggle("hide-forget", Boolean(hide?.checked));
  };

  const readAgain = () => {
    let touched = Date.now();
    for (const name of ["pointerdown", "keydown", "wheel"]) addEventListener(name, () => { touched = Date.now(); }, { passive: true });
    setInterval(() => { if (Date.now() - touched >= 1000 * report.reload) location.reload(); }, 1000);
  };

  const followCurve = () => {
    const choice = byId("curve-choice");
    const before = choice.value;
    choice.value = String(state.key);
    if (choice.value !== String(state.key)) choice.value = before; // the original has no curve
    drawCurve();
  };

  const onClick = (event) => {
    const copier = event.target.closest("[data-copy]");
    if (copier) return elements.copy(copier);
    const sorter = event.target.closest("[data-sort]");
    if (sorter) return trials.sortBy(sorter.closest("th"), Number(sorter.dataset.sort));
    const chosen = event.target.closest("[data-select]")?.dataset.select ?? event.target.closest("tbody tr[data-key], td[data-key]")?.dataset.key;
    if (chosen !== undefined) select(Number(chosen));
  };

  const onChange = (event) => {
    const { name, value, id, checked } = event.target;
    if (name === "split") {
      state.split = value;
      for (const table of document.querySelectorAll("[data-split]")) table.hidden = table.dataset.split !== value;
      show();
      drawFront();
    } else if (name === "scale") {
      state.scale = value;
      drawFront();
    } else if (id === "seed") changeSeed(Number(value));
    else if (id === "curve-choice") drawCurve();
    else if (id.startsWith("metric-")) drawMetrics();
    else if (id.startsWith("progress-")) drawProgress();
    else if (id === "hide-forget") document.body.classList.toggle("hide-forget", checked);
    remember();
  };

  if (location.hash.includes("trial=")) recall();
  show();
  drawFront();
  if (byId("figure-progress")) seen.later(byId("figure-progress"), drawProgress);
  drawMetrics();
  followRest();
  document.addEventListener("click", onClick);
  document.addEventListener("change", onChange);
  byId("epsilon").addEventListener("input", (event) => onDial(Number(event.target.value)));
  byId("epsilon").addEventListener("keydown", onDialKey);
  byId("download-csv").addEventListener("click", () => elements.save(`${report.name}-trials.csv`, "text/csv", elements.asCsv(report.trials)));
  byId("download-json").addEventListener("click", () => elements.save(`${report.name}-trials.json`, "application/json", elements.asJson(report.trials)));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  byId("trials-find")?.addEventListener("input", (event) => { byId("trials-found").textContent = `${trials.find(event.target.value)} of ${trials.count} trials`; });
  addEventListener("beforeprint", () => {
    Object.assign(document.documentElement.dataset, { theme: "light", printing: "" });
    trials.spread(true);
    drawAll();
    seen.all();
  });
  addEventListener("afterprint", () => {
    delete document.documentElement.dataset.theme;
    delete document.documentElement.dataset.printing;
    trials.spread(false);
    drawAll();
    for (const div of document.querySelectorAll(".js-plotly-plot")) if (!div.hidden) Plotly.Plots.resize(div);
  });
  if (report.reload) readAgain();
  document.documentElement.dataset.ready = "true";
})();
