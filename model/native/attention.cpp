// Sliding-window attention in bf16 and its gradient, a block of C = 32 queries at a time.
//
// Query i sees the keys first[i] to i: `first` (B, T) expresses window, documents and sinks in one
// number, and never decreases along a row. A block is scored against the keys that any of its
// queries sees, in chunks (FlashAttention, arXiv 2205.14135 and 2307.08691). Scores are transposed:
// a row is a key, a column is a query. So 16 softmaxes run side by side, each in one lane of a
// vector. For W = 4 and a block of 4 (`#`: visible, `x`: scored, but its weight is zero):
//
//                queries 4 5 6 7            S^T  = K Q^T                 (keys, queries)
//        key 1           # x x x            P^T  = exp(S^T - lse), zero where not visible
//        key 2           # # x x            out^T = V^T P^T              (E, queries)
//        key 3           # # # x
//        key 4           # # # #            dP^T = V dout^T
//        key 5           x # # #            dS^T = P^T (dP^T - delta),  delta = dout * out - dlse
//        key 6           x x # #            dV  += P^T dout,   dK += dS^T Q       (keys, E)
//        key 7           x x x #            dQ^T = K^T dS^T              (E, queries)
//
// Each product is a call of `brgemm` on a chunk. The gradient of the keys of one head is summed by
// one thread, or by several over parts of the queries, added in a fixed order: the result does not
// depend on the number of threads.
#include "attention.h"

#include <limits>
#include <vector>

static constexpr int64_t CHUNK = 512;  // keys: scores and weights of a chunk fit in the cache
static constexpr int64_t TASKS = 16;   // parts of the backward pass, at least
static constexpr float LOWEST = std::numeric_limits<float>::lowest();

struct Softmax {  // of 16 queries over the keys so far
  __m512 largest = _mm512_set1_ps(LOWEST), sum = _mm512_setzero_ps();
};

// Add the keys j0 to j0 + n - 1 to a softmax. Write their weights, relative to the largest score so
// far and in VNNI order, and return the factor for all earlier weights. `scale` is in base 2.
static __m512 add_keys(Softmax& s, const Queries& q, const float* scores, int64_t j0, int64_t n,
                       float scale, bf16* weights) {
  const int64_t lo = std::clamp<int64_t>(q.begin - j0, 0, n) & ~1, hi = std::min(q.end - j0, n);
  const __m512 before = s.largest, factor = _mm512_set1_ps(scale);
  for (int64_t j = lo; j < hi; j++)
    s.largest = _mm512_mask_max_ps(s.largest, q.see(j0 + j), s.largest, load16(scores + j * C));
  const __m512 shift = _mm512_mul_ps(s.largest, factor);
  const __m512 shrink = exp2_16(_mm512_fmsub_ps(before, factor, shift));
  s.sum = _mm512_mul_ps(s.sum, shrink);
  for (int64_t j = 0; j < n; j += 2) {
    __m512 w[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int u = 0; u < 2 && j >= lo && j < hi; u++) {
      const __m512 x = _mm512_fmsub_ps(load16(scores + (j + u) * C), factor, shift);
      w[u] = _mm512_maskz_mov_ps(q.see(j0 + j + u), exp2_16(x));
      s.sum = _mm512_add_ps(s.sum, w[u]);
    }
    _mm512_store_si512(weights + j * C, interleave(w[0], w[1]));
  }
  return shrink;
}

// Write lse, and the factors by which the columns of `out` must be multiplied.
static void finish(const Softmax& s, const Queries& q, float scale, float* lse, float* factor) {
  alignas(64) float largest[LANES], sum[LANES];
  store16(largest, s.largest), store16(sum, s.sum);
  for (int i = 0; i < LANES; i++) {  // a query that sees no key has the sum 0
    factor[i] = sum[i] == 0 ? 0 : 1 / sum[i];
    largest[i] = sum[i] == 0 ? LOWEST : LN2 * (scale * largest[i] + std::log2(sum[i]));
  }
  _mm512_mask_storeu_ps(lse, q.exist, load16(largest));
}

