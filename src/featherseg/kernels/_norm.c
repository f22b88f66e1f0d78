/* featherseg.kernels._native.norm_sums and .norm_apply: batch norm with batch statistics and, in
   the same passes, an activation that clamps values (ReLU, ReLU6). A map in channels-last is a
   table of pixels by channels. It is processed as rows of `period` values, the least common
   multiple of the number of channels and 32. */

#include "_native.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { WIDEST = 16, TILE_VALUES = 1 << 15, MOST_TILE = 256 };

typedef struct {
    const char *x, *pull; /* values of the map and, backward, of the gradient of the output */
    char *out;
    const float *table;   /* (1 to 4, period), see the loops; for bfloat16, even columns before odd ones */
    double *sums;         /* (2, period), in the same order; what is found is added */
    ptrdiff_t period, rows, tile;
    float low, high;
    int half; /* bfloat16, else floats */
} Norm;

#define LOOPS "_norm_loops.h"
#include "_clones.h"

typedef void (*Loop)(const Norm *);
static const Loop CLONES[][2] = {
    {sum_baseline, apply_baseline},
#ifdef X86_CLONES
    {sum_avx2, apply_avx2},
    {sum_avx512, apply_avx512},
#endif
};

/* Rows `first` to `stop` of `length` values. A last row that is cut off is processed in `spare`:
   a whole row of x, of pull, of the output and of sums, zeroed. */
static void work_through(const Norm *norm, Loop loop, ptrdiff_t first, ptrdiff_t stop, ptrdiff_t length, double *spare) {
    const ptrdiff_t period = norm->period, size = norm->half ? 2 : 4, whole = length / period, rest = length % period;
    const ptrdiff_t tile = TILE_VALUES / period, from = first * period * size, end = whole * period * size;
    Norm n = *norm;
    n.tile = tile < 1 ? 1 : tile > MOST_TILE ? MOST_TILE : tile;
    n.rows = (stop < whole ? stop : whole) - first;
    n.x += from;
    if (n.pull) n.pull += from;
    if (n.out) n.out += from;
    loop(&n);
    if (stop <= whole) return;
    char *copies = (char *)(spare + 2 * period);
    n.rows = 1, n.sums = spare, n.x = copies;
    memcpy(copies, norm->x + end, rest * size);
    if (n.pull) n.pull = memcpy(copies + period * size, norm->pull + end, rest * size);
    if (n.out) n.out = copies + 2 * period * size;
    loop(&n);
    if (n.out) memcpy(norm->out + end, n.out, rest * size);
    for (ptrdiff_t c = 0; c < rest && !n.out; c++) {
        const ptrdiff_t column = n.half ? c % 2 * period / 2 + c / 2 : c;
        norm->sums[column] += spare[column];
        norm->sums[period + column] += spare[period + column];
    }
}

/* --- arguments --- */

enum { X, PULL, TABLE, OUT, ARGUMENTS };

/* (x, gradient or None, table, sums or out, low, high, first, stop) -> None */
static PyObject *run(PyObject *arguments, int applies) {
    PyObject *objects[ARGUMENTS], *result = NULL;
    Py_buffer views[ARGUMENTS] = {0};
    Norm n = {0};
    Py_ssize_t first, stop;
    if (!PyArg_ParseTuple(arguments, "OOOOffnn", &objects[X], &objects[PULL], &objects[TABLE], &objects[OUT], &n.low,
                          &n.high, &first, &stop) ||
        (n.half = featherseg_has_type(objects[X], "i2")) < 0)
        return NULL;
    const int backward = objects[PULL] != Py_None, flags = PyBUF_C_CONTIGUOUS;
    const char *type = n.half ? "i2" : "f4";
    double *spare = NULL;
    if (featherseg_take(objects[X], &views[X], flags, type, 1, "x") &&
        (!backward || featherseg_take(objects[PULL], &views[PULL], flags, type, 1, "gradient")) &&
        featherseg_take(objects[TABLE], &views[TABLE], flags, "f4", 2, "table") &&
        featherseg_take(objects[OUT], &views[OUT], flags | PyBUF_WRITABLE, applies ? type : "f8",
                        applies ? 1 : 2, applies ? "out" : "sums")) {
        const Py_buffer *table = &views[TABLE], *out = &views[OUT];
        const ptrdiff_t length = views[X].shape[0], rows = applies ? (backward ? 4 : 2) : (backward ? 3 : 1);
        uintptr_t bits = 0;
        for (int i = 0; i < ARGUMENTS; i++)
            if (views[i].obj) bits |= (uintptr_t)views[i].buf % (size_t)views[i].itemsize;
        n.period = table->shape[1];
        if (bits || n.period % (2 * WIDEST) || table->shape[0] != rows || (backward && views[PULL].shape[0] != length) ||
            (applies ? out->shape[0] != length : out->shape[0] != 2 || out->shape[1] != n.period) || first < 0 ||
            first > stop || stop > (length + n.period - 1) / n.period) {
            PyErr_SetString(PyExc_ValueError, "x, gradient, table, result and rows do not fit together");
        } else if (!(spare = calloc(n.period, 2 * sizeof(double) + 3 * sizeof(float)))) {
            PyErr_NoMemory();
        } else {
            n.x = views[X].buf, n.pull = views[PULL].buf, n.table = table->buf;
            n.out = applies ? out->buf : NULL, n.sums = applies ? NULL : out->buf;
            Py_BEGIN_ALLOW_THREADS
            work_through(&n, CLONES[featherseg_clone][applies], first, stop, length, spare);
            Py_END_ALLOW_THREADS
            result = Py_NewRef(Py_None);
        }
    }
    free(spare);
    for (int i = 0; i < ARGUMENTS; i++)
        if (views[i].obj) PyBuffer_Release(&views[i]);
    return result;
}

PyObject *featherseg_norm_sums(PyObject *Py_UNUSED(module), PyObject *arguments) { return run(arguments, 0); }

PyObject *featherseg_norm_apply(PyObject *Py_UNUSED(module), PyObject *arguments) { return run(arguments, 1); }
