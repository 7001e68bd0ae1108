const GOLD = "#1fa454", PREDICTED = "#f5820b", two = data.sides.length === 2;
let order = [], chosen = -1, slice = 0;
const shown = (c) => c.sides[c.sides.length - 1];
const said = (a) => (a ? a.predicted.join(", ") || "nothing readable" : "not evaluated");
const fixed = (v) => (v === null || v === undefined ? "–" : v.toFixed(2));
const mark = (a) => (a ? make("span", { class: a.right ? "ok" : "no" }, a.right ? "✓" : "✗") : "–");

// ------------------------------------------------------------------------------------- pictures
function pictures(c, answer, block) {
  const frames = block.kind === "frames";
  const list = frames ? block.pictures.slice(slice, slice + 1) : block.pictures;
  return list.map((one, k) => {
    const on = (boxes) => (boxes || []).filter((box) => box[4] === (frames ? 0 : k));
    const gold = on(c.goldBoxes), predicted = on(answer && answer.boxes);
    const name = frames ? `Frame ${slice + 1} of ${block.pictures.length}` : `Picture ${k + 1}`;
    return picture(one, [["gold", gold, GOLD], ["predicted", predicted, PREDICTED]],
      `${name}: ${gold.length} gold and ${predicted.length} predicted boxes`);
  });
}
function saveSvg(svg, name) {
  const copy = svg.cloneNode(true), [, , w, h] = svg.getAttribute("viewBox").split(" ");
  const hidden = [...at("case").classList].map((one) => one.replace("hide-", "."));
  if (hidden.length) copy.querySelectorAll(hidden.join()).forEach((node) => node.remove());
  copy.setAttribute("width", w * (w < 300 ? 3 : 1));
  copy.setAttribute("height", h * (w < 300 ? 3 : 1));
  save(name, "image/svg+xml", new XMLSerializer().serializeToString(copy));
}

// ---------------------------------------------------------------------------------------- a case
function answerOf(c, answer, name) {
  if (!answer) return [make("p", { class: "note" }, "This evaluation does not have the row.")];
  const facts = make("dl", { class: "facts" });
  const fact = (key, ...value) => facts.append(make("dt", {}, key), make("dd", {}, ...value));
  fact("Answer", mark(answer), " ", make("span", { class: answer.right ? "ok" : "no" }, said(answer)));
  fact("Gold", c.gold.join(", "));
  if (answer.iou !== null) fact("IoU", fixed(answer.iou));
  if (answer.confidence !== null) fact("Confidence", fixed(answer.confidence));
  const reward = Object.entries(answer.reward).map(([key, value]) => `${key} ${fixed(value)}`).join(", ");
  if (reward) fact("Reward", reward);
  const out = [facts, make("blockquote", {}, answer.think || "No reasoning was written.")];
  const scores = Object.entries(answer.scores).sort((a, b) => b[1] - a[1]).slice(0, 8);
  if (scores.length) {
    const rows = scores.map(([label, p]) => make("tr", {}, make("th", { scope: "row" }, label), make("td", {},
      make("meter", { min: 0, max: 1, value: p ?? 0, "aria-label": `probability of ${label}` }), fixed(p))));
    out.push(make("details", {}, make("summary", {}, "Probability of each label"),
      make("table", { class: "scores" }, make("caption", { class: "note" }, name), ...rows)));
  }
  out.push(make("details", {}, make("summary", {}, "Response as written"), make("pre", {}, answer.text)));
  return out;
}
function toggle(kind, colour) {
  const box = make("input", { type: "checkbox", id: `show-${kind}` });
  box.checked = !at("case").classList.contains(`hide-${kind}`);
  box.onchange = () => at("case").classList.toggle(`hide-${kind}`, !box.checked);
  return make("label", {}, box, make("i", { style: `background:${colour}` }), `${kind} boxes`);
}
async function show(i, moved = true) {
  chosen = i;
  slice = 0;
  const c = data.cases[i], article = at("case");
  document.querySelectorAll("#list [aria-current]").forEach((one) => one.removeAttribute("aria-current"));
  const row = at(`row-${i}`);
  row.setAttribute("aria-current", "true");
  row.scrollIntoView({ block: "nearest" });
  if (moved) {
    document.body.dataset.view = "case";
    history.replaceState(null, "", `#${i}`);
    document.querySelector("main").scrollTop = 0;
    if (matchMedia("(max-width:820px)").matches) scrollTo(0, 0);
  }
  const block = await load(i);
  if (chosen !== i) return;
  const where = [c.dataset, c.source, c.id].filter(Boolean).join(" · ");
  article.replaceChildren(make("h2", {}, c.domain), make("p", { class: "note" }, where));
  const controls = make("div", { class: "controls" }), drawn = [];
  const has = block && block.pictures.length > 0;
  const sides = make("div", { class: `sides${two || !has ? "" : " one"}` });
  if (has) controls.append(toggle("gold", GOLD), toggle("predicted", PREDICTED));
  if (has && block.kind === "frames" && block.pictures.length > 1) {
    controls.append(slider(block.pictures.length, (chosen) => {
      slice = chosen;
      drawn.forEach((draw) => draw());
    }));
  }
  if (has || (block && block.ecg)) {
    const button = make("button", { type: "button", id: "svg" }, "Figures as SVG");
    button.onclick = () => article.querySelectorAll("svg").forEach((svg, k) => saveSvg(svg, `case_${i}_${k}.svg`));
    controls.append(button);
  }
  article.append(controls);
  if (block && block.ecg) {
    const parsed = new DOMParser().parseFromString(block.ecg, "image/svg+xml").documentElement;
    article.append(make("div", { class: "ecg", tabindex: 0, role: "group", "aria-label": "ECG on paper, scrolls sideways" }, parsed));
  }
  if (!block) article.append(make("p", { class: "note" }, "No picture of this row was kept, and its data set was not there."));
  if (block && block.fault) article.append(make("p", { class: "note" }, `Its media cannot be shown: ${block.fault}.`));
  c.sides.forEach((answer, k) => {
    const side = make("section", { class: "side", "aria-label": data.sides[k] });
    if (two) side.append(make("h3", {}, data.sides[k]));
    if (has) {
      const frame = make("div", { class: `pictures${block.kind === "images" && block.pictures.length > 1 ? " many" : ""}` });
      const draw = () => frame.replaceChildren(...pictures(c, answer, block));
      draw();
      drawn.push(draw);
      side.append(frame);
    }
    const words = answerOf(c, answer, data.sides[k]);
    if (two || !has) side.append(...words);
    sides.append(side);
    if (!two && has) sides.append(make("section", { "aria-label": "response" }, ...words));
  });
  article.append(sides);
  if (c.prompt) article.append(make("details", {}, make("summary", {}, "Prompt"), make("pre", {}, c.prompt)));
}

