/* featherseg.kernels._native.depthwise_backward: the gradients of a depthwise convolution for
   its input and its weights in one pass, line by line of the input. The lines of the output that
   used an input line are in a ring as floats, with zeros on both sides. Every tap adds one of
   them times a weight to the line's gradient, and times the line to the weight's. */

#include "_native.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_TAPS = 9, MOST_KERNEL = 64, ALIGNMENT = 64, CHUNK = 128, LEAST_CHUNK = 32, RING_FLOATS = 1 << 16 };

typedef struct { /* along rows or columns: input, output, kernel; leading zeros */
    ptrdiff_t in, out, kernel, stride, padding, dilation;
} Side;

typedef struct {
    Side rows, columns;
    ptrdiff_t batch, channels, size; /* bytes of a value: 4, or 2 for bfloat16 */
    const char *x, *pull;            /* (B, h, w, C) the input; (B, h', w', C) the gradient of the output */
    const float *weight;             /* (k, k, C) */
    char *to_x;                      /* gradients, written: (B, h, w, C), (k, k, C), (C,) or NULL */
    float *to_weight, *to_bias;
} Depthwise;

typedef struct {
    const float *x, *pull[MOST_TAPS], *weight[MOST_TAPS];
    float *to_x, *to_weight[MOST_TAPS];
    ptrdiff_t count, step; /* pixels; floats between them, in x and to_x */
    int taps;
} Sweep;

typedef struct { /* channels of a line of a map or of its copy: span pixels, in blocks of LANES channels */
    char *data;
    ptrdiff_t pixels, pitch, channels, span; /* pitch: values from pixel to pixel */
} Line;

#ifdef X86_CLONES
#define KEEP(vector) __asm__("" : "+x"(vector)) /* in its register: gcc would load it twice */
#else
#define KEEP(vector)
#endif

#define LOOPS "_depthwise_loops.h"
#include "_clones.h"

typedef struct {
    ptrdiff_t lanes;
    void (*read_line)(const Line *, int, ptrdiff_t, float *);
    void (*write_line)(const Line *, int, const float *);
    void (*sweep_line)(const Sweep *);
} Clone;

static const Clone CLONES[] = {
    {BASELINE_LANES, read_line_baseline, write_line_baseline, sweep_line_baseline},
#ifdef X86_CLONES
    {8, read_line_avx2, write_line_avx2, sweep_line_avx2},
    {16, read_line_avx512, write_line_avx512, sweep_line_avx512},
#endif
};

typedef struct {
    float *x, *to_x, *ring;      /* (blocks, w, LANES) twice; lines of the output: (depth, blocks, span, LANES) */
    float *weight, *to_weight;   /* (blocks, k k, LANES) */
    ptrdiff_t chunk, blocks;     /* channels that are processed at once, and their blocks of LANES */
    ptrdiff_t depth, span, zeros;/* of the ring; zeros before the first column */
    ptrdiff_t *held;             /* (depth,) the line of the output that each holds */
    void *memory;
} Scratch;

