// What the bf16 kernels share: 16 numbers at a time with AVX-512, and scratch memory.
//
// The matrix unit multiplies bf16 in pairs along the inner dimension. Its right operand therefore
// holds two rows interleaved (VNNI order): row 2r and row 2r+1 of a matrix (R, N) become
// a[2r][0] a[2r+1][0] a[2r][1] a[2r+1][1] ...
#pragma once
#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "guard.h"

using bf16 = at::BFloat16;
using at::native::cpublas::brgemm;          // C (M, N) fp32 = or += A (M, K) bf16 x B (K, N) VNNI bf16
using at::native::cpublas::brgemm_release;  // call at the end of each thread's work

static constexpr float LN2 = 0.693147181f;  // ln 2

// 2^x of 16 numbers, relative error about 3e-6.
static inline __m512 exp2_16(__m512 x) {
  const __m512 n = _mm512_roundscale_ps(x, 8), r = _mm512_sub_ps(x, n);
  __m512 p = _mm512_set1_ps(1.3333558e-3f);  // Taylor's polynomial of degree 5: ln(2)^n / n!
  for (float c : {9.6181291e-3f, 5.5504109e-2f, .24022651f, LN2, 1.f})
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
  return _mm512_scalef_ps(p, n);
}

// e^x of 16 numbers, relative error about 3e-6 for x from -20 to 0, where weights are not tiny.
static inline __m512 exp16(__m512 x) {
  return exp2_16(_mm512_mul_ps(x, _mm512_set1_ps(1 / LN2)));
}

static inline __m512 load16(const float* p) { return _mm512_loadu_ps(p); }
static inline __m512 load16(const bf16* p) {  // a bf16 is the upper half of a float
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
static inline void store16(float* p, __m512 x) { _mm512_storeu_ps(p, x); }
static inline void store16(bf16* p, __m512 x) {
  _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(x));
}
// Two rows of 16 floats as 32 bf16 in VNNI order.
static inline __m512i interleave(__m512 even, __m512 odd) {
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(odd, even);  // 16 of `even`, then 16 of `odd`
  const __m512i order =
      _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                       21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, both);
}

// Scratch memory of one thread, aligned to a cache line. Throws std::bad_alloc.
template <class T>
struct Scratch {
  T* p;
  explicit Scratch(size_t n) : p((T*)aligned_alloc(64, (n * sizeof(T) + 63) / 64 * 64)) {
    if (!p) throw std::bad_alloc();
  }
  Scratch(const Scratch&) = delete;
  ~Scratch() { free(p); }
  operator T*() { return p; }
};
