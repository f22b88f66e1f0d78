// The image under the colours of one model, or of two beside a divider; the class under the pointer is named.

import { nameAt } from "./masks.js";
import { paintColors, paintUncertainty, paintMarks } from "./paint.js";

const element = (id) => document.getElementById(id);
const stage = element("stage");
const divider = element("divider");
const sides = [...stage.querySelectorAll(".side")].map((box) => ({
  box, colors: box.querySelector(".colors"), marks: box.querySelector(".marks"), tag: null, prediction: null,
}));
[sides[0].tag, sides[1].tag] = stage.querySelectorAll(".tag");

let split = 50; // where the divider stands, in percent of the width
let point = null; // where the keyboard asks, as shares of width and height
let isUncertaintyShown = false; // whether it is shown in place of the colours
let onPoint = () => {};

// A new image (a canvas) without any colours yet.
export function showImage(image) {
  const canvas = element("image");
  Object.assign(canvas, { width: image.width, height: image.height });
  canvas.getContext("2d").drawImage(image, 0, 0);
  element("frame").style.setProperty("--ratio", image.width / image.height);
}

// What one or two models predict; isShown(class name) says which colours are drawn.
export function showPredictions(predictions, isShown) {
  sides.forEach((side, i) => {
    side.prediction = predictions[i] ?? null;
    side.box.hidden = !side.prediction;
    side.tag.hidden = predictions.length < 2;
    side.tag.textContent = side.prediction?.model.name ?? "";
  });
  divider.hidden = predictions.length < 2;
  moveDivider(split);
  leave();
  repaint(isShown);
}

export function repaint(isShown) {
  for (const { colors, marks, prediction } of sides) {
    if (!prediction) continue;
    if (isUncertaintyShown && prediction.confidence) paintUncertainty(colors, prediction);
    else paintColors(colors, prediction, isShown);
    paintMarks(marks, prediction, isShown);
  }
}

// Whether red shows where a model is unsure, in place of the classes' colours; `repaint` draws it.
export function showUncertainty(value) {
  isUncertaintyShown = value;
}

export function setOpacity(share) {
  for (const { colors } of sides) colors.style.opacity = share;
}

// Image, colours and marks of the first model as one canvas of the image's size.
export function compose(share) {
  const image = element("image");
  const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  context.globalAlpha = share;
  context.drawImage(sides[0].colors, 0, 0);
  context.globalAlpha = 1;
  context.drawImage(sides[0].marks, 0, 0);
  return canvas;
}

// named(what is there, name of its class) where the pointer or the keyboard asks; named(null) where it left.
export function onPointed(named) {
  onPoint = named;
}

function ask(x, y) { // shares of width and height, 0..1
  const { prediction } = sides[divider.hidden || 100 * x < split ? 0 : 1];
  if (!prediction) return;
  const [height, width] = prediction.size;
  const row = Math.min(Math.floor(y * height), height - 1);
  const at = row * width + Math.min(Math.floor(x * width), width - 1);
  const name = nameAt(prediction, at);
  const tip = element("tip");
  tip.textContent = name;
  tip.hidden = false;
  tip.style.left = `${100 * x}%`;
  tip.style.top = `${100 * y}%`;
  tip.classList.toggle("leftwards", x > 0.5);
  tip.classList.toggle("below", y < 0.15);
  onPoint(name, prediction.model.classes[prediction.mask[at]]?.name);
}

function leave() {
  element("tip").hidden = element("cross").hidden = true;
  onPoint(null);
}

function askPointer(event) {
  const box = stage.getBoundingClientRect();
  const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  element("cross").hidden = true;
  if (x >= 0 && x < 1 && y >= 0 && y < 1) ask(x, y);
  else leave();
}

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function askKeys(event) {
  const step = STEPS[event.key];
  if (event.key === "Escape") leave();
  if (!step || !sides[0].prediction) return;
  event.preventDefault();
  const far = event.shiftKey ? 0.1 : 0.02;
  const [x, y] = point ?? [0.5, 0.5];
  point = [x + far * step[0], y + far * step[1]].map((share) => Math.min(Math.max(share, 0.001), 0.999));
  const cross = element("cross");
  cross.hidden = false;
  [cross.style.left, cross.style.top] = point.map((share) => `${100 * share}%`);
  ask(...point);
}

function moveDivider(percent) {
  split = Math.min(Math.max(percent, 0), 100);
  divider.style.left = `${split}%`;
  divider.setAttribute("aria-valuenow", Math.round(split));
  divider.setAttribute("aria-valuetext", `${sides[0].tag.textContent} on the left ${Math.round(split)}%`);
  sides[0].box.style.clipPath = divider.hidden ? "" : `inset(0 ${100 - split}% 0 0)`;
  sides[1].box.style.clipPath = `inset(0 0 0 ${split}%)`;
}

const STRIDES = { ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, PageDown: -10, PageUp: 10 };

function slideKeys(event) {
  const to = { Home: 0, End: 100 }[event.key] ?? (event.key in STRIDES ? split + STRIDES[event.key] : null);
  if (to === null) return;
  event.preventDefault();
  moveDivider(to);
}

function slide(event) {
  if (!divider.hasPointerCapture(event.pointerId)) return;
  const box = stage.getBoundingClientRect();
  moveDivider(100 * (event.clientX - box.left) / box.width);
}

stage.addEventListener("mousedown", (event) => { // no focus by mouse: the arrow keys go on through the images
  event.preventDefault();
  document.activeElement.blur();
});
for (const kind of ["pointermove", "pointerdown"]) stage.addEventListener(kind, askPointer);
stage.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") leave(); });
stage.addEventListener("keydown", askKeys);
stage.addEventListener("blur", leave);
divider.addEventListener("pointerdown", (event) => divider.setPointerCapture(event.pointerId));
divider.addEventListener("pointermove", slide);
divider.addEventListener("keydown", slideKeys);
