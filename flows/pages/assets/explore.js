// The page that looks at one ledger: its filters, and what they select in the table and on the map.

import { $, address, always, ask, figure, keys, make, tell, trying } from "./base.js";
import { Histogram } from "./explore-histogram.js";
import { Plot } from "./explore-map.js";
import { Row } from "./explore-row.js";
import { Table } from "./explore-table.js";

const WAIT = 120; // ms after the last key before a search is asked
const REFRESH = 700; // ms between looks at an index that is being made

const state = { words: "", values: {}, ranges: {}, around: [], sort: "", down: false };
let about;
let total = 0;
const histograms = {};
const table = new Table($("#table"), { open: (at) => row.open(at), told: shown, query,
                                       picked: showPicked });
const row = new Row($("#row"), { closed, goto: (at) => row.open(at) });
const plot = new Plot($("#map"), { selected: selectAround, open: (at) => row.open(at) });

/** The state as words of an address: what `explore.py` reads. */
function query() {
  const asked = { q: state.words, sort: state.sort, down: state.down ? "1" : "" };
  for (const [name, values] of Object.entries(state.values)) asked[name] = [...values];
  for (const [name, range] of Object.entries(state.ranges)) asked[`in.${name}`] = range.join(",");
  if (state.around.length) asked.around = state.around.map((v) => v.toPrecision(6)).join(",");
  return asked;
}

function filtered() {
  return Boolean(state.words || state.around.length || Object.keys(state.ranges).length ||
    Object.values(state.values).some((v) => v.size));
}

let counting = null;
/** Ask again: rows from the top, counts, and the points of the map. */
async function refresh() {
  tell("");
  $("#clear").disabled = !filtered();
  table.reset();
  counting?.abort();
  counting = new AbortController();
  const { signal } = counting;
  await trying(async () => {
    showCounts(await ask("/api/counts", { query: query(), signal }));
    if ($("#map-box").open && plot.loaded) {
      plot.show((await ask("/api/map/shown", { query: query(), signal })).shown);
    }
  });
}

/** What a window of rows told beside its rows. */
function shown(told) {
  total = told.total;
  const all = about ? about.rows : total;
  $("#counted").textContent = total === all ? `${figure(all)} rows`
    : `${figure(total)} of ${figure(all)} rows`;
  $("#changed").hidden = !told.changed;
  if (told.changed) {
    $("#changed").replaceChildren(`${told.changed} `, make("button", {
      type: "button", onclick: () => reopen(null) }, "Open it"));
  }
  const index = $("#index");
  index.hidden = told.ended;
  if (told.ended && shown.later) {
    shown.later = null;
    table.reload(); // what was not read yet is there now
  }
  if (told.ended) return;
  index.textContent = `Reading texts for search: ${figure(told.indexed)} rows so far.`;
  clearTimeout(shown.later);
  shown.later = setTimeout(() => (state.words ? refresh() : trying(async () =>
    shown(await ask("/api/rows", { query: { ...query(), limit: 0 } })))), REFRESH);
}

const pickedHere = () => `gristmill-picked:${about.book}`;

/** Picked rows outlive the page: they are kept in the browser until they are picked no more. */
function showPicked(count) {
  try {
    if (count) localStorage.setItem(pickedHere(), JSON.stringify([...table.picked]));
    else localStorage.removeItem(pickedHere());
  } catch { /* this page alone remembers */ }
  $("#picked").textContent = count ? `${figure(count)} picked` : "";
  $("#scope").value = count ? "picked" : "shown";
  $("#unpick").hidden = !count;
}

function showCounts(counts) {
  for (const [name, told] of Object.entries(counts.numbers)) {
    histograms[name] ||= new Histogram($("#numbers"), name, {
      threshold: name === "score" ? about.threshold : null,
      brushed: (range) => {
        if (range) state.ranges[name] = range; else delete state.ranges[name];
        refresh();
      },
    });
    histograms[name].draw(told, state.ranges[name]);
  }
  for (const [name, values] of Object.entries(counts.values)) showValues(name, values);
}

function showValues(name, values) {
  let set = $(`#values fieldset[data-name=${name}]`);
  if (!set) {
    set = make("fieldset", { "data-name": name }, make("legend", {}, name));
    $("#values").append(set);
  }
  const chosen = state.values[name] ||= new Set();
  const before = document.activeElement?.dataset?.value;
  const focused = set.contains(document.activeElement);
  set.replaceChildren(set.firstChild, ...values.map((told) => {
    const box = make("input", { type: "checkbox", "data-value": told.value,
      onchange: (event) => {
        if (event.target.checked) chosen.add(told.value); else chosen.delete(told.value);
        refresh();
      } });
    box.checked = chosen.has(told.value);
    return make("label", { class: told.rows ? "value" : "value none" }, box,
      make("span", {}, told.shown), make("span", { class: "n" }, figure(told.rows)));
  }));
  if (focused) {
    [...set.querySelectorAll("input")].find((b) => b.dataset.value === before)?.focus();
  }
}

function selectAround(around) {
  state.around = around;
  refresh();
}

function clear() {
  Object.assign(state, { words: "", values: {}, ranges: {}, around: [] });
  $("#words").value = "";
  plot.clear();
  refresh();
}

async function openMap() {
  if (!$("#map-box").open || plot.loaded) return;
  await trying(async () => {
    const told = await ask("/api/map");
    plot.load(told);
    $("#map-note").textContent = told.note;
    const none = plot.empty;
    for (const part of ["#map-tools", "#map", "#legend"]) $(part).hidden = none;
    if (none) return;
    await colour();
    plot.show((await ask("/api/map/shown", { query: query() })).shown);
  });
}

