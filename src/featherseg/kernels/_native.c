/* featherseg.kernels._native: bilinear upsampling with argmax, counts of pairs of bytes, and,
   from _relation.c, what pixels gather from windows of cells. All arguments are checked here,
   whatever the caller has checked: types, shapes, alignment, and that every index is inside the
   image. The interpreter's lock is released while the loops run. */

#include "_native.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_CLASSES = 256, MOST_PERIOD = 32, UNIT = 64, BYTES = 256 };

typedef struct {  /* (K, h, w) floats of one image, any strides (in bytes) */
    const char *data;
    ptrdiff_t class_stride, row_stride, column_stride;
    int classes, height, width;
} Logits;

typedef struct {  /* output rows or columns: between source `low` and low + 1, at `share` */
    const int32_t *low;
    const float *share;
    int length;
} Axis;

typedef struct {  /* columns that are processed at once; sorted by phase if period > 0 */
    int period, steps, width;           /* width = period * steps, or the tile's columns in their own order */
    int shift[MOST_PERIOD];             /* for each phase: added to the step it gives the source column */
    int32_t *left;
    float *keep, *share;                /* (width,) */
} Tile;

#define WIDE 16
#define CLONE(name) name##_baseline
#define TARGET
#include "_loops.h"
#undef WIDE
#undef CLONE
#undef TARGET

#ifdef X86_CLONES
#define WIDE 32
#define CLONE(name) name##_avx2
#define TARGET FOR_AVX2
#include "_loops.h"
#undef WIDE
#undef CLONE
#undef TARGET
#define WIDE 64
#define CLONE(name) name##_avx512
#define TARGET FOR_AVX512
#include "_loops.h"
#undef WIDE
#undef CLONE
#undef TARGET
#endif

typedef struct {
    const char *name;
    void (*copy_line)(const Logits *, int, int, int, float *);
    int (*stretch_phases)(const Tile *, int, const float *, float *);
    int (*stretch_any)(const Tile *, const Logits *, int, float *);
    void (*pick)(const float *, const float *, float, int, int, uint8_t *);
} Clone;

#define ROW(target) {#target, copy_line_##target, stretch_phases_##target, stretch_any_##target, pick_##target}
static const Clone CLONES[] = {
    ROW(baseline),
#ifdef X86_CLONES
    ROW(avx2),
    ROW(avx512),
#endif
};
enum { CLONE_COUNT = sizeof CLONES / sizeof *CLONES };
int featherseg_clone = 0;

static int runs_here(int clone) {
#ifdef X86_CLONES
    __builtin_cpu_init();
    if (clone == 1) return __builtin_cpu_supports("avx2");
    if (clone == 2)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    return clone == 0;
}

/* --- upsampling and argmax --- */

/* Number of output columns per source column if it is a whole number everywhere, else 0. Column
   p of step i is then at source column i + shift[p]. */
static int find_period(const Axis *columns, int *shift) {
    int first = 0, second;
    while (first < columns->length && columns->low[first] == 0) first++;
    for (second = first; second < columns->length && columns->low[second] == 1;) second++;
    int period = second - first;
    if (second == columns->length || period < 1 || period > MOST_PERIOD) return 0;
    if (first < period || first >= 2 * period) return 0;
    for (int p = 0; p < period; p++) shift[p] = p + period < first ? -1 : 0;
    for (int x = 0; x < columns->length; x++) {
        int expected = x / period + shift[x % period];
        int border = expected < 0 && columns->low[x] == 0 && columns->share[x] == 0.0f;
        if (columns->low[x] != expected && !border) return 0;
    }
    return period;
}

/* Fill in the columns of the tile that starts at step (or, without a period, column) `start`. */
static void set_tile(Tile *t, const Axis *columns, int start) {
    for (int j = 0; j < t->width; j++) {
        int64_t x = t->period ? (int64_t)t->period * (start + j % t->steps) + j / t->steps : (int64_t)start + j;
        int inside = x < columns->length && (!t->period || j < t->period * t->steps);
        t->left[j] = inside ? columns->low[x] : 0;
        t->share[j] = inside ? columns->share[x] : 0.0f;
        t->keep[j] = 1.0f - t->share[j];
    }
}

