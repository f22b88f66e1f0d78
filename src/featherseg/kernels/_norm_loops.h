/* The inner loops of norm_sums and norm_apply, included once per clone, with channels as lanes.
   Two vectors are processed together: floats are neighbours, bfloat16 are the lower and upper
   halves of 32-bit words. */

#include "_lanes.h"

TARGET static ALWAYS_INLINE void CLONE(get)(const char *from, const int half, ptrdiff_t place, Lanes *pair) {
    if (half) {
        Bits bits;
        memcpy(&bits, from + 2 * place, sizeof bits);
        pair[0] = CLONE(upper)(bits << 16);
        pair[1] = CLONE(upper)(bits);
    } else {
        pair[0] = CLONE(load)(from + 4 * place);
        pair[1] = CLONE(load)(from + 4 * (place + LANES));
    }
}

/* Two sums per column over some rows: of x - t0 and its square; or, backward, of the gradient g
   before the activation and of g (x - t2). Float32 within tiles of rows, float64 over the tiles. */
TARGET static ALWAYS_INLINE void CLONE(sum_any)(const Norm *norm, const int half, const int backward) {
    const Norm n = *norm;
    const ptrdiff_t apart = half ? n.period / 2 : LANES, size = half ? 2 : 4, ahead = n.tile * n.period;
    const Lanes nothing = CLONE(all)(0.0f), low = CLONE(all)(n.low), high = CLONE(all)(n.high);
    for (ptrdiff_t start = 0; start < n.rows; start += n.tile)
        for (ptrdiff_t c = 0; c < n.period; c += 2 * LANES) {
            const ptrdiff_t stop = start + n.tile < n.rows ? start + n.tile : n.rows, column = half ? c / 2 : c;
            Lanes scale[2], shift[2] = {nothing, nothing}, centre[2], sum[2], product[2], x[2], pull[2];
            for (int i = 0; i < 2; i++) sum[i] = product[i] = nothing;
            for (int i = 0; i < 2; i++) {
                const float *table = n.table + column + i * apart;
                scale[i] = centre[i] = CLONE(load)(table);
                if (!backward) continue;
                shift[i] = CLONE(load)(table + n.period);
                centre[i] = CLONE(load)(table + 2 * n.period);
            }
            for (ptrdiff_t r = start; r < stop; r++) {
                const ptrdiff_t place = r * n.period + c;
                if (c == 0) /* prefetch the next tile */
                    for (ptrdiff_t b = 0; b < n.period * size; b += 64) {
                        PREFETCH(n.x + (place + ahead) * size + b);
                        if (backward) PREFETCH(n.pull + (place + ahead) * size + b);
                    }
                CLONE(get)(n.x, half, place, x);
                if (backward) CLONE(get)(n.pull, half, place, pull);
                for (int i = 0; i < 2; i++) {
                    const Lanes away = x[i] - centre[i];
                    const Lanes g = backward ? CLONE(pass)(pull[i], x[i] * scale[i] + shift[i], low, high) : away;
                    sum[i] += g;
                    product[i] += g * away;
                }
            }
            for (int i = 0; i < 2; i++) {
                float sums[LANES], products[LANES];
                double *to = n.sums + column + i * apart;
                CLONE(store)(sums, sum[i]);
                CLONE(store)(products, product[i]);
                for (int l = 0; l < LANES; l++) {
                    to[l] += sums[l];
                    to[n.period + l] += products[l];
                }
            }
        }
}

/* x t0 + t1, clamped to low and high; or, backward, g t0 + (x t2 + t3). */
TARGET static ALWAYS_INLINE void CLONE(apply_any)(const Norm *norm, const int half, const int backward) {
    const Norm n = *norm;
    const ptrdiff_t period = n.period, apart = half ? period / 2 : LANES;
    const Lanes low = CLONE(all)(n.low), high = CLONE(all)(n.high);
    for (ptrdiff_t r = 0; r < n.rows; r++)
        for (ptrdiff_t c = 0; c < period; c += 2 * LANES) {
            const ptrdiff_t place = r * period + c;
            Lanes x[2], pull[2], y[2];
            CLONE(get)(n.x, half, place, x);
            if (backward) CLONE(get)(n.pull, half, place, pull);
            for (int i = 0; i < 2; i++) {
                const float *table = n.table + (half ? c / 2 : c) + i * apart;
                const Lanes scale = CLONE(load)(table);
                y[i] = x[i] * scale + CLONE(load)(table + period);
                if (backward) {
                    const Lanes rest = x[i] * CLONE(load)(table + 2 * period) + CLONE(load)(table + 3 * period);
                    y[i] = CLONE(pass)(pull[i], y[i], low, high) * scale + rest;
                } else {
                    y[i] = CLONE(clamp)(y[i], low, high);
                }
            }
            if (half) {
                const Bits bits = (CLONE(rounded)(y[0]) >> 16) | (CLONE(rounded)(y[1]) & 0xffff0000u);
                memcpy(n.out + 2 * place, &bits, sizeof bits);
            } else {
                CLONE(store)(n.out + 4 * place, y[0]);
                CLONE(store)(n.out + 4 * (place + LANES), y[1]);
            }
        }
}

TARGET static void CLONE(sum)(const Norm *n) {
    if (n->half && n->pull) CLONE(sum_any)(n, 1, 1);
    else if (n->half) CLONE(sum_any)(n, 1, 0);
    else if (n->pull) CLONE(sum_any)(n, 0, 1);
    else CLONE(sum_any)(n, 0, 0);
}

TARGET static void CLONE(apply)(const Norm *n) {
    if (n->half && n->pull) CLONE(apply_any)(n, 1, 1);
    else if (n->half) CLONE(apply_any)(n, 1, 0);
    else if (n->pull) CLONE(apply_any)(n, 0, 1);
    else CLONE(apply_any)(n, 0, 0);
}
