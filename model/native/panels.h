// Products of a few rows with a matrix whose weights are stored in panels. Any CPU.
//
// A product y = W x must read each weight once for all rows, and in the order of memory. So W (N, K)
// is stored in panels of P outputs, two registers wide. For P = 4, the memory of W (8, K) holds
//
//   panel 0: W[0..3][0]  W[0..3][1]  ...  W[0..3][K-1]     panel 1: W[4..7][0]  W[4..7][1] ...
//
// A step of the sum over K loads two registers of weights, and one number of each row:
//
//   sums[r][0] += W[0..1][k] * x[r][k]     sums[r][1] += W[2..3][k] * x[r][k]
//
// Weights are fp32, or int8 with a scale for each output (`model/quantization.py`): a quarter of the
// memory. int8 is converted in registers, sums are in fp32, and the scale is applied to the sum.
#pragma once
#include <omp.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdint>
#include <type_traits>

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 12;  // 2 * ROWS sums must fit into 32 registers of 16 floats
#elif defined(__AVX2__)
constexpr int LANES = 8, ROWS = 6;  // 16 registers of 8
#else
constexpr int LANES = 4, ROWS = 6;
#endif
constexpr int P = 2 * LANES;
typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

// A matrix (N, K) in panels; N is filled up with zeros to `padded(N)`.
struct Panels {
  const void* numbers;  // float, or int8_t if there are scales
  const float* scales;  // (padded(N),) or null
};

static inline vec load(const float* p) { return *(const vec*)p; }
static inline vec load(const int8_t* p) {
#if defined(__AVX512F__)
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#elif defined(__AVX2__)
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#else
  vec x;
  for (int n = 0; n < LANES; ++n) x[n] = p[n];
  return x;
#endif
}
static inline void store(float* p, vec x) { *(vec*)p = x; }
static inline int64_t padded(int64_t n) { return (n + P - 1) / P * P; }

// The part of [0, n) that this thread computes.
struct Share {
  int64_t begin, end;
  explicit Share(int64_t n) {
    const int64_t threads = omp_get_num_threads(), id = omp_get_thread_num();
    begin = n * id / threads, end = n * (id + 1) / threads;
  }
};

// R rows of x, `stride` apart, times one panel; write(r, left, right) gets the P sums of each row.
// Few rows have few sums, so U independent parts of each hide the latency of an addition.
template <int R, class Number, class Write>
static int tile(const Number* panel, const float* x, int64_t stride, int64_t K, Write write) {
  constexpr int U = R >= 4 ? 1 : 4 / R;
  vec sums[U][R][2] = {};
  int64_t k = 0;
  for (; k + U <= K; k += U)
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
      const vec left = load(panel + (k + u) * P), right = load(panel + (k + u) * P + LANES);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        sums[u][r][0] += left * x[r * stride + k + u];
        sums[u][r][1] += right * x[r * stride + k + u];
      }
    }
  for (; k < K; ++k)
    for (int r = 0; r < R; ++r)
      for (int half = 0; half < 2; ++half)
        sums[0][r][half] += load(panel + k * P + half * LANES) * x[r * stride + k];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    vec left = sums[0][r][0], right = sums[0][r][1];
    for (int u = 1; u < U; ++u) left += sums[u][r][0], right += sums[u][r][1];
    write(r, left, right);
  }
  return R;
}

// This thread's share of W x for B rows of x: write(row, panel, left, right) gets the sums.
template <class Number, class Write>
static void product(const Number* numbers, const float* scales, int64_t N, int64_t K,
                    const float* x, int64_t stride, int64_t B, Write write) {
  const Share share(padded(N) / P);
  for (int64_t n = share.begin; n < share.end; ++n)
    for (int64_t b = 0; b < B;) {
      auto at = [&](int r, vec left, vec right) {
        if constexpr (!std::is_same_v<Number, float>)
          left *= load(scales + n * P), right *= load(scales + n * P + LANES);
        write(b + r, n, left, right);
      };
      const Number* panel = numbers + n * K * P;
      const float* rows = x + b * stride;
      const int64_t rest = B - b;
      if (rest >= ROWS) b += tile<ROWS>(panel, rows, stride, K, at);
      else if (rest >= 8 && ROWS > 8) b += tile<8>(panel, rows, stride, K, at);
      else if (rest >= 4) b += tile<4>(panel, rows, stride, K, at);
      else if (rest >= 2) b += tile<2>(panel, rows, stride, K, at);
      else b += tile<1>(panel, rows, stride, K, at);
    }
}

template <class Write>
static void product(const Panels& w, int64_t N, int64_t K, const float* x, int64_t stride,
                    int64_t B, Write write) {
  if (w.scales) product((const int8_t*)w.numbers, w.scales, N, K, x, stride, B, write);
  else product((const float*)w.numbers, nullptr, N, K, x, stride, B, write);
}