/* Write a tile's classes to their place in the output line of `length` columns. Bytes may alias
   anything: `restrict` and a copy of the steps let compilers interleave with vectors. */
static void place(const Tile *t, const uint8_t *restrict mask, int start, uint8_t *restrict line,
                  int length) {
    const int steps = t->steps;
    if (!t->period) {
        int count = length - start < t->width ? length - start : t->width;
        memcpy(line + start, mask, count);
        return;
    }
    int64_t first = (int64_t)start * t->period;
    if (t->period == 4 && first + 4 * steps <= length) {
        for (int i = 0; i < steps; i++)
            for (int p = 0; p < 4; p++) line[first + 4 * i + p] = mask[p * steps + i];
        return;
    }
    if (t->period == 8 && first + 8 * steps <= length) {
        for (int i = 0; i < steps; i++)
            for (int p = 0; p < 8; p++) line[first + 8 * i + p] = mask[p * steps + i];
        return;
    }
    for (int p = 0; p < t->period; p++)
        for (int i = 0; i < steps; i++) {
            int64_t x = first + (int64_t)t->period * i + p;
            if (x < length) line[x] = mask[p * steps + i];
        }
}

typedef struct {
    Tile tile;
    float *planes, *lines[2];
    uint8_t *mask;
    void *memory;
} Scratch;

/* One memory block per call: a few hundred kB for 19 classes. */
static int reserve(Scratch *s, const Axis *columns, int classes) {
    Tile *t = &s->tile;
    t->period = find_period(columns, t->shift);
    t->steps = t->period ? 16 * ((8 + t->period - 1) / t->period) : 0;
    t->width = t->period ? (t->period * t->steps + UNIT - 1) / UNIT * UNIT : 2 * UNIT;
    size_t width = t->width, planes = (size_t)classes * (t->steps + 2), line = (size_t)classes * width;
    s->memory = calloc(1, (planes + 2 * line + 2 * width) * sizeof(float) + width * sizeof(int32_t) + width);
    if (!s->memory) return 0;
    s->lines[0] = s->memory;
    s->lines[1] = s->lines[0] + line;
    s->planes = s->lines[1] + line;
    t->keep = s->planes + planes;
    t->share = t->keep + width;
    t->left = (int32_t *)(t->share + width);
    s->mask = (uint8_t *)(t->left + width);
    return 1;
}

static const float *stretched(const Clone *clone, Scratch *s, const Logits *x, int row, int start, int held[2],
                              int *finite) {
    float *lines = s->lines[row & 1];
    if (held[row & 1] == row) return lines;
    held[row & 1] = row;
    if (s->tile.period) {
        clone->copy_line(x, row, start - 1, s->tile.steps + 2, s->planes);
        *finite &= clone->stretch_phases(&s->tile, x->classes, s->planes, lines);
    } else {
        *finite &= clone->stretch_any(&s->tile, x, row, lines);
    }
    return lines;
}

/* The mask of one image, by tiles of columns; returns 0 if a value is not finite. */
static int fill_mask(const Clone *clone, Scratch *s, const Logits *x, const Axis *rows, const Axis *columns,
                     uint8_t *mask) {
    int finite = 1, step = s->tile.period ? s->tile.steps : s->tile.width;
    int64_t reach = (int64_t)step * (s->tile.period ? s->tile.period : 1);  /* output columns a tile */
    for (int64_t column = 0; column < columns->length && finite; column += reach) {
        int start = (int)(column / reach) * step, held[2] = {-1, -1};
        set_tile(&s->tile, columns, start);
        for (int y = 0; y < rows->length; y++) {
            int top = rows->low[y], bottom = top + 1 < x->height ? top + 1 : top;
            const float *above = stretched(clone, s, x, top, start, held, &finite);
            const float *below = stretched(clone, s, x, bottom, start, held, &finite);
            clone->pick(above, below, rows->share[y], x->classes, s->tile.width, s->mask);
            place(&s->tile, s->mask, start, mask + (ptrdiff_t)y * columns->length, columns->length);
        }
    }
    return finite;
}

