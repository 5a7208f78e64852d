// Turns of a dialogue as elements: as Markdown, or as they are written; a long text in part.

import { $, build, figure, make } from "./base.js";

const CLIP = 20000;  // characters of a text that are drawn at once
let raw = false;

/** The elements of a turn (`pages/review.py`: message). */
export function turn({ role, said, written, length, further }) {
  const body = make("div", { class: "said" });
  const draw = () => body.replaceChildren(...(length > CLIP ? clipped(said[0], length)
    : build(raw ? written : said)));
  draw();
  body.draw = draw;
  const extra = further.length ? make("div", { class: "said further" }, build(further)) : null;
  return make("div", { class: "turn" }, make("b", {}, build(role)), body, extra);
}

/** Show texts as they are written, or as Markdown again: `button` is pressed while they are. */
export function switchWritten(button) {
  raw = !raw;
  $(button).setAttribute("aria-pressed", raw);
  for (const body of document.querySelectorAll(".said")) body.draw?.();
}

function clipped([name, kind, pieces], length) {
  const first = [];
  let drawn = 0;
  for (const piece of pieces) {
    const text = typeof piece === "string" ? piece.slice(0, CLIP - drawn) : piece;
    first.push(text);
    drawn += typeof piece === "string" ? text.length : 1;
    if (drawn >= CLIP) break;
  }
  const [part] = build([[name, kind, first]]);
  const more = make("button", { type: "button", onclick: () => {
    part.replaceChildren(...build(pieces));
    more.remove();
  } }, `Show all ${figure(length)} characters`);
  return [part, more];
}
