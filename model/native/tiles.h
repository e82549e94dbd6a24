// Small blocks of a matrix in the orders that `brgemm` needs: transposed, in pairs, and back.
//
// A tile is C rows of bf16, each of E numbers (a multiple of 16). A text's last tile has fewer rows
// than C: the rest is zero, and nothing after the last row is read or written.
#pragma once
#include "simd.h"

static constexpr int64_t LANES = 16;  // numbers in a vector
static constexpr int64_t C = 32;      // rows of a tile

static inline __m512i count16() {  // 0, 1, ..., 15
  return _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
}
static inline __mmask16 first_lanes(int64_t n) {
  return (1u << std::clamp<int64_t>(n, 0, LANES)) - 1;
}

// Transpose 16 x 16 numbers of 32 bits: for s = 1, 2, 4, 8, in each square of 2s x 2s, exchange
// the quarter at the top right with the quarter at the bottom left.
static inline void transpose16(__m512i* r) {
#pragma GCC unroll 4
  for (int s = 1; s < LANES; s *= 2) {
    const __m512i lane = count16(), step = _mm512_set1_epi32(s), other = _mm512_set1_epi32(LANES);
    const __mmask16 right = _mm512_test_epi32_mask(lane, step);
    const __m512i top = _mm512_mask_sub_epi32(lane, right, _mm512_add_epi32(lane, other), step);
    const __m512i low = _mm512_mask_add_epi32(_mm512_add_epi32(lane, step), right, lane, other);
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) {
      if (i & s) continue;
      const __m512i a = r[i], b = r[i + s];
      r[i] = _mm512_permutex2var_epi32(a, top, b);
      r[i + s] = _mm512_permutex2var_epi32(a, low, b);
    }
  }
}

// Load n numbers, at most 32, of each of 16 rows, as pairs: x[p] holds pair p of all rows.
static inline void load_pairs(const bf16* in, int64_t ld, __mmask16 rows, int64_t n, __m512i* x) {
  const __mmask16 pairs = first_lanes(n / 2);
#pragma GCC unroll 16
  for (int r = 0; r < LANES; r++)
    x[r] = _mm512_maskz_loadu_epi32(rows >> r & 1 ? pairs : 0, in + r * ld);
  transpose16(x);
}

// The transpose of a tile of n rows, in VNNI order: (E / 2, C, 2).
static void pack_transposed(const bf16* in, int64_t ld, int64_t n, int64_t E, bf16* out) {
  for (int64_t e = 0; e < E; e += 32)
    for (int64_t r = 0; r < C; r += LANES) {
      __m512i x[LANES];
      load_pairs(in + r * ld + e, ld, first_lanes(n - r), E - e, x);
      for (int64_t p = 0; p < std::min(LANES, (E - e) / 2); p++)
        _mm512_store_si512(out + (e / 2 + p) * 2 * C + 2 * r, x[p]);
    }
}

// A tile of n rows, in VNNI order: (C / 2, E, 2).
static void pack_rows(const bf16* in, int64_t ld, int64_t n, int64_t E, bf16* out) {
  for (int64_t r = 0; r < C; r += 2)
    for (int64_t e = 0; e < E; e += LANES) {
      const bf16* a = in + r * ld + e;
      const __m256i even = _mm256_maskz_loadu_epi16(r < n ? 0xffff : 0, a);
      const __m256i odd = _mm256_maskz_loadu_epi16(r + 1 < n ? 0xffff : 0, a + ld);
      const __m512i upper = _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16);
      _mm512_store_si512(out + r * E + 2 * e, _mm512_or_si512(upper, _mm512_cvtepu16_epi32(even)));
    }
}

// 16 of the rows `in`, and E numbers of each, as columns: out (E, ld_out). Other columns are zero.
static void write_columns(const bf16* in, int64_t ld, __mmask16 rows, int64_t E, bf16* out,
                          int64_t ld_out) {
  for (int64_t e = 0; e < E; e += 32) {
    __m512i x[LANES];
    load_pairs(in + e, ld, rows, E - e, x);
    for (int64_t p = 0; p < std::min(LANES, (E - e) / 2); p++) {
      bf16* row = out + (e + 2 * p) * ld_out;
      _mm256_storeu_si256((__m256i*)row, _mm512_cvtepi32_epi16(x[p]));
      const __m512i odd = _mm512_srli_epi32(x[p], 16);
      _mm256_storeu_si256((__m256i*)(row + ld_out), _mm512_cvtepi32_epi16(odd));
    }
  }
}

// The columns of x (E, C), each times its factor, as the n rows of a tile.
static void write_rows(const float* x, const float* factor, bf16* out, int64_t ld, int64_t n,
                       int64_t E) {
  for (int64_t r = 0; r < n; r += LANES)
    for (int64_t e = 0; e < E; e += LANES) {
      __m512i t[LANES];
#pragma GCC unroll 16
      for (int i = 0; i < LANES; i++)
        t[i] = (__m512i)_mm512_mul_ps(load16(x + (e + i) * C + r), load16(factor + r));
      transpose16(t);
      for (int64_t i = 0; i < std::min(LANES, n - r); i++)
        store16(out + (r + i) * ld + e, (__m512)t[i]);
    }
}

// The sum of a * b over the E numbers of each of 16 rows.
static __m512 row_dots(const bf16* a, int64_t lda, const bf16* b, int64_t ldb, __mmask16 rows,
                       int64_t E) {
  __m512i x[LANES];
  for (int r = 0; r < LANES; r++) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t e = 0; rows >> r & 1 && e < E; e += LANES)
      sum = _mm512_fmadd_ps(load16(a + r * lda + e), load16(b + r * ldb + e), sum);
    x[r] = (__m512i)sum;
  }
  transpose16(x);
  __m512 dots = (__m512)x[0];
  for (int r = 1; r < LANES; r++) dots = _mm512_add_ps(dots, (__m512)x[r]);
  return dots;
}