/* --- arguments --- */

/* C's letters differ between systems: int32 is 'i' in numpy on Linux and 'l' on Windows. */
static int is_type(const Py_buffer *view, const char *type) {
    const char *letters = *type == 'f' ? "fd" : *type == 'u' ? "BHILQ" : "bhilq";
    const char *format = view->format;
    return format && *format && !format[1] && strchr(letters, *format) &&
           view->itemsize == type[1] - '0';
}

int featherseg_take(PyObject *object, Py_buffer *view, int flags, const char *type, int dimensions,
                    const char *name) {
    if (PyObject_GetBuffer(object, view, flags | PyBUF_FORMAT) < 0) return 0;
    int right = view->ndim == dimensions && is_type(view, type);
    for (int d = 0; right && d < dimensions; d++) right = view->shape[d] > 0 && view->shape[d] < INT_MAX / 64;
    if (right) return 1;
    PyErr_Format(PyExc_ValueError, "%s: expected %d dimensions of at least 1 and type %s", name,
                 dimensions, type);
    PyBuffer_Release(view);
    return 0;
}

int featherseg_aligned(const Py_buffer *view) {
    size_t bits = (uintptr_t)view->buf;
    for (int d = 0; d < view->ndim; d++) bits |= (size_t)view->strides[d];
    return bits % sizeof(float) == 0;
}

int featherseg_has_type(PyObject *object, const char *type) {
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, PyBUF_STRIDED_RO | PyBUF_FORMAT) < 0) return -1;
    int has = is_type(&view, type);
    PyBuffer_Release(&view);
    return has;
}

static int within(const Axis *axis, int length) {
    for (int i = 0; i < axis->length; i++)
        if (axis->low[i] < 0 || axis->low[i] >= length || !(axis->share[i] >= 0.0f && axis->share[i] <= 1.0f)) return 0;
    return 1;
}

enum { LOGITS, MASK, ROWS, ROW_SHARES, COLUMNS, COLUMN_SHARES, ARGUMENTS };
static const struct {
    const char *name, *type;
    int dimensions, flags;
} EXPECTED[ARGUMENTS] = {
    {"logits", "f4", 3, PyBUF_STRIDED_RO},
    {"mask", "u1", 2, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE},
    {"rows", "i4", 1, PyBUF_C_CONTIGUOUS},
    {"row shares", "f4", 1, PyBUF_C_CONTIGUOUS},
    {"columns", "i4", 1, PyBUF_C_CONTIGUOUS},
    {"column shares", "f4", 1, PyBUF_C_CONTIGUOUS},
};

static PyObject *run_upsample(Py_buffer *views) {
    const Py_buffer *l = &views[LOGITS], *m = &views[MASK];
    Axis rows = {views[ROWS].buf, views[ROW_SHARES].buf, (int)views[ROWS].shape[0]};
    Axis columns = {views[COLUMNS].buf, views[COLUMN_SHARES].buf, (int)views[COLUMNS].shape[0]};
    Logits x = {l->buf,           l->strides[0],       l->strides[1],       l->strides[2],
                (int)l->shape[0], (int)l->shape[1], (int)l->shape[2]};
    if (x.classes > MOST_CLASSES || !featherseg_aligned(l) || m->shape[0] != rows.length ||
        m->shape[1] != columns.length || views[ROW_SHARES].shape[0] != rows.length ||
        views[COLUMN_SHARES].shape[0] != columns.length || !within(&rows, x.height) || !within(&columns, x.width)) {
        PyErr_SetString(PyExc_ValueError, "logits, mask and indices do not fit together");
        return NULL;
    }
    Scratch scratch;
    if (!reserve(&scratch, &columns, x.classes)) return PyErr_NoMemory();
    const Clone *clone = &CLONES[featherseg_clone];
    int finite;
    Py_BEGIN_ALLOW_THREADS
    finite = fill_mask(clone, &scratch, &x, &rows, &columns, m->buf);
    Py_END_ALLOW_THREADS
    free(scratch.memory);
    return PyBool_FromLong(finite);
}

