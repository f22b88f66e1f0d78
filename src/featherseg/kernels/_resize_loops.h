/* The inner loops of resize_backward, included once per clone, with channels as lanes. */

#include "_lanes.h"

/* Bring a line of the output's gradient to the width of the source, (w, channels): the
   transposed resize. */
TARGET static ALWAYS_INLINE void CLONE(shrink_any)(const Resize *r, const int half, const char *pull, float *line) {
    memset(line, 0, sizeof(float) * r->width * r->padded);
    for (ptrdiff_t x = 0; x < r->columns.length; x++, pull += r->pull_column) {
        const ptrdiff_t low = r->columns.low[x], next = low + 1 < r->width ? low + 1 : low;
        const Lanes share = CLONE(all)(r->columns.share[x]), keep = 1.0f - share;
        float *left = line + low * r->padded, *right = line + next * r->padded;
        for (ptrdiff_t c = 0; c < r->channels; c += LANES) {
            const ptrdiff_t count = r->channels - c, size = half ? 2 : 4;
            const char *from = pull + c * size;
            char last[LANES * sizeof(float)] = {0};
            if (count < LANES) from = memcpy(last, from, count * size);
            const Lanes value = half ? CLONE(widen)(from) : CLONE(load)(from);
            CLONE(store)(left + c, CLONE(load)(left + c) + value * keep);
            CLONE(store)(right + c, CLONE(load)(right + c) + value * share);
        }
    }
}

TARGET static void CLONE(shrink)(const Resize *r, const char *pull, float *line) {
    if (r->half) CLONE(shrink_any)(r, 1, pull, line);
    else CLONE(shrink_any)(r, 0, pull, line);
}

/* sums += line * share, `count` floats, a multiple of LANES. */
TARGET static void CLONE(add)(const float *line, float share, ptrdiff_t count, float *sums) {
    for (ptrdiff_t i = 0; i < count; i += LANES)
        CLONE(store)(sums + i, CLONE(load)(sums + i) + CLONE(load)(line + i) * share);
}

/* (w, padded) floats to their place as the map's type. */
TARGET static void CLONE(place)(const Resize *r, const float *sums, char *out) {
    const ptrdiff_t size = r->half ? 2 : 4;
    for (ptrdiff_t x = 0; x < r->width; x++, sums += r->padded, out += r->out_column)
        for (ptrdiff_t c = 0; c < r->channels; c += LANES) {
            const ptrdiff_t count = r->channels - c < LANES ? r->channels - c : LANES;
            char last[LANES * sizeof(float)];
            char *to = count < LANES ? last : out + c * size;
            if (r->half) CLONE(narrow)(to, CLONE(load)(sums + c));
            else CLONE(store)(to, CLONE(load)(sums + c));
            if (count < LANES) memcpy(out + c * size, last, count * size);
        }
}
