// The page on which people judge pairs or rows: by keyboard, blind, one click at a time.

import { $, ask, build, figure, keys, make, tell, trying } from "./base.js";
import { Drafts } from "./drafts.js";
import { Outbox } from "./outbox.js";
import { switchWritten, turn } from "./turns.js";

const SHORTEST = 150;  // milliseconds in which nobody has read a row: a key that bounced
const AHEAD = 8;  // rows that are held, for a while without the server
const PAIRS = {
  first: ["1 is better", ["1", "ArrowLeft"]],
  second: ["2 is better", ["2", "ArrowRight"]],
  tie: ["Tie", ["t", "3"]],
  both_bad: ["Both bad", ["b", "4"]],
  skip: ["Skip", ["s"]],
};
const ROWS = {
  keep: ["Keep", ["k", "1"]],
  drop: ["Drop", ["d", "2"]],
  fix: ["Fix", ["f", "3"]],
  skip: ["Skip", ["s"]],
};

let desk = null;  // what is reviewed
let as = null;  // who judges
let outbox = null;
let drafts = null;  // what is begun and not said
let queue = [];  // rows to come
let current = null;  // the row on the screen
let shownAt = 0;
let history = [];  // what was judged in this tab, for undo: {turn, key, words}
let gone = new Set();  // items that need not come again
let filling = false;
let exhausted = false;  // the server has no more rows for this annotator

const choices = () => (desk.pairs ? PAIRS : ROWS);
const mark = () => `gristmill-done:${desk.review}:${as}`;
const shown = (name, on) => { $(name).hidden = !on; };

function show(next) {
  current = next;
  closeEditor();
  const begun = next === null ? {} : drafts.of(next.item);
  $("#comment").value = begun.comment ?? "";
  shown("#work", next !== null);
  shown("#choices", next !== null);
  if (next === null) return;
  shown("#end", false);
  $("#context").replaceChildren(...(next.context.length
    ? [make("section", { class: "card", "aria-label": "What stands before" },
      next.context.map(turn))] : []));
  if (next.tools.length) {
    $("#context").append(make("details", { class: "card" }, make("summary", {}, "Tools"),
      make("div", { class: "said" }, build(next.tools))));
  }
  $("#answers").classList.toggle("two", desk.pairs);
  $("#answers").replaceChildren(...next.answers.map((answer, at) => make("section",
    { class: "card answer", "aria-label": desk.pairs ? `Answer ${at + 1}` : "Answer" },
    desk.pairs ? make("h3", {}, `Answer ${at + 1}`) : null,
    answer.length ? answer.map(turn) : make("p", { class: "soft" }, "There is no answer."))));
  for (const button of document.querySelectorAll("#choices button")) {
    button.disabled = button.dataset.says === "fix" && next.editable === null;
  }
  if (begun.answer) tell("A correction that you began is kept: Fix shows it.");
  window.scrollTo(0, 0);
  $("#item").focus({ preventScroll: true });
  shownAt = performance.now();
}

/** The next row that is held, or what there is to say instead. */
function advance() {
  const next = queue.shift() ?? null;
  show(next);
  fill();
  if (next !== null) return;
  const unsent = outbox.list().length;
  if (exhausted && unsent === 0) trying(finish);
  else if (unsent) tell(`No more rows are held here until the server answers; ${unsent} of your ` +
    "judgements wait to be sent. Leave this page open, or come back to it.", true);
}

/** Ask for rows to come, while few are held. */
async function fill() {
  if (filling || exhausted || queue.length >= AHEAD / 2) return;
  filling = true;
  try {
    const told = await ask("/turns", { query: { as, count: AHEAD } });
    const held = new Set([...queue, current].filter(Boolean).map((row) => row.item));
    const unsent = new Set(outbox.list().filter((op) => op.kind === "judge").map((op) => op.item));
    const fresh = told.turns.filter(({ item }) =>
      !held.has(item) && !unsent.has(item) && !gone.has(item));
    queue.push(...fresh);
    exhausted = told.turns.length === 0;
    progress(told.progress);
    changed(told.changed);
    filling = false;
    if (current === null && queue.length) { tell(""); advance(); }
    else if (current === null && exhausted && !outbox.list().length) trying(finish);
    else if (current === null && !exhausted) setTimeout(fill, 500);  // what is said is on its way
  } catch (error) {
    filling = false;
    if (!error.offline || current === null) tell(error.message, true);
    if (error.status === 400) start();  // a name that is none
    else setTimeout(fill, 3000);
  }
}

function progress({ mine, left, done, items }) {
  $("#bar").max = items;
  $("#bar").value = done;
  $("#count").textContent = `${figure(mine)} by you, ${figure(left)} to go; ` +
    `${figure(done)} of ${figure(items)} done by all`;
  $("#which").textContent = `${desk.pairs ? "Pair" : "Row"} ${figure(mine + pending() + 1)}`;
}