static PyObject *upsample_argmax(PyObject *Py_UNUSED(self), PyObject *arguments) {
    PyObject *objects[ARGUMENTS], *result = NULL;
    Py_buffer views[ARGUMENTS];
    int taken = 0;
    if (!PyArg_UnpackTuple(arguments, "upsample_argmax", ARGUMENTS, ARGUMENTS, &objects[0], &objects[1], &objects[2],
                           &objects[3], &objects[4], &objects[5]))
        return NULL;
    for (; taken < ARGUMENTS; taken++)
        if (!featherseg_take(objects[taken], &views[taken], EXPECTED[taken].flags,
                             EXPECTED[taken].type, EXPECTED[taken].dimensions, EXPECTED[taken].name))
            break;
    if (taken == ARGUMENTS) result = run_upsample(views);
    while (taken > 0) PyBuffer_Release(&views[--taken]);
    return result;
}

/* --- counts of pairs of bytes --- */

typedef struct {
    const uint8_t *truth, *prediction;
    Py_ssize_t length;
    uint8_t ignored, highest, last; /* highest = classes - 1, last = side - 1: computed where they
                                       are used, clang would compare them as ints */
} Labels;

/* Eight tables take turns, so that equal neighbours do not wait for each other's sum; GAP keeps
   their rows apart in the cache. */
enum { LANES = 8, GAP = 16, STRETCH = 4096 };

/* Count each pair, bytes of side - 1 and more in the last row and column; returns whether the
   label has a byte that is neither a class nor ignored. */
static uint8_t find_places(const Labels *labels, Py_ssize_t start, int count, int side, uint16_t *places) {
    const uint8_t *truth = labels->truth + start, *prediction = labels->prediction + start;
    const uint8_t last = labels->last, highest = labels->highest, ignored = labels->ignored;
    uint8_t outside = 0;
    for (int i = 0; i < count; i++) {
        uint8_t a = truth[i] < last ? truth[i] : last, b = prediction[i] < last ? prediction[i] : last;
        places[i] = (uint16_t)(a * side + b);
    }
    for (int i = 0; i < count; i++) {
        uint8_t over = truth[i] > highest ? 1 : 0;
        outside |= truth[i] == ignored ? 0 : over;
    }
    return outside;
}

/* Returns 1 if the label has a byte that is neither a class nor ignored, 0 if not, -1 without
   memory. */
static int count_pairs(const Labels *labels, int side, int64_t *counts) {
    const Py_ssize_t most = (Py_ssize_t)1 << 30;  /* pairs until the uint32 tables are emptied */
    const size_t size = (size_t)side * side, table = size + GAP;
    uint8_t outside = 0;
    uint16_t places[STRETCH];
    uint32_t *tables = malloc(LANES * table * sizeof(uint32_t));
    if (!tables) return -1;
    memset(counts, 0, size * sizeof(int64_t));
    for (Py_ssize_t start = 0; start < labels->length; start += most) {
        Py_ssize_t stop = labels->length - start < most ? labels->length : start + most;
        memset(tables, 0, LANES * table * sizeof(uint32_t));
        for (Py_ssize_t i = start; i < stop; i += STRETCH) {
            int count = stop - i < STRETCH ? (int)(stop - i) : STRETCH, j = 0;
            outside |= find_places(labels, i, count, side, places);
            for (; j + LANES <= count; j += LANES)
                for (int lane = 0; lane < LANES; lane++) tables[lane * table + places[j + lane]]++;
            for (; j < count; j++) tables[places[j]]++;
        }
        for (int lane = 0; lane < LANES; lane++)
            for (size_t k = 0; k < size; k++) counts[k] += tables[lane * table + k];
    }
    free(tables);
    return outside;
}

