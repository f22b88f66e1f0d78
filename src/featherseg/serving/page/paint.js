// What lies over the image: the classes' colours and outlines, or of a panoptic model its objects' outlines and names.

const PAPER = "#fafaf8";
const INK = "#1c1c1e";
const LONGEST_NAME = 28; // letters, after which a name is cut

// Whether the image is unchanged where a class is, as `predict` leaves it: a background, or a class in black.
export const isClear = ({ name, color }) => /^(__?|)background\1$/i.test(name) || !color.some(Boolean);

// Colours of the classes that isShown, on a canvas of the mask's size. What is no class is black, as `predict` draws
// it, unless all classes are off.
export function paintColors(canvas, { size, mask, model }, isShown) {
  const table = new Uint32Array(256); // of RGBA in the order of this machine's bytes
  const bytes = new Uint8Array(table.buffer);
  if (model.classes.some(({ name }) => isShown(name))) table.fill(pixel(0, 0, 0));
  model.classes.forEach((info, i) => {
    bytes.set([...info.color, isShown(info.name) && !isClear(info) ? 255 : 0], 4 * i);
  });
  const context = fit(canvas, size);
  const image = context.createImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < mask.length; i++) pixels[i] = table[mask[i]];
  context.putImageData(image, 0, 0);
}

// The less certain a pixel's class is, the more opaque is its red.
export function paintUncertainty(canvas, { size, confidence }) {
  const context = fit(canvas, size);
  const image = context.createImageData(canvas.width, canvas.height);
  confidence.forEach((share, at) => image.data.set([220, 20, 60, 255 - share], 4 * at));
  context.putImageData(image, 0, 0);
}

// Outlines of the classes that isShown, in their colours; of a panoptic model those of its objects, with their names.
export function paintMarks(canvas, prediction, isShown) {
  const { model: { classes }, mask, parts, segments, size } = prediction;
  const context = fit(canvas, size);
  const marked = parts ? [false, ...segments.map((found) => found.thing && isShown(found.name))]
    : classes.map((info) => isShown(info.name) && !isClear(info));
  const colors = parts ? marked.map(() => pixel(0xfa, 0xfa, 0xf8)) : classes.map(({ color }) => pixel(...color));
  const image = context.createImageData(canvas.width, canvas.height);
  outline(new Uint32Array(image.data.buffer), size, parts ?? mask, marked, colors);
  context.putImageData(image, 0, 0);
  if (parts) writeNames(context, prediction, marked);
}

function pixel(red, green, blue) { // opaque, as one number
  return new Uint32Array(Uint8Array.of(red, green, blue, 255).buffer)[0];
}

function fit(canvas, [height, width]) {
  Object.assign(canvas, { height, width }); // clears it too
  return canvas.getContext("2d");
}

function outline(pixels, [height, width], parts, marked, colors) {
  const reach = Math.max(1, Math.round(Math.max(height, width) / 1000)); // pixels
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const part = parts[at];
      if (!marked[part]) continue;
      for (let step = 1; step <= reach; step++) {
        if ((x >= step && parts[at - step] !== part) || (x + step < width && parts[at + step] !== part)
          || (y >= step && parts[at - step * width] !== part)
          || (y + step < height && parts[at + step * width] !== part)) pixels[at] = colors[part];
      }
    }
  }
}

// The name of its class on every object, the largest first; one that would cover another, or is too small, goes
// without.
function writeNames(context, prediction, marked) {
  const { width, height } = context.canvas;
  const text = Math.min(Math.max(Math.round(Math.max(width, height) / 60), 10), 80); // pixels
  Object.assign(context, { font: `600 ${text}px system-ui, sans-serif`, textAlign: "center", textBaseline: "middle" });
  Object.assign(context, { fillStyle: PAPER, strokeStyle: INK, lineWidth: Math.max(2, text / 4), lineJoin: "round" });
  const middles = middlesOf(prediction);
  const written = [];
  const order = prediction.segments.map((_, i) => i).sort((a, b) => prediction.segments[b].area - prediction.segments[a].area);
  for (const i of order) {
    const found = prediction.segments[i];
    if (!marked[i + 1] || found.area < (1.5 * text) ** 2) continue;
    const name = shorten(found.name);
    const half = context.measureText(name).width / 2 + text / 4;
    const x = Math.max(Math.min(middles[i].x, width - half), half);
    const y = Math.max(Math.min(middles[i].y, height - text), text);
    const isOver = (other) => Math.abs(other.x - x) < other.half + half && Math.abs(other.y - y) < 1.4 * text;
    if (written.some(isOver)) continue;
    context.strokeText(name, x, y);
    context.fillText(name, x, y);
    written.push({ x, y, half });
  }
}

// Of every segment its pixel that is nearest to its centre of mass.
function middlesOf({ size: [, width], parts, segments }) {
  const sums = segments.map(() => ({ x: 0, y: 0, n: 0 }));
  parts.forEach((part, at) => {
    if (!part) return;
    const sum = sums[part - 1];
    sum.x += at % width;
    sum.y += Math.floor(at / width);
    sum.n++;
  });
  const nearest = segments.map(() => ({ x: 0, y: 0, gap: Infinity }));
  parts.forEach((part, at) => {
    if (!part) return;
    const [sum, x, y] = [sums[part - 1], at % width, Math.floor(at / width)];
    const gap = (x - sum.x / sum.n) ** 2 + (y - sum.y / sum.n) ** 2;
    if (gap < nearest[part - 1].gap) nearest[part - 1] = { x, y, gap };
  });
  return nearest;
}

function shorten(name) {
  const letters = [...name];
  return letters.length > LONGEST_NAME ? `${letters.slice(0, LONGEST_NAME - 3).join("")}...` : name;
}
