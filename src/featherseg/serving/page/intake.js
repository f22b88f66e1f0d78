// The ways an image comes in: chosen, dropped, pasted, or from the camera, one frame or frame after frame.

import { startCamera, stopCamera, takeFrame } from "./camera.js";
import { say, sayError } from "./status.js";

const element = (id) => document.getElementById(id);
const video = element("video");
let largest = 0; // bytes of a file; 0 until the service said it
let look = async () => false;
let live = false;

export const isLive = () => live;

// lookAt(blob, name) -> Promise of whether it was seen. The controls work from now on.
export function openIntake(lookAt, limits) {
  [look, largest] = [lookAt, limits.bytes];
  element("file").disabled = element("camera").disabled = false;
}

// A file, however it came: refused where it is too large, else looked at.
async function take(file) {
  if (!file || !largest) return;
  goStill();
  const name = file.name || "image";
  if (file.size > largest) return say(tooLarge(name, file.size), true);
  let kept; // whatever happens to the file from now on
  try {
    kept = new Blob([await file.arrayBuffer()]);
  } catch {
    return say(`${name} cannot be read. If it is a folder, choose an image inside it.`, true);
  }
  await look(kept, name);
}

function tooLarge(name, bytes) {
  const [found, most] = [bytes, largest].map(inMegabytes);
  return `${name} has ${found}, but this service takes at most ${most}. Save it smaller, or as JPEG.`;
}

function inMegabytes(bytes) {
  return bytes < 1e5 ? `${Math.round(bytes / 10) / 100} kB` : `${Math.round(bytes / 1e4) / 100} MB`;
}

async function openViewfinder() {
  try {
    await startCamera(video);
    element("viewfinder").hidden = false;
    element("still").focus();
    say("The camera is on.");
  } catch (error) {
    closeViewfinder();
    sayError(error);
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
  await look(await takeFrame(video), "camera");
}

// Each frame is taken after the one before was answered and shown: never is more than one under way.
async function goLive() {
  setLive(true);
  say("Live.");
  while (live) {
    const frame = await takeFrame(video);
    if (!live || !await look(frame, "camera")) break;
    await new Promise(requestAnimationFrame); // which waits while the page is out of sight
  }
  setLive(false);
}

function goStill() {
  if (live) say("Paused.");
  setLive(false);
}

function setLive(value) {
  live = value;
  element("live").setAttribute("aria-pressed", live);
  element("viewfinder").classList.toggle("is-live", live);
}

function drop(event) {
  event.preventDefault();
  element("drop").classList.remove("over");
  take(event.dataTransfer.files[0]);
}

element("file").addEventListener("change", (event) => {
  take(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});
element("camera").addEventListener("click", openViewfinder);
element("still").addEventListener("click", takeStill);
element("live").addEventListener("click", () => (live ? goStill() : goLive()));
element("stop").addEventListener("click", () => { closeViewfinder(); say("The camera is off."); });
document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
document.addEventListener("dragover", (event) => { event.preventDefault(); element("drop").classList.add("over"); });
document.addEventListener("dragleave", () => element("drop").classList.remove("over"));
document.addEventListener("drop", drop);
