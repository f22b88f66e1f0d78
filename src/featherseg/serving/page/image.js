// A file becomes a canvas to look at: upright as the service sees it, without colour management.

// -> Promise of a canvas, or of null where the browser cannot show the file.
export async function openImage(file) {
  try {
    const bytes = new Uint8Array(await file.arrayBuffer());
    const turn = isWebp(bytes) ? takeOrientation(bytes) : 1; // browsers turn the other formats themselves
    const bitmap = await createImageBitmap(new Blob([bytes]), { colorSpaceConversion: "none" });
    return draw(bitmap, turn);
  } catch {
    return null;
  }
}

export function emptyImage([height, width]) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  context.fillStyle = "#808080";
  context.fillRect(0, 0, width, height);
  return canvas;
}

function draw(bitmap, turn) {
  const { width, height } = bitmap;
  const canvas = emptyImage(turn >= 5 ? [width, height] : [height, width]);
  const context = canvas.getContext("2d");
  context.setTransform(...TURNS[turn](width, height));
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas;
}

// EXIF orientation (CIPA DC-008, table 6) of an image as stored -> the canvas transform that brings it upright.
const TURNS = {
  1: () => [1, 0, 0, 1, 0, 0],
  2: (width) => [-1, 0, 0, 1, width, 0],
  3: (width, height) => [-1, 0, 0, -1, width, height],
  4: (width, height) => [1, 0, 0, -1, 0, height],
  5: () => [0, 1, 1, 0, 0, 0],
  6: (width, height) => [0, 1, -1, 0, height, 0],
  7: (width, height) => [0, -1, -1, 0, height, width],
  8: (width) => [0, -1, 1, 0, 0, width],
};

function isWebp(bytes) {
  return letters(bytes, 0) === "RIFF" && letters(bytes, 8) === "WEBP";
}

function letters(bytes, at) {
  return String.fromCharCode(...bytes.subarray(at, at + 4));
}

// The EXIF orientation of a WebP file, 1..8. It is set to 1 in the bytes, so that no browser turns the image again.
function takeOrientation(bytes) {
  const view = new DataView(bytes.buffer);
  for (let at = 12; at + 8 <= bytes.length;) {
    const length = view.getUint32(at + 4, true);
    if (letters(bytes, at) === "EXIF") return takeFromExif(view, at + 8);
    at += 8 + length + (length % 2);
  }
  return 1;
}

function takeFromExif(view, start) {
  const begin = view.getUint32(start) === 0x45786966 ? start + 6 : start; // some writers put "Exif\0\0" before it
  const little = view.getUint16(begin) === 0x4949; // "II"
  const table = begin + view.getUint32(begin + 4, little);
  const entries = view.getUint16(table, little);
  for (let at = table + 2; at < table + 2 + 12 * entries; at += 12) {
    if (view.getUint16(at, little) !== 0x0112) continue;
    const found = view.getUint16(at + 8, little);
    view.setUint16(at + 8, 1, little);
    return found in TURNS ? found : 1;
  }
  return 1;
}
