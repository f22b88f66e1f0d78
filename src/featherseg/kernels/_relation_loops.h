/* The inner loops of pixel_to_region. _relation.c includes this once per clone, with
   CLONE(name), TARGET and LANES defined. LANES neighbouring cells are processed at once, each in
   its own lane. A lane takes the same steps in the same order for any number of lanes, and
   contraction is off (no fused multiply-add), so that all clones give the same bits. */

#include "_lanes.h"

/* Logits of the four children for every cell of their window: (4, R, LANES); also the greatest
   of each child. */
TARGET static void CLONE(compare)(const Block *b, float *logits, Lanes *most) {
    const ptrdiff_t size = b->window * b->window;
    const Lanes nothing = CLONE(all)(0.0f);
    for (int c = 0; c < 4; c++) most[c] = CLONE(all)(-INFINITY);
    for (ptrdiff_t i = 0; i < b->rows; i++)
        for (ptrdiff_t j = 0; j < b->window; j++, logits += LANES) {
            const float *key = b->keys[i] + j, *query = b->query, *prior = b->prior + (b->top + i) * b->window + j;
            const Lanes outside = CLONE(load)(b->outside + j);
            Lanes fit[4] = {nothing, nothing, nothing, nothing};
            for (ptrdiff_t d = 0; d < b->depth; d++, key += b->span, query += TILE) {
                Lanes there = CLONE(load)(key);
                for (int c = 0; c < 4; c++) {
                    Lanes here = CLONE(load)(query + c * b->child), gap = here - there;
                    fit[c] += b->difference ? gap * gap : here * there;
                }
            }
            for (int c = 0; c < 4; c++) {
                Lanes logit = fit[c] * b->scale + prior[c * size] + outside;
                most[c] = CLONE(larger)(most[c], logit);
                CLONE(store)(logits + c * size * LANES, logit);
            }
        }
}

/* Turn logits (cells, LANES) of one child into weights; returns their sum, by which they are not
   yet divided. */
TARGET static Lanes CLONE(weigh)(ptrdiff_t cells, float *logits, Lanes most) {
    Lanes sum = CLONE(all)(0.0f);
    for (ptrdiff_t r = 0; r < cells; r++) {
        Lanes weight = CLONE(power)(CLONE(load)(logits + r * LANES) - most);
        CLONE(store)(logits + r * LANES, weight);
        sum += weight;
    }
    return sum;
}

/* Weighted sums of one head's values: (4, value depth, LANES). */
TARGET static void CLONE(gather)(const Block *b, const float *weights, const Lanes *share, float *context) {
    const ptrdiff_t size = b->window * b->window;
    const Lanes nothing = CLONE(all)(0.0f);
    for (ptrdiff_t d = 0; d < b->value_depth; d++, context += LANES) {
        const float *weight = weights;
        Lanes sum[4] = {nothing, nothing, nothing, nothing};
        for (ptrdiff_t i = 0; i < b->rows; i++) {
            const float *value = b->values[i] + d * b->span;
            for (ptrdiff_t j = 0; j < b->window; j++, weight += LANES) {
                Lanes there = CLONE(load)(value + j);
                for (int c = 0; c < 4; c++) sum[c] += CLONE(load)(weight + c * size * LANES) * there;
            }
        }
        for (int c = 0; c < 4; c++) CLONE(store)(context + c * b->value_depth * LANES, sum[c] * share[c]);
    }
}

/* One head of a block of cells, written to the places of the children. */
TARGET static void CLONE(relate)(const Block *b, float *scratch) {
    const ptrdiff_t cells = b->rows * b->window, size = b->window * b->window;
    float *context = scratch + 4 * size * LANES;
    Lanes most[4], share[4];
    CLONE(compare)(b, scratch, most);
    for (int c = 0; c < 4; c++) share[c] = 1.0f / CLONE(weigh)(cells, scratch + c * size * LANES, most[c]);
    CLONE(gather)(b, scratch, share, context);
    for (int c = 0; c < 4; c++)
        for (ptrdiff_t l = 0; l < b->count; l++) {
            char *place = b->place + (c / 2) * b->context.row + (2 * l + c % 2) * b->context.column;
            const float *source = context + c * b->value_depth * LANES + l;
            for (ptrdiff_t d = 0; d < b->value_depth; d++)
                *(float *)(place + d * b->context.channel) = source[d * LANES];
        }
}
