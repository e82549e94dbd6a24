// Arithmetic on a few vectors of fp32 numbers, with the registers of `panels.h`, on any CPU.
#pragma once
#include <cmath>
#include <cstring>

#include "panels.h"

// x + y, computed after x: the compiler may reorder other sums (`MATH` in build.py).
static inline float add_after(float x, float y) {
#if __has_builtin(__builtin_assoc_barrier)
  x = __builtin_assoc_barrier(x);
#endif
  return x + y;
}

// e^x: x = n ln 2 + r, |r| <= ln 2 / 2, and e^x = 2^n e^r. The relative error is about 3e-7, or 4e-6
// where the compiler may join the two parts of ln 2.
static inline float exponential(float x) {
  x = std::min(std::max(x, -87.f), 88.f);
  const float n = std::nearbyint(x * 1.44269504f);
  const float r = add_after(x - n * 0.693359375f, n * 2.12194440e-4f);
  float p = 1.f / 720;  // Taylor's polynomial of degree 6
  for (float c : {1.f / 120, 1.f / 24, 1.f / 6, .5f, 1.f, 1.f}) p = p * r + c;
  const int32_t bits = ((int32_t)n + 127) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return p * power;
}

static float dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// C columns of the weighted mean of S rows, `stride` apart. The sums stay in registers.
template <int C>
static int mean(const float* weights, const float* rows, int64_t S, int64_t stride, float total,
                float* out) {
  constexpr int N = C >= LANES ? C / LANES : 1;
  if constexpr (C < LANES) {
    float sum = 0;
    for (int64_t s = 0; s < S; ++s) sum += weights[s] * rows[s * stride];
    *out = sum / total;
  } else {
    vec sums[N] = {};
    for (int64_t s = 0; s < S; ++s)
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) sums[n] += weights[s] * load(rows + s * stride + n * LANES);
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) store(out + n * LANES, sums[n] / total);
  }
  return C;
}