async function colour() {
  const told = await ask("/api/map/colours", { query: { by: $("#colour").value } });
  $("#legend").replaceChildren(...plot.colour(told));
}

async function exportIds() {
  await trying(async () => {
    const kind = $("#kind").value;
    const chosen = $("#scope").value === "picked";
    const words = new URLSearchParams();
    for (const [key, value] of Object.entries(query())) {
      for (const one of [value].flat()) if (one !== "") words.append(key, one);
    }
    const send = chosen ? { as: kind, picked: [...table.picked] }
      : { as: kind, query: String(words) };
    const answer = await fetch(address("/api/ids"), { method: "POST", body: JSON.stringify(send),
      headers: { "content-type": "application/json" } });
    if (!answer.ok) throw new Error((await answer.json()).error);
    const text = await answer.text();
    const name = /filename="([^"]+)"/.exec(answer.headers.get("content-disposition"))[1];
    const link = make("a", { href: URL.createObjectURL(new Blob([text])), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    const count = text.split("\n").length - 1;
    $("#exported").hidden = false;
    $("#exported").replaceChildren(
      `${figure(count)} ids are in ${name}. In the run's file: `,
      make("code", {}, `${kind}: [${name}]`));
  });
}

async function reopen(against) {
  await trying(async () => {
    await ask("/api/open", { send: { against } });
    location.reload();
  });
}

function closed() {
  $("#layout").classList.remove("open");
  table.focus();
}

async function start() {
  about = await ask("/api/about");
  always.view = about.view;
  document.title = `${about.title} · gristmill explore`;
  $("#title").textContent = about.before ? `${about.title} beside ${about.before}` : about.title;
  $("#report").hidden = !about.report;
  $("#layout").classList.toggle("beside", Boolean(about.before));
  const first = make("option", { value: "" }, "no other version");
  $("#beside").append(first, ...about.versions.map((v) => make("option", { value: v }, v)));
  $("#beside").value = about.versions.find((v) => about.before?.endsWith(v)) || "";
  $("#beside-label").hidden = !about.versions.length;
  $("#beside").addEventListener("change", (e) => reopen(e.target.value || null));
  $("#sort").append(make("option", { value: "" }, "rank, as selected"),
    ...about.numbers.map((name) => make("option", { value: name }, name)));
  $("#colour").append(...["verdict", "source", ...(about.before ? ["change"] : []), ...about.scores]
    .map((name) => make("option", { value: name }, name)));
  if (about.text) tell(about.text, true);
  table.head(about);
  try {
    table.picked = new Set(JSON.parse(localStorage.getItem(pickedHere()) || "[]"));
    showPicked(table.picked.size);
  } catch { /* nothing is remembered */ }
  const narrow = matchMedia("(max-width:800px)").matches;
  $("#more-filters").open = !narrow;
  $("#map-box").open = !narrow;
  const asked = new URLSearchParams(location.search).get("id");
  if (asked) state.words = $("#words").value = asked;
  const said = about.text;
  await refresh();
  if (said) tell(said, true);
  await openMap();
  if (asked) {
    const found = await trying(() => ask("/api/rows", { query: { q: asked, limit: 1 } }));
    if (found?.rows.length) row.open(found.rows[0].at);
    else tell(`There is no row ${asked} here.`, true);
  }
  document.documentElement.dataset.ready = "yes";
}

let typing;
$("#words").addEventListener("input", (event) => {
  clearTimeout(typing);
  typing = setTimeout(() => { state.words = event.target.value.trim(); refresh(); }, WAIT);
});
$("#search").addEventListener("submit", (event) => event.preventDefault());
$("#clear").addEventListener("click", clear);
$("#sort").addEventListener("change", (event) => {
  state.sort = event.target.value;
  state.down = Boolean(state.sort) && !state.sort.includes("rank");
  $("#down").disabled = !state.sort;
  $("#down").setAttribute("aria-pressed", state.down);
  refresh();
});
$("#down").addEventListener("click", () => {
  state.down = !state.down;
  $("#down").setAttribute("aria-pressed", state.down);
  refresh();
});
$("#export").addEventListener("click", exportIds);
$("#unpick").addEventListener("click", () => table.unpick());
$("#map-box").addEventListener("toggle", openMap);
$("#colour").addEventListener("change", () => trying(colour));
for (const button of document.querySelectorAll("[data-mode]")) {
  button.addEventListener("click", () => {
    plot.mode = button.dataset.mode;
    for (const other of document.querySelectorAll("[data-mode]")) {
      other.setAttribute("aria-pressed", other === button);
    }
  });
}
$("#map-in").addEventListener("click", () => plot.zoom(1.6));
$("#map-out").addEventListener("click", () => plot.zoom(1 / 1.6));
$("#map-all").addEventListener("click", () => { plot.whole(); selectAround([]); });
window.addEventListener("online", () => about && refresh()); // what was asked meanwhile is lost
$("#row").addEventListener("opened", () => $("#layout").classList.add("open"));
keys({
  "/": () => $("#words").focus(),
  Escape: () => (row.isOpen ? row.close() : document.activeElement.blur()),
  ArrowDown: (event) => table.owns(event) && table.step(1),
  ArrowUp: (event) => table.owns(event) && table.step(-1),
  PageDown: (event) => table.owns(event) && table.step(10),
  PageUp: (event) => table.owns(event) && table.step(-10),
  j: () => table.step(1),
  k: () => table.step(-1),
  Enter: (event) => table.owns(event) && table.openHere(),
  x: () => table.pickHere(),
});
trying(start);
