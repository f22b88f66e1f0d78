"use strict";
// Runs the model of model.js on images, in the page itself: opened from disk, without a server or a connection.
// packed.model and packed.runtime are written by `featherseg export --format web`; sizes are [height, width].

const MEMORY = 1.5e9; // bytes that an image may take while the model runs: WebAssembly has 4 GB at most
const facts = globalThis.packed?.model?.facts;
const element = (id) => document.getElementById(id);
const shown = facts?.classes.map(() => true);
let session = null;
let asked = 0; // images so far: the latest alone is shown
let seen = null; // the last image: {name, size, pixels (RGBA), mask, counts}

async function unpack(text) { // base64 of gzip -> bytes; file:// allows no fetch, so files travel inside scripts
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function start() {
  const { model, runtime } = globalThis.packed ?? {};
  const [hasOrt, hasPng] = [typeof ort !== "undefined", typeof indexPng !== "undefined"];
  const parts = { "model.js": model, "runtime.js": runtime, "ort.wasm.min.js": hasOrt, "png.js": hasPng };
  const missing = Object.keys(parts).filter((name) => !parts[name]);
  if (missing.length) {
    return say(`${missing.join(", ")} could not be loaded. Copy the whole folder, all files beside index.html.`, true);
  }
  describe();
  say("Loading the model.");
  try {
    const glue = new Blob([await unpack(packed.runtime.glue)], { type: "text/javascript" });
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = await unpack(packed.runtime.wasm);
    ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(glue) };
    session = await ort.InferenceSession.create(await unpack(packed.model.onnx), { executionProviders: ["wasm"] });
  } catch (error) {
    return say(`The model could not be loaded: ${error.message}. A current Firefox, Chrome or Safari is needed.`, true);
  }
  element("file").disabled = false;
  say("Ready.");
}

function describe() {
  document.title = `${facts.name} - featherseg`;
  element("name").textContent = facts.name;
  element("about").textContent =
    `Tells ${facts.classes.length} classes apart, pixel by pixel. ` +
    "Choose an image: the model runs here, in this page, and nothing is sent anywhere.";
  element("licence").textContent = facts.licence || "not stated";
  element("classes").replaceChildren(...facts.classes.map(classRow));
}

function classRow(info, index) {
  const row = document.createElement("label");
  const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
  box.addEventListener("change", () => { shown[index] = box.checked; draw(); });
  const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
  swatch.style.background = `rgb(${info.color.join(" ")})`;
  const name = Object.assign(document.createElement("span"), { className: "name", textContent: info.name });
  const share = Object.assign(document.createElement("span"), { className: "share" });
  row.append(box, swatch, name, share);
  return row;
}

function say(text, isError = false) {
  element("status").textContent = text;
  element("status").classList.toggle("error", isError);
}

async function look(file) {
  if (!session || !file) return;
  const own = ++asked;
  say(`Segmenting ${file.name || "the image"}.`);
  await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve))); // let the page show that
  try {
    const image = await createImageBitmap(file, { colorSpaceConversion: "none" });
    if (own !== asked) return;
    const size = [image.height, image.width];
    const model = modelSize(size);
    const pixels = read(image, model);
    const start = performance.now();
    const feeds = { images: new ort.Tensor("uint8", rgb(pixels), [1, ...model, 3]) };
    const found = (await session.run(feeds)).masks.data;
    if (own !== asked) return;
    const milliseconds = performance.now() - start;
    const mask = enlarge(Uint8Array.from(found), model, size);
    seen = { name: (file.name || "image").replace(/\.[^.]*$/, ""), size, pixels: read(image, size), mask };
    tell(model, milliseconds);
    draw();
  } catch (error) {
    if (own === asked) say(`${file.name || "The image"} could not be segmented: ${error.message}`, true);
  }
}

function modelSize([height, width]) { // as the model was validated, and as memory allows
  const resize = facts.resize; // [shorter, longer] side at most, or null
  let factor = resize ? Math.min(resize[0] / Math.min(height, width), resize[1] / Math.max(height, width)) : 1;
  factor = Math.min(factor, Math.sqrt(MEMORY / facts.peak_bytes_per_pixel / (height * width)));
  return [height, width].map((side) => Math.max(1, Math.round(side * factor)));
}

function read(image, [height, width]) { // -> RGBA, 4 bytes a pixel; a canvas keeps no colour where alpha is 0: black
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}

function rgb(pixels) {
  const out = new Uint8Array(pixels.length / 4 * 3);
  for (let i = 0, j = 0; i < pixels.length; i += 4) {
    out[j++] = pixels[i];
    out[j++] = pixels[i + 1];
    out[j++] = pixels[i + 2];
  }
  return out;
}

