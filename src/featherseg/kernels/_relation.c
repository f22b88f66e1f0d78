/* featherseg.kernels._native.pixel_to_region: what every pixel of a fine map gathers from a
   window of cells one level coarser, without copies of the windows. The map is processed in
   tiles of columns, one row of cells at a time. A row needs planar copies of its queries, and of
   the keys and values of the k rows around it. */

#include "_native.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { TILE = 64, MOST_WINDOW = 9, ALIGNMENT = 64 };

typedef struct {  /* (C, h, w) floats of one image, any strides (in bytes) */
    char *data;
    ptrdiff_t channel, row, column;
    ptrdiff_t channels, height, width;
} Map;

typedef struct {
    Map query, key, value, context;
    const float *prior;  /* (n, 4, R) */
    ptrdiff_t heads, window;
    float scale;
    int difference;
} Relation;

typedef struct {  /* one head of LANES cells side by side */
    const float *query, *keys[MOST_WINDOW], *values[MOST_WINDOW];  /* of the first cell; a line for every row inside */
    const float *prior, *outside;
    ptrdiff_t top, rows;  /* rows of the window that lie inside the map */
    ptrdiff_t window, depth, value_depth, span, child, count;
    float scale;
    int difference;
    Map context;
    char *place;  /* of the first cell's first child */
} Block;

#define LOOPS "_relation_loops.h"
#include "_clones.h"

typedef struct {
    ptrdiff_t lanes;
    void (*relate)(const Block *, float *);
} Clone;

static const Clone CLONES[] = {
    {BASELINE_LANES, relate_baseline},
#ifdef X86_CLONES
    {8, relate_avx2},
    {16, relate_avx512},
#endif
};

typedef struct {
    float *query, *keys, *values;  /* (4, C, TILE); (k, C, span) each: row y of the map is in line y % k */
    float *outside, *block;        /* (span,) 0 in the map and -inf beyond; what `relate` needs */
    ptrdiff_t span;                /* columns of a tile with the window's reach on both sides */
    ptrdiff_t held[MOST_WINDOW];   /* the row that each line of keys and values holds */
    void *memory;
} Scratch;

