/* featherseg.kernels._native.pixel_to_region_backward: the gradients of what pixels gather from
   windows of cells, for one head of one image per call, from planar copies with zeros around the
   map. The weights are computed again, because storing them would need as much memory as the
   windows. */

#include "_native.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { CELLS = 16, MOST_WINDOW = 9 };

typedef struct {
    const float *query, *key, *value, *pull;  /* (d, 4, h, W), (d, h + k - 1, V), (e, h + k - 1, V), (e, 4, h, W) */
    const float *prior, *outside;             /* (4, R); (h + k - 1, V): -inf where no cell is, else 0 */
    float *to_query, *to_key, *to_value;      /* as theirs; what is found for keys and values is added */
    double *to_prior;                         /* (4, R) */
    ptrdiff_t height, width, pitch, plane;    /* W, V, (h + k - 1) V */
    ptrdiff_t window, depth, value_depth;
    float scale;
    int difference;
} Gradient;

typedef struct {
    float *query, *to_query, *pull, *weights, *logits, *to_prior; /* (d, CELLS) twice, (e, ..), (R, ..) twice, (4, R, ..) */
} Spare;

#define LOOPS "_relation_backward_loops.h"
#include "_clones.h"

typedef struct {
    void (*weigh)(const Gradient *, const Spare *, ptrdiff_t, ptrdiff_t);
    void (*pull)(const Gradient *, const Spare *, ptrdiff_t);
    void (*spread)(const Gradient *, const Spare *, ptrdiff_t, ptrdiff_t);
} Clone;

static const Clone CLONES[] = {
    {weigh_again_baseline, pull_logits_baseline, spread_baseline},
#ifdef X86_CLONES
    {weigh_again_avx2, pull_logits_avx2, spread_avx2},
    {weigh_again_avx512, pull_logits_avx512, spread_avx512},
#endif
};

/* Columns `start` to start + CELLS of one row of one child, of all channels: (channels, CELLS). */
static void take_cells(const Gradient *g, const float *map, ptrdiff_t channels, ptrdiff_t place, float *cells) {
    for (ptrdiff_t c = 0; c < channels; c++)
        memcpy(cells + c * CELLS, map + c * 4 * g->height * g->width + place, CELLS * sizeof(float));
}

static void fill(const Gradient *g, const Spare *s, const Clone *clone) {
    const ptrdiff_t size = g->window * g->window;
    for (ptrdiff_t y = 0; y < g->height; y++)
        for (ptrdiff_t child = 0; child < 4; child++)
            for (ptrdiff_t x = 0; x < g->width; x += CELLS) {
                const ptrdiff_t place = (child * g->height + y) * g->width + x, corner = y * g->pitch + x;
                take_cells(g, g->query, g->depth, place, s->query);
                take_cells(g, g->pull, g->value_depth, place, s->pull);
                memset(s->to_query, 0, g->depth * CELLS * sizeof(float));
                clone->weigh(g, s, child, corner);
                clone->pull(g, s, corner);
                clone->spread(g, s, child, corner);
                for (ptrdiff_t d = 0; d < g->depth; d++)
                    memcpy(g->to_query + d * 4 * g->height * g->width + place, s->to_query + d * CELLS,
                           CELLS * sizeof(float));
            }
    for (ptrdiff_t r = 0; r < 4 * size; r++)
        for (int l = 0; l < CELLS; l++) g->to_prior[r] += s->to_prior[r * CELLS + l];
}

/* --- arguments --- */

enum { QUERY, KEY, VALUE, PULL, PRIOR, OUTSIDE, TO_QUERY, TO_KEY, TO_VALUE, TO_PRIOR, ARGUMENTS };
static const struct {
    const char *name;
    int dimensions;
} EXPECTED[ARGUMENTS] = {
    {"query", 4}, {"key", 3}, {"value", 3}, {"gradient", 4}, {"prior", 2}, {"outside", 2},
    {"gradient of the query", 4}, {"gradient of the key", 3}, {"gradient of the value", 3}, {"gradient of the prior", 2},
};

