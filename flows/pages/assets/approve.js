// The page on which somebody approves or rejects what a run is about to publish.

import { $, ask, figure, make, tell, trying } from "./base.js";
import { switchWritten, turn } from "./turns.js";

let seen = null; // the decision that this page knows of, by its time

function decided(decision) {
  if (decision === null) return;
  seen = decision.at;
  const why = decision.reason ? ` (${decision.reason})` : "";
  tell(`${decision.verdict[0].toUpperCase()}${decision.verdict.slice(1)} by ${decision.by} at ` +
    `${decision.at}${why}. The run goes on by itself where it waits; else run the same command ` +
    "again.");
}

async function decide(verdict) {
  const [by, reason] = ["#by", "#reason"].map((name) => $(name).value);
  try { localStorage.setItem("gristmill-by", by); } catch { /* it is asked again */ }
  try {
    decided((await ask("/decision", { send: { verdict, by, reason, seen } })).decision);
  } catch (error) {
    if (error.status === 409) seen = (await ask("/request")).decision.at;
    throw error;
  }
}

async function open() {
  const { request, rows, decision } = await ask("/request");
  document.title = `Approval: ${request.name}`;
  $("#title").textContent = `${request.name}: publish these rows?`;
  $("#what").textContent = `${figure(request.rows)} of ${figure(request.of)} rows would be ` +
    `published. Below are ${figure(rows.length)} of them, from every source and score.`;
  $("#gate").textContent = request.gate ? request.gate.sentence : "";
  let stratum = null;
  for (const row of rows) {
    if (row.stratum !== stratum) {
      const of = request.strata.find((one) => one.stratum === row.stratum);
      $("#rows").append(make("h2", {}, `${row.stratum}: ${figure(of.drawn)} of ` +
        `${figure(of.rows)}`));
      stratum = row.stratum;
    }
    $("#rows").append(make("article", { class: "card row" }, make("header", {},
      make("span", {}, `row ${figure(row.row)} of ${row.source}`),
      make("span", {}, `rank ${figure(row.rank)}`),
      make("span", {}, `score ${figure(row.score)}`)), row.turns.map(turn)));
  }
  try { $("#by").value = localStorage.getItem("gristmill-by") ?? ""; } catch { /* asked */ }
  decided(decision);
}

$("#decision").addEventListener("submit", (event) => {
  event.preventDefault();
  trying(() => decide("approve"));
});
$("#written").addEventListener("click", () => switchWritten("#written"));
$("#reject").addEventListener("click", () => trying(() => decide("reject")));
trying(open);
