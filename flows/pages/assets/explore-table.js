// The table: only the rows on the screen exist; windows of rows are asked for as it scrolls.

import { ask, figure, make, trying } from "./base.js";

const WINDOW = 100; // rows of one question
const KEPT = 30; // windows that are remembered
const BEYOND = 6; // rows drawn above and below the screen
const HEAD = { "": "pick", score: "score n", rank: "rank n", before: "moved" }; // their classes
const TALLEST = 8_000_000; // pixels: browsers lose their way in taller boxes

export class Table {
  constructor(box, { open, told, query, picked }) {
    Object.assign(this, { box, open, told, query, pickedChanged: picked });
    this.body = box.querySelector("#rows");
    this.picked = new Set();
    this.windows = new Map();
    this.total = 0;
    this.here = 0;
    this.asking = new Map();
    this.generation = 0;
    this.narrow = matchMedia("(max-width:800px)");
    box.addEventListener("scroll", () => this.#soon());
    new ResizeObserver(() => this.#soon()).observe(box);
  }

  get height() { return this.narrow.matches ? 56 : 40; }

  head(about) {
    this.about = about;
    const names = ["", "verdict", "score", "rank", "source",
      ...(about.before ? ["before"] : []), "text", "reason"];
    this.box.querySelector("#head").replaceChildren(
      ...names.map((name) => make("span", { role: "columnheader", class: HEAD[name] || name }, name)));
  }

  /** Another question: from the first row on. */
  reset() {
    this.generation += 1;
    this.windows.clear();
    for (const asked of this.asking.values()) asked.abort();
    this.asking.clear();
    this.box.scrollTop = 0;
    this.here = 0;
    this.#draw();
  }

  /** The same question again, where one is. */
  reload() {
    this.generation += 1;
    this.windows.clear();
    this.asking.clear();
    this.#draw();
  }

  owns(event) {
    return this.box.contains(event.target) && !event.target.closest("button,input") ||
      event.target === document.body;
  }

  focus() { this.box.focus({ preventScroll: true }); }

  step(by) {
    this.here = Math.max(0, Math.min(this.total - 1, this.here + by));
    const [top, bottom] = [this.#top(this.here), this.#top(this.here) + this.height];
    const head = this.narrow.matches ? 0 : 34;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (bottom > this.box.scrollTop + this.box.clientHeight - head) {
      this.box.scrollTop = bottom - this.box.clientHeight + head;
    }
    this.#draw();
  }

  openHere() {
    const line = this.#line(this.here);
    if (line) this.open(line.at);
  }

  pickHere() {
    const line = this.#line(this.here);
    if (line) this.#pick(line.at, !this.picked.has(line.at));
    this.#draw();
  }

  unpick() {
    this.picked.clear();
    this.pickedChanged(0);
    this.#draw();
  }

  #pick(at, chosen) {
    if (chosen) this.picked.add(at); else this.picked.delete(at);
    this.pickedChanged(this.picked.size);
  }

  #soon() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => { this.waiting = null; this.#draw(); });
  }

  /** How many pixels stand for a row: fewer than its height where there are millions of them. */
  get #pitch() { return Math.min(this.height, TALLEST / Math.max(1, this.total)); }

  #top(index) { return index * this.#pitch; }

  #line(index) {
    return this.windows.get(Math.floor(index / WINDOW))?.[index % WINDOW];
  }

  #draw() {
    this.body.style.height = `${this.total * this.#pitch}px`;
    const first = Math.max(0, Math.floor(this.box.scrollTop / this.#pitch) - BEYOND);
    const count = Math.ceil(this.box.clientHeight / this.height) + 2 * BEYOND;
    const last = Math.min(this.total, first + count);
    for (let at = Math.floor(first / WINDOW); at * WINDOW < Math.max(last, 1); at += 1) {
      if (!this.windows.has(at) && !this.asking.has(at)) this.#ask(at);
    }
    const begin = Math.floor(this.box.scrollTop / this.#pitch);
    this.body.replaceChildren(...Array.from({ length: Math.max(0, last - first) }, (_, i) => {
      const index = first + i;
      const element = this.#element(index, this.#line(index));
      const shift = (index - begin) * this.height + this.#top(begin);
      element.style.top = `${this.#pitch < this.height ? shift : this.#top(index)}px`;
      return element;
    }));
    this.box.setAttribute("aria-rowcount", this.total);
    this.box.setAttribute("aria-activedescendant", `line-${this.here}`);
  }

  async #ask(at) {
    const stop = new AbortController();
    this.asking.set(at, stop);
    const { generation } = this;
    await trying(async () => {
      const told = await ask("/api/rows", { signal: stop.signal,
        query: { ...this.query(), offset: at * WINDOW, limit: WINDOW } });
      if (generation !== this.generation) return;
      this.windows.set(at, told.rows);
      if (this.windows.size > KEPT) this.windows.delete(this.windows.keys().next().value);
      this.total = told.total;
      this.ended = told.ended;
      this.told(told);
    });
    if (generation === this.generation) {
      this.asking.delete(at);
      if (this.windows.has(at)) this.#draw();
    }
  }

  #element(index, line) {
    const here = index === this.here;
    const attributes = { role: "row", id: `line-${index}`, "aria-rowindex": index + 1,
      "aria-selected": String(here), class: `line${here ? " here" : ""}${line ? "" : " waits"}` };
    if (!line) return make("div", attributes, make("span", { role: "gridcell" }, "…"));
    const pick = make("input", { type: "checkbox", "aria-label": `pick row ${line.id.slice(0, 8)}`,
      tabindex: -1, onclick: (event) => event.stopPropagation(),
      onchange: (event) => this.#pick(line.at, event.target.checked) });
    pick.checked = this.picked.has(line.at);
    const verdict = line.verdict || "gone";
    const cell = (kind, ...children) =>
      make("span", { role: "gridcell", class: kind, title: null }, ...children);
    attributes["data-at"] = line.at;
    attributes.onclick = () => { this.here = index; this.open(line.at); this.#draw(); };
    return make("div", attributes,
      cell("pick", pick),
      cell(`verdict ${verdict}`, verdict),
      cell("score n", figure(line.score)),
      cell("rank n", figure(line.rank)),
      cell("source", line.source),
      this.about?.before ? cell("moved", this.#before(line)) : null,
      make("span", { role: "gridcell", class: "text", dir: "auto" }, line.text ?? (this.ended ? "no text here" : "…")),
      cell("reason", line.reason || ""));
  }

  #before(line) {
    if (line.change === "same") return "same";
    const was = line.before_verdict || "unknown";
    return `${line.change}: ${was}, ${figure(line.before_score)}`;
  }
}
