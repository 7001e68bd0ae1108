"use strict";
// What the case viewer and the grading sheet share: the page's data, media and drawing.
// All words of models and data sets are set as text nodes, never as markup.
const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);
const store = at("cases"), data = JSON.parse(store.textContent);
const media = new Map(), waiting = new Map();

function make(tag, set = {}, ...children) {
  const node = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(set)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// --------------------------------------------------------------------------------------- media
globalThis.qoqMedia = (i, block) => {
  media.set(i, block);
  if (waiting.has(i)) waiting.get(i)(block);
};
function load(i) {
  if (media.has(i)) return Promise.resolve(media.get(i));
  const inside = at(`media-${i}`);
  if (inside) {
    media.set(i, JSON.parse(inside.textContent));
    return Promise.resolve(media.get(i));
  }
  if (!store.dataset.files) return Promise.resolve(null);
  return new Promise((done) => {
    waiting.set(i, done);
    const script = make("script", { src: `${store.dataset.files}/${i}.js` });
    script.onerror = () => done(null);
    document.head.append(script);
  });
}

// ------------------------------------------------------------------------------------- drawing
function picture(one, boxes, label) {
  const [w, h] = one.size;
  const svg = make("svg:svg", { viewBox: `0 0 ${w} ${h}`, role: "img", "aria-label": label });
  svg.append(make("svg:image", { width: w, height: h, preserveAspectRatio: "none", href: one.src }));
  for (const [kind, found, colour] of boxes) {
    for (const [x1, y1, x2, y2] of found) {
      const left = Math.max(0, Math.min(x1, x2)), top = Math.max(0, Math.min(y1, y2));
      const place = { x: left, y: top, width: Math.max(0, Math.min(w, Math.max(x1, x2)) - left),
        height: Math.max(0, Math.min(h, Math.max(y1, y2)) - top),
        fill: "none", "vector-effect": "non-scaling-stroke", class: kind };
      svg.append(make("svg:rect", { ...place, stroke: "#000", "stroke-opacity": 0.5, "stroke-width": 4.5 }));
      svg.append(make("svg:rect", { ...place, stroke: colour, "stroke-width": 2.5,
        "stroke-dasharray": kind === "predicted" ? "9 3" : "none" }));
    }
  }
  return svg;
}
// The control of a volume's slices or a video's frames: onSlice gets the number of the one to show.
function slider(count, onSlice) {
  const range = make("input", { type: "range", id: "slice", min: 1, max: count, value: 1, "aria-label": "slice or frame" });
  const words = make("span", {}, `1 of ${count}`);
  range.oninput = () => {
    words.textContent = `${range.value} of ${count}`;
    onSlice(range.value - 1);
  };
  return make("span", {}, range, " ", words);
}
function save(name, type, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
