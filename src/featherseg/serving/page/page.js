// The page of `featherseg serve`: asks one or two models about images and shows what they predict.
// Class and file names come from strangers: they are set as text, never as HTML.

import * as gallery from "./gallery.js";
import { emptyImage, openImage } from "./image.js";
import { isLive, openIntake, readImage } from "./intake.js";
import * as legend from "./legend.js";
import { predict, readConfidence } from "./masks.js";
import { keepToken, readLimits, readModels, segment, takeToken } from "./service.js";
import { askToken, showBusy, showError, showMessage } from "./status.js";
import * as view from "./view.js";

const element = (id) => document.getElementById(id);
const opacity = () => element("opacity").value / 100;
let models = [];
let current = null; // the image that was opened last, see gallery.js
let drawn = {}; // { image, canvas }: the last that was decoded; canvas is null where the browser cannot show it
let shown = null; // the image whose predictions are shown
let asking = new AbortController(); // of the question that is under way

async function start() {
  takeToken();
  showMessage("Connecting to the service.");
  try {
    const [found, limits] = await Promise.all([readModels(), readLimits()]);
    models = found;
    listModels();
    gallery.openGallery(open);
    openIntake(gallery.setImages, limits);
    showMessage("Ready.");
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
  const grey = chosen().find(({ channels }) => channels !== 3);
  element("camera").disabled = Boolean(grey);
  element("camera").title = grey ? `${grey.name} takes images of another kind than a camera's: choose files.` : "";
  legend.listClasses(chosen());
  const stated = chosen().filter(({ licence }) => licence && licence !== "not stated"); // one's own need none
  const licences = stated.map(({ name, licence }) => `Weights of ${name}: ${licence}.`);
  element("confidence").disabled = chosen().some(({ panoptic }) => panoptic);
  element("licence").textContent = licences.join(" ");
  element("saves-note").textContent = other.value ? `All are of ${first.value}, without the comparison.` : "";
  if (current && !isLive()) open(current);
}

// Shows an image: at once as it is, then under what the chosen models predict; those that were not asked about it yet
// are asked one after the other. -> Promise of whether it went well; an image opened meanwhile takes its place.
async function open(image) {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  const [wanted, begin, isMoving] = [chosen(), performance.now(), isLive()];
  current = image;
  gallery.keep(image);
  if (!isMoving) showMessage(`Segmenting ${image.name}.`);
  element("frame").setAttribute("aria-busy", !isMoving);
  try {
    image.content ??= await readImage(image);
    if (signal.aborted) return false;
    if (image !== drawn.image) {
      const canvas = await openImage(image.content);
      if (signal.aborted) return false;
      drawn = { image, canvas };
      if (!isMoving) showAlone(canvas);
    }
    for (const model of wanted.filter(({ name }) => !image.predictions.has(name))) {
      const prediction = await predict(image.content, image.name, model, { signal, onWait: showBusy });
      image.predictions.set(model.name, prediction);
    }
    if (!isMoving) await askConfidence(image, wanted, signal);
    if (signal.aborted) return false;
    showPredictions(image, wanted.map(({ name }) => image.predictions.get(name)), isMoving);
    element("caption").textContent += `, ${Math.round(performance.now() - begin)} ms`;
    shown = image;
    gallery.keep(image);
    gallery.mark(image, false);
    return true;
  } catch (error) {
    if (signal.aborted) return false;
    element("result").hidden = true;
    gallery.mark(image, true);
    fail(error, () => open(image));
    return false;
  } finally {
    if (!signal.aborted) element("frame").setAttribute("aria-busy", false);
  }
}

// What is shown of the models' confidence, where that is wanted.
async function askConfidence(image, wanted, signal) {
  const box = element("confidence");
  try {
    for (const model of box.checked && !box.disabled ? wanted : []) {
      const prediction = image.predictions.get(model.name);
      prediction.confidence ??= await readConfidence(image.content, image.name, model, { signal, onWait: showBusy });
    }
  } catch (error) { // an exported file may give masks alone
    if (signal.aborted) throw error;
    box.checked = false;
    showMessage(error.message, true);
  }
  view.showUncertainty(box.checked && !box.disabled);
}

async function changeConfidence() {
  view.showUncertainty(false);
  if (shown && shown === current) {
    const { signal } = asking;
    element("frame").setAttribute("aria-busy", true);
    try {
      await askConfidence(shown, chosen(), signal);
    } catch (error) {
      if (!signal.aborted) throw error;
    }
    if (signal.aborted) return; // an image that was opened meanwhile takes its place
    element("frame").setAttribute("aria-busy", false);
  }
  view.repaint(legend.isShown);
}

function showAlone(canvas) { // before any model has answered
  element("result").hidden = !canvas;
  setSaves(false);
  if (!canvas) return;
  view.showImage(canvas);
  view.showPredictions([], legend.isShown);
  element("caption").textContent = `${canvas.width} x ${canvas.height} pixels`;
}

function showPredictions({ name }, predictions, isMoving) {
  const { canvas } = drawn;
  const [{ size, model, shares }] = predictions;
  const [height, width] = size;
  const fits = canvas?.height === height && canvas.width === width;
  view.showImage(fits ? canvas : emptyImage(size));
  view.showPredictions(predictions, legend.isShown);
  view.setOpacity(opacity());
  legend.showShares(predictions, isMoving);
  element("result").hidden = false;
  setSaves(true);
  element("caption").textContent = `${width} x ${height} pixels`;

  // The three largest classes, for those who cannot see the colours.
  const largest = model.classes.map(({ name }, i) => ({ name, share: shares[i] })).sort((a, b) => b.share - a.share);
  const listed = largest.filter(({ share }) => share > 0).slice(0, 3)
    .map(({ name, share }) => `${name} ${Math.round(100 * share)}%`).join(", ");
  element("stage").setAttribute("aria-label", `The image under the colours of its classes: ${listed}`);
  if (isMoving) return;
  showMessage(fits ? `Done: ${name}.` : `Done, but your browser cannot show ${name}: here is the mask alone, on grey.`);
}

function fail(error, again) {
  showError(error, again);
  if (error.status === 401) askToken((token) => { keepToken(token); again(); });
}

function setSaves(can) {
  for (const id of ["save-mask", "save-polygons", "save-geojson", "save-overlay"]) element(id).disabled = !can;
}

async function saveMask() {
  const name = `${stem(shown.name)}_mask.png`;
  try {
    save(await gallery.readMask(shown, chosen()[0], { onWait: showBusy }), name);
  } catch (error) {
    fail(error, saveMask);
  }
}

async function savePolygons(format, ending) {
  const name = `${stem(shown.name)}${ending}`;
  try {
    const content = shown.content ?? await readImage(shown);
    const answer = await segment(content, shown.name, chosen()[0].name, format, { onWait: showBusy });
    save(await answer.blob(), name);
  } catch (error) {
    fail(error, () => savePolygons(format, ending));
  }
}

function saveOverlay() {
  const name = `${stem(shown.name)}_overlay.png`;
  view.compose(opacity()).toBlob((file) => {
    if (file) save(file, name);
    else showMessage("The browser cannot make so large an image. Download the mask instead.", true);
  }, "image/png");
}

async function saveAll() { // the same button stops it
  if (gallery.stopSaving()) return;
  try {
    await gallery.saveAll(chosen()[0], save);
  } catch (error) {
    fail(error, saveAll);
  }
}

function stem(path) { // "street/001.jpg" -> "001"
  return path.replace(/.*\/(?=.)/, "").replace(/(.)\.[^.]*$/, "$1");
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
element("confidence").addEventListener("change", changeConfidence);
element("save-mask").addEventListener("click", saveMask);
element("save-polygons").addEventListener("click", () => savePolygons("coco", "_coco.json"));
element("save-geojson").addEventListener("click", () => savePolygons("geojson", ".geojson"));
element("save-overlay").addEventListener("click", saveOverlay);
element("save-all").addEventListener("click", saveAll);
legend.onToggle(() => view.repaint(legend.isShown));
view.onPointed((name, ofClass) => {
  element("under").textContent = name ?? "";
  legend.point(ofClass ?? null);
});
addEventListener("hashchange", start); // a token that was added to the address of an open page
start();