extern "C" const char* attention_forward(const Call* call) try {
  const Call& c = *call;
  const float scale = c.scale() / LN2;  // of scores in base 2
  Transposed v_t(c, c.v);
  share_out(c.B * c.H * c.blocks(), [&](auto next) {
    Scratch<float> scores(CHUNK * C), out(c.E * C), factor(C);
    Scratch<bf16> q_t(c.E * C), weights(CHUNK * C);
    for (int64_t task; (task = next()) >= 0;) {
      const int64_t bh = task / c.blocks();
      const Block x(c, bh / c.H, bh % c.H, task % c.blocks());
      pack_transposed(c.q.at(x.b, x.h, x.i0), c.q.token, x.rows, c.E, q_t);
      Softmax softmax[2];
      for (int64_t j = x.begin, n; j < x.end; j += n) {
        n = std::min(CHUNK, x.end - j);
        const int64_t keys = std::min(n, c.T - j);  // a text may end within a block
        brgemm(keys, C, c.E, c.k.token, C, C, false, c.k.at(x.b, x.key_head, j), q_t, scores);
        for (int g = 0; g < 2; g++) {
          const int64_t at = g * LANES;
          const __m512 shrink =
              add_keys(softmax[g], x.queries[g], scores + at, j, n, scale, weights + 2 * at);
          for (float* row = out + at; j > x.begin && row < out + c.E * C; row += C)
            store16(row, _mm512_mul_ps(load16(row), shrink));
        }
        bf16* v = v_t.at(x.b, x.key_head, j);
        brgemm(c.E, C, n, v_t.ld, C, C, j > x.begin, v, weights, out);
      }
      for (int g = 0; g < 2; g++)
        finish(softmax[g], x.queries[g], scale, c.lse + bh * c.T + x.i0 + g * LANES,
               factor + g * LANES);
      write_rows(out, factor, c.out.at(x.b, x.h, x.i0), c.out.token, x.rows, c.E);
    }
  });
  return nullptr;
} catch (...) {
  return caught();
}

struct Memory {  // of a thread in the backward pass, for one block and one chunk
  Scratch<float> scores, d_weights, d_q;
  Scratch<bf16> q_t, d_out_t, q_pairs, d_out_pairs, weights, d_scores, d_score_pairs;
  explicit Memory(int64_t E)
      : scores(CHUNK * C), d_weights(CHUNK * C), d_q(E * C), q_t(E * C), d_out_t(E * C),
        q_pairs(E * C), d_out_pairs(E * C), weights(CHUNK * C), d_scores(CHUNK * C),
        d_score_pairs(CHUNK * C) {}
};

