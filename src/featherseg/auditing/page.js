"use strict";
const WORDS = { a: "accept", k: "keep", s: "skip", u: "" };
const PLACE = `featherseg audit ${document.getElementById("decide").dataset.page}`;
const figures = [...document.querySelectorAll(".suspect")];

// Kept in the browser, where it has a place for it: a page that is opened again goes on where it was left
function kept() {
  try {
    return JSON.parse(localStorage.getItem(PLACE)) || {};
  } catch {
    return {};
  }
}

function keep() {
  const words = figures.map((figure, at) => [at, figure.dataset.decision]).filter(([, word]) => word);
  try {
    localStorage.setItem(PLACE, JSON.stringify(Object.fromEntries(words)));
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

function decide(at, word) {
  show(figures[at], word);
  keep();
  tell();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const at = figures.indexOf(document.activeElement.closest(".suspect"));
  const word = WORDS[event.key.toLowerCase()];
  if (word !== undefined && at >= 0) {
    decide(at, word);
    if (word) go(at + 1);
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
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});

const before = kept();
figures.forEach((figure, at) => {
  if (["accept", "keep", "skip"].includes(before[at])) show(figure, before[at]);
});
if (Object.keys(before).length) tell();
const first = figures.find((figure) => !figure.dataset.decision);
if (first) first.focus({ preventScroll: figures[0] === first });
