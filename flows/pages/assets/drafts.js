// What a person has begun to write and not said yet: kept in the browser, by row, until it is said.

export class Drafts {
  /** `place`: name under which they are kept. */
  constructor(place) {
    this.prefix = `${place}:`;
    this.memory = new Map(); // where the browser keeps nothing
  }

  /** What was begun on a row: {answer, comment}, each perhaps missing. */
  of(item) {
    let text = this.memory.get(item);
    try {
      text = localStorage.getItem(this.prefix + item) ?? text;
    } catch { /* what the page remembers */ }
    return text ? JSON.parse(text) : {};
  }

  /** Keep some words of a row; those that say nothing are forgotten. */
  keep(item, words) {
    const told = Object.fromEntries(Object.entries({ ...this.of(item), ...words })
      .filter(([, text]) => text?.trim()));
    this.forget(item);
    if (!Object.keys(told).length) return;
    const text = JSON.stringify(told);
    try {
      localStorage.setItem(this.prefix + item, text);
    } catch {
      this.memory.set(item, text);
    }
  }

  forget(item) {
    this.memory.delete(item);
    try { localStorage.removeItem(this.prefix + item); } catch { /* it was not there */ }
  }
}
