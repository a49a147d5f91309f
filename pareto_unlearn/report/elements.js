"use strict";
// The parts of the panel of a model as elements, and what leaves the page: copied lines and downloads.
// Texts come from the store, so they enter the page through textContent only.
const elements = (() => {
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  const bars = (rows) => {
    const list = make("div", "bars");
    for (const [name, part, shown] of rows) {
      if (part === null && shown === "\u2013") continue;
      const bar = make("div", "bar");
      const track = make("i");
      track.style.setProperty("--part", Math.min(Math.max(part ?? 0, 0), 1));
      bar.append(make("span", "", name), make("b", "", shown), track);
      list.append(bar);
    }
    return list;
  };

  const evidence = (rows) => {
    const list = make("dl", "evidence");
    for (const [term, shown] of rows) {
      const pair = make("div");
      pair.append(make("dt", "", term), make("dd", "", shown));
      list.append(pair);
    }
    return list;
  };

  const answer = ([question, found, reason]) => {
    const pair = make("div", `answer answer-${found}`);
    pair.append(make("dt", "", question), make("dd", "", found), make("dd", "minor", reason));
    return pair;
  };

  // Rows of [label, images]; the last one is the model itself.
  const strip = (set, rows, count) => {
    const part = make("div", `strips strip-${set}`);
    if (!rows.length) return part;
    part.append(make("span", "strip-head", `${set} images`));
    rows.forEach(([label, images], index) => {
      part.append(make("span", index === rows.length - 1 ? "strip-label now" : "strip-label", label));
      for (let place = 0; place < count; place += 1) part.append(images[place] ? images[place].cloneNode() : make("span"));
    });
    return part;
  };

  // A line to copy with its button; the page's own lines in HTML have the same form.
  const command = (line, label) => {
    const button = make("button", "action", "Copy");
    button.type = "button";
    button.dataset.copy = "";
    button.setAttribute("aria-label", label);
    button.setAttribute("aria-live", "polite");
    return [make("code", "command", line), button];
  };

  // A page opened as a file may be refused the clipboard; then the old command copies what is selected.
  const copy = async (button) => {
    const line = button.previousElementSibling;
    const done = await navigator.clipboard?.writeText(line.textContent).then(() => true, () => false);
    if (!done) {
      getSelection().selectAllChildren(line);
      if (!document.execCommand("copy")) return;
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };

  // A text cell that a spreadsheet would run as a formula gets an apostrophe in front.
  const csvCell = (value) => {
    if (value === null) return "";
    if (typeof value === "object") return value.number;
    const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };

  const asCsv = ({ columns, rows }) => [columns, ...rows].map((row) => row.map(csvCell).join(",")).join("\r\n") + "\r\n";

  const asJson = ({ columns, rows }) => {
    const bare = (value) => (value !== null && typeof value === "object" ? value.number : value);
    return JSON.stringify(rows.map((row) => Object.fromEntries(row.map((value, index) => [columns[index], bare(value)]))), null, 2);
  };

  const save = (name, type, text) => {
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  return { make, bars, evidence, answer, strip, command, copy, asCsv, asJson, save };
})();
