/* What the files of the extension share. */

#ifndef FEATHERSEG_NATIVE_H
#define FEATHERSEG_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#if (defined(__GNUC__) || defined(__clang__)) && !defined(PLAIN_C)
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define PREFETCH(address) __builtin_prefetch(address)
#define BASELINE_LANES 4
#if defined(__x86_64__)
#include <immintrin.h>
#define X86_CLONES 1
#define AVX512 "avx512f,avx512bw,avx512dq,avx512vl"
#define FOR_AVX2 __attribute__((target("avx2")))
#ifdef __clang__ /* ignores the whole attribute if it does not know a part of it */
#define FOR_AVX512 __attribute__((target(AVX512)))
#else
#define FOR_AVX512 __attribute__((target(AVX512 ",prefer-vector-width=512")))
#endif
#endif
#else /* what Microsoft's compiler takes; PLAIN_C builds the same with others, for tests */
#define ALWAYS_INLINE inline
#define PREFETCH(address) ((void)(address))
#define BASELINE_LANES 1
#endif

extern int featherseg_clone; /* the instruction set in use: 0 baseline, 1 avx2, 2 avx512 */

/* Get a non-empty buffer of that type and number of dimensions; 0 and an exception otherwise.
   A type is a kind and a size in bytes: "f4", "f8", "i2" (also bfloat16), "i4", "i8", "u1". */
int featherseg_take(PyObject *object, Py_buffer *view, int flags, const char *type, int dimensions,
                    const char *name);

/* Whether a buffer's values are of that type; -1 and an exception for no buffer. */
int featherseg_has_type(PyObject *object, const char *type);

/* Whether its address and strides are multiples of a float's size. */
int featherseg_aligned(const Py_buffer *view);

PyObject *featherseg_pixel_to_region(PyObject *module, PyObject *arguments);
PyObject *featherseg_pixel_to_region_backward(PyObject *module, PyObject *arguments);
PyObject *featherseg_upsample_cross_entropy(PyObject *module, PyObject *arguments);
PyObject *featherseg_depthwise_backward(PyObject *module, PyObject *arguments);
PyObject *featherseg_norm_sums(PyObject *module, PyObject *arguments);
PyObject *featherseg_norm_apply(PyObject *module, PyObject *arguments);
PyObject *featherseg_resize_backward(PyObject *module, PyObject *arguments);

#endif
