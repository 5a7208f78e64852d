// The map: a point a row on a canvas, with zoom, colours, and a rectangle or lasso that selects.

import { figure, make } from "./base.js";

const NEAR = 8; // pixels from a point at which a click still means it
const OTHERS = "other values";

const decode = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

function style(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export class Plot {
  mode = "rectangle";
  loaded = false;

  constructor(canvas, { selected, open }) {
    Object.assign(this, { canvas, selected, open });
    this.at = new Uint32Array();
    this.around = [];
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("pointercancel", () => { this.trail = null; this.#soon(); });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? 1.25 : 0.8, this.#place(event));
    }, { passive: false });
    new ResizeObserver(() => this.#soon()).observe(canvas);
    matchMedia("(prefers-color-scheme:dark)").addEventListener("change", () => this.#soon());
  }

  get empty() { return this.at.length === 0; }

  load(told) {
    this.at = new Uint32Array(decode(told.at).buffer);
    this.xy = new Float32Array(decode(told.xy).buffer);
    this.on = new Uint8Array(this.at.length).fill(1);
    this.codes = new Uint8Array(this.at.length);
    this.loaded = true;
    this.whole();
  }

  whole() {
    const ends = [[Infinity, -Infinity], [Infinity, -Infinity]];
    for (let i = 0; i < this.xy.length; i += 1) {
      const end = ends[i % 2];
      if (this.xy[i] < end[0]) end[0] = this.xy[i];
      if (this.xy[i] > end[1]) end[1] = this.xy[i];
    }
    const middle = ends.map(([low, high]) => (low + high) / 2);
    const widths = ends.map(([low, high]) => (high - low || 1) * 1.06);
    this.view = { middle, widths };
    this.clear();
  }

  /** Points of the answer: a bit each. */
  show(bits) {
    const bytes = decode(bits);
    for (let i = 0; i < this.on.length; i += 1) this.on[i] = (bytes[i >> 3] >> (i & 7)) & 1;
    this.#soon();
  }

  clear() {
    this.around = [];
    this.#soon();
  }

  /** The colours of the points; elements of a legend. */
  colour(told) {
    this.codes = decode(told.codes);
    const dot = (colour) => {
      const mark = make("i");
      mark.style.background = colour;
      return mark;
    };
    if (told.names) {
      const names = told.names.map((name, i) => (i === 8 ? OTHERS : name));
      this.colours = names.map((_, i) => (i < 8 ? style(`--s${i}`) : style("--soft")));
      this.#soon();
      return names.map((name, i) => make("span", {}, dot(this.colours[i]), name));
    }
    const steps = 10;
    const scale = Array.from({ length: steps }, (_, i) =>
      `color-mix(in oklab, ${style("--taken")} ${Math.round((100 * i) / (steps - 1))}%, ` +
      `${style("--s4")})`);
    this.colours = Array.from({ length: 256 }, (_, i) =>
      (i === 255 ? style("--pool") : scale[Math.min(steps - 1, Math.floor((i / 254) * steps))]));
    this.#soon();
    const [low, high] = told.range;
    return [make("span", {}, dot(scale[0]), figure(low)),
      make("span", {}, dot(scale[steps - 1]), figure(high)),
      make("span", {}, dot(style("--pool")), "no value")];
  }

  zoom(by, at = [this.canvas.clientWidth / 2, this.canvas.clientHeight / 2]) {
    if (this.empty) return;
    const before = this.#data(at);
    this.view.widths = this.view.widths.map((w) => w / by);
    const after = this.#data(at);
    this.view.middle = this.view.middle.map((m, i) => m + before[i] - after[i]);
    this.#soon();
  }

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  #data([px, py]) {
    const { middle: [x, y], widths: [w, h] } = this.view;
    return [x + (px / this.canvas.clientWidth - 0.5) * w,
      y - (py / this.canvas.clientHeight - 0.5) * h];
  }

  #pixel(x, y) {
    const { middle, widths } = this.view;
    return [((x - middle[0]) / widths[0] + 0.5) * this.canvas.clientWidth,
      (0.5 - (y - middle[1]) / widths[1]) * this.canvas.clientHeight];
  }

  #down(event) {
    if (this.empty) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.trail = [this.#place(event)];
  }

  #move(event) {
    if (!this.trail) return;
    const now = this.#place(event);
    if (this.mode === "move") {
      const [from, to] = [this.#data(this.trail.at(-1)), this.#data(now)];
      this.view.middle = this.view.middle.map((m, i) => m + from[i] - to[i]);
      this.trail = [this.trail[0], now];
    } else {
      this.trail.push(now);
      this.around = this.#corners();
    }
    this.#soon();
  }

  #up(event) {
    if (!this.trail) return;
    const [from, to] = [this.trail[0], this.#place(event)];
    const click = Math.hypot(to[0] - from[0], to[1] - from[1]) < 4 && this.trail.length < 4;
    if (!click && this.mode !== "move") this.around = this.#corners();
    this.trail = null;
    if (click) this.#click(to);
    else if (this.mode !== "move") this.selected(this.around);
  }

  /** The corners of what is drawn, in the data's places: x and y in turn. */
  #corners() {
    const [a, b] = [this.trail[0], this.trail.at(-1)];
    const points = this.mode === "lasso" ? this.#thinned()
      : [a, [b[0], a[1]], b, [a[0], b[1]]];
    return points.flatMap((point) => this.#data(point));
  }

  #thinned() {
    const every = Math.max(1, Math.ceil(this.trail.length / 100));
    const some = this.trail.filter((_, i) => i % every === 0 || i === this.trail.length - 1);
    return some.length > 2 ? some : [...some, this.trail[0], this.trail[0]].slice(0, 3);
  }

  #click(place) {
    let best = NEAR;
    let found = -1;
    for (let i = 0; i < this.at.length; i += 1) {
      const [x, y] = this.#pixel(this.xy[2 * i], this.xy[2 * i + 1]);
      const far = Math.hypot(x - place[0], y - place[1]);
      if (far < best) [best, found] = [far, i];
    }
    if (found >= 0) this.open(this.at[found]);
  }

  #soon() {
    if (this.waiting || this.empty) return;
    this.waiting = requestAnimationFrame(() => { this.waiting = null; this.#draw(); });
  }

  #draw() {
    const { clientWidth: wide, clientHeight: tall } = this.canvas;
    const scale = window.devicePixelRatio || 1;
    this.canvas.width = wide * scale;
    this.canvas.height = tall * scale;
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    const size = this.at.length > 20_000 ? 1.6 : this.at.length > 2_000 ? 2.4 : 4;
    const groups = new Map();
    for (let i = 0; i < this.at.length; i += 1) {
      const key = this.on[i] ? this.codes[i] : -1;
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(i);
    }
    for (const key of [...groups.keys()].sort((a, b) => a - b)) {
      pen.fillStyle = key < 0 ? style("--line") : this.colours?.[key] || style("--taken");
      for (const i of groups.get(key)) {
        const [x, y] = this.#pixel(this.xy[2 * i], this.xy[2 * i + 1]);
        if (x > -size && y > -size && x < wide && y < tall) {
          pen.fillRect(x - size / 2, y - size / 2, size, size);
        }
      }
    }
    if (this.around.length) {
      pen.beginPath();
      for (let i = 0; i < this.around.length; i += 2) {
        pen.lineTo(...this.#pixel(this.around[i], this.around[i + 1]));
      }
      pen.closePath();
      pen.strokeStyle = style("--cut");
      pen.stroke();
    }
  }
}