static int same_shape(const Py_buffer *a, const Py_buffer *b) {
    return memcmp(a->shape, b->shape, sizeof *a->shape * a->ndim) == 0;
}

static int fit_together(const Gradient *g, const Py_buffer *v) {
    for (int i = 0; i < ARGUMENTS; i++)
        if ((uintptr_t)v[i].buf % (size_t)v[i].itemsize) return 0;
    return v[PRIOR].shape[0] == 4 && v[PRIOR].shape[1] == g->window * g->window && g->window % 2 == 1 &&
           v[QUERY].shape[1] == 4 && g->width % CELLS == 0 && g->pitch == g->width + g->window - 1 &&
           v[KEY].shape[0] == g->depth && v[KEY].shape[1] == g->height + g->window - 1 &&
           v[VALUE].shape[1] == v[KEY].shape[1] && v[VALUE].shape[2] == g->pitch && v[PULL].shape[1] == 4 &&
           v[PULL].shape[0] == g->value_depth && v[PULL].shape[2] == g->height && v[PULL].shape[3] == g->width &&
           same_shape(&v[TO_QUERY], &v[QUERY]) && same_shape(&v[TO_KEY], &v[KEY]) &&
           same_shape(&v[TO_VALUE], &v[VALUE]) && same_shape(&v[TO_PRIOR], &v[PRIOR]) &&
           v[OUTSIDE].shape[0] == v[KEY].shape[1] && v[OUTSIDE].shape[1] == g->pitch;
}

static PyObject *run(const Py_buffer *v, float scale, int difference) {
    Gradient g = {v[QUERY].buf, v[KEY].buf, v[VALUE].buf, v[PULL].buf, v[PRIOR].buf, v[OUTSIDE].buf, v[TO_QUERY].buf,
                  v[TO_KEY].buf, v[TO_VALUE].buf, v[TO_PRIOR].buf, v[QUERY].shape[2], v[QUERY].shape[3],
                  v[KEY].shape[2], v[KEY].shape[1] * v[KEY].shape[2], 1, v[QUERY].shape[0], v[VALUE].shape[0], scale,
                  difference};
    while (g.window < MOST_WINDOW && g.window * g.window < v[PRIOR].shape[1]) g.window++;
    if (!fit_together(&g, v)) {
        PyErr_SetString(PyExc_ValueError, "query, key, value, prior and gradients do not fit together");
        return NULL;
    }
    const ptrdiff_t size = g.window * g.window;
    float *memory = calloc(2 * g.depth + g.value_depth + 6 * size, CELLS * sizeof(float));
    if (!memory) return PyErr_NoMemory();
    Spare s = {.query = memory};
    s.to_query = s.query + g.depth * CELLS;
    s.pull = s.to_query + g.depth * CELLS;
    s.weights = s.pull + g.value_depth * CELLS;
    s.logits = s.weights + size * CELLS;
    s.to_prior = s.logits + size * CELLS;
    Py_BEGIN_ALLOW_THREADS
    fill(&g, &s, &CLONES[featherseg_clone]);
    Py_END_ALLOW_THREADS
    free(memory);
    Py_RETURN_NONE;
}

PyObject *featherseg_pixel_to_region_backward(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *objects[ARGUMENTS], *result = NULL;
    Py_buffer views[ARGUMENTS];
    float scale;
    int difference, taken = 0;
    if (!PyArg_ParseTuple(arguments, "OOOOOOOOOOfp", &objects[0], &objects[1], &objects[2], &objects[3], &objects[4],
                          &objects[5], &objects[6], &objects[7], &objects[8], &objects[9], &scale, &difference))
        return NULL;
    for (; taken < ARGUMENTS; taken++)
        if (!featherseg_take(objects[taken], &views[taken],
                             PyBUF_C_CONTIGUOUS | (taken >= TO_QUERY ? PyBUF_WRITABLE : 0),
                             taken == TO_PRIOR ? "f8" : "f4", EXPECTED[taken].dimensions,
                             EXPECTED[taken].name))
            break;
    if (taken == ARGUMENTS) result = run(views, scale, difference);
    while (taken > 0) PyBuffer_Release(&views[--taken]);
    return result;
}
