// A histogram that filters: drag over it, or write its ends.

import { figure, make } from "./base.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDE, TALL] = [240, 50];

function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

export class Histogram {
  constructor(place, name, { threshold, brushed }) {
    Object.assign(this, { name, threshold, brushed });
    this.svg = shape("svg", { viewBox: `0 0 ${WIDE} ${TALL}`, class: "histogram", role: "img",
      preserveAspectRatio: "none", "data-name": name });
    this.from = make("input", { type: "number", step: "any", "aria-label": `${name}, from` });
    this.to = make("input", { type: "number", step: "any", "aria-label": `${name}, to` });
    place.append(make("fieldset", { "data-number": name }, make("legend", {}, name), this.svg,
      make("div", { class: "ends" }, this.from, "to", this.to)));
    for (const end of [this.from, this.to]) end.addEventListener("change", () => this.#written());
    this.svg.addEventListener("pointerdown", (event) => this.#down(event));
    this.svg.addEventListener("pointermove", (event) => this.#move(event));
    this.svg.addEventListener("pointerup", (event) => this.#up(event));
    this.svg.addEventListener("pointercancel", () => { this.begin = undefined; });
  }

  draw(told, range) {
    this.told = told;
    this.range = range;
    const most = Math.max(1, ...told.of);
    const width = WIDE / told.of.length;
    const bars = (counts, kind) => counts.map((rows, i) => {
      const height = rows ? Math.max(1, (rows / most) * (TALL - 2)) : 0;
      return shape("rect", { x: i * width, y: TALL - height, width: width * 0.92, height,
        class: kind });
    });
    const parts = [...bars(told.of, "of"), ...bars(told.rows, "now")];
    if (this.threshold !== null && this.threshold !== undefined) {
      const x = this.#x(this.threshold);
      parts.push(shape("line", { x1: x, x2: x, y1: 0, y2: TALL, class: "cut" }));
    }
    if (range) parts.push(this.#brush(this.#x(range[0]), this.#x(range[1])));
    this.svg.replaceChildren(...parts);
    const shown = told.rows.reduce((a, b) => a + b, 0);
    this.svg.setAttribute("aria-label", `${this.name}: ${figure(shown)} rows from ` +
      `${figure(told.low)} to ${figure(told.high)}; write its ends below`);
    this.from.placeholder = figure(told.low);
    this.to.placeholder = figure(told.high);
    this.from.value = range ? range[0] : "";
    this.to.value = range ? range[1] : "";
  }

  #brush(a, b) {
    return shape("rect", { x: Math.min(a, b), y: 0, width: Math.abs(b - a), height: TALL,
      class: "brush" });
  }

  #x(value) {
    const { low, high } = this.told;
    return high > low ? ((value - low) / (high - low)) * WIDE : WIDE / 2;
  }

  #value(x) {
    const { low, high } = this.told;
    const share = Math.max(0, Math.min(1, x / WIDE));
    if (share === 0) return low; // the ends as they are: rounded, they would leave out their row
    return share === 1 ? high : Number((low + share * (high - low)).toPrecision(6));
  }

  #place(event) {
    const box = this.svg.getBoundingClientRect();
    return ((event.clientX - box.left) / box.width) * WIDE;
  }

  #down(event) {
    if (!this.told) return;
    this.svg.setPointerCapture(event.pointerId);
    this.begin = this.#place(event);
  }

  #move(event) {
    if (this.begin === undefined) return;
    this.svg.querySelector(".brush")?.remove();
    this.svg.append(this.#brush(this.begin, this.#place(event)));
  }

  #up(event) {
    if (this.begin === undefined) return;
    const [a, b] = [this.begin, this.#place(event)].sort((x, y) => x - y);
    this.begin = undefined;
    this.brushed(b - a < 2 ? null : [this.#value(a), this.#value(b)]);
  }

  #written() {
    const low = this.from.value === "" ? this.told.low : Number(this.from.value);
    const high = this.to.value === "" ? this.told.high : Number(this.to.value);
    const all = this.from.value === "" && this.to.value === "";
    this.brushed(all || low > high ? null : [low, high]);
  }
}
