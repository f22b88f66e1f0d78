"use strict";
const WORDS = { a: "accept", k: "keep", s: "skip" };
const figures = [...document.querySelectorAll(".suspect")];

function go(from, by) {
  const next = figures[Math.min(figures.length - 1, Math.max(0, from + by))];
  if (next) next.focus();
}

function tell() {
  const count = (word) => figures.filter((figure) => figure.dataset.decision === word).length;
  document.getElementById("count").textContent =
    `${count("accept")} accepted, ${count("keep")} kept, ${count("skip")} skipped of ${figures.length}`;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const at = figures.indexOf(document.activeElement);
  const word = WORDS[event.key.toLowerCase()];
  if (word && at >= 0) {
    figures[at].dataset.decision = word;
    figures[at].querySelector(".said").textContent = word;
    tell();
    go(at, 1);
    event.preventDefault();
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    go(at, event.key === "ArrowDown" ? 1 : -1);
    event.preventDefault();
  }
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

if (figures.length) figures[0].focus({ preventScroll: true });
