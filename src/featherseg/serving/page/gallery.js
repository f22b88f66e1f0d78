// The images that came in together: which one is shown, how to go through them, and all their masks as one zip.

import { readImage } from "./intake.js";
import { segment } from "./service.js";
import { zip } from "./zip.js";

const GROUP = 50; // thumbnails that are there at a time
const THUMB = 72; // height of a thumbnail in pixels
const KEPT_BYTES = 256e6; // of files and masks that are kept for coming back to them
const element = (id) => document.getElementById(id);
let images = []; // { name, file, content: a Blob once it was read, predictions: Map of model name to prediction }
let at = 0;
let show = () => {};
let saving = null; // the AbortController of a zip that is being made
const recent = new Set(); // images in the order in which they were last shown

// showImage(image) is called when another one is to be shown.
export function openGallery(showImage) {
  show = showImage;
}

// list of { name, file } -> what show returns for the first of them.
export function setImages(list) {
  saving?.abort();
  recent.clear();
  images = list.map((image) => ({ ...image, content: null, predictions: new Map() }));
  const isOne = images.length < 2;
  element("gallery").hidden = isOne;
  element("saving").textContent = "";
  element("thumbs").replaceChildren();
  if (!isOne) element("list").replaceChildren(...images.map(({ name }, i) => new Option(`${i + 1}. ${name}`, i)));
  return go(0);
}

function go(to) {
  if (!images[to]) return false;
  at = to;
  if (images.length > 1) {
    element("list").selectedIndex = at;
    element("previous").disabled = at === 0;
    element("next").disabled = at === images.length - 1;
    element("place").textContent = `${at + 1} of ${images.length}`;
    showThumbs();
  }
  return show(images[at]);
}

// The group of thumbnails around the shown image. The select and the arrow keys do the same from the keyboard.
function showThumbs() {
  const [box, first] = [element("thumbs"), at - at % GROUP];
  if (!box.children.length || box.dataset.first !== String(first)) {
    box.dataset.first = first;
    const group = images.slice(first, first + GROUP);
    box.replaceChildren(...group.map(({ name }, i) => makeThumb(name, first + i)));
    drawThumbs(group, [...box.children]);
  }
  [...box.children].forEach((thumb, i) => thumb.setAttribute("aria-current", first + i === at));
  const thumb = box.children[at - first];
  box.scrollLeft = thumb.offsetLeft - (box.clientWidth - thumb.offsetWidth) / 2;
}

function makeThumb(name, number) {
  const thumb = Object.assign(document.createElement("button"), { type: "button", tabIndex: -1, title: name });
  thumb.textContent = number + 1; // also what is left where the browser cannot show the file
  thumb.addEventListener("click", () => go(number));
  return thumb;
}

async function drawThumbs(group, thumbs) { // one after the other: a decoded photograph takes 50 MB
  for (const [i, { name, file }] of group.entries()) {
    try {
      const bitmap = await createImageBitmap(file, { resizeHeight: THUMB, resizeQuality: "low" });
      if (!thumbs[i].isConnected) return bitmap.close();
      const canvas = Object.assign(document.createElement("canvas"), { width: bitmap.width, height: bitmap.height });
      canvas.getContext("2d").drawImage(bitmap, 0, 0);
      bitmap.close();
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", name);
      thumbs[i].replaceChildren(canvas);
    } catch { /* its number stays */ }
  }
}

export function mark(image, isRefused) { // in the list
  const option = images.length > 1 && element("list").options[images.indexOf(image)];
  if (option) option.textContent = `${images.indexOf(image) + 1}. ${image.name}${isRefused ? " (not segmented)" : ""}`;
}

// The image is shown now: those that were shown longest ago lose content and predictions while all have more than
// KEPT_BYTES.
export function keep(image) {
  recent.delete(image);
  recent.add(image);
  const bytes = ({ content, predictions }) => [...predictions.values()].reduce(
    (sum, { mask, parts, png, confidence }) => sum + mask.length + (parts?.byteLength ?? 0) + (png?.size ?? 0)
      + (confidence?.length ?? 0), content?.size ?? 0);
  let all = [...recent].reduce((sum, other) => sum + bytes(other), 0);
  for (const old of recent) {
    if (old === image || all <= KEPT_BYTES) break;
    all -= bytes(old);
    recent.delete(old);
    old.content = null;
    old.predictions.clear();
  }
}

// Saves the masks of all images as predicted by `model`. An image that is refused leaves the others alone; throws the
// error of a service that no longer answers, or wants a token.
export async function saveAll(model, save) {
  saving?.abort();
  const own = saving = new AbortController();
  element("save-all").textContent = "Stop";
  const [files, refused, names] = [[], [], new Set()];
  try {
    for (const [i, image] of images.entries()) {
      const place = `${i + 1} of ${images.length}`;
      element("saving").textContent = `Segmenting ${place}.`;
      const onWait = (seconds) => {
        element("saving").textContent = `Segmenting ${place}: the service is busy, asking again in ${seconds} s.`;
      };
      try {
        const blob = await readMask(image, model, { signal: own.signal, onWait });
        files.push({ name: uniqueName(image.name, names), blob });
      } catch (error) {
        if (own.signal.aborted || error.status === 0 || error.status === 401) throw error;
        refused.push(`${image.name}: ${error.message}`);
        mark(image, true);
      }
    }
    if (refused.length) files.push({ name: "refused.txt", blob: new Blob([refused.join("\n"), "\n"]) });
    save(await zip(files), "masks.zip");
    const [count, left] = [images.length - refused.length, refused.length];
    element("saving").textContent = `${count} ${count === 1 ? "mask" : "masks"} in masks.zip.`
      + (left ? ` ${left} not segmented, see refused.txt in it; the first: ${refused[0]}` : "");
  } catch (error) {
    if (saving === own) element("saving").textContent = own.signal.aborted ? "Stopped." : "";
    if (!own.signal.aborted) throw error;
  } finally {
    if (saving === own) {
      saving = null;
      element("save-all").textContent = "Download all masks";
    }
  }
}

export function stopSaving() { // -> whether there was something to stop
  saving?.abort();
  return saving !== null;
}

// -> Promise of the PNG of the model's mask, asked for where it is not kept.
export async function readMask(image, model, options) {
  const { png } = image.predictions.get(model.name) ?? {};
  if (png) return png;
  const content = image.content ?? await readImage(image);
  return (await segment(content, image.name, model.name, "png", options)).blob();
}

// "street/001.jpg" -> "street/001_mask.png", and another one where that is taken; never a path that leads elsewhere.
function uniqueName(path, taken) {
  const parts = path.replaceAll("\\", "_").split("/").filter((part) => !["", ".", ".."].includes(part));
  const stem = (parts.join("/") || "image").replace(/([^/])\.[^./]*$/, "$1");
  let name = `${stem}_mask.png`;
  for (let i = 2; taken.has(name.toLowerCase()); i++) name = `${stem}_${i}_mask.png`;
  taken.add(name.toLowerCase());
  return name;
}

// Arrow keys go through the images wherever they do nothing else.
function onKey(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const isTaken = event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey
    || event.target.matches("select, video, [type=range], [type=password]");
  if (images.length < 2 || !step || isTaken) return;
  event.preventDefault();
  go(at + step);
}

element("previous").addEventListener("click", () => go(at - 1));
element("next").addEventListener("click", () => go(at + 1));
element("list").addEventListener("change", () => go(element("list").selectedIndex));
document.addEventListener("keydown", onKey);
