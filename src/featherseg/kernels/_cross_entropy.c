/* featherseg.kernels._native.upsample_cross_entropy: cross-entropy of logits that are upsampled
   bilinearly, and its gradient, in one pass over the rows of the label. Nothing of the label's
   size is stored per class. A cell is a group of neighbouring columns of an output row between
   the same two source columns. CELLS cells are processed at once, each in its own lane: their
   exponents are straight lines between the cells' ends. Sums are per lane, in the order of rows,
   columns and classes, so that the result has the same bits for any number of threads and any
   instruction set. */

#include "_native.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { CELLS = 16, MOST_PHASES = 8, ALIGNMENT = 64 };

#define LOG2_E 1.44269504f
#define LN_2 0.693147181f
#define LEAST 8.67361738e-19f /* 2^-60: smaller sums are computed again with the column's maximum */

typedef struct {  /* (K, h, w) floats of one image, any strides (in bytes) */
    char *data;
    ptrdiff_t class_stride, row_stride, column_stride;
    ptrdiff_t classes, height, width;
} Map;

typedef struct {  /* CELLS cells of one output row; (P, CELLS) unless stated otherwise */
    ptrdiff_t classes, phases;
    const float *above, *below;                /* (K, 2, CELLS): the source rows around it, at the cells' ends */
    float down;                                /* how far it lies from the one to the other */
    const float *keep, *share;                 /* the same of columns; 0 both where a cell has no such column */
    float *label, *weight, *scale;             /* label, -1: ignored; class weight or 0; upstream gradient */
    const float *weights;                      /* (K,) */
    float certain, smoothing, spread;          /* 1 - e, e / K, e / K times the sum of weights */
    float *line, *powers;                      /* (K, 2, CELLS); (K, P, CELLS) */
    float *sum, *own, *most;                   /* sum of powers; label's exponent; greatest, subtracted */
    float *loss, *factor, *target;
    float *above_gradient, *below_gradient;    /* (K, 2, CELLS) */
} Block;

#define LOOPS "_cross_entropy_loops.h"
#include "_clones.h"

typedef struct {
    void (*settle)(ptrdiff_t, float *);
    void (*score)(const Block *);
    void (*spread)(const Block *);
} Clone;

static const Clone CLONES[] = {
    {settle_baseline, score_baseline, spread_baseline},
#ifdef X86_CLONES
    {settle_avx2, score_avx2, spread_avx2},
    {settle_avx512, score_avx512, spread_avx512},
#endif
};

typedef struct {  /* what a call works on: a strip of one image */
    Map logits, gradient;                  /* gradient.data NULL: not wanted */
    float *edge;                           /* (K, w): for source row `last`, next strip's first */
    const void *labels;                    /* (H, W) of bytes, or of int64 where `wide` */
    int wide;
    const int32_t *rows, *columns;
    const float *row_shares, *column_shares, *weights, *scales;  /* scales (H, W) or NULL */
    float *losses;                         /* (H, W) or NULL */
    ptrdiff_t height, width, last;
    int64_t ignored;
    float smoothing;
} Strip;

typedef struct {
    Block block;
    ptrdiff_t cells;                       /* of a row, rounded up to CELLS */
    int32_t *left, *first, *count;         /* (cells,): source column, first output column, count */
    float *keep, *share;                   /* the block's, to be written */
    float *rows[2], *gradients[2];         /* (K, 2, CELLS) of the source row with that parity */
    ptrdiff_t held[2];
    void *memory;
} Scratch;

static int64_t label_at(const Strip *s, ptrdiff_t place) {
    return s->wide ? ((const int64_t *)s->labels)[place] : ((const uint8_t *)s->labels)[place];
}

/* Whether a label is neither a class nor ignored. */
static int any_outside(const Strip *s) {
    int outside = 0;
    for (ptrdiff_t i = 0; i < s->height * s->width; i++) {
        int64_t label = label_at(s, i);
        outside |= (label != s->ignored) & ((uint64_t)label >= (uint64_t)s->logits.classes);
    }
    return outside;
}

/* Number of cells of at most `phases` columns, and their places if `into` is given. */
static ptrdiff_t find_cells(const Strip *s, ptrdiff_t phases, Scratch *into) {
    ptrdiff_t cells = 0;
    for (ptrdiff_t x = 0, stop; x < s->width; x = stop, cells++) {
        for (stop = x + 1; stop < s->width && stop - x < phases && s->columns[stop] == s->columns[x];) stop++;
        if (!into) continue;
        into->left[cells] = s->columns[x];
        into->first[cells] = (int32_t)x;
        into->count[cells] = (int32_t)(stop - x);
    }
    return cells;
}

