// Turns of a dialogue as elements; a long text is drawn in part until more is asked for.

import { build, figure, make } from "./base.js";

const CLIP = 20000;  // characters of a text that are drawn at once

/** The elements of a turn (`pages/review.py`: message). */
export function turn({ role, said, length, further }) {
  const body = make("div", { class: "said" });
  if (length > CLIP) body.append(...clipped(said[0], length));
  else body.append(...build(said));
  const extra = further.length ? make("div", { class: "said further" }, build(further)) : null;
  return make("div", { class: "turn" }, make("b", {}, build(role)), body, extra);
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
