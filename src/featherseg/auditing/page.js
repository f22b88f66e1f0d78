"use strict";
const WORDS = { a: "accept", k: "keep", s: "skip" };
const { page, audit } = document.getElementById("decide").dataset;
const PLACE = `featherseg audit ${page}`;
const figures = [...document.querySelectorAll(".suspect")];
const undoable = []; // [number of a figure, its word before], the last decision last

// Kept in the browser, where it has a place for it, by what is decided on: a page that is opened again goes on where it
// was left, and so does one that the audit has written anew. {id: {word, region, audit}}; of older pages {id: word}
function kept() {
  try {
    return JSON.parse(localStorage.getItem(PLACE)) || {};
  } catch {
    return {};
  }
}

const wordOf = (one) => (one && one.word) || one;

function keep() {
  const all = kept();
  for (const { dataset } of figures) {
    all[dataset.id] = dataset.decision && { word: dataset.decision, region: dataset.region, audit };
  }
  const lighter = { ...all };
  for (const { dataset } of figures) lighter[dataset.id] = dataset.decision;
  for (const content of [all, lighter]) {
    try {
      localStorage.setItem(PLACE, JSON.stringify(content));
      return;
    } catch {
      // too little room for the regions that the page itself holds, or for anything: they can still be saved
    }
  }
}

// Of this audit, on regions that it does not show any more since it went on
function gone() {
  const shown = new Set(figures.map((figure) => figure.dataset.id));
  return Object.entries(kept()).filter(([id, one]) => one.audit === audit && !shown.has(id)).map(([, one]) => one);
}

function go(at) {
  const next = figures[Math.min(figures.length - 1, Math.max(0, at))];
  if (next) next.focus();
}

function show(figure, word) {
  if (word) figure.dataset.decision = word;
  else delete figure.dataset.decision;
  for (const button of figure.querySelectorAll("[data-word]")) {
    button.setAttribute("aria-pressed", String(button.dataset.word === word));
  }
}

function tell() {
  const count = (word) => figures.filter((figure) => figure.dataset.decision === word).length;
  const words = `${count("accept")} accepted, ${count("keep")} kept, ${count("skip")} skipped`;
  const others = gone().length;
  const also = others ? `; ${others} decided before, which are not shown any more, will be saved as well` : "";
  document.getElementById("count").textContent = `${words} of ${figures.length}${also}`;
}

function change(at, word) {
  show(figures[at], word);
  keep();
  tell();
}

function decide(at, word) {
  undoable.push([at, figures[at].dataset.decision]);
  change(at, word);
}

function undo() {
  if (!undoable.length) return;
  const [at, word] = undoable.pop();
  change(at, word);
  go(at);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const at = figures.indexOf(document.activeElement.closest(".suspect"));
  const key = event.key.toLowerCase();
  if (key === "u") {
    undo();
    event.preventDefault();
  } else if (key in WORDS && at >= 0) {
    decide(at, WORDS[key]);
    go(at + 1);
    event.preventDefault();
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    go(event.key === "ArrowDown" ? at + 1 : at - 1);
    event.preventDefault();
  }
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-word]");
  if (!button) return;
  const figure = button.closest(".suspect");
  decide(figures.indexOf(figure), figure.dataset.decision === button.dataset.word ? "" : button.dataset.word);
});

document.getElementById("save").addEventListener("click", () => {
  const decided = figures.filter((figure) => figure.dataset.decision);
  const shown = decided.map(({ dataset }) => ({ word: dataset.decision, region: dataset.region }));
  const decisions = [...shown, ...gone()].map(({ word, region }) => ({ decision: word, ...JSON.parse(region) }));
  const blob = new Blob([JSON.stringify({ format: 1, decisions })], { type: "application/json" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = "decisions.json";
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 40_000); // not while a browser asks where to save it
});

const before = kept();
for (const figure of figures) {
  const word = wordOf(before[figure.dataset.id]);
  if (Object.values(WORDS).includes(word)) show(figure, word);
}
if (gone().length || figures.some((figure) => figure.dataset.decision)) tell();
const first = figures.find((figure) => !figure.dataset.decision);
if (first) first.focus({ preventScroll: figures[0] === first });
