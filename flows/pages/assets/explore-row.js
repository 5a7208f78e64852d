// One row: why it is in or out, what it says, where it stands, and what is like it.

import { ask, build, figure, make, trying } from "./base.js";

const SVG = "http://www.w3.org/2000/svg";

export class Row {
  isOpen = false;

  constructor(box, { closed, goto }) {
    Object.assign(this, { box, closed, goto });
    this.written = false;
  }

  async open(at) {
    const told = await trying(() =>
      ask("/api/row", { query: { at, as: this.written ? "written" : "" } }));
    if (!told) return;
    this.at = at;
    this.isOpen = true;
    this.box.hidden = false;
    this.box.dispatchEvent(new Event("opened"));
    this.box.replaceChildren(...this.#parts(told));
    this.box.scrollTop = 0;
    this.box.focus({ preventScroll: true });
    this.#nearest(at);
  }

  close() {
    this.isOpen = false;
    this.box.hidden = true;
    this.closed();
  }

  #parts(told) {
    const button = (words, onclick, more = {}) =>
      make("button", { type: "button", onclick, ...more }, words);
    return [
      make("div", { class: "bar" },
        make("h2", {}, make("span", { class: told.verdict || "" }, told.verdict || "gone"),
          ` ${told.id.slice(0, 12)}`),
        button("As written", () => { this.written = !this.written; this.open(this.at); },
          { "aria-pressed": String(this.written), id: "as-written" }),
        button("Tokens", () => this.#tokens(), { id: "show-tokens" }),
        button("Close", () => this.close(), { id: "close-row" })),
      make("div", { class: "why" }, told.sentences.map((s) => make("p", {}, s))),
      make("div", { id: "tokens", hidden: true }),
      told.note ? make("p", { class: "soft" }, told.note) : null,
      make("div", { id: "turns" }, told.turns.map((turn, number) => this.#turn(turn, number))),
      told.scores.length ? make("h3", {}, "Scores") : null,
      make("div", { class: "places" }, told.scores.flatMap((score) => this.#place(score))),
      told.parts.length ? make("details", {}, make("summary", {}, "What the scores are made of"),
        make("div", { class: "places" }, told.parts.flatMap((part) => this.#place(part)))) : null,
      told.copies.length ? make("h3", {}, "Says the same, or nearly") : null,
      make("div", { id: "copies" }, told.copies.map((row) => this.#brief(row))),
      make("h3", {}, "Most alike"),
      make("div", { id: "nearest" }, make("p", { class: "soft" }, "…")),
      make("details", {}, make("summary", {}, "The ledger's line"),
        make("table", { class: "facts" }, make("tbody", {}, Object.entries(told.line).map(
          ([name, value]) => make("tr", {}, make("th", { scope: "row" }, name),
            make("td", {}, value)))))),
    ].filter(Boolean);
  }

  #turn(turn, number) {
    const loss = turn.trained === false ? ", not trained on" : "";
    const who = turn.part === "messages" || turn.part === turn.role ? turn.role
      : `${turn.part}, ${turn.role}`;
    return make("div", { class: `turn ${turn.part} ${turn.role === "assistant" ? "assistant" : ""}` },
      make("b", {}, `${who}${loss}`),
      turn.texts.flatMap((text) => [
        text.name ? make("h4", {}, text.shown) : null,
        this.#said(text, number),
      ]));
  }

  #said(text, number) {
    const kind = text.name === "reasoning" ? "said thought" : "said";
    const box = make("div", { class: kind, dir: "auto" }, ...build(text.nodes));
    const more = (rest, next) => {
      if (!rest) return;
      const button = make("button", { type: "button", class: "more", onclick: async () => {
        const told = await trying(() => ask("/api/more",
          { query: { at: this.at, turn: number, name: text.name || null, offset: next } }));
        if (!told) return;
        button.replaceWith(...build(told.nodes));
        more(told.rest, told.next);
      } }, `${figure(rest)} more characters`);
      box.append(button);
    };
    more(text.rest, text.next);
    return box;
  }

  #place(score) {
    const line = (a, b, kind) => {
      const made = document.createElementNS(SVG, "line");
      const [top, end] = kind === "cut" ? [0, 14] : [7, 7];
      for (const [k, v] of Object.entries({ x1: a, x2: b, y1: top, y2: end, class: kind,
                                            "vector-effect": "non-scaling-stroke" })) {
        made.setAttribute(k, v);
      }
      return made;
    };
    const x = (v) => (score.high > score.low
      ? 4 + (192 * (v - score.low)) / (score.high - score.low) : 100);
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 200 14");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    svg.append(line(4, 196, ""));
    if (score.threshold !== null) svg.append(line(x(score.threshold), x(score.threshold), "cut"));
    if (score.value !== null) svg.append(line(x(score.value), x(score.value), "dot"));
    const place = score.rank === null ? "no value" : `${figure(score.rank)} of ${figure(score.of)}`;
    const by = score.threshold === null || score.value === null ? ""
      : `, ${score.value >= score.threshold ? "+" : "−"}` +
        `${figure(Math.abs(score.value - score.threshold))} to the threshold`;
    return [make("span", {}, score.name), svg,
      make("span", {}, `${figure(score.value)} (${place}${by})`)];
  }

  #brief(row) {
    const facts = [row.verdict || "gone", row.cosine === undefined ? null : figure(row.cosine),
      row.reason].filter(Boolean).join(", ");
    return make("button", { type: "button", class: "brief", onclick: () => this.goto(row.at) },
      make("span", { class: "soft" }, `${facts} · `),
      make("span", { dir: "auto", class: "said" }, row.text ?? row.id));
  }

  async #nearest(at) {
    const told = await trying(() => ask("/api/nearest", { query: { at } }));
    if (!told || at !== this.at) return;
    this.box.querySelector("#nearest")?.replaceChildren(
      make("p", { class: "soft" }, told.note), ...told.rows.map((row) => this.#brief(row)));
  }

  async #tokens() {
    const box = this.box.querySelector("#tokens");
    box.hidden = !box.hidden;
    if (box.hidden) return;
    box.replaceChildren(make("p", { class: "soft" }, "Loading the tokenizer …"));
    const told = await trying(() => ask("/api/tokens", { query: { at: this.at } }));
    if (!told) return;
    const shade = (loss) => (loss === null ? "" : ` l${Math.min(4, Math.floor(loss / 1.25) + 1)}`);
    box.replaceChildren(...told.sides.flatMap(({ side, note, tokens }) => [
      side ? make("h3", {}, side) : null,
      make("p", { class: "soft" }, note),
      make("div", { class: "tokens" }, tokens.map(([text, trained, loss]) =>
        make("span", { class: `${trained ? "m" : "t"}${shade(loss)}`,
          title: loss === null ? null : `${loss.toFixed(3)} nats` }, text))),
    ]).filter(Boolean));
  }
}
