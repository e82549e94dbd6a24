// RMSNorm, SwiGLU and RoPE with their gradients: one pass over memory each, 16 numbers at a time.
//
// Rows are independent, so threads take ranges of rows. Only the gradient of RMSNorm's weight sums
// over rows: it is summed in ranges whose number does not depend on that of the threads, so the
// result is always the same to the bit.
#include "simd.h"

static const int64_t ROWS = 16;   // fewest rows for one thread

static inline __m512 sigmoid16(__m512 x) {
  const __m512 e = exp16(_mm512_sub_ps(_mm512_setzero_ps(), x));
  // The reciprocal has 14 bits. bf16, which it ends in, has 8, and a division takes three times as long.
  return _mm512_rcp14_ps(_mm512_add_ps(_mm512_set1_ps(1.f), e));
}

// y (rows, dim) bf16 = x * inverse_rms * weight; inverse_rms (rows) is kept for the gradient.
extern "C" const char* rms_norm(const float* x, const float* weight, bf16* y, float* inverse_rms,
                                int64_t rows, int64_t dim, float eps) try {
  at::parallel_for(0, rows, ROWS, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float* row = x + r * dim;
      __m512 squares = _mm512_setzero_ps();
      for (int64_t d = 0; d < dim; d += 16) {
        const __m512 a = load16(row + d);
        squares = _mm512_fmadd_ps(a, a, squares);
      }
      inverse_rms[r] = 1 / std::sqrt(_mm512_reduce_add_ps(squares) / dim + eps);
      const __m512 scale = _mm512_set1_ps(inverse_rms[r]);
      for (int64_t d = 0; d < dim; d += 16)
        store16(y + r * dim + d,
                _mm512_mul_ps(_mm512_mul_ps(load16(row + d), scale), load16(weight + d)));
    }
  });
  return nullptr;
} catch (...) {
  return caught();
}

// With n = x * inverse_rms and g = grad_y * weight:
//   grad_x = inverse_rms * (g - n * mean(g * n)),   grad_weight = sum over rows of grad_y * n.
// `sums` (parts, dim) is scratch memory of zeros: one row for each range of rows.
extern "C" const char* rms_norm_gradient(const float* x, const float* weight,
                                         const float* inverse_rms, const bf16* grad_y,
                                         float* grad_x, float* grad_weight, float* sums,
                                         int64_t rows, int64_t dim, int64_t parts) try {
  const int64_t length = (rows + parts - 1) / parts;
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; part++)
      for (int64_t r = part * length; r < std::min(rows, (part + 1) * length); r++) {
        const float* row = x + r * dim;
        const bf16* g = grad_y + r * dim;
        float* sum = sums + part * dim;
        const __m512 scale = _mm512_set1_ps(inverse_rms[r]);
        __m512 dot = _mm512_setzero_ps();
        for (int64_t d = 0; d < dim; d += 16) {
          const __m512 product = _mm512_mul_ps(load16(g + d), _mm512_mul_ps(load16(row + d), scale));
          dot = _mm512_fmadd_ps(product, load16(weight + d), dot);
          store16(sum + d, _mm512_add_ps(load16(sum + d), product));
        }
        const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(dot) / dim);
        for (int64_t d = 0; d < dim; d += 16) {
          const __m512 n = _mm512_mul_ps(load16(row + d), scale);
          const __m512 weighted = _mm512_mul_ps(load16(g + d), load16(weight + d));
          store16(grad_x + r * dim + d,
                  _mm512_mul_ps(scale, _mm512_fnmadd_ps(n, mean, weighted)));
        }
      }
  });
  for (int64_t d = 0; d < dim; d += 16) {
    __m512 total = _mm512_setzero_ps();
    for (int64_t part = 0; part < parts; part++)
      total = _mm512_add_ps(total, load16(sums + part * dim + d));
    store16(grad_weight + d, total);
  }
  return nullptr;
} catch (...) {
  return caught();
}

// y (rows, hidden) = silu(gate) * up, where gate and up are the halves of each row of
// x (rows, 2 hidden), bf16.
extern "C" const char* swiglu(const bf16* x, bf16* y, int64_t rows, int64_t hidden) try {
  at::parallel_for(0, rows, ROWS, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++)
      for (int64_t d = 0; d < hidden; d += 16) {
        const bf16* at = x + 2 * r * hidden + d;
        const __m512 gate = load16(at), up = load16(at + hidden);
        store16(y + r * hidden + d, _mm512_mul_ps(_mm512_mul_ps(gate, sigmoid16(gate)), up));
      }
  });
  return nullptr;
} catch (...) {
  return caught();
}

// With s = sigmoid(gate):  grad_up = grad_y * gate * s,
//                          grad_gate = grad_y * up * s * (1 + gate * (1 - s)).
extern "C" const char* swiglu_gradient(const bf16* x, const bf16* grad_y, bf16* grad_x,
                                       int64_t rows, int64_t hidden) try {
  const __m512 one = _mm512_set1_ps(1.f);
  at::parallel_for(0, rows, ROWS, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++)
      for (int64_t d = 0; d < hidden; d += 16) {
        const int64_t at = 2 * r * hidden + d;
        const __m512 gate = load16(x + at), up = load16(x + at + hidden), s = sigmoid16(gate);
        const __m512 scaled = _mm512_mul_ps(load16(grad_y + r * hidden + d), s);
        const __m512 slope = _mm512_fmadd_ps(gate, _mm512_sub_ps(one, s), one);
        store16(grad_x + at, _mm512_mul_ps(_mm512_mul_ps(scaled, up), slope));
        store16(grad_x + at + hidden, _mm512_mul_ps(scaled, gate));
      }
  });
  return nullptr;
} catch (...) {
  return caught();
}

// Rotate each pair (a, b) of x by its factor (c, s): (a c - b s, a s + b c). `inverse` rotates back.
// x (batch, heads, tokens, head_dim) bf16 with the strides of its first three dimensions;
// y (batch, tokens, heads, head_dim) is contiguous. factors (batch, tokens, head_dim) fp32 hold
// c s c s ...; factor_stride is 0 if all rows of the batch have the same.
extern "C" const char* rotate(const bf16* x, const int64_t* stride, const float* factors,
                              int64_t factor_stride, bf16* y, int64_t batch, int64_t heads,
                              int64_t tokens, int64_t head_dim, bool inverse) try {
  at::parallel_for(0, batch * tokens, ROWS, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const int64_t b = row / tokens, t = row % tokens;
      const float* f = factors + b * factor_stride + t * head_dim;
      for (int64_t h = 0; h < heads; h++) {
        const bf16* from = x + b * stride[0] + h * stride[1] + t * stride[2];
        bf16* to = y + (row * heads + h) * head_dim;
        for (int64_t d = 0; d < head_dim; d += 16) {
          const __m512 pair = load16(from + d), factor = load16(f + d);
          const __m512 c = _mm512_moveldup_ps(factor), s = _mm512_movehdup_ps(factor);
          const __m512 crossed = _mm512_mul_ps(_mm512_permute_ps(pair, 0xB1), s);  // b s, a s
          store16(to + d, inverse ? _mm512_fmsubadd_ps(pair, c, crossed)
                                  : _mm512_fmaddsub_ps(pair, c, crossed));
        }
      }
    }
  });
  return nullptr;
} catch (...) {
  return caught();
}
