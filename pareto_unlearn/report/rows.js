"use strict";
// The table of all trials: its order, its selected row, and on a large page the window of rows that is drawn.
const trialRows = (table, isLarge) => {
  const SPARE = 12;
  const box = table.closest(".scroll");
  const body = table.tBodies[0];
  const all = [...body.rows];
  const byKey = new Map(all.map((row) => [row.dataset.key, row]));
  let order = all;
  let height = 0;
  let isWhole = !isLarge;
  let chosen = null;

  const space = (rows) => {
    const row = document.createElement("tr");
    row.className = "space";
    row.append(document.createElement("td"));
    row.firstChild.style.height = `${rows * height}px`;
    return row;
  };

  // Columns only ever get wider, or they would jump while the table scrolls.
  const keepWidths = () => {
    for (const head of table.tHead.rows[0].cells) {
      const wide = Math.max(head.offsetWidth, parseFloat(head.style.minWidth) || 0);
      if (head.style.minWidth !== `${wide}px`) head.style.minWidth = `${wide}px`;
    }
  };

  const draw = () => {
    if (isWhole) return body.replaceChildren(...order);
    const first = Math.max(0, Math.floor(box.scrollTop / height) - SPARE);
    const last = Math.min(order.length, first + Math.ceil(box.clientHeight / height) + 2 * SPARE);
    body.replaceChildren(space(first), ...order.slice(first, last), space(order.length - last));
    keepWidths();
  };

  // The drawn rows reach further than the box, so most scrolling draws nothing.
  const onScroll = () => {
    const drawn = body.querySelectorAll("tr[data-key]");
    if (!drawn.length) return;
    const view = box.getBoundingClientRect();
    const isCovered = drawn[0].getBoundingClientRect().top <= view.top || drawn[0] === order[0];
    if (!isCovered || (drawn[drawn.length - 1].getBoundingClientRect().bottom < view.bottom && drawn[drawn.length - 1] !== order.at(-1))) draw();
  };

  const row = (key) => byKey.get(String(key));

  // Never the page: only the box of the table is scrolled.
  const reveal = () => {
    const place = order.indexOf(chosen);
    if (isWhole || place < 0) return;
    const top = place * height;
    const room = box.clientHeight - table.tHead.offsetHeight;
    if (top < box.scrollTop || top + height > box.scrollTop + room) box.scrollTop = Math.max(0, top - room / 2);
  };

  const select = (key) => {
    chosen?.classList.remove("selected");
    chosen?.removeAttribute("aria-current");
    chosen = row(key) ?? null;
    chosen?.classList.add("selected");
    chosen?.setAttribute("aria-current", "true");
  };

  // Numbers as numbers, empty cells last in both directions.
  const sortBy = (head, column) => {
    const falling = head.getAttribute("aria-sort") === "ascending";
    const numeric = head.classList.contains("number") || column === 0;
    const value = (one) => {
      const text = one.cells[column].dataset.v;
      return text === "" ? null : numeric ? Number(text) : text;
    };
    const compare = (a, b) => {
      const [left, right] = [value(a), value(b)];
      if (left === null || right === null) return (left === null) - (right === null);
      const found = left < right ? -1 : left > right ? 1 : 0;
      return (falling ? -found : found) || Number(a.dataset.order) - Number(b.dataset.order);
    };
    all.sort(compare);
    order = order.length === all.length ? all : all.filter((one) => order.includes(one));
    if (!isWhole) box.scrollTop = 0;
    draw();
    for (const other of head.parentElement.cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
  };

  // The browser's own search sees the drawn rows only, so a large table has one of its own.
  const find = (words) => {
    const wanted = words.trim().toLowerCase();
    order = wanted ? all.filter((one) => one.textContent.toLowerCase().includes(wanted)) : all;
    box.scrollTop = 0;
    draw();
    return order.length;
  };

  // Paper has all rows.
  const spread = (whole) => {
    if (!isLarge) return;
    isWhole = whole;
    draw();
  };

  if (isLarge) {
    table.classList.add("windowed");
    box.classList.add("window");
    height = all[0].offsetHeight;
    draw();
    box.addEventListener("scroll", onScroll, { passive: true });
  }
  return { row, select, reveal, sortBy, find, spread, count: all.length };
};
