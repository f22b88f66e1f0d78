// The ways images come in: chosen, dropped, pasted, whole folders, or from the camera, one frame or frame after frame.

import { startCamera, stopCamera, takeFrame } from "./camera.js";
import { showError, showMessage } from "./status.js";

const IMAGE = /\.(jpe?g|png|webp|bmp|tiff?|avif|gif|jp2|j2k|p[bgnp]m)$/i; // what is taken out of a folder
const MOST = 10_000; // images at a time: a zip without extensions holds 65,535
const element = (id) => document.getElementById(id);
const video = element("video");
let largest = 0; // bytes of a file; 0 until the service said it
let open = async () => false;
let live = false;
let loops = 0; // of live frames so far: the latest alone goes on

export const isLive = () => live;

// openImages(list of { name, file }) -> Promise of whether the first is shown. The controls work from now on.
export function openIntake(openImages, limits) {
  [open, largest] = [openImages, limits.bytes];
  for (const id of ["file", "folder"]) element(id).disabled = false; // the camera as the model allows, see page.js
}

// -> Promise of a Blob with the file's content, whatever happens to the file from now on. Throws an Error with a message.
export async function readImage({ name, file }) {
  if (file.size > largest) {
    const [found, most] = [file.size, largest].map(inMegabytes);
    throw new Error(`${name} has ${found}, but this service takes at most ${most}. Save it smaller, or as JPEG.`);
  }
  try {
    return new Blob([await file.arrayBuffer()]);
  } catch {
    throw new Error(`${name} cannot be read. If it is a folder, choose an image inside it.`);
  }
}

function inMegabytes(bytes) {
  return bytes < 1e5 ? `${Math.round(bytes / 10) / 100} kB` : `${Math.round(bytes / 1e4) / 100} MB`;
}

function take(images) {
  if (!images.length || !largest) return;
  goStill();
  if (images.length > MOST) showMessage(`${images.length} images are too many: at most ${MOST} at a time.`, true);
  else open(images);
}

function takeFiles(files) { // as they were chosen, whatever they are called: the service says what is no image
  take([...files].map((file) => ({ name: file.name || "image", file })));
}

function takeFolder(found) { // the images among what a folder holds, in the order of their names
  const images = found.filter(({ name }) => IMAGE.test(name) && !/(^|\/)\./.test(name));
  const { compare } = new Intl.Collator("en", { numeric: true });
  if (found.length && !images.length) showMessage("The folder holds no image of a format that is read.", true);
  take(images.sort((a, b) => compare(a.name, b.name)));
}

async function drop(event) {
  event.preventDefault();
  element("drop").classList.remove("over");
  const files = [...event.dataTransfer.files]; // both lists are empty after the first await
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return takeFiles(files);
  try {
    takeFolder((await Promise.all(entries.map(filesOf))).flat());
  } catch (error) {
    showMessage(`The folder cannot be read: ${error.message}`, true);
  }
}

// -> Promise of what a dropped file or folder holds, as { name: its path, file }.
async function filesOf(entry) {
  const call = (object, method) => new Promise((resolve, reject) => { object[method](resolve, reject); });
  if (entry.isFile) return [{ name: entry.fullPath.replace(/^\//, ""), file: await call(entry, "file") }];
  const [reader, found] = [entry.createReader(), []];
  for (let some; (some = await call(reader, "readEntries")).length;) { // Chromium gives 100 at a time
    for (const inner of some) found.push(...await filesOf(inner));
    if (found.length > 10 * MOST) throw new Error(`it holds more than ${10 * MOST} files. Choose a smaller one.`);
  }
  return found;
}

async function openViewfinder() {
  try {
    await startCamera(video);
    element("viewfinder").hidden = false;
    element("still").focus();
    showMessage("The camera is on.");
  } catch (error) {
    closeViewfinder();
    showError(error);
  }
}

function closeViewfinder() {
  goStill();
  stopCamera(video);
  if (element("viewfinder").contains(document.activeElement)) element("camera").focus();
  element("viewfinder").hidden = true;
}

async function takeStill() {
  goStill();
  try {
    await open([{ name: "camera", file: await takeFrame(video) }]);
  } catch (error) {
    showError(error);
  }
}

// Each frame is taken after the one before was answered and shown: never is more than one under way.
async function goLive() {
  const own = ++loops;
  setLive(true);
  showMessage("Live.");
  try {
    while (live && own === loops) {
      const frame = await takeFrame(video);
      if (!live || own !== loops || !await open([{ name: "camera", file: frame }])) break;
      await new Promise(requestAnimationFrame); // which waits while the page is out of sight
    }
  } catch (error) {
    showError(error);
  }
  if (own === loops) setLive(false); // not that of a loop that was begun since
}

function goStill() {
  if (live) showMessage("Paused.");
  setLive(false);
}

function setLive(value) {
  live = value;
  element("live").setAttribute("aria-pressed", live);
  element("viewfinder").classList.toggle("is-live", live);
}

for (const [id, taken] of [["file", takeFiles], ["folder", takeChosenFolder]]) {
  element(id).addEventListener("change", (event) => {
    taken([...event.target.files]);
    event.target.value = ""; // so that the same can be chosen again
  });
}

function takeChosenFolder(files) {
  takeFolder(files.map((file) => ({ name: file.webkitRelativePath || file.name, file })));
}

element("camera").addEventListener("click", openViewfinder);
element("still").addEventListener("click", takeStill);
element("live").addEventListener("click", () => (live ? goStill() : goLive()));
element("stop").addEventListener("click", () => { closeViewfinder(); showMessage("The camera is off."); });
document.addEventListener("paste", (event) => takeFiles(event.clipboardData.files));
document.addEventListener("dragover", (event) => { event.preventDefault(); element("drop").classList.add("over"); });
document.addEventListener("dragleave", () => element("drop").classList.remove("over"));
document.addEventListener("drop", drop);
