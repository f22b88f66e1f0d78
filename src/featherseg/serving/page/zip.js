// Files become one zip (PKWARE's APPNOTE 6.3.3, without compression: PNGs have it already).

const MOST_BYTES = 2 ** 32 - 1; // what the format holds without its 64-bit extension
const FIRST_DAY = 0x0021; // 1 January 1980: the same masks make the same zip

// files: of { name, blob }, which are read one after the other -> Promise of the zip as a Blob.
export async function zip(files) {
  const [entries, directory] = [[], []];
  let offset = 0;
  for (const { name, blob } of files) {
    const [bytes, path] = [new Uint8Array(await blob.arrayBuffer()), new TextEncoder().encode(name)];
    // version 2.0, names in UTF-8 (0x0800), stored, time, date, checksum, size twice, length of the name, no extras
    const about = [[2, 20], [2, 0x0800], [2, 0], [2, 0], [2, FIRST_DAY], [4, crc32(bytes)], [4, bytes.length],
      [4, bytes.length], [2, path.length], [2, 0]];
    entries.push(pack([[4, 0x04034b50], ...about]), path, blob);
    // comment, disk, attributes: nothing; where the entry begins
    directory.push(pack([[4, 0x02014b50], [2, 20], ...about, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]]), path);
    offset += 30 + path.length + bytes.length;
    if (offset > MOST_BYTES) throw new Error("The masks have more than 4 GB together. Choose fewer images.");
  }
  const [count, length] = [directory.length / 2, directory.reduce((sum, part) => sum + part.length, 0)];
  const end = pack([[4, 0x06054b50], [2, 0], [2, 0], [2, count], [2, count], [4, length], [4, offset], [2, 0]]);
  return new Blob([...entries, ...directory, end], { type: "application/zip" });
}

function pack(fields) { // [bytes, value] each, little-endian
  const view = new DataView(new ArrayBuffer(fields.reduce((sum, [size]) => sum + size, 0)));
  let at = 0;
  for (const [size, value] of fields) {
    if (size === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += size;
  }
  return new Uint8Array(view.buffer);
}

const CRC = Uint32Array.from({ length: 256 }, (_, crc) => {
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRC[(crc ^ byte) & 255];
  return ~crc >>> 0;
}