// Recompute the weights of the keys j0 to j0 + n - 1, and the gradients of their scores, for 16
// queries in the columns from `at` on. `scale` and `lse` are in base 2.
static void differentiate(Memory& m, const Queries& q, int64_t at, int64_t j0, int64_t n,
                          float scale, __m512 lse, __m512 delta) {
  const int64_t lo = std::clamp<int64_t>(q.begin - j0, 0, n) & ~1, hi = std::min(q.end - j0, n);
  for (int64_t j = 0; j < n; j += 2) {
    __m512 w[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, d[2] = {w[0], w[1]};
    for (int u = 0; u < 2; u++) {
      const int64_t cell = (j + u) * C + at;
      if (j >= lo && j < hi) {
        const __mmask16 seen = q.see(j0 + j + u);
        const __m512 score = load16(m.scores + cell), d_weight = load16(m.d_weights + cell);
        const __m512 x = _mm512_fmsub_ps(score, _mm512_set1_ps(scale), lse);
        w[u] = _mm512_maskz_mov_ps(seen, exp2_16(x));
        d[u] = _mm512_maskz_mul_ps(seen, w[u], _mm512_sub_ps(d_weight, delta));
      }
      store16(m.weights + cell, w[u]);
      store16(m.d_scores + cell, d[u]);
    }
    _mm512_store_si512(m.d_score_pairs + j * C + 2 * at, interleave(d[0], d[1]));
  }
}

// Write the gradient of a block's queries. Add those of its keys, whose first row is key `first`.
static void backward_block(const Call& c, const Gradients& g, const Block& x, Memory& m,
                           Transposed& k_t, int64_t first, float* d_k, float* d_v) {
  const bf16 *q = c.q.at(x.b, x.h, x.i0), *d_out = g.d_out.at(x.b, x.h, x.i0);
  pack_transposed(q, c.q.token, x.rows, c.E, m.q_t);
  pack_transposed(d_out, g.d_out.token, x.rows, c.E, m.d_out_t);
  pack_rows(q, c.q.token, x.rows, c.E, m.q_pairs);
  pack_rows(d_out, g.d_out.token, x.rows, c.E, m.d_out_pairs);
  __m512 lse[2], delta[2];
  for (int s = 0; s < 2; s++) {
    const int64_t i = x.i0 + s * LANES, at = (x.b * c.H + x.h) * c.T + i;
    const __mmask16 exist = x.queries[s].exist;
    lse[s] = _mm512_mul_ps(_mm512_maskz_loadu_ps(exist, c.lse + at), _mm512_set1_ps(1 / LN2));
    delta[s] = row_dots(g.d_out.at(x.b, x.h, i), g.d_out.token, c.out.at(x.b, x.h, i),
                        c.out.token, exist, c.E);
    if (g.d_lse) delta[s] = _mm512_sub_ps(delta[s], _mm512_maskz_loadu_ps(exist, g.d_lse + at));
  }
  for (int64_t j = x.begin, n; j < x.end; j += n) {
    n = std::min(CHUNK, x.end - j);
    const int64_t keys = std::min(n, c.T - j), row = (j - first) * c.E;
    const bf16 *k = c.k.at(x.b, x.key_head, j), *v = c.v.at(x.b, x.key_head, j);
    brgemm(keys, C, c.E, c.k.token, C, C, false, k, m.q_t, m.scores);
    brgemm(keys, C, c.E, c.v.token, C, C, false, v, m.d_out_t, m.d_weights);
    for (int s = 0; s < 2; s++)
      differentiate(m, x.queries[s], s * LANES, j, n, c.scale() / LN2, lse[s], delta[s]);
    brgemm(n, c.E, C, C, c.E, c.E, true, m.weights, m.d_out_pairs, d_v + row);
    brgemm(n, c.E, C, C, c.E, c.E, true, m.d_scores, m.q_pairs, d_k + row);
    bf16* transposed = k_t.at(x.b, x.key_head, j);
    brgemm(c.E, C, n, k_t.ld, C, C, j > x.begin, transposed, m.d_score_pairs, m.d_q);
  }
  alignas(64) float scale[C];
  std::fill_n(scale, C, c.scale());
  write_rows(m.d_q, scale, g.d_q.at(x.b, x.h, x.i0), g.d_q.token, x.rows, c.E);
}

struct Segment {  // a part of the blocks of one key head, and the keys that they see
  int64_t first_block, last_block, begin, end;
  Segment(const Call& c, int64_t b, int64_t s, int64_t n)
      : first_block(c.blocks() * s / n), last_block(c.blocks() * (s + 1) / n),
        begin(c.begin(b, first_block * C, (first_block + 1) * C)), end(last_block * C) {}
};

// Write the gradients of one key head: the sums over n segments, whose sums are (2, span, E) each.
static void add_segments(const Call& c, const Gradients& g, int64_t b, int64_t key_head, int64_t n,
                         const float* sums, int64_t span) {
  std::vector<Segment> segments;
  for (int64_t s = 0; s < n; s++) segments.emplace_back(c, b, s, n);
  for (int64_t j = 0; j < c.T; j++)
    for (int64_t e = 0; e < c.E; e += LANES) {
      __m512 d_k = _mm512_setzero_ps(), d_v = d_k;
      for (int64_t s = 0; s < n; s++) {
        if (j < segments[s].begin || j >= segments[s].end) continue;
        const float* sum = sums + (2 * s * span + j - segments[s].begin) * c.E + e;
        d_k = _mm512_add_ps(d_k, load16(sum));
        d_v = _mm512_add_ps(d_v, load16(sum + span * c.E));
      }
      store16(g.d_k.at(b, key_head, j) + e, _mm512_mul_ps(d_k, _mm512_set1_ps(c.scale())));
      store16(g.d_v.at(b, key_head, j) + e, d_v);
    }
}

extern "C" const char* attention_backward(const Call* call, const Gradients* gradients) try {
  const Call& c = *call;
  const Gradients& g = *gradients;
  const int64_t heads = c.B * c.K, group = c.H / c.K;
  const int64_t n = std::clamp<int64_t>(TASKS / heads, 1, c.blocks());
  int64_t span = 0;  // keys of the longest segment
  for (int64_t task = 0; task < c.B * n; task++) {
    const Segment part(c, task / n, task % n, n);
    span = std::max(span, part.end - part.begin);
  }
  Transposed k_t(c, c.k);
  const int64_t size = 2 * span * c.E;
  Scratch<float> sums(heads * n * size);
  std::vector<std::atomic<int64_t>> left(heads);  // segments that are not summed yet
  for (auto& count : left) count = n;
  share_out(heads * n, [&](auto next) {
    Memory memory(c.E);
    for (int64_t task; (task = next()) >= 0;) {
      const int64_t bh = task / n, b = bh / c.K, key_head = bh % c.K, s = n - 1 - task % n;
      const Segment part(c, b, s, n);  // the last one, which may see the most keys, comes first
      float* d_k = sums + (bh * n + s) * size;
      memset(d_k, 0, size * sizeof(float));
      for (int64_t i = part.first_block; i < part.last_block; i++)
        for (int64_t h = key_head * group; h < (key_head + 1) * group; h++)
          backward_block(c, g, Block(c, b, h, i), memory, k_t, part.begin, d_k, d_k + size / 2);
      if (--left[bh] == 0) add_segments(c, g, b, key_head, n, sums + bh * n * size, span);
    }
  });
  return nullptr;
} catch (...) {
  return caught();
}
