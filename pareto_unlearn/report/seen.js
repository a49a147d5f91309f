"use strict";
// Does work on a part of a large page when the part comes into view; on a small page at once.
const whenSeen = (isLarge) => {
  const waiting = new Map();
  const near = new Set();

  const onView = (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) near.delete(target);
      else {
        near.add(target);
        const work = waiting.get(target);
        waiting.delete(target);
        work?.();
      }
    }
  };

  const observer = isLarge ? new IntersectionObserver(onView, { rootMargin: "150px" }) : null;

  // What is in view but below the dial follows when the reader pauses, one part after another, so that
  // the dial itself never waits for it.
  const PAUSE = 60;
  const queue = new Map();
  let timer = null;
  const drain = () => {
    const [next] = queue;
    if (next === undefined) return;
    queue.delete(next[0]);
    next[1]();
    timer = setTimeout(drain, 0);
  };

  // Newer work on a part replaces older work that still waits, so it must not build on it.
  const later = (part, work) => {
    if (observer === null) return work();
    if (near.has(part)) {
      queue.set(part, work);
      clearTimeout(timer);
      timer = setTimeout(drain, PAUSE);
      return;
    }
    waiting.set(part, work);
    observer.observe(part);
  };

  const all = () => {
    const works = [...queue.values(), ...waiting.values()];
    queue.clear();
    waiting.clear();
    for (const work of works) work();
  };

  return { later, all };
};
