// What a person said and the server has not confirmed: kept in the browser, sent in order, again
// and again until it is. Each has a key, so that one that arrives twice counts once.

import { ask } from "./base.js";

// 403: the key is of a server that was started since; 409: another review is served here. What was
// said waits for its own server to come back.
const NOT_OURS = [403, 409];
const WAITS = [1, 2, 5, 10, 20, 30];  // seconds before each further attempt

export class Outbox {
  /** `place`: name under which it is kept; `confirmed(op, answer)`, `refused(op, error)`, `moved()`
   * and `paths` (kind of op -> where it is sent to). */
  constructor(place, { paths, confirmed, refused, moved }) {
    Object.assign(this, { prefix: `${place}:`, paths, confirmed, refused, moved });
    this.memory = new Map();  // where the browser keeps nothing
    this.flying = null;
    this.tries = 0;
    this.timer = 0;
    window.addEventListener("online", () => this.now());
    document.addEventListener("visibilitychange", () => document.hidden || this.now());
  }

  /** Keep an op, and send it as soon as its turn comes; its key. */
  add(op) {
    const key = `${Date.now().toString(36).padStart(10, "0")}-${crypto.randomUUID()}`;
    const text = JSON.stringify({ ...op, key, at: Date.now() });
    try {
      localStorage.setItem(this.prefix + key, text);
    } catch {
      this.memory.set(this.prefix + key, text);
    }
    this.moved();
    this.now();
    return key;
  }

  /** Unsent ops, the first one first. */
  list() {
    const found = new Map(this.memory);
    try {
      for (let at = 0; at < localStorage.length; at += 1) {
        const name = localStorage.key(at);
        if (name.startsWith(this.prefix)) found.set(name, localStorage.getItem(name));
      }
    } catch { /* nothing is kept */ }
    return [...found.keys()].sort().map((name) => JSON.parse(found.get(name)));
  }

  /** Whether ops would be lost with the page. */
  get loose() { return this.memory.size > 0; }

  /** Take an op out that was not sent; false if it is under way, or has arrived. */
  cancel(key) {
    if (this.flying === key || !this.list().some((op) => op.key === key)) return false;
    this.drop(key);
    return true;
  }

  drop(key) {
    this.memory.delete(this.prefix + key);
    try { localStorage.removeItem(this.prefix + key); } catch { /* it was not there */ }
    this.moved();
  }

  /** Send now, whatever was waited for. */
  now() {
    clearTimeout(this.timer);
    if (this.flying === null) this.send();
  }

  async send() {
    const [op] = this.list();
    if (op === undefined) return;
    this.flying = op.key;
    const { kind, at, ...told } = op;
    try {
      const age = Math.max(0, (Date.now() - at) / 1000);
      const answer = await ask(this.paths[kind], { send: { ...told, age } });
      this.flying = null;
      this.tries = 0;
      this.drop(op.key);
      this.confirmed(op, answer);
    } catch (error) {
      this.flying = null;
      if (error.status >= 400 && error.status < 500 && !NOT_OURS.includes(error.status)) {
        this.drop(op.key);
        this.refused(op, error);
      } else {
        const seconds = WAITS[Math.min(this.tries, WAITS.length - 1)];
        this.tries += 1;
        this.timer = setTimeout(() => this.now(), seconds * 1000);
        this.moved(error);
        return;
      }
    }
    this.send();
  }
}
