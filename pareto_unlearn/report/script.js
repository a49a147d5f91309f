"use strict";
// Joins the parts of the page: one selection shown in figures, images, tables and details.
// Texts come from the store, so they enter the page through textContent only.
(() => {
  const byId = (id) => document.getElementById(id);
  const report = JSON.parse(byId("report-data").textContent);
  const state = { key: report.start, split: "train", scale: "linear", seed: report.seedSliders[0]?.[0] };
  const STRIP = 5;

  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };

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

  const draw = (div, figure, revision) => {
    const css = getComputedStyle(document.documentElement);
    const { data, layout } = themed({ data: figure.data, layout: figure.layout }, css);
    layout.uirevision = revision;
    // Plotly measures the box again by itself, but not while the browser prepares to print.
    if ("printing" in document.documentElement.dataset) Object.assign(layout, { width: div.clientWidth, height: div.clientHeight });
    layout.font.family = layout.hoverlabel.font.family = getComputedStyle(document.body).fontFamily;
    return Plotly.react(div, data, layout, report.config);
  };

  const placeRings = (div, figure, positions) => {
    const first = figure.data.length - positions.length;
    const places = positions.map((known) => known[state.key]);
    Plotly.restyle(
      div,
      { x: places.map((place) => (place ? [place[0]] : [])), y: places.map((place) => (place ? [place[1]] : [])) },
      places.map((_, index) => first + index),
    );
  };

  const markOf = (key) => document.querySelector(`#trials tr[data-key="${key}"] .mark`).cloneNode(true);

  const viewName = () => `${state.split}-${state.scale}`;

  const drawFront = () => {
    const div = byId("figure-front");
    const figure = report.front[viewName()];
    draw(div, figure, viewName());
    placeRings(div, figure, [figure.positions]);
    for (const part of document.querySelectorAll("[data-view]")) part.hidden = part.dataset.view !== viewName();
  };

  const core = new Set(report.metricData.core);
  // What can stand across: the quantities of the front, then every metric itself.
  const quantities = [...report.metricData.quantities, ...report.metricData.axes.map((axis) => ({ name: axis.title, log: false, values: axis.values }))];
  let placed = [];

  const drawMetrics = () => {
    if (!report.metrics.length) return;
    const quantity = quantities[Number(byId("metric-across").value)];
    const across = panels.reachAcross(quantity, core, byId("metric-range").value);
    const shown = byId("metric-choice").value;
    placed = report.metrics.map((figure) => panels.place(figure, quantity, across, core, byId("metric-zero").checked));
    placed.forEach((figure, index) => {
      const div = byId(`figure-metric-${index}`);
      const panel = div.closest(".panel");
      panel.hidden = shown !== "all" && shown !== String(index);
      if (panel.hidden) return;
      draw(div, figure, "metric");
      placeRings(div, figure, figure.positions);
    });
    byId("metric-said").textContent = panels.saysReach(quantity, across);
  };

  const drawProgress = () => {
    const div = byId("figure-progress");
    if (div) draw(div, progress.figure(report.progress, report.progressLayout, byId("progress-split").value, byId("progress-across").value), "progress");
  };

  let lines = null;

  const drawParallel = () => {
    const div = byId("figure-parallel");
    if (!div) return;
    lines = panels.parallel(report.metricData.axes, report.solutions, core);
    const layout = structuredClone(report.parallelLayout);
    Object.assign(layout.xaxis, { tickvals: lines.ticktext.map((_, index) => index), ticktext: lines.ticktext, range: [-0.2, lines.ticktext.length - 0.8] });
    draw(div, { data: [...lines.data, lines.chosen(state.key)], layout }, "parallel");
  };

  const placeLine = () => {
    if (lines === null) return;
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
    byId("curve-answers").replaceChildren(...(solution ? solution.answers.map(answerOf) : []));
    if (curve) draw(div, convergence.figure(curve, solution.colour, report.curveLayout, div.clientWidth > 700), `curve-${key}`);
  };

  const answerOf = ([question, answer, evidence]) => {
    const pair = make("div", `answer answer-${answer}`);
    pair.append(make("dt", "", question), make("dd", "", answer), make("dd", "minor", evidence));
    return pair;
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

  const drawAll = () => { drawFront(); drawProgress(); drawMetrics(); drawParallel(); drawCurve(); drawEmbedding(); drawRelearning(); };

  // Details: bars, evidence and the first images of the selected model.
  const barList = (bars) => {
    const list = make("div", "bars");
    for (const [name, part, shown] of bars) {
      if (part === null && shown === "\u2013") continue;
      const bar = make("div", "bar");
      const track = make("i");
      track.style.setProperty("--part", Math.min(Math.max(part ?? 0, 0), 1));
      bar.append(make("span", "", name), make("b", "", shown), track);
      list.append(bar);
    }
    return list;
  };

  const evidenceList = (rows) => {
    const list = make("dl", "evidence");
    for (const [term, shown] of rows) {
      const pair = make("div");
      pair.append(make("dt", "", term), make("dd", "", shown));
      list.append(pair);
    }
    return list;
  };

  const strip = (set) => {
    const rows = [...document.querySelectorAll(`#grid tr[data-set="${set}"]`)].slice(0, STRIP);
    const part = make("div", `strips strip-${set}`);
    if (!rows.length || !rows[0].querySelector(`td[data-key="${state.key}"]`)) return part;
    part.append(make("span", "strip-head", `${set} images`));
    for (const [label, selector] of [["input", '[data-role="input"]'], ["truth", '[data-role="truth"]'], ["this", `td[data-key="${state.key}"]`]]) {
      part.append(make("span", label === "this" ? "strip-label now" : "strip-label", label === "this" ? "this model" : label));
      for (let index = 0; index < STRIP; index += 1) {
        const image = rows[index]?.querySelector(`${selector} img`);
        part.append(image ? image.cloneNode() : make("span"));
      }
    }
    return part;
  };

  // A page opened as a file may be refused the clipboard; then the old command copies what is selected.
  const copy = async (line, button) => {
    const done = await navigator.clipboard?.writeText(line.textContent).then(() => true, () => false);
    if (!done) {
      getSelection().selectAllChildren(line);
      if (!document.execCommand("copy")) return;
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };

  const takeOut = (solution) => {
    const part = make("div", "take-out");
    const head = make("p", "minor", "trial ");
    head.append(make("code", "", solution.trial), solution.export ? "; to write its model to a file:" : "");
    part.append(head, ...(solution.export ? commandLine(solution.export) : []));
    return part;
  };

  const commandLine = (command) => {
    const line = make("code", "command", command);
    const button = make("button", "action", "Copy");
    button.type = "button";
    button.setAttribute("aria-label", "Copy the export command");
    button.setAttribute("aria-live", "polite");
    button.addEventListener("click", () => copy(line, button));
    return [line, button];
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
      ...commandLine(`${before}${file}-${fraction}.safetensors --epsilon ${fraction}${seed}`),
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
    byId("details").replaceChildren(head, sub, ...advice, barList(solution.bars[state.split]), evidenceList(solution.evidence), takeOut(solution), strip("forget"), strip("retain"));
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
    for (const cell of document.querySelectorAll("[data-key].selected")) cell.classList.remove("selected");
    for (const row of document.querySelectorAll("[aria-current]")) row.removeAttribute("aria-current");
    for (const cell of document.querySelectorAll(`[data-key="${state.key}"]`)) {
      cell.classList.add("selected");
      if (cell.tagName === "TR") cell.setAttribute("aria-current", "true");
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
    const front = report.front[viewName()];
    placeRings(byId("figure-front"), front, [front.positions]);
    placed.forEach((figure, index) => {
      const div = byId(`figure-metric-${index}`);
      if (!div.closest(".panel").hidden) placeRings(div, figure, figure.positions);
    });
    placeLine();
    followCurve();
    drawEmbedding();
    drawRelearning();
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
    if (![...choice.options].some((option) => option.value === String(state.key))) return;
    choice.value = String(state.key);
    drawCurve();
  };

  // Sorting: numbers as numbers, empty cells last in both directions.
  const sortBy = (head, column) => {
    const body = byId("trials").tBodies[0];
    const falling = head.getAttribute("aria-sort") === "ascending";
    const numeric = head.classList.contains("number") || column === 0;
    const value = (row) => {
      const text = row.cells[column].dataset.v;
      return text === "" ? null : numeric ? Number(text) : text;
    };
    const compare = (a, b) => {
      const [left, right] = [value(a), value(b)];
      if (left === null || right === null) return (left === null) - (right === null);
      const order = left < right ? -1 : left > right ? 1 : 0;
      return (falling ? -order : order) || Number(a.dataset.order) - Number(b.dataset.order);
    };
    body.append(...[...body.rows].sort(compare));
    for (const other of head.parentElement.cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
  };

  // Downloads. A text cell that a spreadsheet would run as a formula gets an apostrophe in front.
  const csvCell = (value) => {
    if (value === null) return "";
    if (typeof value === "object") return value.number;
    const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };

  const save = (name, type, text) => {
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  const asCsv = () => [report.trials.columns, ...report.trials.rows].map((row) => row.map(csvCell).join(",")).join("\r\n") + "\r\n";

  const asJson = () => {
    const bare = (value) => (value !== null && typeof value === "object" ? value.number : value);
    const rows = report.trials.rows.map((row) => Object.fromEntries(row.map((value, index) => [report.trials.columns[index], bare(value)])));
    return JSON.stringify(rows, null, 2);
  };

  const onClick = (event) => {
    const sorter = event.target.closest("[data-sort]");
    if (sorter) return sortBy(sorter.closest("th"), Number(sorter.dataset.sort));
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

  const listenToFigure = (div) => div.on("plotly_click", (event) => {
    const key = event.points[0]?.customdata;
    if (key !== undefined && key !== null) select(Number(key));
  });

  if (location.hash.includes("trial=")) recall();
  show();
  drawFront();
  drawProgress();
  drawMetrics();
  drawParallel();
  const choice = byId("curve-choice");
  if ([...choice.options].some((option) => option.value === String(state.key))) choice.value = String(state.key);
  drawCurve();
  drawEmbedding();
  drawRelearning();
  listenToFigure(byId("figure-front"));
  report.metrics.forEach((_, index) => listenToFigure(byId(`figure-metric-${index}`)));
  if (byId("figure-parallel")) listenToFigure(byId("figure-parallel"));
  document.addEventListener("click", onClick);
  document.addEventListener("change", onChange);
  byId("epsilon").addEventListener("input", (event) => onDial(Number(event.target.value)));
  byId("epsilon").addEventListener("keydown", onDialKey);
  byId("download-csv").addEventListener("click", () => save(`${report.name}-trials.csv`, "text/csv", asCsv()));
  byId("download-json").addEventListener("click", () => save(`${report.name}-trials.json`, "application/json", asJson()));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("beforeprint", () => { Object.assign(document.documentElement.dataset, { theme: "light", printing: "" }); drawAll(); });
  addEventListener("afterprint", () => {
    delete document.documentElement.dataset.theme;
    delete document.documentElement.dataset.printing;
    drawAll();
    for (const div of document.querySelectorAll(".js-plotly-plot")) if (!div.hidden) Plotly.Plots.resize(div);
  });
  if (report.reload) readAgain();
  document.documentElement.dataset.ready = "true";
})();
