/* Includes the file LOOPS once per instruction set; LANES is the number of floats in a vector. */

#define LANES BASELINE_LANES
#define CLONE(name) name##_baseline
#define TARGET
#include LOOPS
#undef LANES
#undef CLONE
#undef TARGET

#ifdef X86_CLONES
#define LANES 8
#define CLONE(name) name##_avx2
#define TARGET FOR_AVX2
#include LOOPS
#undef LANES
#undef CLONE
#undef TARGET
#define LANES 16
#define CLONE(name) name##_avx512
#define TARGET FOR_AVX512
#include LOOPS
#undef LANES
#undef CLONE
#undef TARGET
#endif
