/* The inner loops of pixel_to_region_backward, included once per clone, with CELLS neighbouring
   cells in VECTORS vectors. Sums for cells that several windows share are added in the order of
   the cells, for any LANES. */

#include "_lanes.h"

#define VECTORS (CELLS / LANES)
#define EACH for (int u = 0; u < VECTORS; u++)

/* sums += a * b */
TARGET static inline void CLONE(accumulate)(float *sums, const float *a, Lanes b) {
    CLONE(store)(sums, CLONE(load)(sums) + CLONE(load)(a) * b);
}

/* Weights of every cell of the windows, (R, CELLS), for one child of CELLS cells; their queries
   are in s->query. */
TARGET static void CLONE(weigh_again)(const Gradient *g, const Spare *s, ptrdiff_t child, ptrdiff_t corner) {
    const ptrdiff_t size = g->window * g->window;
    Lanes most[VECTORS], sum[VECTORS];
    EACH most[u] = CLONE(all)(-INFINITY), sum[u] = CLONE(all)(0.0f);
    for (ptrdiff_t r = 0; r < size; r++) {
        const ptrdiff_t cell = corner + r / g->window * g->pitch + r % g->window;
        Lanes fit[VECTORS];
        EACH fit[u] = CLONE(all)(0.0f);
        for (ptrdiff_t d = 0; d < g->depth; d++)
            EACH {
                const Lanes here = CLONE(load)(s->query + d * CELLS + u * LANES);
                const Lanes there = CLONE(load)(g->key + d * g->plane + cell + u * LANES), gap = here - there;
                fit[u] += g->difference ? gap * gap : here * there;
            }
        EACH {
            const Lanes outside = CLONE(load)(g->outside + cell + u * LANES);
            const Lanes logit = (fit[u] * g->scale + g->prior[child * size + r]) * 1.44269504f + outside;
            most[u] = CLONE(larger)(most[u], logit);
            CLONE(store)(s->weights + r * CELLS + u * LANES, logit);
        }
    }
    for (ptrdiff_t r = 0; r < size; r++)
        EACH {
            float *place = s->weights + r * CELLS + u * LANES;
            const Lanes weight = CLONE(power)(CLONE(load)(place) - most[u]);
            sum[u] += weight;
            CLONE(store)(place, weight);
        }
    EACH sum[u] = 1.0f / sum[u];
    for (ptrdiff_t r = 0; r < size; r++)
        EACH {
            float *place = s->weights + r * CELLS + u * LANES;
            CLONE(store)(place, CLONE(load)(place) * sum[u]);
        }
}

/* The gradients of one child of CELLS cells for the values, and through the weights for the
   logits: (R, CELLS). */
TARGET static void CLONE(pull_logits)(const Gradient *g, const Spare *s, ptrdiff_t corner) {
    const ptrdiff_t size = g->window * g->window;
    Lanes mean[VECTORS];
    EACH mean[u] = CLONE(all)(0.0f);
    for (ptrdiff_t r = 0; r < size; r++) { /* down the columns: stores into one line lie apart in time */
        const ptrdiff_t tap = r % g->window * g->window + r / g->window;
        const ptrdiff_t cell = corner + r % g->window * g->pitch + r / g->window;
        Lanes fit[VECTORS], weight[VECTORS];
        EACH fit[u] = CLONE(all)(0.0f), weight[u] = CLONE(load)(s->weights + tap * CELLS + u * LANES);
        for (ptrdiff_t e = 0; e < g->value_depth; e++)
            EACH {
                const float *pull = s->pull + e * CELLS + u * LANES;
                const ptrdiff_t place = e * g->plane + cell + u * LANES;
                fit[u] += CLONE(load)(pull) * CLONE(load)(g->value + place);
                CLONE(accumulate)(g->to_value + place, pull, weight[u]);
            }
        EACH {
            mean[u] += weight[u] * fit[u];
            CLONE(store)(s->logits + tap * CELLS + u * LANES, fit[u]);
        }
    }
    for (ptrdiff_t r = 0; r < size; r++)
        EACH {
            float *place = s->logits + r * CELLS + u * LANES;
            CLONE(store)(place, CLONE(load)(s->weights + r * CELLS + u * LANES) * (CLONE(load)(place) - mean[u]));
        }
}

/* From the logits to prior, query and keys. */
TARGET static void CLONE(spread)(const Gradient *g, const Spare *s, ptrdiff_t child, ptrdiff_t corner) {
    const ptrdiff_t size = g->window * g->window;
    for (ptrdiff_t r = 0; r < size; r++) {
        const ptrdiff_t tap = r % g->window * g->window + r / g->window;
        const ptrdiff_t cell = corner + r % g->window * g->pitch + r / g->window;
        for (int u = 0; u < VECTORS; u++) {
            const Lanes logit = CLONE(load)(s->logits + tap * CELLS + u * LANES);
            float *prior = s->to_prior + (child * size + tap) * CELLS + u * LANES;
            CLONE(store)(prior, CLONE(load)(prior) + logit);
            const Lanes share = logit * g->scale;
            for (ptrdiff_t d = 0; d < g->depth; d++) {
                const ptrdiff_t place = d * g->plane + cell + u * LANES;
                float *to_query = s->to_query + d * CELLS + u * LANES, *to_key = g->to_key + place;
                const Lanes here = CLONE(load)(s->query + d * CELLS + u * LANES), there = CLONE(load)(g->key + place);
                const Lanes gap = here - there, twice = share * (gap + gap);
                CLONE(store)(to_query, CLONE(load)(to_query) + (g->difference ? twice : share * there));
                CLONE(store)(to_key, CLONE(load)(to_key) + (g->difference ? -twice : share * here));
            }
        }
    }
}

#undef VECTORS
#undef EACH
