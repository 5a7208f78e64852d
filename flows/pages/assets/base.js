// What every page shares: questions to its server, elements from nodes, and words for everyone.

const ELEMENTS = new Set(
  ("p ul ol li blockquote pre code em strong s hr br table thead tbody tr th td span div b " +
   "mark button").split(" "));
const MATHS = new Set(
  ("math mrow mi mn mo mtext mfrac msqrt mroot msub msup msubsup munder mover munderover " +
   "mtable mtr mtd").split(" "));
const MATHML = "http://www.w3.org/1998/Math/MathML";

export const $ = (selector, root = document) => root.querySelector(selector);

/** An element with attributes (`class`, `aria-…`, `data-…`, `on…` handlers) and children. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

/** Elements of nodes (`nodes.py`): text, or [element, class, children]; others become spans. */
export function build(nodes) {
  return nodes.map((node) => {
    if (typeof node === "string") return document.createTextNode(node);
    const [name, kind, children] = node;
    let element;
    if (MATHS.has(name)) {
      element = document.createElementNS(MATHML, name);
      if (kind === "block") element.setAttribute("display", "block");
      if (kind === "bare") element.setAttribute("linethickness", "0");
    } else {
      element = document.createElement(ELEMENTS.has(name) ? name : "span");
      if (["p", "div", "li", "td", "th", "blockquote"].includes(name)) element.dir = "auto";
    }
    if (kind) element.setAttribute("class", kind);
    element.append(...build(children));
    return element;
  });
}

/** Words that every question of a page bears. */
export const always = {};

/** The address of a question. */
export function address(path, query = {}) {
  const words = new URLSearchParams();
  for (const [key, value] of Object.entries({ ...always, ...query })) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "") words.append(key, one);
    }
  }
  return words.size ? `${path}?${words}` : path;
}

/** What the server answers; its sentence as an Error where it refuses. */
export async function ask(path, { query = {}, send = null, signal = null } = {}) {
  let answer;
  try {
    answer = await fetch(address(path, query), send === null ? { signal } : {
      method: "POST", signal,
      headers: { "content-type": "application/json" },
      body: JSON.stringify(send),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const gone = new Error("The server does not answer: is the command still running?");
    gone.offline = true;
    throw gone;
  }
  const kind = answer.headers.get("content-type") || "";
  const told = kind.includes("json") ? await answer.json() : { error: await answer.text() };
  if (!answer.ok) {
    const refused = new Error(told.error || `The server answered ${answer.status}.`);
    refused.status = answer.status;
    throw refused;
  }
  return told;
}

/** Say a sentence on the page, and to screen readers: #told is a live region of the page. */
export function tell(sentence, alarm = false) {
  const place = $("#told");
  place.textContent = sentence;
  place.classList.toggle("alarm", alarm && Boolean(sentence));
}

/** Run what a person asked for; a refusal is told and not thrown. */
export async function trying(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name === "AbortError") return undefined;
    tell(error.message, true);
    return undefined;
  }
}

const WHOLE = new Intl.NumberFormat("en-US");
/** A figure as people read it. */
export function figure(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (Number.isInteger(value)) return WHOLE.format(value);
  if (Math.abs(value) >= 1000) return WHOLE.format(Math.round(value));
  return String(Number(value.toPrecision(3)));
}

/** Keys of a page: {key: work}; not while someone writes, and not with Ctrl, Alt or Meta. */
export function keys(map) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
    const writing = event.target.closest("input:not([type=checkbox]),textarea,select");
    if (writing && event.key !== "Escape") return;
    const work = map[event.key];
    if (work && work(event) !== false) event.preventDefault();
  });
}
