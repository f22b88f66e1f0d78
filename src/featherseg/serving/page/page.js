// The page of `featherseg serve`: asks one or two models about an image and shows what they saw.
// Class and file names come from strangers: they are set as text, never as HTML.

import { isLive, openIntake } from "./intake.js";
import * as legend from "./legend.js";
import { see } from "./masks.js";
import { emptyImage, openImage } from "./image.js";
import { keepToken, readLimits, readModels, segment, takeToken } from "./service.js";
import { askToken, say, sayBusy, sayError } from "./status.js";
import * as view from "./view.js";

const element = (id) => document.getElementById(id);
const opacity = () => element("opacity").value / 100;
let models = [];
let current = null; // { file, name, image: a canvas or null, seen: Map of model name to what it saw }
let asking = new AbortController(); // of the question that is under way

async function start() {
  takeToken();
  say("Connecting to the service.");
  try {
    const [found, limits] = await Promise.all([readModels(), readLimits()]);
    models = found;
    listModels();
    openIntake(look, limits);
    say("Ready.");
  } catch (error) {
    fail(error, start);
  }
}

function listModels() {
  const options = (list) => list.map(({ name }) => new Option(name, name));
  element("model").replaceChildren(...options(models));
  element("other").replaceChildren(new Option("nothing", ""), ...options(models));
  element("models").hidden = false;
  element("other").disabled = models.length < 2;
  chooseModels();
}

function chosen() { // one model, or the two that are compared
  const names = [element("model").value, element("other").value].filter(Boolean);
  return names.map((name) => models.find((model) => model.name === name));
}

function chooseModels() {
  const [first, other] = [element("model"), element("other")];
  if (other.value === first.value) other.value = "";
  for (const option of other.options) option.hidden = option.disabled = option.value === first.value;
  legend.listClasses(chosen());
  const licences = chosen().map(({ name, licence }) => `Weights of ${name}: ${licence || "no licence stated"}.`);
  element("licence").textContent = licences.join(" ");
  element("saves-note").textContent = other.value ? `Both are of ${first.value}, without the comparison.` : "";
  if (current && !isLive()) ask(current);
}

// -> Promise of whether it was seen.
async function look(file, name) {
  const image = await openImage(file);
  return ask({ file, name, image, seen: new Map() });
}

// Asks those of the chosen models that were not asked about it yet, one after the other.
async function ask(about) {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  const [wanted, begin, isMoving] = [chosen(), performance.now(), isLive()];
  if (!isMoving) say(`Looking at ${about.name}.`);
  if (!isMoving && about !== current) showAlone(about);
  element("frame").setAttribute("aria-busy", !isMoving);
  current = about;
  try {
    for (const model of wanted.filter(({ name }) => !about.seen.has(name))) {
      about.seen.set(model.name, await see(about.file, about.name, model, { signal, onWait: sayBusy }));
    }
    if (signal.aborted) return false;
    show(about, wanted.map(({ name }) => about.seen.get(name)), isMoving);
    element("caption").textContent += `, ${Math.round(performance.now() - begin)} ms`;
    return true;
  } catch (error) {
    if (signal.aborted) return false;
    element("result").hidden = true;
    fail(error, () => ask(about));
    return false;
  } finally {
    if (!signal.aborted) element("frame").setAttribute("aria-busy", false);
  }
}

function showAlone({ image }) { // at once, before any model has answered
  element("result").hidden = !image;
  setSaves(false);
  if (!image) return;
  view.showImage(image);
  view.showSeen([], legend.isShown);
  element("caption").textContent = `${image.width} x ${image.height} pixels`;
}

function show(about, seen, isMoving) {
  const [height, width] = seen[0].size;
  const fits = about.image && about.image.height === height && about.image.width === width;
  view.showImage(fits ? about.image : emptyImage(seen[0].size));
  view.showSeen(seen, legend.isShown);
  view.setOpacity(opacity());
  legend.tellShares(seen, isMoving);
  element("result").hidden = false;
  setSaves(true);
  element("caption").textContent = `${width} x ${height} pixels`;
  element("stage").setAttribute("aria-label", `The image under the colours of its classes: ${inWords(seen[0])}`);
  if (isMoving) return;
  const { name } = about;
  say(fits ? `Done: ${name}.` : `Done, but your browser cannot show ${name}: here is the mask alone, on grey.`);
}

function inWords({ model, shares }) { // the three largest classes
  const largest = model.classes.map(({ name }, i) => ({ name, share: shares[i] })).sort((a, b) => b.share - a.share);
  return largest.filter(({ share }) => share > 0).slice(0, 3)
    .map(({ name, share }) => `${name} ${Math.round(100 * share)}%`).join(", ");
}

function fail(error, again) {
  sayError(error, again);
  if (error.status === 401) askToken((token) => { keepToken(token); again(); });
}

function setSaves(can) {
  element("save-mask").disabled = element("save-overlay").disabled = !can;
}

async function saveMask() {
  const [about, [model]] = [current, chosen()];
  const seen = about.seen.get(model.name);
  try {
    seen.png ??= await (await segment(about.file, about.name, model.name, "png", { onWait: sayBusy })).blob();
    save(seen.png, `${stem(about.name)}_mask.png`);
  } catch (error) {
    fail(error, saveMask);
  }
}

function saveOverlay() {
  const name = `${stem(current.name)}_overlay.png`;
  view.compose(opacity()).toBlob((file) => save(file, name), "image/png");
}

function stem(name) {
  return name.replace(/(?<=.)\.[^.]*$/, "");
}

function save(file, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(file), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

element("model").addEventListener("change", chooseModels);
element("other").addEventListener("change", chooseModels);
element("opacity").addEventListener("input", () => {
  element("percent").textContent = `${element("opacity").value}%`;
  view.setOpacity(opacity());
});
element("save-mask").addEventListener("click", saveMask);
element("save-overlay").addEventListener("click", saveOverlay);
legend.onToggle(() => view.repaint(legend.isShown));
view.tellPoint((words, name) => {
  element("under").textContent = words ?? "";
  legend.point(name ?? null);
});
addEventListener("hashchange", start); // a token that was added to the address of an open page
start();