static PyObject *joint_counts(PyObject *Py_UNUSED(self), PyObject *arguments) {
    PyObject *objects[3];
    Py_buffer truth, prediction, counts;
    int classes, ignored, found = 0;
    if (!PyArg_ParseTuple(arguments, "OOOii", &objects[0], &objects[1], &objects[2], &classes, &ignored)) return NULL;
    if (PyObject_GetBuffer(objects[0], &truth, PyBUF_SIMPLE) < 0) return NULL;
    if (PyObject_GetBuffer(objects[1], &prediction, PyBUF_SIMPLE) < 0) goto release_truth;
    if (PyObject_GetBuffer(objects[2], &counts, PyBUF_SIMPLE | PyBUF_WRITABLE) < 0) goto release_prediction;
    int side = classes < BYTES ? classes + 1 : BYTES;
    if (truth.len != prediction.len || classes < 1 || classes > BYTES || ignored < 0 || ignored >= BYTES ||
        counts.len != (Py_ssize_t)sizeof(int64_t) * side * side || (uintptr_t)counts.buf % sizeof(int64_t)) {
        PyErr_SetString(PyExc_ValueError, "labels, counts and classes do not fit together");
    } else {
        Labels labels = {truth.buf,        prediction.buf,         truth.len,
                         (uint8_t)ignored, (uint8_t)(classes - 1), (uint8_t)(side - 1)};
        Py_BEGIN_ALLOW_THREADS
        found = count_pairs(&labels, side, counts.buf);
        Py_END_ALLOW_THREADS
        if (found < 0) PyErr_NoMemory();
    }
    PyBuffer_Release(&counts);
release_prediction:
    PyBuffer_Release(&prediction);
release_truth:
    PyBuffer_Release(&truth);
    return PyErr_Occurred() ? NULL : PyBool_FromLong(found);
}

/* --- clones --- */

static PyObject *clones(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored)) {
    PyObject *names = PyList_New(0);
    for (int i = 0; names && i < CLONE_COUNT; i++) {
        if (!runs_here(i)) continue;
        PyObject *name = PyUnicode_FromString(CLONES[i].name);
        if (!name || PyList_Append(names, name) < 0) Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

static PyObject *chosen_clone(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored)) {
    return PyUnicode_FromString(CLONES[featherseg_clone].name);
}

static PyObject *use(PyObject *Py_UNUSED(self), PyObject *name) {
    if (!PyUnicode_Check(name)) return PyErr_Format(PyExc_TypeError, "expected a clone's name");
    for (int i = 0; i < CLONE_COUNT; i++)
        if (PyUnicode_CompareWithASCIIString(name, CLONES[i].name) == 0 && runs_here(i)) {
            featherseg_clone = i;
            Py_RETURN_NONE;
        }
    return PyErr_Format(PyExc_ValueError, "no clone %R on this processor", name);
}

static PyMethodDef METHODS[] = {
    {"upsample_argmax", upsample_argmax, METH_VARARGS, "Fill in the mask of one image; False: not all is finite."},
    {"joint_counts", joint_counts, METH_VARARGS, "Count pairs of labels; True: the truth holds another byte."},
    {"pixel_to_region", featherseg_pixel_to_region, METH_VARARGS, "Fill in some rows of the context of one image."},
    {"pixel_to_region_backward", featherseg_pixel_to_region_backward, METH_VARARGS, "Fill in one head's gradients."},
    {"upsample_cross_entropy", featherseg_upsample_cross_entropy, METH_VARARGS, "Loss and gradient of a strip's labels."},
    {"depthwise_backward", featherseg_depthwise_backward, METH_VARARGS, "Fill in the gradients of some lines."},
    {"norm_sums", featherseg_norm_sums, METH_VARARGS, "Add up what a batch norm or its gradient needs."},
    {"norm_apply", featherseg_norm_apply, METH_VARARGS, "Fill in normalised values, or their gradients."},
    {"resize_backward", featherseg_resize_backward, METH_VARARGS, "Fill in the gradient of a bilinear resize."},
    {"clones", clones, METH_NOARGS, "Names of the instruction sets that this processor has."},
    {"chosen", chosen_clone, METH_NOARGS, "The instruction set in use."},
    {"use", use, METH_O, "Use another instruction set, by its name."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_native", NULL, -1, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void) {
    for (int i = 0; i < CLONE_COUNT; i++)
        if (runs_here(i)) featherseg_clone = i;
    return PyModule_Create(&MODULE);
}
