/* The inner loops of depthwise_backward, included once per clone, with channels as lanes. */

#include "_lanes.h"

/* `pixels` of a line with `channels` of the map's C each -> (blocks, span, LANES) floats, zeros
   for missing channels. The values `next` further on are prefetched. */
TARGET static ALWAYS_INLINE void CLONE(read_any)(const Line *line, const int half, ptrdiff_t next, float *to) {
    const ptrdiff_t whole = line->channels / LANES, rest = line->channels % LANES, size = half ? 2 : 4;
    const char *from = line->data;
    for (ptrdiff_t x = 0; x < line->pixels; x++, from += line->pitch * size, to += LANES) {
        float *place = to;
        for (ptrdiff_t c = 0; c < line->channels * size; c += ALIGNMENT) PREFETCH(from + next * size + c);
        for (ptrdiff_t b = 0; b < whole; b++, place += line->span * LANES)
            CLONE(store)(place, half ? CLONE(widen)(from + b * LANES * size) : CLONE(load)(from + b * LANES * size));
        if (rest) {
            float last[LANES] = {0};
            memcpy(last, from + whole * LANES * size, rest * size);
            CLONE(store)(place, half ? CLONE(widen)(last) : CLONE(load)(last));
        }
    }
}

TARGET static void CLONE(read_line)(const Line *line, int half, ptrdiff_t next, float *to) {
    if (half) CLONE(read_any)(line, 1, next, to);
    else CLONE(read_any)(line, 0, next, to);
}

/* The reverse of read_line. */
TARGET static ALWAYS_INLINE void CLONE(write_any)(const Line *line, const int half, const float *from) {
    const ptrdiff_t whole = line->channels / LANES, rest = line->channels % LANES, size = half ? 2 : 4;
    char *to = line->data;
    for (ptrdiff_t x = 0; x < line->pixels; x++, to += line->pitch * size, from += LANES) {
        const float *place = from;
        for (ptrdiff_t b = 0; b < whole; b++, place += line->span * LANES) {
            if (half) CLONE(narrow)(to + b * LANES * size, CLONE(load)(place));
            else CLONE(store)(to + b * LANES * size, CLONE(load)(place));
        }
        if (rest) {
            float last[LANES];
            if (half) CLONE(narrow)(last, CLONE(load)(place));
            memcpy(to + whole * LANES * size, half ? last : place, rest * size);
        }
    }
}

TARGET static void CLONE(write_line)(const Line *line, int half, const float *from) {
    if (half) CLONE(write_any)(line, 1, from);
    else CLONE(write_any)(line, 0, from);
}

/* One block of channels of one line, every `step`-th float of it, and `taps` of the kernel: adds
   their part to the gradients of the line and of the weights. */
TARGET static ALWAYS_INLINE void CLONE(sweep)(const Sweep *s, const int taps) {
    Lanes weight[MOST_TAPS], sum[MOST_TAPS];
    const float *x = s->x, *pull[MOST_TAPS];
    float *to_x = s->to_x;
    const ptrdiff_t count = s->count, step = s->step;
    for (int t = 0; t < taps; t++) {
        weight[t] = CLONE(load)(s->weight[t]);
        sum[t] = (Lanes){0};
        pull[t] = s->pull[t];
    }
    for (ptrdiff_t i = 0; i < count; i++, x += step, to_x += step) {
        Lanes here = CLONE(load)(x), total = CLONE(load)(to_x);
        for (int t = 0; t < taps; t++) {
            Lanes there = CLONE(load)(pull[t] + i * LANES);
            KEEP(there);
            total += there * weight[t];
            sum[t] += there * here;
        }
        CLONE(store)(to_x, total);
    }
    for (int t = 0; t < taps; t++) CLONE(store)(s->to_weight[t], CLONE(load)(s->to_weight[t]) + sum[t]);
}

TARGET static void CLONE(sweep_line)(const Sweep *s) {
    switch (s->taps) {
    case 1: CLONE(sweep)(s, 1); break;
    case 2: CLONE(sweep)(s, 2); break;
    case 3: CLONE(sweep)(s, 3); break;
    case 4: CLONE(sweep)(s, 4); break;
    case 5: CLONE(sweep)(s, 5); break;
    case 6: CLONE(sweep)(s, 6); break;
    case 7: CLONE(sweep)(s, 7); break;
    case 8: CLONE(sweep)(s, 8); break;
    default: CLONE(sweep)(s, 9); break;
    }
}