/* One memory block per call: 200 kB for 64 channels and a window of 5. */
static int reserve(Scratch *s, const Relation *r, ptrdiff_t lanes) {
    s->span = TILE + r->window - 1;
    const size_t line = ALIGNMENT / sizeof(float), parts[] = {
        (size_t)4 * r->query.channels * TILE,
        (size_t)r->window * r->key.channels * s->span,
        (size_t)r->window * r->value.channels * s->span,
        (size_t)s->span,
        (size_t)4 * (r->window * r->window + r->value.channels / r->heads) * lanes,
    };
    float **places[] = {&s->query, &s->keys, &s->values, &s->outside, &s->block};
    enum { PARTS = sizeof parts / sizeof *parts };
    size_t total = line;
    for (int i = 0; i < PARTS; i++) total += parts[i] + line;
    s->memory = calloc(total, sizeof(float));
    if (!s->memory) return 0;
    uintptr_t next = (uintptr_t)s->memory;
    for (int i = 0; i < PARTS; i++) {
        next = (next + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        *places[i] = (float *)next;
        next += parts[i] * sizeof(float);
    }
    return 1;
}

/* Planar copies of `count` columns of one row, every `step`-th from `first` on; zeros beyond the map. */
static void copy_row(const Map *map, ptrdiff_t row, ptrdiff_t first, ptrdiff_t step, ptrdiff_t count, ptrdiff_t span,
                     float *planes) {
    for (ptrdiff_t x = 0; x < count; x++) {
        ptrdiff_t column = first + x * step;
        if (column < 0 || column >= map->width) {
            for (ptrdiff_t c = 0; c < map->channels; c++) planes[c * span + x] = 0.0f;
            continue;
        }
        const char *source = map->data + row * map->row + column * map->column;
        for (ptrdiff_t c = 0; c < map->channels; c++)
            planes[c * span + x] = *(const float *)(source + c * map->channel);
    }
}

/* Copy what `count` cells of row y need: their queries, and the rows of keys and values that are
   missing. */
static void load_row(const Relation *r, Scratch *s, ptrdiff_t y, ptrdiff_t start, ptrdiff_t count) {
    const ptrdiff_t reach = r->window / 2;
    for (int c = 0; c < 4; c++)
        copy_row(&r->query, 2 * y + c / 2, 2 * start + c % 2, 2, count, TILE, s->query + c * r->query.channels * TILE);
    for (ptrdiff_t row = y - reach; row <= y + reach; row++) {
        if (row < 0 || row >= r->key.height || s->held[row % r->window] == row) continue;
        ptrdiff_t line = row % r->window * s->span;
        s->held[row % r->window] = row;
        copy_row(&r->key, row, start - reach, 1, s->span, s->span, s->keys + line * r->key.channels);
        copy_row(&r->value, row, start - reach, 1, s->span, s->span, s->values + line * r->value.channels);
    }
}

/* All heads of `count` cells of row y, from column `start` on. */
static void relate_row(const Relation *r, Scratch *s, const Clone *clone, ptrdiff_t y, ptrdiff_t start,
                       ptrdiff_t count) {
    const ptrdiff_t reach = r->window / 2, below = r->key.height - y + reach;
    Block b = {.window = r->window, .span = s->span, .child = r->query.channels * TILE, .scale = r->scale,
               .difference = r->difference, .context = r->context, .depth = r->query.channels / r->heads,
               .value_depth = r->value.channels / r->heads, .top = y < reach ? reach - y : 0};
    b.rows = (below < r->window ? below : r->window) - b.top;
    for (ptrdiff_t x = 0; x < count; x += clone->lanes)
        for (ptrdiff_t head = 0; head < r->heads; head++) {
            for (ptrdiff_t i = 0; i < b.rows; i++) {
                ptrdiff_t line = (y - reach + b.top + i) % r->window;
                b.keys[i] = s->keys + (line * r->key.channels + head * b.depth) * s->span + x;
                b.values[i] = s->values + (line * r->value.channels + head * b.value_depth) * s->span + x;
            }
            b.query = s->query + head * b.depth * TILE + x;
            b.outside = s->outside + x;
            b.prior = r->prior + head * 4 * r->window * r->window;
            b.count = count - x < clone->lanes ? count - x : clone->lanes;
            b.place = r->context.data + 2 * y * r->context.row + 2 * (start + x) * r->context.column +
                      head * b.value_depth * r->context.channel;
            clone->relate(&b, s->block);
        }
}

static void fill_context(const Relation *r, Scratch *s, const Clone *clone, ptrdiff_t first, ptrdiff_t stop) {
    const ptrdiff_t reach = r->window / 2, width = r->key.width;
    for (ptrdiff_t start = 0; start < width; start += TILE) {
        for (ptrdiff_t i = 0; i < r->window; i++) s->held[i] = -1;
        for (ptrdiff_t x = 0; x < s->span; x++) {
            ptrdiff_t column = start - reach + x;
            s->outside[x] = column < 0 || column >= width ? -INFINITY : 0.0f;
        }
        ptrdiff_t count = width - start < TILE ? width - start : TILE;
        for (ptrdiff_t y = first; y < stop; y++) {
            load_row(r, s, y, start, count);
            relate_row(r, s, clone, y, start, count);
        }
    }
}

/* --- arguments --- */

enum { QUERY, KEY, VALUE, CONTEXT, PRIOR, ARGUMENTS };
static const struct {
    const char *name;
    int flags;
} EXPECTED[ARGUMENTS] = {
    {"query", PyBUF_STRIDED_RO}, {"key", PyBUF_STRIDED_RO},   {"value", PyBUF_STRIDED_RO},
    {"context", PyBUF_STRIDED},  {"prior", PyBUF_C_CONTIGUOUS},
};

static Map map_of(const Py_buffer *view) {
    Map map = {view->buf,      view->strides[0], view->strides[1], view->strides[2],
               view->shape[0], view->shape[1],   view->shape[2]};
    return map;
}

static int fit_together(const Relation *r, const Py_buffer *views, int first, int stop) {
    const Map *q = &r->query, *k = &r->key, *v = &r->value, *c = &r->context;
    for (int i = 0; i < ARGUMENTS; i++)
        if (!featherseg_aligned(&views[i])) return 0;
    return views[PRIOR].shape[1] == 4 && views[PRIOR].shape[2] == r->window * r->window && r->window % 2 == 1 &&
           q->channels == k->channels && v->channels == c->channels && q->channels % r->heads == 0 &&
           v->channels % r->heads == 0 && v->height == k->height && v->width == k->width &&
           q->height == 2 * k->height && q->width == 2 * k->width && c->height == q->height && c->width == q->width &&
           first >= 0 && first <= stop && stop <= k->height;
}

static PyObject *fill(const Py_buffer *views, float scale, int difference, int first, int stop) {
    Relation r = {map_of(&views[QUERY]), map_of(&views[KEY]), map_of(&views[VALUE]), map_of(&views[CONTEXT]),
                  views[PRIOR].buf,      views[PRIOR].shape[0], 1,                   scale, difference};
    while (r.window < MOST_WINDOW && r.window * r.window < views[PRIOR].shape[2]) r.window++;
    if (!fit_together(&r, views, first, stop)) {
        PyErr_SetString(PyExc_ValueError, "query, key, value, context, prior and rows do not fit together");
        return NULL;
    }
    const Clone *clone = &CLONES[featherseg_clone];
    Scratch scratch;
    if (!reserve(&scratch, &r, clone->lanes)) return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    fill_context(&r, &scratch, clone, first, stop);
    Py_END_ALLOW_THREADS
    free(scratch.memory);
    Py_RETURN_NONE;
}

PyObject *featherseg_pixel_to_region(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *objects[ARGUMENTS], *result = NULL;
    Py_buffer views[ARGUMENTS];
    float scale;
    int difference, first, stop, taken = 0;
    if (!PyArg_ParseTuple(arguments, "OOOOOfpii", &objects[0], &objects[1], &objects[2], &objects[3], &objects[4],
                          &scale, &difference, &first, &stop))
        return NULL;
    for (; taken < ARGUMENTS; taken++)
        if (!featherseg_take(objects[taken], &views[taken], EXPECTED[taken].flags, "f4", 3,
                             EXPECTED[taken].name))
            break;
    if (taken == ARGUMENTS) result = fill(views, scale, difference, first, stop);
    while (taken > 0) PyBuffer_Release(&views[--taken]);
    return result;
}
