// Products of a few rows with a matrix whose weights are stored in panels. fp32, any CPU.
//
// A product y = W x must read each weight once for all rows, and in the order of memory. So W (N, K)
// is stored in panels of P outputs, two registers wide. For P = 4, the memory of W (8, K) holds
//
//   panel 0: W[0..3][0]  W[0..3][1]  ...  W[0..3][K-1]     panel 1: W[4..7][0]  W[4..7][1] ...
//
// A step of the sum over K loads two registers of weights, and one number of each row:
//
//   sums[r][0] += W[0..1][k] * x[r][k]     sums[r][1] += W[2..3][k] * x[r][k]
#pragma once
#include <omp.h>

#include <algorithm>
#include <cstdint>

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 12;  // 2 * ROWS sums must fit into 32 registers of 16 floats
#elif defined(__AVX2__)
constexpr int LANES = 8, ROWS = 6;  // 16 registers of 8
#else
constexpr int LANES = 4, ROWS = 6;
#endif
constexpr int P = 2 * LANES;
typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

static inline vec load(const float* p) { return *(const vec*)p; }
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

// Write W (N, K), its columns scaled by g (K,) or not, into panels. Row n becomes output
// first + n, plus `gap` for every LANES rows before it: so two matrices can alternate.
static void pack(const float* W, const float* g, int64_t N, int64_t K, int64_t first, int64_t gap,
                 float* panels) {
  constexpr int64_t BLOCK = 64;  // columns: a block of a panel stays in the first cache
#pragma omp parallel for
  for (int64_t from = 0; from < K; from += BLOCK)
    for (int64_t n = 0; n < N; ++n) {
      const int64_t output = first + n + n / LANES * gap;
      float* panel = panels + output / P * P * K + output % P;
      for (int64_t k = from; k < std::min(from + BLOCK, K); ++k)
        panel[k * P] = W[n * K + k] * (g ? g[k] : 1.f);
    }
}

// R rows of x, `stride` apart, times one panel; write(r, left, right) gets the P sums of each row.
// Few rows have few sums, so U independent parts of each hide the latency of an addition.
template <int R, class Write>
static int tile(const float* panel, const float* x, int64_t stride, int64_t K, Write write) {
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
template <class Write>
static void product(const float* panels, int64_t N, int64_t K, const float* x, int64_t stride,
                    int64_t B, Write write) {
  const Share share(padded(N) / P);
  for (int64_t n = share.begin; n < share.end; ++n)
    for (int64_t b = 0; b < B;) {
      auto at = [&](int r, vec left, vec right) { write(b + r, n, left, right); };
      const float *panel = panels + n * K * P, *rows = x + b * stride;
      const int64_t rest = B - b;
      if (rest >= ROWS) b += tile<ROWS>(panel, rows, stride, K, at);
      else if (rest >= 8 && ROWS > 8) b += tile<8>(panel, rows, stride, K, at);
      else if (rest >= 4) b += tile<4>(panel, rows, stride, K, at);
      else if (rest >= 2) b += tile<2>(panel, rows, stride, K, at);
      else b += tile<1>(panel, rows, stride, K, at);
    }
}