const pending = () => (outbox ? outbox.list().filter((op) => op.kind === "judge").length : 0);

function changed(sentence) {
  shown("#changed", Boolean(sentence));
  $("#changed").textContent = sentence || "";
}

/** Say whether all that was clicked is on the server's disk. */
function saved(error) {
  const unsent = outbox.list().length;
  const place = $("#saved");
  place.classList.toggle("waits", unsent > 0);
  place.textContent = unsent ? `${unsent} not saved yet` : "all saved";
  if (error) tell(`${error.message} What you say is kept here and sent again.`, true);
}

function judge(says, more = {}) {
  if (current === null || performance.now() - shownAt < SHORTEST) return;
  if (says === "fix" && !("answer" in more)) { openEditor(); return; }
  const row = current;
  const key = outbox.add({ kind: "judge", as, review: desk.review, item: row.item, judgement: says,
    comment: $("#comment").value || null, seconds: (performance.now() - shownAt) / 1000, ...more });
  history.push({ turn: row, key, words: { answer: more.answer, comment: $("#comment").value } });
  drafts.forget(row.item);
  gone.add(row.item);
  tell("");
  advance();
}

async function undo() {
  const last = history.pop();
  if (last === undefined) {
    if (outbox.list().length) { tell("Wait until all is saved, then undo again.", true); return; }
    const told = await ask("/undo", { send: { as, review: desk.review,
      key: crypto.randomUUID() } });
    if (told.turn === null) { tell("There is nothing to take back."); return; }
    again(told.turn);
    progress(told.progress);
    return;
  }
  if (!outbox.cancel(last.key)) {
    outbox.add({ kind: "undo", as, review: desk.review, item: last.turn.item });
  }
  drafts.keep(last.turn.item, last.words);
  again(last.turn);
}

/** Put a row back on the screen, before the one that stands there. */
function again(row) {
  queue = queue.filter(({ item }) => item !== row.item);
  if (current !== null && current.item !== row.item) queue.unshift(current);
  gone.delete(row.item);
  exhausted = false;
  show(row);
  tell("Taken back: judge it again.");
}

function openEditor() {
  if (current.editable === null) return;
  $("#text").value = drafts.of(current.item).answer ?? current.editable;
  shown("#editor", true);
  shown("#choices", false);  // the answer is being written: they would lie over its buttons
  $("#text").focus();
  $("#editor").scrollIntoView({ block: "nearest" });
}

function closeEditor() {
  if ($("#editor").hidden) return;
  shown("#editor", false);
  shown("#choices", true);
  $("#item").focus({ preventScroll: true });
}

function saveFix() {
  const answer = $("#text").value;
  if (!answer.trim()) tell("A correction needs a text: write the answer, or drop the row.", true);
  else if (answer === current.editable.replaceAll("\r\n", "\n")) {
    tell("The answer is as it was: keep the row, or change the text.", true);
  } else judge("fix", { answer });
}

async function finish() {
  if (outbox.list().length) {
    tell("Some of your judgements are not saved yet: they are sent again in a moment.", true);
    return;
  }
  const told = await ask("/finish", { send: { as, review: desk.review } });
  shown("#work", false);
  shown("#choices", false);
  shown("#end", true);
  $("#left").textContent = exhausted && current === null
    ? "There is no row left for you. Thank you." : "You can go on whenever you like.";
  const interval = (found) => (found === null ? "not defined"
    : `${figure(found.value)} (${figure(found.low)} to ${figure(found.high)})`);
  const line = (...cells) => make("tr", {}, cells.map((cell) => make("td", {}, String(cell))));
  $("#agreement").replaceChildren(
    make("p", {}, `${figure(told.items)} judged, ${figure(told.twice)} by several: ` +
      Object.entries(told.annotators).map(([name, n]) => `${name} ${figure(n)}`).join(", ")),
    make("table", {}, make("thead", {}, make("tr", {},
      ["agreement", "annotators", "rows", "value, 95 %"].map((h) => make("th", {}, h)))),
    make("tbody", {}, line("Krippendorff's alpha", "all", told.twice, interval(told.alpha)),
      told.pairs.map((p) => line("Cohen's kappa", `${p.one}, ${p.other}`, p.shared,
        interval(p.kappa))))),
    make("p", {}, "A run takes it all with the line ", make("code", {}, `review: ${told.folder}`),
      "; as a table it lies in ", make("code", {}, told.table), "."));
  $("#end").focus();
}

