"use strict";
const WORDS = { a: "accept", k: "keep", s: "skip" };
const PLACE = `featherseg audit ${document.getElementById("decide").dataset.page}`;
const figures = [...document.querySelectorAll(".suspect")];
const undoable = []; // [number of a figure, its word before], the last decision last

// Kept in the browser, where it has a place for it, by what is decided on: a page that is opened again goes on where it
// was left, and so does one that the audit has written anew
function kept() {
  try {
    return JSON.parse(localStorage.getItem(PLACE)) || {};
  } catch {
    return {};
  }
}

function keep() {
  const words = { ...kept(), ...Object.fromEntries(figures.map(({ dataset }) => [dataset.id, dataset.decision])) };
  try {
    localStorage.setItem(PLACE, JSON.stringify(words));
  } catch {
    // it has none: they can still be saved
  }
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
  document.getElementById("count").textContent = `${words} of ${figures.length}`;
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
  const decisions = decided.map((figure) => ({ decision: figure.dataset.decision, ...JSON.parse(figure.dataset.region) }));
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
  if (Object.values(WORDS).includes(before[figure.dataset.id])) show(figure, before[figure.dataset.id]);
}
if (figures.some((figure) => figure.dataset.decision)) tell();
const first = figures.find((figure) => !figure.dataset.decision);
if (first) first.focus({ preventScroll: figures[0] === first });
