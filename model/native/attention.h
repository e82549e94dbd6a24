// What attention.cpp works on: the arguments of a call, blocks of queries, and the keys they see.
#pragma once
#include "tiles.h"

#include <atomic>

struct View {  // a tensor (B, heads, T, E) of any strides, its last dimension contiguous
  bf16* data;
  int64_t batch, head, token;
  bf16* at(int64_t b, int64_t h, int64_t t) const {
    return data + b * batch + h * head + t * token;
  }
};

struct Call {  // what forward and backward share; these two structs have twins in native.py
  int64_t B, T, H, K, E;
  View q, k, v, out;
  float* lse;            // (B, H, T)
  const int32_t* first;  // (B, T), or (1, T) with first_batch 0
  int64_t first_batch;

  int64_t blocks() const { return (T + C - 1) / C; }
  float scale() const { return 1 / std::sqrt((float)E); }
  // The first key that the queries i0 to i1 - 1 see, rounded down: few sizes of chunks occur.
  int64_t begin(int64_t b, int64_t i0, int64_t i1) const {
    const int32_t* own = first + b * first_batch;
    i1 = std::min(i1, T);
    return std::min<int64_t>(*std::min_element(own + i0, own + i1), i1 - 1) / LANES * LANES;
  }
};

struct Gradients {
  View d_out, d_q, d_k, d_v;
  const float* d_lse;  // (B, H, T), or null: zero
};

// 16 queries from i0 on, one a lane. Lanes after the end of the text see nothing.
struct Queries {
  __mmask16 exist;
  __m512i i, first;
  int64_t begin, all_begin, all_end, end;  // of the keys that one of them sees, that all see

  Queries(const Call& c, int64_t b, int64_t i0) : exist(first_lanes(c.T - i0)) {
    i = _mm512_add_epi32(_mm512_set1_epi32(i0), count16());
    const int32_t* own = c.first + b * c.first_batch + i0;
    first = _mm512_mask_loadu_epi32(_mm512_set1_epi32(INT32_MAX), exist, own);
    begin = _mm512_reduce_min_epi32(first), all_begin = _mm512_reduce_max_epi32(first);
    all_end = i0 + 1, end = i0 + LANES;
  }
  __mmask16 see(__m512i j) const {
    return _mm512_mask_cmple_epi32_mask(_mm512_cmple_epi32_mask(first, j), j, i);
  }
  __mmask16 see(int64_t j) const {
    return j >= all_begin && j < all_end ? 0xffff : see(_mm512_set1_epi32(j));
  }
};

struct Block {  // n-th block of the queries of head h, and the keys that it is scored against
  int64_t b, h, key_head, i0, rows, begin, end;
  Queries queries[2];
  Block(const Call& c, int64_t b, int64_t h, int64_t n)
      : b(b), h(h), key_head(h / (c.H / c.K)), i0(n * C), rows(std::min(C, c.T - i0)),
        begin(c.begin(b, i0, i0 + C)), end(i0 + C),
        queries{Queries(c, b, i0), Queries(c, b, i0 + LANES)} {}
};

// Keys or values transposed, (B, K, E, ld). A key that its own query does not see, no query sees.
// It is zero here: its weight is 0, but 0 times NaN is NaN.
struct Transposed {
  int64_t K, E, ld;  // longer than T: rows a power of 2 apart would share few lines of the cache
  Scratch<bf16> data;
  Transposed(const Call& c, const View& x)
      : K(c.K), E(c.E), ld((c.blocks() + 1) * C), data(c.B * K * E * ld) {
    const int64_t parts = c.blocks() * C / LANES;
    at::parallel_for(0, c.B * K * parts, 64, [&](int64_t from, int64_t to) {
      for (int64_t task = from; task < to; task++) {
        const int64_t j = task % parts * LANES, h = task / parts % K, b = task / parts / K;
        const Queries own(c, b, j);
        write_columns(x.at(b, h, j), x.token, own.see(own.i), E, at(b, h, j), ld);
      }
    });
  }
  bf16* at(int64_t b, int64_t h, int64_t j) { return data + (b * K + h) * E * ld + j; }
};

// Let each thread take the next of n tasks whenever it is free: work(next) calls next() for a task,
// until that is negative. An exception of one thread is thrown here after all have ended.
template <class Work>
static void share_out(int64_t n, const Work& work) {
  std::atomic<int64_t> taken{0};
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
    struct Release {
      ~Release() { brgemm_release(); }
    } at_the_end;
    work([&] {
      const int64_t task = taken++;
      return task < n ? task : -1;
    });
  });
}
