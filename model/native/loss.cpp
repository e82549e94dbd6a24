// Cross-entropy of a few rows of logits, which become their own gradient in place.
#include "simd.h"

// logits (rows, vocab) bf16 -> (softmax - one_hot(target)) * scale; losses (rows) fp32 =
// log(sum(exp(logits))) - logits[target], in nats. Sums are in fp32.
extern "C" const char* cross_entropy(bf16* logits, const int64_t* targets, float* losses,
                                     int64_t rows, int64_t vocab, float scale) try {
  const int64_t whole = vocab / 16 * 16, padded = whole + 16;
  at::parallel_for(0, rows, 4, [&](int64_t begin, int64_t end) {
    Scratch<float> row(padded);
    for (int64_t r = begin; r < end; r++) {
      bf16* at = logits + r * vocab;
      for (int64_t v = whole; v < padded; v++)  // e^-1e30 adds nothing to the sum
        row[v] = v < vocab ? (float)at[v] : -1e30f;
      __m512 top = load16(row + whole), sum = _mm512_setzero_ps();
      for (int64_t v = 0; v < whole; v += 16) {
        store16(row + v, load16(at + v));
        top = _mm512_max_ps(top, load16(at + v));
      }
      const float largest = _mm512_reduce_max_ps(top), target = row[targets[r]];
      for (int64_t v = 0; v < padded; v += 16) {
        const __m512 e = exp16(_mm512_sub_ps(load16(row + v), _mm512_set1_ps(largest)));
        store16(row + v, e);
        sum = _mm512_add_ps(sum, e);
      }
      const float normaliser = _mm512_reduce_add_ps(sum), factor = scale / normaliser;
      losses[r] = std::log(normaliser) + largest - target;
      row[targets[r]] -= normaliser;  // softmax - 1 at the target
      for (int64_t v = 0; v < whole; v += 16)
        store16(at + v, _mm512_mul_ps(load16(row + v), _mm512_set1_ps(factor)));
      for (int64_t v = whole; v < vocab; v++) at[v] = row[v] * factor;
    }
  });
  return nullptr;
} catch (...) {
  return caught();
}