static ptrdiff_t larger(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
static ptrdiff_t smaller(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

/* One memory block per call, with aligned parts; at most 0.5 MB for ordinary maps. */
static int reserve(Scratch *s, const Depthwise *d, const Clone *clone) {
    const Side *c = &d->columns;
    const ptrdiff_t reach = (c->kernel - 1) * c->dilation - c->padding; /* columns left of the first that taps ask for */
    const ptrdiff_t taps = d->rows.kernel * c->kernel, lanes = clone->lanes;
    s->depth = (d->rows.kernel - 1) * d->rows.dilation / d->rows.stride + 1;
    s->zeros = (reach + c->stride - 1) / c->stride;
    s->span = s->zeros + larger((c->in - 1 + c->padding) / c->stride + 1, c->out);
    s->chunk = CHUNK; /* fewer where the ring would leave the cache */
    while (s->chunk > LEAST_CHUNK && s->depth * s->span * s->chunk > RING_FLOATS) s->chunk /= 2;
    s->chunk = smaller(s->chunk, d->channels);
    s->blocks = (s->chunk + lanes - 1) / lanes;
    const size_t line = ALIGNMENT / sizeof(float), block = (size_t)(s->blocks * lanes);
    const size_t parts[] = {block * c->in, block * c->in, block * s->depth * s->span, block * taps, block * taps};
    float **places[] = {&s->x, &s->to_x, &s->ring, &s->weight, &s->to_weight};
    enum { PARTS = sizeof parts / sizeof *parts };
    size_t total = line + s->depth * sizeof(ptrdiff_t) / sizeof(float);
    for (int i = 0; i < PARTS; i++) total += parts[i] + line;
    s->memory = calloc(total, sizeof(float));
    if (!s->memory) return 0;
    uintptr_t next = (uintptr_t)s->memory;
    for (int i = 0; i < PARTS; i++) {
        next = (next + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        *places[i] = (float *)next;
        next += parts[i] * sizeof(float);
    }
    s->held = (ptrdiff_t *)((next + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    return 1;
}

/* Add what a group of taps gives to a line. */
static void sweep_group(Sweep *sweep, const Clone *clone) {
    if (sweep->taps) clone->sweep_line(sweep);
    sweep->taps = 0;
}

/* All taps of one block of channels of line `row`, by column phase: with a stride, neighbouring
   columns meet different taps. */
static void sweep_block(const Depthwise *d, const Scratch *s, const Clone *clone, ptrdiff_t row, ptrdiff_t block) {
    const Side *r = &d->rows, *c = &d->columns;
    const ptrdiff_t lanes = clone->lanes, taps = r->kernel * c->kernel;
    const float *weight = s->weight + block * taps * lanes;
    float *to_weight = s->to_weight + block * taps * lanes;
    for (ptrdiff_t phase = 0; phase < smaller(c->stride, c->in); phase++) {
        const ptrdiff_t start = (block * c->in + phase) * lanes;
        Sweep sweep = {.x = s->x + start, .to_x = s->to_x + start, .step = c->stride * lanes,
                       .count = (c->in - phase + c->stride - 1) / c->stride};
        for (ptrdiff_t i = 0; i < r->kernel; i++) {
            const ptrdiff_t below = row + r->padding - i * r->dilation, line = below / r->stride;
            if (below < 0 || below % r->stride || line >= r->out) continue;
            const float *pull = s->ring + ((line % s->depth * s->blocks + block) * s->span + s->zeros) * lanes;
            for (ptrdiff_t j = 0; j < c->kernel; j++) {
                const ptrdiff_t right = phase + c->padding - j * c->dilation, tap = (i * c->kernel + j) * lanes;
                if (right % c->stride) continue;
                sweep.pull[sweep.taps] = pull + right / c->stride * lanes;
                sweep.weight[sweep.taps] = weight + tap;
                sweep.to_weight[sweep.taps] = to_weight + tap;
                if (++sweep.taps == MOST_TAPS) sweep_group(&sweep, clone);
            }
        }
        sweep_group(&sweep, clone);
    }
}

/* Lines `first` to `stop`, counted over all images; `channels` channels from `start` on. */
static void sweep_lines(const Depthwise *d, Scratch *s, const Clone *clone, ptrdiff_t start, ptrdiff_t channels,
                        ptrdiff_t first, ptrdiff_t stop) {
    const Side *r = &d->rows, *c = &d->columns;
    const ptrdiff_t blocks = (channels + clone->lanes - 1) / clone->lanes;
    const int half = d->size == sizeof(uint16_t);
    for (ptrdiff_t place = first; place < stop; place++) {
        const ptrdiff_t image = place / r->in, row = place % r->in, from = (place * c->in * d->channels + start) * d->size;
        if (place == first || row == 0)
            for (ptrdiff_t i = 0; i < s->depth; i++) s->held[i] = -1;
        for (ptrdiff_t i = 0; i < r->kernel; i++) {
            const ptrdiff_t below = row + r->padding - i * r->dilation, line = below / r->stride;
            if (below < 0 || below % r->stride || line >= r->out || s->held[line % s->depth] == line) continue;
            const ptrdiff_t source = ((image * r->out + line) * c->out * d->channels + start) * d->size;
            const Line pull = {(char *)d->pull + source, c->out, d->channels, channels, s->span};
            s->held[line % s->depth] = line;
            clone->read_line(&pull, half, line + 1 < r->out ? c->out * d->channels : 0,
                             s->ring + (line % s->depth * s->blocks * s->span + s->zeros) * clone->lanes);
        }
        const Line x = {(char *)d->x + from, c->in, d->channels, channels, c->in};
        const Line to_x = {d->to_x + from, c->in, d->channels, channels, c->in};
        clone->read_line(&x, half, place + 1 < stop ? c->in * d->channels : 0, s->x);
        memset(s->to_x, 0, sizeof(float) * blocks * c->in * clone->lanes);
        for (ptrdiff_t block = 0; block < blocks; block++) sweep_block(d, s, clone, row, block);
        clone->write_line(&to_x, half, s->to_x);
    }
}

/* Sums (C,) of the output lines that belong to the input lines `first` to `stop`. */
static void sum_lines(const Depthwise *d, ptrdiff_t first, ptrdiff_t stop) {
    const ptrdiff_t line = d->columns.out * d->channels;
    for (ptrdiff_t place = first; place < stop; place++) {
        const ptrdiff_t image = place / d->rows.in, row = place % d->rows.in;
        if (row % d->rows.stride || row / d->rows.stride >= d->rows.out) continue;
        const char *pull = d->pull + (image * d->rows.out + row / d->rows.stride) * line * d->size;
        for (ptrdiff_t x = 0; x < line; x += d->channels)
            for (ptrdiff_t c = 0; c < d->channels; c++) {
                uint32_t bits = 0;
                float value;
                if (d->size == sizeof bits) memcpy(&bits, pull + (x + c) * sizeof bits, sizeof bits);
                else bits = (uint32_t)((const uint16_t *)pull)[x + c] << 16;
                memcpy(&value, &bits, sizeof value);
                d->to_bias[c] += value;
            }
    }
}

static void fill(const Depthwise *d, Scratch *s, const Clone *clone, ptrdiff_t first, ptrdiff_t stop) {
    const ptrdiff_t taps = d->rows.kernel * d->columns.kernel, lanes = clone->lanes;
    for (ptrdiff_t start = 0; start < d->channels; start += s->chunk) {
        const ptrdiff_t channels = smaller(s->chunk, d->channels - start);
        memset(s->to_weight, 0, sizeof(float) * s->blocks * lanes * taps);
        const Line weight = {(char *)(d->weight + start), taps, d->channels, channels, taps};
        const Line to_weight = {(char *)(d->to_weight + start), taps, d->channels, channels, taps};
        clone->read_line(&weight, 0, 0, s->weight);
        sweep_lines(d, s, clone, start, channels, first, stop);
        clone->write_line(&to_weight, 0, s->to_weight);
    }
    if (d->to_bias) {
        memset(d->to_bias, 0, sizeof(float) * d->channels);
        sum_lines(d, first, stop);
    }
}

/* --- arguments --- */

enum { X, PULL, WEIGHT, TO_X, TO_WEIGHT, TO_BIAS, ARGUMENTS };
static const struct {
    const char *name;
    int dimensions, flags;
} EXPECTED[ARGUMENTS] = {
    {"x", 4, PyBUF_C_CONTIGUOUS},
    {"pull", 4, PyBUF_C_CONTIGUOUS},
    {"weight", 3, PyBUF_C_CONTIGUOUS},
    {"gradient of x", 4, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE},
    {"gradient of the weight", 3, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE},
    {"gradient of the bias", 1, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE},
};

static int same_shape(const Py_buffer *a, const Py_buffer *b) {
    return memcmp(a->shape, b->shape, sizeof *a->shape * a->ndim) == 0;
}

/* Whether no tap is further outside than the kernel's reach, and every output line has an input
   line. */
static int fits(const Side *s) {
    return s->stride >= 1 && s->stride <= MOST_KERNEL && s->dilation >= 1 && s->dilation <= MOST_KERNEL &&
           s->kernel <= MOST_KERNEL && s->padding >= 0 && s->padding <= (s->kernel - 1) * s->dilation &&
           (s->stride == 1 || s->dilation == 1) && (s->out - 1) * s->stride < s->in;
}

static PyObject *run(const Py_buffer *views, Depthwise *d, ptrdiff_t first, ptrdiff_t stop) {
    const Py_buffer *x = &views[X], *pull = &views[PULL], *weight = &views[WEIGHT];
    const int biased = views[TO_BIAS].buf != NULL;
    uintptr_t bits = 0;
    for (int i = 0; i < ARGUMENTS - !biased; i++) bits |= (uintptr_t)views[i].buf % (size_t)views[i].itemsize;
    d->batch = x->shape[0], d->channels = x->shape[3], d->size = x->itemsize;
    d->rows.in = x->shape[1], d->rows.out = pull->shape[1], d->rows.kernel = weight->shape[0];
    d->columns.in = x->shape[2], d->columns.out = pull->shape[2], d->columns.kernel = weight->shape[1];
    d->x = x->buf, d->pull = pull->buf, d->weight = weight->buf, d->to_x = views[TO_X].buf;
    d->to_weight = views[TO_WEIGHT].buf, d->to_bias = views[TO_BIAS].buf;
    if (bits || !same_shape(x, &views[TO_X]) || !same_shape(weight, &views[TO_WEIGHT]) || !fits(&d->rows) ||
        !fits(&d->columns) || pull->shape[0] != d->batch || pull->shape[3] != d->channels ||
        weight->shape[2] != d->channels || (biased && views[TO_BIAS].shape[0] != d->channels) || first < 0 || first > stop ||
        stop > d->batch * d->rows.in) {
        PyErr_SetString(PyExc_ValueError, "x, weight, gradients, geometry and lines do not fit together");
        return NULL;
    }
    const Clone *clone = &CLONES[featherseg_clone];
    Scratch scratch;
    if (!reserve(&scratch, d, clone)) return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    fill(d, &scratch, clone, first, stop);
    Py_END_ALLOW_THREADS
    free(scratch.memory);
    Py_RETURN_NONE;
}

PyObject *featherseg_depthwise_backward(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *objects[ARGUMENTS], *result = NULL;
    Py_buffer views[ARGUMENTS] = {0};
    Depthwise d = {0};
    Py_ssize_t first, stop;
    int taken = 0;
    if (!PyArg_ParseTuple(arguments, "OOOOOO(nn)(nn)(nn)nn", &objects[X], &objects[PULL], &objects[WEIGHT],
                          &objects[TO_X], &objects[TO_WEIGHT], &objects[TO_BIAS], &d.rows.stride, &d.columns.stride,
                          &d.rows.padding, &d.columns.padding, &d.rows.dilation, &d.columns.dilation, &first, &stop))
        return NULL;
    const int half = featherseg_has_type(objects[X], "i2");
    if (half < 0) return NULL;
    const char *map = half ? "i2" : "f4";
    const int count = objects[TO_BIAS] == Py_None ? TO_BIAS : ARGUMENTS;
    for (; taken < count; taken++)
        if (!featherseg_take(objects[taken], &views[taken], EXPECTED[taken].flags,
                             EXPECTED[taken].dimensions == 4 ? map : "f4",
                             EXPECTED[taken].dimensions, EXPECTED[taken].name))
            break;
    if (taken == count) result = run(views, &d, first, stop);
    while (taken > 0) PyBuffer_Release(&views[--taken]);
    return result;
}
