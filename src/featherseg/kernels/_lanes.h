/* Vectors of LANES floats and their operations, for loops that a file includes once per clone
   with CLONE(name), TARGET and LANES defined. A lane takes the same steps in the same order for
   any number of lanes, and contraction is off (no fused multiply-add), so that all clones give
   the same bits. bfloat16 is the upper half of a float. */

#undef Lanes
#undef Bits
#undef Halves
#undef CONVERT
#undef X86_VECTOR
#if defined X86_CLONES && LANES == 16
#define X86_VECTOR(operation) _mm512_##operation
#elif defined X86_CLONES && LANES == 8
#define X86_VECTOR(operation) _mm256_##operation
#endif
#if LANES > 1 /* the vectors of gcc and clang: operators work lane by lane */
typedef float CLONE(Lanes) __attribute__((vector_size(LANES * sizeof(float))));
typedef uint32_t CLONE(Bits) __attribute__((vector_size(LANES * sizeof(float))));
typedef uint16_t CLONE(Halves) __attribute__((vector_size(LANES * sizeof(uint16_t))));
#define CONVERT(x, type) __builtin_convertvector(x, type)
#else
typedef float CLONE(Lanes);
typedef uint32_t CLONE(Bits);
typedef uint16_t CLONE(Halves);
#define CONVERT(x, type) ((type)(x))
#endif
#define Lanes CLONE(Lanes)
#define Bits CLONE(Bits)
#define Halves CLONE(Halves)

TARGET static inline Lanes CLONE(load)(const void *from) {
    Lanes x;
    memcpy(&x, from, sizeof x);
    return x;
}

TARGET static inline void CLONE(store)(void *to, Lanes x) { memcpy(to, &x, sizeof x); }

TARGET static inline Lanes CLONE(all)(float x) { return (Lanes){0} + x; }

/* a where the mask has ones, else b. */
TARGET static inline Lanes CLONE(where)(Bits mask, Lanes a, Lanes b) {
#if LANES > 1
    return (Lanes)(((Bits)a & mask) | ((Bits)b & ~mask));
#else
    return mask ? a : b;
#endif
}

/* Ones where a < b; nowhere where either is NaN. */
TARGET static inline Bits CLONE(less)(Lanes a, Lanes b) {
#if LANES > 1
    return (Bits)(a < b);
#else
    return a < b ? ~(Bits)0 : 0;
#endif
}

/* The larger one; `a` where either is NaN. */
TARGET static inline Lanes CLONE(larger)(Lanes a, Lanes b) { return CLONE(where)(CLONE(less)(a, b), b, a); }

/* Between low and high; NaN stays NaN. */
TARGET static inline Lanes CLONE(clamp)(Lanes x, Lanes low, Lanes high) {
#ifdef X86_VECTOR
    return X86_VECTOR(min_ps)(high, X86_VECTOR(max_ps)(low, x));
#else
    x = CLONE(where)(CLONE(less)(x, low), low, x);
    return CLONE(where)(CLONE(less)(high, x), high, x);
#endif
}

/* a where low < x < high, else 0. */
TARGET static inline Lanes CLONE(pass)(Lanes a, Lanes x, Lanes low, Lanes high) {
#if defined X86_VECTOR && LANES == 16
    const __mmask16 above = _mm512_cmp_ps_mask(low, x, _CMP_LT_OQ);
    return _mm512_maskz_mov_ps(_mm512_mask_cmp_ps_mask(above, x, high, _CMP_LT_OQ), a);
#else
    return CLONE(where)(CLONE(less)(low, x) & CLONE(less)(x, high), a, CLONE(all)(0.0f));
#endif
}

/* A float whose upper half is that of the bits. */
TARGET static inline Lanes CLONE(upper)(Bits bits) {
    Lanes x;
    bits &= 0xffff0000u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

TARGET static inline Lanes CLONE(widen)(const void *from) {
#if defined X86_VECTOR && LANES == 16
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from)), 16));
#else
    Halves half;
    memcpy(&half, from, sizeof half);
    return CLONE(upper)(CONVERT(half, Bits) << 16);
#endif
}

/* Round to the nearest bfloat16, ties to even, in the upper half; NaN stays NaN. */
TARGET static inline Bits CLONE(rounded)(Lanes x) {
    Bits bits;
    memcpy(&bits, &x, sizeof bits);
#if defined X86_VECTOR && LANES == 16
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    bits += 0x7fff + ((bits >> 16) & 1);
    return (Bits)_mm512_mask_mov_epi32((__m512i)bits, nan, _mm512_set1_epi32(0x7fc00000));
#elif LANES > 1
    const Bits nan = (Bits)(x != x);
    return ((bits + 0x7fff + ((bits >> 16) & 1)) & ~nan) | (0x7fc00000 & nan);
#else
    return x != x ? 0x7fc00000 : bits + 0x7fff + ((bits >> 16) & 1);
#endif
}

TARGET static inline void CLONE(narrow)(void *to, Lanes x) {
#if defined X86_VECTOR && LANES == 16
    _mm256_storeu_si256(to, _mm512_cvtepi32_epi16((__m512i)(CLONE(rounded)(x) >> 16)));
#else
    const Halves half = CONVERT(CLONE(rounded)(x) >> 16, Halves);
    memcpy(to, &half, sizeof half);
#endif
}

/* 2^x for x <= 0, within a relative error of 1.1e-7; 2^-126 below that; NaN stays NaN. The whole
   part of x becomes the exponent's bits, the fraction goes through a polynomial. */
TARGET static inline Lanes CLONE(power)(Lanes x) {
    const float magic = 12582912.0f + 127.0f; /* 1.5 * 2^23, which leaves no bits for fractions, and the bias */
    x = CLONE(larger)(x, CLONE(all)(-126.0f));
    Lanes moved = x + magic, rest = x - (moved - magic), scale;
    Bits bits;
    memcpy(&bits, &moved, sizeof bits);
    bits <<= 23;
    memcpy(&scale, &bits, sizeof scale);
    Lanes sum = rest * 1.5353362e-4f + 1.3398874e-3f;
    sum = sum * rest + 9.618437e-3f;
    sum = sum * rest + 5.5503324e-2f;
    sum = sum * rest + 2.4022648e-1f;
    sum = sum * rest + 6.931472e-1f;
    return (sum * rest + 1.0f) * scale;
}
