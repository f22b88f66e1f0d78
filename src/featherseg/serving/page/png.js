// A PNG of class numbers (ISO/IEC 15948: 8 bits, palette, not interlaced) becomes numbers; colours are never asked.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];

// bytes: Uint8Array -> Promise of { size: [height, width], values: Uint8Array of height * width }.
export async function decodeIndexPng(bytes) {
  if (!SIGNATURE.every((byte, i) => bytes[i] === byte)) throw new Error("The service sent what is no PNG.");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  const [depth, kind, , , interlaced] = bytes.subarray(24, 29);
  if (depth !== 8 || kind !== 3 || interlaced) throw new Error("The service sent a PNG that is no mask.");
  const rows = await inflate(dataOf(bytes, view));
  if (rows.length !== height * (width + 1)) throw new Error("The service sent a PNG that is cut short.");
  return { size: [height, width], values: unfilter(rows, height, width) };
}

function dataOf(bytes, view) { // the parts of the compressed stream
  const parts = [];
  for (let at = 8; at + 12 <= bytes.length;) {
    const length = view.getUint32(at);
    if (String.fromCharCode(...bytes.subarray(at + 4, at + 8)) === "IDAT") {
      parts.push(bytes.subarray(at + 8, at + 8 + length));
    }
    at += 12 + length; // length, name and checksum have 4 bytes each
  }
  return parts;
}

async function inflate(parts) {
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Each row begins with the number of its filter (ISO/IEC 15948, clause 9); of a pixel of one byte, a is the left
// neighbour, b the upper, c the upper left.
function unfilter(rows, height, width) {
  const out = new Uint8Array(height * width);
  for (let y = 0; y < height; y++) {
    const start = y * (width + 1) + 1;
    const row = out.subarray(y * width, (y + 1) * width);
    const above = y ? out.subarray((y - 1) * width, y * width) : new Uint8Array(width);
    row.set(rows.subarray(start, start + width));
    const filter = rows[start - 1];
    if (filter === 1) for (let x = 1; x < width; x++) row[x] += row[x - 1];
    else if (filter === 2) for (let x = 0; x < width; x++) row[x] += above[x];
    else if (filter === 3) for (let x = 0; x < width; x++) row[x] += ((x ? row[x - 1] : 0) + above[x]) >> 1;
    else if (filter === 4) paethRow(row, above);
    else if (filter) throw new Error("The service sent a PNG with an unknown filter.");
  }
  return out;
}

function paethRow(row, above) {
  row[0] += above[0];
  for (let x = 1; x < row.length; x++) row[x] += paeth(row[x - 1], above[x], above[x - 1]);
}

function paeth(a, b, c) {
  const [da, db, dc] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
  return da <= db && da <= dc ? a : db <= dc ? b : c;
}