function enlarge(mask, from, to) { // nearest; the same mask where the sizes agree
  if (from[0] === to[0] && from[1] === to[1]) return mask;
  const out = new Uint8Array(to[0] * to[1]);
  for (let y = 0; y < to[0]; y++) {
    const row = Math.floor((y + 0.5) * from[0] / to[0]) * from[1];
    for (let x = 0; x < to[1]; x++) out[y * to[1] + x] = mask[row + Math.floor((x + 0.5) * from[1] / to[1])];
  }
  return out;
}

function tell(model, milliseconds) {
  const counts = facts.classes.map(() => 0);
  for (const index of seen.mask) counts[index]++;
  const [height, width] = seen.size;
  const other = model[0] !== height || model[1] !== width ? `, resized to ${model[1]} x ${model[0]}` : "";
  let clear = false;
  for (let i = 3; i < seen.pixels.length && !clear; i += 4) clear = seen.pixels[i] === 0;
  element("caption").textContent = `${width} x ${height} pixels${other}, ${Math.round(milliseconds)} ms` +
    (clear ? "; transparent parts are seen as black, where predict sees the colours stored there" : "");
  facts.classes.forEach((info, index) => {
    const row = element("classes").children[index];
    row.classList.toggle("absent", counts[index] === 0);
    row.querySelector(".share").textContent = `${(100 * counts[index] / seen.mask.length).toFixed(1)}%`;
  });
  const largest = counts.map((count, i) => [count, facts.classes[i].name]).sort((a, b) => b[0] - a[0]);
  const words = largest.filter(([count]) => count > 0).slice(0, 3)
    .map(([count, name]) => `${name} ${Math.round(100 * count / seen.mask.length)}%`);
  element("view").setAttribute("aria-label", `The image under the colours of its classes: ${words.join(", ")}`);
  element("result").hidden = false;
  say(`Done in ${Math.round(milliseconds)} ms.`);
}

// Whether the image is unchanged where a class is, as `predict` leaves it: a background, or a class in black.
const isClear = ({ name, color }) => /^(__?|)background\1$/i.test(name) || !color.some(Boolean);

// Whether a pixel is at the border of its class, which is outlined in its colour.
function isEdge(at, reach) {
  const { mask, size: [height, width] } = seen;
  const [x, y] = [at % width, Math.floor(at / width)];
  for (let step = 1; step <= reach; step++) {
    if ((x >= step && mask[at - step] !== mask[at]) || (x + step < width && mask[at + step] !== mask[at])
      || (y >= step && mask[at - step * width] !== mask[at])
      || (y + step < height && mask[at + step * width] !== mask[at])) return true;
  }
  return false;
}

function draw() {
  if (!seen) return;
  const [height, width] = seen.size;
  const reach = Math.max(1, Math.round(Math.max(height, width) / 1000)); // pixels
  const opacity = element("opacity").value / 100;
  const image = new ImageData(Uint8ClampedArray.from(seen.pixels), width, height);
  for (let i = 0; i < seen.mask.length; i++) {
    image.data[4 * i + 3] = 255; // as the model sees it, transparent parts in black
    const info = facts.classes[seen.mask[i]];
    if (!shown[seen.mask[i]] || isClear(info)) continue;
    const share = isEdge(i, reach) ? 1 : opacity;
    for (let c = 0; c < 3; c++) image.data[4 * i + c] += share * (info.color[c] - image.data[4 * i + c]);
  }
  const canvas = element("view");
  [canvas.height, canvas.width] = [height, width];
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function showAll(visible) {
  shown.fill(visible);
  for (const box of element("classes").querySelectorAll("input")) box.checked = visible;
  draw();
}

async function download() {
  const file = await indexPng(seen.mask, ...seen.size, facts.classes.map((info) => info.color));
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(file) });
  link.download = `${seen.name}_mask.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function dropped(event) {
  event.preventDefault();
  element("drop").classList.remove("over");
  look(event.dataTransfer.files[0]);
}

element("file").addEventListener("change", (event) => {
  look(event.target.files[0]);
  event.target.value = ""; // so that the same can be chosen again
});
element("opacity").addEventListener("input", (event) => {
  element("percent").textContent = `${event.target.value}%`;
  draw();
});
element("all").addEventListener("click", () => showAll(true));
element("none").addEventListener("click", () => showAll(false));
element("download").addEventListener("click", download);
document.addEventListener("paste", (event) => look(event.clipboardData.files[0]));
document.addEventListener("dragover", (event) => { event.preventDefault(); element("drop").classList.add("over"); });
document.addEventListener("dragleave", () => element("drop").classList.remove("over"));
document.addEventListener("drop", dropped);
start();
