/* featherseg.kernels._native.resize_backward: the gradient of a bilinear resize, line by line,
   along the row first and then along the column. Every channel of every image is processed
   separately, so that any division of the work gives the same bits. */

#include "_native.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { WIDEST = 16 };

typedef struct { /* output rows or columns: between source `low` and low + 1, at `share` */
    const int32_t *low;
    const float *share;
    ptrdiff_t length;
} Axis;

typedef struct { /* some channels of one image, in channels-last */
    const char *pull; /* (H, W, C) the gradient of the output; strides in bytes */
    char *out;        /* (h, w, C) that of the source, written */
    ptrdiff_t pull_row, pull_column, out_row, out_column;
    Axis rows, columns;
    ptrdiff_t height, width, channels, padded;
    int half; /* bfloat16, else floats */
} Resize;

#define LOOPS "_resize_loops.h"
#include "_clones.h"

typedef struct {
    void (*shrink)(const Resize *, const char *, float *);
    void (*add)(const float *, float, ptrdiff_t, float *);
    void (*place)(const Resize *, const float *, char *);
} Clone;

static const Clone CLONES[] = {
    {shrink_baseline, add_baseline, place_baseline},
#ifdef X86_CLONES
    {shrink_avx2, add_avx2, place_avx2},
    {shrink_avx512, add_avx512, place_avx512},
#endif
};

/* memory: a line and the map of the source, (1 + h, w, padded), zeroed */
static void fill(const Resize *r, const Clone *clone, float *memory) {
    const ptrdiff_t line = r->width * r->padded;
    float *sums = memory + line;
    for (ptrdiff_t y = 0; y < r->rows.length; y++) {
        const ptrdiff_t low = r->rows.low[y], next = low + 1 < r->height ? low + 1 : low;
        clone->shrink(r, r->pull + y * r->pull_row, memory);
        clone->add(memory, 1.0f - r->rows.share[y], line, sums + low * line);
        clone->add(memory, r->rows.share[y], line, sums + next * line);
    }
    for (ptrdiff_t y = 0; y < r->height; y++) clone->place(r, sums + y * line, r->out + y * r->out_row);
}

/* --- arguments --- */

static int within(const Axis *axis, ptrdiff_t length) {
    for (ptrdiff_t i = 0; i < axis->length; i++)
        if (axis->low[i] < 0 || axis->low[i] >= length) return 0;
    return 1;
}

enum { PULL, OUT, ROWS, ROW_SHARES, COLUMNS, COLUMN_SHARES, ARGUMENTS };

PyObject *featherseg_resize_backward(PyObject *Py_UNUSED(module), PyObject *arguments) {
    static const char *const NAMES[] = {"gradient", "out", "rows", "row shares", "columns", "column shares"};
    PyObject *objects[ARGUMENTS], *result = NULL;
    Py_buffer v[ARGUMENTS];
    int taken = 0;
    if (!PyArg_UnpackTuple(arguments, "resize_backward", ARGUMENTS, ARGUMENTS, &objects[0], &objects[1], &objects[2],
                           &objects[3], &objects[4], &objects[5]))
        return NULL;
    const int half = featherseg_has_type(objects[PULL], "i2");
    if (half < 0) return NULL;
    for (; taken < ARGUMENTS; taken++) {
        const int map = taken <= OUT;
        const char *type = map ? (half ? "i2" : "f4") : taken % 2 ? "f4" : "i4";
        const int flags = taken == PULL ? PyBUF_STRIDED_RO : taken == OUT ? PyBUF_STRIDED : PyBUF_C_CONTIGUOUS;
        if (!featherseg_take(objects[taken], &v[taken], flags, type, map ? 3 : 1, NAMES[taken]))
            break;
    }
    if (taken == ARGUMENTS) {
        const Py_buffer *p = &v[PULL], *o = &v[OUT];
        Resize r = {p->buf, o->buf, p->strides[0], p->strides[1], o->strides[0], o->strides[1],
                    {v[ROWS].buf, v[ROW_SHARES].buf, v[ROWS].shape[0]},
                    {v[COLUMNS].buf, v[COLUMN_SHARES].buf, v[COLUMNS].shape[0]},
                    o->shape[0], o->shape[1], o->shape[2], (o->shape[2] + WIDEST - 1) / WIDEST * WIDEST, half};
        float *memory = NULL;
        if ((r.channels > 1 && (p->strides[2] != p->itemsize || o->strides[2] != o->itemsize)) ||
            p->shape[2] != r.channels ||
            p->shape[0] != r.rows.length || p->shape[1] != r.columns.length ||
            v[ROW_SHARES].shape[0] != r.rows.length || v[COLUMN_SHARES].shape[0] != r.columns.length ||
            !within(&r.rows, r.height) || !within(&r.columns, r.width)) {
            PyErr_SetString(PyExc_ValueError, "gradient, out and indices do not fit together");
        } else if (!(memory = calloc((size_t)(1 + r.height) * r.width, r.padded * sizeof(float)))) {
            PyErr_NoMemory();
        } else {
            Py_BEGIN_ALLOW_THREADS
            fill(&r, &CLONES[featherseg_clone], memory);
            Py_END_ALLOW_THREADS
            result = Py_NewRef(Py_None);
        }
        free(memory);
    }
    while (taken > 0) PyBuffer_Release(&v[--taken]);
    return result;
}
