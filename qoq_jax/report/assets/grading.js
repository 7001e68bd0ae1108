// The grading sheet: two responses to a row, questions, and answers that stay in this browser.
const PREDICTED = "#f5820b", SIDES = ["A", "B"], place = `qoq-grading/${data.sheet}`;
const YES_NO = ["yes", "no"], GRADES = ["1", "2", "3", "4", "5"];
// Name of the control, question, answers: those that evaluation/grades.py reads.
const QUESTIONS = [["better", "Which response is better?", ["A", "B", "same"]],
  ...[["evidence", "Is the evidence right: do the boxes and findings fit the picture?", YES_NO],
    ["reasoning", "Is the reasoning sound? 1 not at all, 5 fully", GRADES],
    ["harm", "Could it harm the patient?", YES_NO]]
    .flatMap(([name, words, answers]) => SIDES.map((side) => [name + side, `Response ${side}. ${words}`, answers]))];
let chosen = 0, slice = 0, answers = {}, keeps = true;

// ----------------------------------------------------------------------------- what is kept
function recall(name) {
  try { return localStorage.getItem(name); } catch { keeps = false; return null; }
}
function keep(name, value) {
  try { localStorage.setItem(name, value); } catch { keeps = false; }
}
const code = () => (at("grader").validity.valid ? at("grader").value.trim() : "");
const answered = (i) => QUESTIONS.filter(([name]) => (answers[i] || {})[name]).length;
function tell() {
  const full = data.cases.filter((_, i) => answered(i) === QUESTIONS.length).length;
  at("count").textContent = `${full} of ${data.cases.length} rows fully answered`;
  [...at("row").options].forEach((option, i) => {
    const done = answered(i);
    option.textContent = `${i + 1} of ${data.cases.length}${done === QUESTIONS.length ? ", done" : done ? ", begun" : ""}`;
  });
  at("asked").disabled = at("download").disabled = !code();
  at("status").textContent = code() ? (keeps ? "" : "This browser keeps nothing: download your answers before you close the page.")
    : "Enter your initials (letters, digits, hyphens) at the top to answer.";
}
function begin() {
  const kept = code() && recall(`${place}/${code()}`);
  answers = kept ? JSON.parse(kept) : {};
  keep(place, code());
  fill();
}
function fill() {
  const given = answers[chosen] || {};
  // Of radio buttons, setting the group's value to "" would leave them checked.
  for (const [name] of QUESTIONS) for (const one of at("questions").elements[name]) one.checked = one.value === given[name];
  at("comment").value = given.comment || "";
  tell();
}
function note() {
  const given = {};
  for (const name of [...QUESTIONS.map(([one]) => one), "comment"]) {
    const value = at("questions").elements[name].value;
    if (value) given[name] = value;
  }
  if (Object.keys(given).length) answers[chosen] = given;
  else delete answers[chosen];
  keep(`${place}/${code()}`, JSON.stringify(answers));
  tell();
}

// ------------------------------------------------------------------------------------- a row
function pictures(answer, block, name) {
  const frames = block.kind === "frames";
  return (frames ? block.pictures.slice(slice, slice + 1) : block.pictures).map((one, k) => {
    const boxes = answer.boxes.filter((box) => box[4] === (frames ? 0 : k));
    const words = frames ? `Frame ${slice + 1} of ${block.pictures.length}` : `Picture ${k + 1}`;
    return picture(one, [["predicted", boxes, PREDICTED]], `${words}: ${boxes.length} boxes of response ${name}`);
  });
}
async function show(i) {
  chosen = i;
  slice = 0;
  at("row").value = i;
  at("previous").disabled = i === 0;
  at("next").disabled = at("onward").disabled = i === data.cases.length - 1;
  fill();
  const block = await load(i);
  if (chosen !== i) return;
  const c = data.cases[i], article = at("case"), controls = make("div", { class: "controls" }), drawn = [];
  article.replaceChildren(make("h2", {}, c.domain));
  if (c.prompt) article.append(make("details", {}, make("summary", {}, "Question as it was put"), make("pre", {}, c.prompt)));
  if (block.pictures.length) {
    const box = make("input", { type: "checkbox", id: "show-predicted" });
    box.checked = !article.classList.contains("hide-predicted");
    box.onchange = () => article.classList.toggle("hide-predicted", !box.checked);
    controls.append(make("label", {}, box, make("i", { style: `background:${PREDICTED}` }), "boxes"));
  }
  if (block.kind === "frames" && block.pictures.length > 1) {
    controls.append(slider(block.pictures.length, (chosen) => {
      slice = chosen;
      drawn.forEach((draw) => draw());
    }));
  }
  article.append(controls);
  if (block.ecg) {
    const parsed = new DOMParser().parseFromString(block.ecg, "image/svg+xml").documentElement;
    article.append(make("div", { class: "ecg", tabindex: 0, role: "group", "aria-label": "ECG on paper, scrolls sideways" }, parsed));
  }
  const sides = make("div", { class: "sides" });
  c.responses.forEach((answer, k) => {
    const side = make("section", { class: "side", "aria-label": `Response ${SIDES[k]}` }, make("h3", {}, `Response ${SIDES[k]}`));
    if (block.pictures.length) {
      const frame = make("div", { class: `pictures${block.kind === "images" && block.pictures.length > 1 ? " many" : ""}` });
      const draw = () => frame.replaceChildren(...pictures(answer, block, SIDES[k]));
      draw();
      drawn.push(draw);
      side.append(frame);
    }
    side.append(make("p", {}, make("b", {}, answer.answer.join(", ") || "no readable answer")),
      make("blockquote", {}, answer.reasoning || "No reasoning was written."));
    sides.append(side);
  });
  article.append(sides);
}

// ----------------------------------------------------------------------------------------- start
document.querySelector("h1").textContent = data.title;
data.cases.forEach((_, i) => at("row").append(make("option", { value: i })));
for (const [name, words, values] of QUESTIONS) {
  const choices = values.map((value) => make("label", {}, make("input", { type: "radio", name, value }), value));
  at("asked").append(make("fieldset", { class: name === "better" ? "wide" : "" }, make("legend", {}, words), ...choices));
}
at("asked").append(make("label", { class: "wide" }, "Comment", make("textarea", { id: "comment", name: "comment", maxlength: 2000 })));
at("questions").oninput = note;
at("questions").onsubmit = (event) => event.preventDefault();
at("grader").onchange = begin;
at("row").onchange = () => show(Number(at("row").value));
at("previous").onclick = () => show(chosen - 1);
at("next").onclick = at("onward").onclick = () => { show(chosen + 1); scrollTo(0, 0); };
at("download").onclick = () => save(`grading-${code()}.json`, "application/json",
  JSON.stringify({ grader: code(), sheet: data.sheet, answers }, null, 1));
at("grader").value = recall(place) || "";
begin();
show(0);
