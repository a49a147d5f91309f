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

  // Newer work on a part replaces older work that still waits, so it must not build on it.
  const later = (part, work) => {
    if (observer === null || near.has(part)) return work();
    waiting.set(part, work);
    observer.observe(part);
  };

  const all = () => {
    const works = [...waiting.values()];
    waiting.clear();
    for (const work of works) work();
  };

  return { later, all };
};
