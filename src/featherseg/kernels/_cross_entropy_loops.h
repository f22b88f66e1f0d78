/* The inner loops of upsample_cross_entropy, included once per clone with CLONE(name), TARGET
   and LANES defined. Neighbouring cells are in lanes, each with its classes one after the other,
   so that every clone adds up in the same order. */

#include "_lanes.h"

/* ln x of a normal x > 0, within 1.2e-7 of itself (the polynomial is that of Cephes' logf); NaN stays NaN. */
TARGET static inline Lanes CLONE(logarithm)(Lanes x) {
    Bits bits, whole;
    Lanes rest, exponent;
    memcpy(&bits, &x, sizeof bits);
    bits += 0x3f800000u - 0x3f3504f3u; /* the rest then lies between the roots of 1/2 and 2 */
    whole = (bits >> 23) | 0x4b000000u; /* the bits of 2^23 + the exponent */
    bits = (bits & 0x007fffffu) + 0x3f3504f3u;
    memcpy(&rest, &bits, sizeof rest);
    memcpy(&exponent, &whole, sizeof exponent);
    exponent = exponent - (8388608.0f + 127.0f);
    Lanes f = rest - 1.0f, square = f * f;
    Lanes sum = f * 7.0376836292e-2f - 1.1514610310e-1f;
    sum = sum * f + 1.1676998740e-1f;
    sum = sum * f - 1.2420140846e-1f;
    sum = sum * f + 1.4249322787e-1f;
    sum = sum * f - 1.6668057665e-1f;
    sum = sum * f + 2.0000714765e-1f;
    sum = sum * f - 2.4999993993e-1f;
    sum = sum * f + 3.3333331174e-1f;
    sum = sum * f * square + exponent * -2.12194440e-4f - square * 0.5f;
    return f + sum + exponent * 0.693359375f + (x - x);
}

/* A source row (K, 2, CELLS) for `score`: minus the greatest of each column, in powers of 2. */
TARGET static void CLONE(settle)(ptrdiff_t classes, float *planes) {
    for (ptrdiff_t i = 0; i < 2 * CELLS; i += LANES) {
        Lanes most = CLONE(load)(planes + i);
        for (ptrdiff_t k = 1; k < classes; k++) most = CLONE(larger)(most, CLONE(load)(planes + k * 2 * CELLS + i));
        for (ptrdiff_t k = 0; k < classes; k++) {
            float *place = planes + k * 2 * CELLS + i;
            CLONE(store)(place, (CLONE(load)(place) - most) * LOG2_E);
        }
    }
}

/* For LANES columns: the powers of 2 of all classes, their sum, and the exponent of the label's
   class; `most` is subtracted from the exponents. */
TARGET static inline Lanes CLONE(sum_powers)(const Block *b, ptrdiff_t i, Lanes most, Lanes *own) {
    const ptrdiff_t cell = i % CELLS, step = b->phases * CELLS;
    const Lanes keep = CLONE(load)(b->keep + i), share = CLONE(load)(b->share + i), label = CLONE(load)(b->label + i);
    const float *line = b->line + cell;
    float *power = b->powers + i, number = 0.0f;
    Lanes sum = CLONE(all)(0.0f), found = sum;
    for (ptrdiff_t k = 0; k < b->classes; k++, line += 2 * CELLS, power += step, number += 1.0f) {
        Lanes exponent = CLONE(load)(line) * keep + CLONE(load)(line + CELLS) * share - most;
        Lanes value = CLONE(power)(exponent);
        CLONE(store)(power, value);
        sum += value;
        found = CLONE(where)((Bits)(label == number), exponent, found);
    }
    *own = found;
    return sum;
}

/* The greatest exponent of LANES columns. */
TARGET static Lanes CLONE(greatest)(const Block *b, ptrdiff_t i) {
    const Lanes keep = CLONE(load)(b->keep + i), share = CLONE(load)(b->share + i);
    Lanes most = CLONE(all)(-INFINITY);
    for (ptrdiff_t k = 0; k < b->classes; k++) {
        const float *line = b->line + k * 2 * CELLS + i % CELLS;
        most = CLONE(larger)(most, CLONE(load)(line) * keep + CLONE(load)(line + CELLS) * share);
    }
    return most;
}

/* Interpolate between the source rows above and below. With label smoothing, `mean` is the mean
   of the exponents, weighted like the classes. */
TARGET static void CLONE(interpolate)(const Block *b, Lanes *mean) {
    const float *above = b->above, *below = b->below, *weights = b->weights;
    const float down = b->down, keep = 1.0f - down, smoothing = b->smoothing;
    const ptrdiff_t classes = b->classes;
    float *line = b->line;
    for (ptrdiff_t i = 0; i < 2 * CELLS; i += LANES) {
        Lanes sum = CLONE(all)(0.0f);
        for (ptrdiff_t k = 0, place = i; k < classes; k++, place += 2 * CELLS)
            CLONE(store)(line + place, CLONE(load)(above + place) * keep + CLONE(load)(below + place) * down);
        for (ptrdiff_t k = 0; k < classes && smoothing > 0.0f; k++)
            sum += CLONE(load)(line + k * 2 * CELLS + i) * weights[k];
        mean[i / LANES] = sum * smoothing;
    }
}

