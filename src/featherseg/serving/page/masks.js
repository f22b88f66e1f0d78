// What a model predicts, from the service's answer. A mask holds a class number a pixel, row by row; sizes are
// [height, width].

import { decodeIndexPng } from "./png.js";
import { segment } from "./service.js";

export const VOID = 255; // a pixel of no class

// -> { model, size, mask, shares, png, parts, segments }. shares: of the pixels, by class number. png: the file itself,
// where it was asked for. parts: of a panoptic model the number of each pixel's segment + 1, 0 where there is none.
export async function predict(image, name, model, options) {
  if (model.panoptic) {
    try {
      return fromRuns(await (await segment(image, name, model.name, "rle", options)).json(), model);
    } catch (error) {
      if (error.code !== "ragged") throw error; // too many runs to send: the classes alone
    }
  }
  return fromPng(await (await segment(image, name, model.name, "png", options)).arrayBuffer(), model);
}

// -> Promise of the probability of each pixel's class, 0 to 255.
export async function readConfidence(image, name, model, options) {
  const blob = await (await segment(image, name, model.name, "confidence", options)).blob();
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  return Uint8Array.from({ length: data.length / 4 }, (_, at) => data[4 * at]);
}

async function fromPng(buffer, model) {
  const { size, values } = await decodeIndexPng(new Uint8Array(buffer));
  const counts = new Float64Array(256);
  for (const value of values) counts[value]++;
  const shares = model.classes.map((_, index) => counts[index] / values.length);
  const png = new Blob([buffer], { type: "image/png" });
  return { model, size, mask: values, shares, png, parts: null, segments: [] };
}

function fromRuns({ size, classes, segments }, model) {
  const [height, width] = size;
  const mask = new Uint8Array(height * width).fill(VOID);
  const parts = new Uint16Array(height * width);
  segments.forEach((segment, number) => {
    eachPixel(segment.rle, (at) => {
      mask[at] = segment.class;
      parts[at] = number + 1;
    });
  });
  const shares = model.classes.map(() => 0);
  for (const { index, share } of classes) shares[index] = share;
  return { model, size, mask, shares, png: null, parts, segments: segments.map(({ rle, ...rest }) => rest) };
}

// visit(place in the mask) for every one of COCO's run lengths, which go column by column and begin with the zeros.
export function eachPixel({ size: [height, width], counts }, visit) {
  let start = 0;
  counts.forEach((count, i) => {
    let [x, y] = [Math.floor(start / height), start % height];
    for (let left = i % 2 ? count : 0; left > 0; left--) {
      visit(y * width + x);
      if (++y === height) [x, y] = [x + 1, 0];
    }
    start += count;
  });
}

// What is at a place of a mask, in words: "road", "car 2", or "no class".
export function nameAt({ model, mask, parts, segments }, at) {
  const info = model.classes[mask[at]];
  if (!info) return "no class";
  const segment = parts && segments[parts[at] - 1];
  return segment?.thing ? `${info.name} ${segment.id}` : info.name;
}