// --------------------------------------------------------------------------------------- the list
const OUTCOMES = { "": ["all", () => true], wrong: ["wrong", (c) => !shown(c).right], right: ["right", (c) => shown(c).right] };
if (two) {
  const then = (c) => c.sides[0];
  OUTCOMES.won = ["became right", (c) => then(c) && !then(c).right && shown(c).right];
  OUTCOMES.lost = ["became wrong", (c) => then(c) && then(c).right && !shown(c).right];
}
const low = (v) => v ?? 2, confident = (c) => -(shown(c).confidence ?? -1);
const ORDERS = {
  failures: (c) => [shown(c).right ? 1 : 0, shown(c).right ? 0 : confident(c), low(shown(c).iou)],
  iou: (c) => [low(shown(c).iou), shown(c).right ? 1 : 0],
  confidence: (c) => [confident(c)],
  domain: (c) => [c.domain, shown(c).right ? 1 : 0],
};
function compare(a, b) {
  for (let k = 0; k < a.length; k++) if (a[k] !== b[k]) return a[k] < b[k] ? -1 : 1;
  return 0;
}
function within(name, value) {
  const [from, to] = [...at(name).querySelectorAll("input")].map((one) => Number(one.value));
  return (from <= 0 && to >= 1) || (value !== null && from <= value && value <= to);
}
const rows = data.cases.map((c, i) => {
  const a = shown(c), marks = make("span", {}, ...(two ? [mark(c.sides[0]), "→"] : []), mark(a));
  const numbers = [a.iou === null ? "" : `IoU ${fixed(a.iou)}`, a.confidence === null ? "" : `p ${fixed(a.confidence)}`];
  const button = make("button", { type: "button", id: `row-${i}` }, marks, make("b", {}, c.gold.join(", ")),
    make("em", {}, numbers.filter(Boolean).join(" · ")), make("small", {}, `${c.domain}: ${said(a)}`));
  marks.setAttribute("role", "img");
  marks.setAttribute("aria-label", c.sides.map((one) => (one ? (one.right ? "right" : "wrong") : "not evaluated")).join(", then "));
  button.onclick = () => show(i);
  return make("li", {}, button);
});
const words = data.cases.map((c) => [c.id, c.domain, c.dataset, c.source, ...c.gold, ...c.sides.filter(Boolean)
  .flatMap((a) => [...a.predicted, a.text])].join("\n").toLowerCase());