/* One memory block per call, 110 kB for 150 classes at 1/8. */
static int reserve(Scratch *s, const Strip *strip) {
    /* Columns per cell that give the fewest blocks; a block costs about two additional columns. */
    ptrdiff_t phases = 1, least = PTRDIFF_MAX, classes = strip->logits.classes;
    for (ptrdiff_t p = 1; p <= MOST_PHASES; p++) {
        ptrdiff_t cost = (find_cells(strip, p, NULL) + CELLS - 1) / CELLS * (p + 2);
        if (cost >= least) continue;
        least = cost;
        phases = p;
    }
    s->cells = (find_cells(strip, phases, NULL) + CELLS - 1) / CELLS * CELLS;
    const size_t plane = (size_t)classes * 2 * CELLS, columns = (size_t)phases * CELLS, parts[] = {
        3 * (size_t)s->cells, columns, columns, columns, columns, columns, columns, columns, columns, columns,
        columns, columns,
        plane, plane, plane, plane, plane, classes * columns,
    };
    Block *b = &s->block;
    float *cells, **places[] = {
        &cells, &s->keep, &s->share, &b->label, &b->weight, &b->scale, &b->sum, &b->own, &b->most, &b->loss,
        &b->factor, &b->target, &s->rows[0], &s->rows[1], &s->gradients[0], &s->gradients[1], &b->line, &b->powers,
    };
    enum { PARTS = sizeof parts / sizeof *parts };
    size_t total = ALIGNMENT / sizeof(float);
    for (int i = 0; i < PARTS; i++) total += parts[i] + ALIGNMENT / sizeof(float);
    s->memory = calloc(total, sizeof(float));
    if (!s->memory) return 0;
    uintptr_t next = (uintptr_t)s->memory;
    for (int i = 0; i < PARTS; i++) {
        next = (next + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        *places[i] = (float *)next;
        next += parts[i] * sizeof(float);
    }
    s->left = (int32_t *)cells;
    s->first = s->left + s->cells;
    s->count = s->first + s->cells;
    find_cells(strip, phases, s);
    b->classes = classes;
    b->phases = phases;
    b->keep = s->keep;
    b->share = s->share;
    b->weights = strip->weights;
    b->certain = 1.0f - strip->smoothing;
    b->smoothing = strip->smoothing / (float)classes;
    b->spread = 0.0f;
    for (ptrdiff_t k = 0; k < classes; k++) b->spread += strip->weights[k] * b->smoothing;
    return 1;
}

/* The source column of each lane's left and right end, from cell `start` on. */
static ptrdiff_t end_of(const Scratch *s, const Map *x, ptrdiff_t start, ptrdiff_t lane) {
    ptrdiff_t column = s->left[start + lane % CELLS] + lane / CELLS;
    return column < x->width ? column : x->width - 1;
}

/* Add what the held row of that parity got to the gradient. */
static void write_back(Scratch *s, const Strip *strip, ptrdiff_t start, int parity) {
    const Map *g = &strip->gradient;
    float *planes = s->gradients[parity];
    ptrdiff_t row = s->held[parity];
    if (row < 0 || !g->data) return;
    for (ptrdiff_t lane = 0; lane < 2 * CELLS; lane++) {
        if (!s->count[start + lane % CELLS]) continue;
        ptrdiff_t column = end_of(s, g, start, lane), step = g->class_stride;
        char *place = g->data + row * g->row_stride + column * g->column_stride;
        if (row == strip->last) {
            place = (char *)(strip->edge + column);
            step = g->width * (ptrdiff_t)sizeof(float);
        }
        const float *slope = planes + lane, *stop = slope + g->classes * 2 * CELLS;
        for (; slope < stop; slope += 2 * CELLS, place += step) *(float *)place += *slope;
    }
    memset(planes, 0, (size_t)g->classes * 2 * CELLS * sizeof(float));
}

/* The source row at the ends of the cells from `start` on; kept until another row of its parity
   is needed. */
static const float *source_row(Scratch *s, const Strip *strip, const Clone *clone, ptrdiff_t start, ptrdiff_t row) {
    const Map *x = &strip->logits;
    float *planes = s->rows[row & 1];
    if (s->held[row & 1] == row) return planes;
    write_back(s, strip, start, row & 1);
    s->held[row & 1] = row;
    for (ptrdiff_t lane = 0; lane < 2 * CELLS; lane++) {
        const char *source = x->data + row * x->row_stride + end_of(s, x, start, lane) * x->column_stride;
        float *place = planes + lane, *stop = place + x->classes * 2 * CELLS;
        for (; place < stop; place += 2 * CELLS, source += x->class_stride) *place = *(const float *)source;
    }
    clone->settle(x->classes, planes);
    return planes;
}

/* Labels of the cells from `start` on, in the order of their columns; returns whether any
   counts. */
static int place_labels(Scratch *s, const Strip *strip, ptrdiff_t y, ptrdiff_t start) {
    Block *b = &s->block;
    int any = 0;
    for (ptrdiff_t i = 0; i < b->phases * CELLS; i++) {
        b->label[i] = -1.0f;
        b->weight[i] = 0.0f;
        b->scale[i] = 1.0f;
    }
    for (ptrdiff_t c = 0; c < CELLS; c++) {
        ptrdiff_t place = y * strip->width + s->first[start + c];
        for (ptrdiff_t p = 0; p < s->count[start + c]; p++) {
            int64_t label = label_at(strip, place + p);
            float scale = strip->scales ? strip->scales[place + p] : 1.0f;
            if (label == strip->ignored || scale == 0.0f) continue;
            b->label[p * CELLS + c] = (float)label;
            b->weight[p * CELLS + c] = strip->weights[label];
            b->scale[p * CELLS + c] = scale;
            any = 1;
        }
    }
    return any;
}

static void add_up(const Scratch *s, const Strip *strip, ptrdiff_t y, ptrdiff_t start, double sums[2][CELLS]) {
    const Block *b = &s->block;
    for (ptrdiff_t i = 0; i < b->phases * CELLS; i += CELLS)
        for (ptrdiff_t c = 0; c < CELLS; c++) {
            sums[0][c] += b->loss[i + c];
            sums[1][c] += b->weight[i + c];
        }
    for (ptrdiff_t c = 0; strip->losses && c < CELLS; c++)
        for (ptrdiff_t p = 0; p < s->count[start + c]; p++)
            strip->losses[y * strip->width + s->first[start + c] + p] = b->loss[p * CELLS + c];
}

/* The whole strip; total: of losses and of weights, added to. */
static void work(Scratch *s, const Strip *strip, const Clone *clone, double *total) {
    Block *b = &s->block;
    double sums[2][CELLS] = {{0.0}};
    if (strip->losses) memset(strip->losses, 0, strip->height * strip->width * sizeof(float));
    for (ptrdiff_t start = 0; start < s->cells; start += CELLS) {
        for (ptrdiff_t i = 0; i < b->phases * CELLS; i++) {
            ptrdiff_t cell = start + i % CELLS, phase = i / CELLS;
            int there = phase < s->count[cell];
            s->share[i] = there ? strip->column_shares[s->first[cell] + phase] : 0.0f;
            s->keep[i] = there ? 1.0f - s->share[i] : 0.0f;
        }
        s->held[0] = s->held[1] = -1;
        for (ptrdiff_t y = 0; y < strip->height; y++) {
            if (!place_labels(s, strip, y, start)) continue;
            ptrdiff_t top = strip->rows[y], bottom = top + 1 < strip->logits.height ? top + 1 : top;
            b->above = source_row(s, strip, clone, start, top);
            b->below = source_row(s, strip, clone, start, bottom);
            b->above_gradient = s->gradients[top & 1];
            b->below_gradient = s->gradients[bottom & 1];
            b->down = strip->row_shares[y];
            clone->score(b);
            add_up(s, strip, y, start, sums);
            if (strip->gradient.data) clone->spread(b);
        }
        write_back(s, strip, start, 0);
        write_back(s, strip, start, 1);
    }
    for (int c = 0; c < CELLS; c++)
        for (int i = 0; i < 2; i++) total[i] += sums[i][c];
}

/* --- arguments --- */

enum { LOGITS, LABELS, ROWS, ROW_SHARES, COLUMNS, COLUMN_SHARES, WEIGHTS, SCALES, LOSSES, GRADIENT, EDGE, ARGUMENTS };
static const struct {
    const char *name, *type;
    int dimensions, flags;
} EXPECTED[ARGUMENTS] = {
    {"logits", "f4", 3, PyBUF_STRIDED_RO},
    {"labels", "u1", 2, PyBUF_C_CONTIGUOUS},
    {"rows", "i4", 1, PyBUF_C_CONTIGUOUS},
    {"row shares", "f4", 1, PyBUF_C_CONTIGUOUS},
    {"columns", "i4", 1, PyBUF_C_CONTIGUOUS},
    {"column shares", "f4", 1, PyBUF_C_CONTIGUOUS},
    {"weights", "f4", 1, PyBUF_C_CONTIGUOUS},
    {"scales", "f4", 2, PyBUF_C_CONTIGUOUS},
    {"losses", "f4", 2, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE},
    {"gradient", "f4", 3, PyBUF_STRIDED},
    {"edge", "f4", 2, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE},
};

static Map map_of(const Py_buffer *view) {
    Map map = {view->buf, view->strides[0], view->strides[1], view->strides[2], view->shape[0], view->shape[1],
               view->shape[2]};
    return map;
}

static int is_shape(const Py_buffer *view, ptrdiff_t first, ptrdiff_t second) {
    return !view->obj || (view->shape[0] == first && (view->ndim < 2 || view->shape[1] == second));
}

static int within(const int32_t *low, const float *share, ptrdiff_t count, ptrdiff_t stop) {
    for (ptrdiff_t i = 0; i < count; i++)
        if (low[i] < 0 || low[i] >= stop || !(share[i] >= 0.0f && share[i] <= 1.0f)) return 0;
    return 1;
}

static int fit_together(const Strip *s, const Py_buffer *views) {
    const Map *x = &s->logits, *g = &s->gradient;
    return is_shape(&views[ROWS], s->height, 0) && is_shape(&views[ROW_SHARES], s->height, 0) &&
           is_shape(&views[COLUMNS], s->width, 0) && is_shape(&views[COLUMN_SHARES], s->width, 0) &&
           is_shape(&views[WEIGHTS], x->classes, 0) && is_shape(&views[SCALES], s->height, s->width) &&
           is_shape(&views[LOSSES], s->height, s->width) && is_shape(&views[EDGE], x->classes, x->width) &&
           featherseg_aligned(&views[LOGITS]) && !views[GRADIENT].obj == !views[EDGE].obj &&
           (!g->data || (g->classes == x->classes && g->height == x->height && g->width == x->width &&
                         featherseg_aligned(&views[GRADIENT]))) &&
           s->last > 0 && s->last <= x->height && within(s->rows, s->row_shares, s->height, s->last) &&
           within(s->columns, s->column_shares, s->width, x->width) && s->smoothing >= 0.0f && s->smoothing <= 1.0f;
}

static PyObject *compute(const Py_buffer *views, int last, long long ignored, float smoothing) {
    Strip strip = {.logits = map_of(&views[LOGITS]), .edge = views[EDGE].buf, .labels = views[LABELS].buf,
                   .wide = views[LABELS].itemsize == sizeof(int64_t), .rows = views[ROWS].buf,
                   .columns = views[COLUMNS].buf, .row_shares = views[ROW_SHARES].buf,
                   .column_shares = views[COLUMN_SHARES].buf, .weights = views[WEIGHTS].buf,
                   .scales = views[SCALES].buf, .losses = views[LOSSES].buf, .height = views[LABELS].shape[0],
                   .width = views[LABELS].shape[1], .last = last, .ignored = ignored, .smoothing = smoothing};
    if (views[GRADIENT].obj) strip.gradient = map_of(&views[GRADIENT]);
    if (!fit_together(&strip, views)) {
        PyErr_SetString(PyExc_ValueError, "logits, labels, tables and results do not fit together");
        return NULL;
    }
    Scratch scratch;
    if (!reserve(&scratch, &strip)) return PyErr_NoMemory();
    const Clone *clone = &CLONES[featherseg_clone];
    double total[2] = {0.0, 0.0};
    int outside;
    Py_BEGIN_ALLOW_THREADS
    outside = any_outside(&strip);
    if (!outside) work(&scratch, &strip, clone, total);
    Py_END_ALLOW_THREADS
    free(scratch.memory);
    return Py_BuildValue("Ndd", PyBool_FromLong(outside), total[0], total[1]);
}

PyObject *featherseg_upsample_cross_entropy(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *objects[ARGUMENTS], *result = NULL;
    Py_buffer views[ARGUMENTS] = {{0}};
    long long ignored;
    int last, taken = 0;
    float smoothing;
    if (!PyArg_ParseTuple(arguments, "OOOOOOOOOOOiLf", &objects[0], &objects[1], &objects[2], &objects[3], &objects[4],
                          &objects[5], &objects[6], &objects[7], &objects[8], &objects[9], &objects[10], &last,
                          &ignored, &smoothing))
        return NULL;
    for (; taken < ARGUMENTS; taken++) {
        if (taken >= SCALES && objects[taken] == Py_None) continue;
        const int wide = taken == LABELS ? featherseg_has_type(objects[taken], "i8") : 0;
        const char *type = wide ? "i8" : EXPECTED[taken].type;
        if (wide < 0 || !featherseg_take(objects[taken], &views[taken], EXPECTED[taken].flags, type,
                                         EXPECTED[taken].dimensions, EXPECTED[taken].name))
            break;
    }
    if (taken == ARGUMENTS) result = compute(views, last, ignored, smoothing);
    while (taken > 0) PyBuffer_Release(&views[--taken]);
    return result;
}