/* The losses of a block's columns, and the input of `spread`: the factor of the powers and what
   the label's class loses. */
TARGET static void CLONE(score)(const Block *b) {
    const Lanes zero = CLONE(all)(0.0f), one = CLONE(all)(1.0f);
    const ptrdiff_t columns = b->phases * CELLS;
    Lanes mean[2 * CELLS / LANES], own;
    CLONE(interpolate)(b, mean);

    /* The greatest exponents of the ends bound the greatest between them; a bound that is far
       off is replaced by the greatest. */
    Lanes least = one;
    for (ptrdiff_t i = 0; i < columns; i += LANES) {
        Lanes sum = CLONE(sum_powers)(b, i, zero, &own);
        CLONE(store)(b->sum + i, sum);
        CLONE(store)(b->own + i, own);
        CLONE(store)(b->most + i, zero);
        least = CLONE(where)((Bits)(sum < least), sum, least);
    }
    float lanes[LANES];
    int small = 0;
    CLONE(store)(lanes, least);
    for (int l = 0; l < LANES; l++) small |= lanes[l] < LEAST;
    for (ptrdiff_t i = 0; i < columns && small; i += LANES) {
        Lanes most = CLONE(where)((Bits)(CLONE(load)(b->sum + i) < LEAST), CLONE(greatest)(b, i), zero);
        CLONE(store)(b->sum + i, CLONE(sum_powers)(b, i, most, &own));
        CLONE(store)(b->own + i, own);
        CLONE(store)(b->most + i, most);
    }

    for (ptrdiff_t i = 0; i < columns; i += LANES) {
        const Bits live = (Bits)(CLONE(load)(b->label + i) >= zero);
        const Lanes weight = CLONE(load)(b->weight + i) * b->certain, scale = CLONE(load)(b->scale + i);
        Lanes sum = CLONE(load)(b->sum + i), logarithm = CLONE(logarithm)(sum), whole = weight;
        /* rounding may leave it below 0 */
        Lanes loss = weight * CLONE(larger)(logarithm - CLONE(load)(b->own + i) * LN_2, zero);
        if (b->smoothing > 0.0f) {
            const ptrdiff_t end = i % CELLS / LANES;
            Lanes apart = mean[end] * CLONE(load)(b->keep + i) + mean[end + CELLS / LANES] * CLONE(load)(b->share + i);
            loss += (logarithm + CLONE(load)(b->most + i) * LN_2) * b->spread - apart * LN_2;
            whole += CLONE(where)(live, one, zero) * b->spread;
        }
        CLONE(store)(b->loss + i, CLONE(where)(live, loss, zero));
        CLONE(store)(b->factor + i, whole * scale / sum);
        CLONE(store)(b->target + i, weight * scale);
    }
}

/* Add the gradient of a block's columns to that of the source rows around it. */
TARGET static void CLONE(spread)(const Block *b) {
    const Lanes zero = CLONE(all)(0.0f);
    const ptrdiff_t classes = b->classes, columns = b->phases * CELLS;
    const float *keep = b->keep, *share = b->share, *label = b->label, *factor = b->factor, *target = b->target;
    const float *powers = b->powers, down = b->down, up = 1.0f - down, smoothing = b->smoothing;
    for (ptrdiff_t c = 0; c < CELLS; c += LANES) {
        Lanes even_left = zero, even_right = zero; /* what smoothing takes off every class, but for its weight */
        for (ptrdiff_t i = c; i < columns && smoothing > 0.0f; i += CELLS) {
            Lanes scale = CLONE(where)((Bits)(CLONE(load)(label + i) >= zero), CLONE(load)(b->scale + i), zero);
            even_left += CLONE(load)(keep + i) * scale * smoothing;
            even_right += CLONE(load)(share + i) * scale * smoothing;
        }
        float *above = b->above_gradient + c, *below = b->below_gradient + c;
        const float *power = powers;
        for (ptrdiff_t k = 0; k < classes; k++, power += columns, above += 2 * CELLS, below += 2 * CELLS) {
            const Lanes number = CLONE(all)((float)k);
            Lanes left = even_left * -b->weights[k], right = even_right * -b->weights[k];
            for (ptrdiff_t i = c; i < columns; i += CELLS) {
                Lanes own = CLONE(where)((Bits)(CLONE(load)(label + i) == number), CLONE(load)(target + i), zero);
                Lanes slope = CLONE(load)(power + i) * CLONE(load)(factor + i) - own;
                left += slope * CLONE(load)(keep + i);
                right += slope * CLONE(load)(share + i);
            }
            CLONE(store)(above, CLONE(load)(above) + left * up);
            CLONE(store)(above + CELLS, CLONE(load)(above + CELLS) + right * up);
            CLONE(store)(below, CLONE(load)(below) + left * down);
            CLONE(store)(below + CELLS, CLONE(load)(below + CELLS) + right * down);
        }
    }
}