function filter() {
  const term = at("search").value.trim().toLowerCase(), domain = at("domain").value;
  const outcome = OUTCOMES[at("outcome").value][1], key = ORDERS[at("order").value];
  order = data.cases.map((c, i) => i).filter((i) => {
    const c = data.cases[i], a = shown(c);
    return words[i].includes(term) && (!domain || c.domain === domain) && outcome(c)
      && within("iou", a.iou) && within("confidence", a.confidence);
  });
  const keys = new Map(order.map((i) => [i, [...key(data.cases[i]), i]]));
  order.sort((a, b) => compare(keys.get(a), keys.get(b)));
  at("list").replaceChildren(...order.map((i) => rows[i]));
  const right = order.filter((i) => shown(data.cases[i]).right).length;
  const all = data.total > data.cases.length ? `, of ${data.total.toLocaleString("en")} evaluated` : "";
  at("count").textContent = `${order.length} of ${data.cases.length} cases${all}: ${right} right, ${order.length - right} wrong`;
}
function move(by) {
  const place = order.indexOf(chosen) + by;
  if (order.length && place >= 0 && place < order.length) show(order[place]);
}
function table() {
  const cell = (value) => {
    const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value ?? "");
    return `"${text.replaceAll('"', '""')}"`;
  };
  const head = ["case", "id", "source", "dataset", "domain", "gold"];
  for (const name of data.sides) head.push(...["predicted", "right", "iou", "confidence"].map((one) => (two ? `${name}: ${one}` : one)));
  const lines = order.map((i) => {
    const c = data.cases[i];
    return [i, c.id, c.source, c.dataset, c.domain, c.gold.join(", "),
      ...c.sides.flatMap((a) => (a ? [a.predicted.join(", "), a.right, a.iou, a.confidence] : ["", "", "", ""]))];
  });
  return [head, ...lines].map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
}

// ------------------------------------------------------------------------------- theme and keys
const THEMES = ["auto", "dark", "light"];
function theme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  at("theme").textContent = `Theme: ${name}`;
  try { localStorage.setItem("qoq-theme", name); } catch { /* a browser that keeps nothing */ }
}
function nextTheme() {
  theme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % 3]);
}
function step(by) {
  const range = at("slice");
  if (range) { range.value = Number(range.value) + by; range.oninput(); }
}
const KEYS = { j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
  "/": () => { delete document.body.dataset.view; at("search").focus(); }, g: () => at("show-gold")?.click(),
  p: () => at("show-predicted")?.click(), "[": () => step(-1), "]": () => step(1), t: nextTheme,
  "?": () => at("keys").showModal() };
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && event.target === at("search")) at("search").blur();
  if (event.ctrlKey || event.metaKey || event.altKey || at("keys").open) return;
  if (event.target.matches("input:not([type=checkbox]), select") || !Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  KEYS[event.key]();
});

// ----------------------------------------------------------------------------------------- start
document.querySelector("h1").textContent = data.title;
if (data.report) at("report").href = data.report;
else at("report").remove();
for (const name of [...new Set(data.cases.map((c) => c.domain))].sort()) at("domain").append(make("option", {}, name));
for (const [value, [name]] of Object.entries(OUTCOMES)) at("outcome").append(make("option", { value }, name));
if (!data.cases.some((c) => shown(c).confidence !== null)) at("confidence").hidden = true;
at("filters").oninput = filter;
at("filters").onsubmit = (event) => event.preventDefault();
at("back").onclick = () => { delete document.body.dataset.view; };
at("previous").onclick = () => move(-1);
at("next").onclick = () => move(1);
at("theme").onclick = nextTheme;
at("help").onclick = () => at("keys").showModal();
at("close").onclick = () => at("keys").close();
at("csv").onclick = () => save("cases.csv", "text/csv", table());
try { theme(THEMES.includes(localStorage.getItem("qoq-theme")) ? localStorage.getItem("qoq-theme") : "auto"); } catch { theme("auto"); }
filter();
const named = Number.parseInt(location.hash.slice(1), 10);
if (data.cases[named]) show(named);
else if (order.length) show(order[0], false);