function began(name) {
  as = name;
  window.history.replaceState(null, "", `?${new URLSearchParams({ as })}`);
  try { localStorage.setItem("gristmill-as", as); } catch { /* it is asked again */ }
  queue = []; history = []; gone = new Set(); exhausted = false; current = null;
  drafts = new Drafts(`gristmill-draft:${desk.review}:${as}`);
  outbox = new Outbox(`gristmill-click:${desk.review}:${as}`, {
    paths: { judge: "/judgements", undo: "/undo" },
    confirmed(op, answer) {
      progress(answer.progress);
      if (op.kind === "judge") {
        if (answer.again) tell("You had judged that row before: what you said last counts.");
        try { localStorage.setItem(mark(), `${op.item} ${Date.now()}`); } catch { /* one tab */ }
      }
      fill();  // the server is there: now, not when the wait for it is over
      if (current === null && !outbox.list().length) { tell(""); if (exhausted) trying(finish); }
    },
    refused(op, error) {
      tell(`The server refused a judgement: ${error.message}`, true);
      if (op.kind === "judge") {
        drafts.keep(op.item, { answer: op.answer, comment: op.comment });
        gone.delete(op.item);
        exhausted = false;
        fill();
      }
    },
    moved: saved,
  });
  $("#who").textContent = as;
  $("#start").hidden = true;
  for (const part of ["#far", "#tools"]) shown(part, true);
  $("#choices").replaceChildren(...Object.entries(choices()).map(([says, [words, [key]]]) =>
    make("button", { type: "button", "data-says": says, "aria-keyshortcuts": key,
      class: says === "skip" || says === "fix" ? "" : "main",
      onclick: () => judge(says) }, `${words} `, make("kbd", {}, key))));
  saved();
  outbox.now();
  fill();
}

function start() {
  shown("#work", false); shown("#choices", false); shown("#end", false);
  shown("#start", true);
  $("#name").value = as ?? "";
  $("#name").focus();
}

async function open() {
  desk = await ask("/desk");
  document.title = `Review: ${desk.title}`;
  $("#title").textContent = `${desk.title}: ${desk.pairs ? "which answer is better?" : "keep it?"}`;
  changed(desk.changed);
  shown("#guide", desk.guideline.length > 0);
  $("#work").classList.toggle("guided", desk.guideline.length > 0);
  $("#guideline").replaceChildren(...build(desk.guideline));
  if (window.innerWidth < 1080) $("#guide details").open = false;
  let known = new URLSearchParams(location.search).get("as");
  if (known === null) {
    try { as = localStorage.getItem("gristmill-as"); } catch { as = null; }
    start();
  } else began(known);
}

/** A key that says something of the row, in the choices of this review. */
function said(event) {
  if (event.repeat || desk === null || current === null) return false;
  const found = Object.entries(choices()).find(([, [, pressed]]) => pressed.includes(event.key));
  if (found === undefined) return false;
  judge(found[0]);
  return true;
}

const pressed = [PAIRS, ROWS].flatMap((kind) => Object.values(kind).flatMap(([, names]) => names));
keys({
  ...Object.fromEntries(pressed.map((key) => [key, said])),
  u: (event) => { if (!event.repeat && outbox) trying(undo); },
  m: () => switchWritten("#written"),
  c: () => { if (current === null) return false; $("#comment").focus(); return true; },
  Escape: () => { closeEditor(); $("#comment").blur(); },
});
$("#start").addEventListener("submit", (event) => {
  event.preventDefault();
  began($("#name").value.trim());
});
$("#editor").addEventListener("submit", (event) => { event.preventDefault(); saveFix(); });
$("#text").addEventListener("input", (event) => {
  const { value } = event.target;
  drafts.keep(current.item, { answer: value === current.editable ? "" : value });
});
$("#comment").addEventListener("input", (event) => {
  drafts.keep(current.item, { comment: event.target.value });
});
$("#text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    saveFix();
  }
});
$("#comment").addEventListener("keydown", (event) => {
  if (event.key === "Enter") { event.preventDefault(); $("#item").focus(); }
});
$("#leave").addEventListener("click", closeEditor);
$("#undo").addEventListener("click", () => trying(undo));
$("#written").addEventListener("click", () => switchWritten("#written"));
$("#finish").addEventListener("click", () => trying(finish));
$("#who").addEventListener("click", start);
$("#back").addEventListener("click", () => {
  shown("#end", false);
  exhausted = false;  // others may have left rows meanwhile
  show(current);
  fill();
});
window.addEventListener("storage", (event) => {
  if (desk === null || event.key !== mark() || !event.newValue) return;
  const [item] = event.newValue.split(" ");
  gone.add(item);
  queue = queue.filter((row) => row.item !== item);
  if (current !== null && current.item === item) {
    tell("This row was judged in another tab: here is the next one.");
    advance();
  }
});
window.addEventListener("online", () => outbox && fill());
window.addEventListener("beforeunload", (event) => {
  if (outbox && outbox.loose) event.preventDefault();
});
trying(open);
