/* Vectors of LANES floats and what is done to them, for loops that a file includes once a clone, CLONE(name), TARGET
   and LANES defined. A lane takes the same steps in the same order however many there are, and contraction is off (no fused
   multiply-add), so all clones give the same bits. Who includes this undefines Lanes and Bits at the end. */

#if LANES > 1 /* the vectors of gcc and clang: operators work lane by lane */
typedef float CLONE(Lanes) __attribute__((vector_size(LANES * sizeof(float))));
typedef uint32_t CLONE(Bits) __attribute__((vector_size(LANES * sizeof(float))));
#else
typedef float CLONE(Lanes);
typedef uint32_t CLONE(Bits);
#endif
#define Lanes CLONE(Lanes)
#define Bits CLONE(Bits)

TARGET static inline Lanes CLONE(load)(const float *from) {
    Lanes x;
    memcpy(&x, from, sizeof x);
    return x;
}

TARGET static inline void CLONE(store)(float *to, Lanes x) { memcpy(to, &x, sizeof x); }

TARGET static inline Lanes CLONE(all)(float x) { return (Lanes){0} + x; }

/* The larger one; `a` where either is NaN. */
TARGET static inline Lanes CLONE(larger)(Lanes a, Lanes b) {
#if LANES > 1
    Bits less = (Bits)(a < b);
    return (Lanes)(((Bits)b & less) | ((Bits)a & ~less));
#else
    return a < b ? b : a;
#endif
}

/* 2^x for x <= 0, within 1.1e-7 of itself; 2^-126 below that; NaN stays NaN.
   x is a whole number and a rest; the one becomes the exponent's bits, the rest goes through a polynomial. */
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
