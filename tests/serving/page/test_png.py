"""The own decoder of index PNGs."""

import numpy as np

FILTERED = """async (rows) => {
    const { decodeIndexPng } = await import("/page/png.js");
    const chunk = (name, data) => [
        ...new Uint8Array(new Uint32Array([data.length]).buffer).reverse(),
        ...new TextEncoder().encode(name), ...data, 0, 0, 0, 0];
    const stream = new Blob([Uint8Array.from(rows.flat())]).stream()
        .pipeThrough(new CompressionStream("deflate"));
    const data = [...new Uint8Array(await new Response(stream).arrayBuffer())];
    const header = [0, 0, 0, rows[0].length - 1, 0, 0, 0, rows.length, 8, 3, 0, 0, 0];
    const file = [137, 80, 78, 71, 13, 10, 26, 10, ...chunk("IHDR", header),
        ...chunk("IDAT", data.slice(0, 5)), ...chunk("IDAT", data.slice(5)), ...chunk("IEND", [])];
    return [...(await decodeIndexPng(Uint8Array.from(file))).values];
}"""


def test_the_page_reads_every_filter_of_a_png(page):
    values = np.random.default_rng(0).choice(
        [0, 1, 2, 3, 255], (40, 9)
    )  # near ones, so that neighbours tie
    padded = np.pad(values, ((1, 0), (1, 0)))
    a, b, c = padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    nearest = np.argmin(
        np.abs(np.stack([a, b, c]) - (a + b - c)), axis=0
    )  # of equal ones the first
    guesses = [np.zeros_like(a), a, b, (a + b) // 2, np.choose(nearest, [a, b, c])]
    rows = [[y % 5, *((values[y] - guesses[y % 5][y]) % 256).tolist()] for y in range(40)]
    assert page.evaluate(FILTERED, rows) == values.ravel().tolist()
