// One decoding step of the whole model: a token in each of B rows, logits (B, V) out.
//
//   token --> x
//   each layer:
//     x --> q k v --> rotate --> k, v into the ring --> attend --> wo ------> added to x
//     x --> gate, up --> silu(gate) * up --> down -------------------------> added to x
//   x --> logits
//
// One parallel region computes the whole step. Threads share the outputs of each product, and the
// (row, key head) pairs of attention. A barrier stands wherever one thread reads what others wrote.
//
// A norm's weight g is folded into the product after it: W (x / rms(x) * g) = (W g) x / rms(x).
// `panels.h` computes the products. `decode.py` fills the structs below.
#include <cmath>
#include <cstring>
#include <vector>

#include "panels.h"

struct Layer {
  Panels qkv, wo, gate_up, down;           // gate_up has LANES gates, then their LANES ups
  const float* sink_logits;                // (H,) or null
  float *k, *v;                            // (B, K, slots + 1, Dh): the ring of `model/cache.py`
  int64_t* positions;                      // (B, slots + 1), -1 for empty
  int64_t slots, ring_sinks;               // ring_sinks slots are in front of the ring
  int64_t window, sinks;                   // THE RULE of `model/window.py`
  int64_t rotation, sink_rotation;         // indices of `Rotation`
};

struct Rotation {
  const double* speeds;  // (Dh / 2,) radians per position
  double magnitude;
  int64_t last;  // queries look at sinks from this position at most (`window.sink_view`)
};

struct Model {
  int64_t dim, hidden, heads, kv_heads, head_dim, vocab, n_layers, n_rotations, first_position;
  double eps;
  const float* embeddings;  // (V, D)
  Panels output;
  const Layer* layers;
  const Rotation* rotations;
  float *x, *qkv, *heads_out, *hidden_out, *turns;  // scratch, each row padded to P: see `padded`
  int64_t* at;                                      // (B,) positions, -1 for padding
};

// e^x, relative error about 2e-7: x = n ln 2 + r, |r| <= ln 2 / 2, and e^x = 2^n e^r.
static inline float exponential(float x) {
  x = std::min(std::max(x, -87.f), 88.f);
  const float n = std::nearbyint(x * 1.44269504f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.f / 720;  // Taylor's polynomial of degree 6
  for (float c : {1.f / 120, 1.f / 24, 1.f / 6, .5f, 1.f, 1.f}) p = p * r + c;
  const int32_t bits = ((int32_t)n + 127) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return p * power;
}

static int64_t slot_of(const Layer& layer, int64_t position) {
  const int64_t n = layer.ring_sinks;
  return position < n ? position : n + (position - n) % (layer.slots - n);
}

static void rotate(const float* x, const float* turns, int64_t head_dim, float* out) {
  for (int64_t n = 0; n < head_dim; n += 2) {  // turns: cos, sin of each pair
    const float a = x[n], b = x[n + 1], cos = turns[n], sin = turns[n + 1];
    out[n] = a * cos - b * sin, out[n + 1] = a * sin + b * cos;
  }
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

// Rotate the queries and the key of one row and key head, write the key and value, and attend.
static void attend(const Model& m, const Layer& layer, int64_t B, int64_t b, int64_t head,
                   std::vector<float>& scratch) {
  const int64_t Dh = m.head_dim, group = m.heads / m.kv_heads, i = m.at[b];
  if (i < 0) return;  // padding
  float* q = m.qkv + b * padded((m.heads + 2 * m.kv_heads) * Dh) + head * group * Dh;
  float* new_k = q + ((m.heads - head * group) + head) * Dh;
  const float* new_v = new_k + m.kv_heads * Dh;
  const int64_t first = (b * m.kv_heads + head) * (layer.slots + 1) * Dh;
  float *keys = layer.k + first, *values = layer.v + first;
  const int64_t* positions = layer.positions + b * (layer.slots + 1);
  const int64_t slot = slot_of(layer, i);
  const float* turns = m.turns + (layer.rotation * B + b) * Dh;
  rotate(new_k, turns, Dh, keys + slot * Dh);
  std::copy(new_v, new_v + Dh, values + slot * Dh);

  const int64_t S = std::min(layer.slots, i + 1);  // later slots are still empty
  float *query = scratch.data(), *sink_query = query + Dh, *weights = sink_query + Dh;
  for (int64_t g = 0; g < group; ++g, q += Dh) {
    const int64_t h = head * group + g;
    rotate(q, turns, Dh, query);
    if (layer.sinks) rotate(q, m.turns + (layer.sink_rotation * B + b) * Dh, Dh, sink_query);
    const float scale = 1 / std::sqrt((float)Dh);
    float largest = layer.sink_logits ? layer.sink_logits[h] : -1e30f;
    for (int64_t s = 0; s < S; ++s) {
      const int64_t j = positions[s];
      const bool is_sink = j < layer.sinks;
      const bool visible = j >= 0 && j <= i && (i - j < layer.window || is_sink);
      const float score = dot(is_sink ? sink_query : query, keys + s * Dh, Dh) * scale;
      weights[s] = visible ? score : -1e30f;
      largest = std::max(largest, weights[s]);
    }
    float total = layer.sink_logits ? exponential(layer.sink_logits[h] - largest) : 0.f;
    for (int64_t s = 0; s < S; ++s) {
      weights[s] = weights[s] == -1e30f ? 0.f : exponential(weights[s] - largest);  // NaN stays
      total += weights[s];
    }
    float* out = m.heads_out + b * padded(m.heads * Dh) + h * Dh;
    int64_t d = 0;
    while (d + 4 * LANES <= Dh) d += mean<4 * LANES>(weights, values + d, S, Dh, total, out + d);
    while (d + LANES <= Dh) d += mean<LANES>(weights, values + d, S, Dh, total, out + d);
    while (d < Dh) d += mean<1>(weights, values + d, S, Dh, total, out + d);
  }
}

// Give each token its position and its slot in every ring. Returns whether all are in the vocabulary.
static bool place(const Model& m, int64_t B, const int64_t* tokens, int64_t* seen) {
  for (int64_t b = 0; b < B; ++b)
    if (tokens[b] >= m.vocab) return false;
  for (int64_t b = 0; b < B; ++b) {
    m.at[b] = tokens[b] < 0 ? -1 : m.first_position + seen[b]++;
    for (int64_t l = 0; l < m.n_layers && m.at[b] >= 0; ++l) {
      const Layer& layer = m.layers[l];
      layer.positions[b * (layer.slots + 1) + slot_of(layer, m.at[b])] = m.at[b];
    }
  }
  return true;
}

extern "C" int64_t lanes() { return LANES; }

extern "C" bool decode(const Model* model, int64_t B, const int64_t* tokens, int64_t* seen,
                       float* logits, int threads) {
  const Model& m = *model;
  if (!place(m, B, tokens, seen)) return false;
  const int64_t D = m.dim, Dh = m.head_dim, x_width = padded(D), hidden_width = padded(m.hidden);
  const int64_t n_qkv = (m.heads + 2 * m.kv_heads) * Dh, heads_width = padded(m.heads * Dh);
  int64_t slots = 0;
  for (int64_t l = 0; l < m.n_layers; ++l) slots = std::max(slots, m.layers[l].slots);
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> scale(B), scratch(2 * Dh + slots);
    for (Share rows(B); rows.begin < rows.end; ++rows.begin) {
      const int64_t b = rows.begin;
      const float* embedding = m.embeddings + std::max<int64_t>(tokens[b], 0) * D;
      std::copy(embedding, embedding + D, m.x + b * x_width);
      for (int64_t t = 0; t < m.n_rotations; ++t)
        for (int64_t n = 0; n < Dh / 2; ++n) {
          const Rotation& r = m.rotations[t];
          const double angle = r.speeds[n] * (double)std::min(m.at[b], r.last);
          float* turn = m.turns + (t * B + b) * Dh + 2 * n;
          turn[0] = r.magnitude * std::cos(angle), turn[1] = r.magnitude * std::sin(angle);
        }
    }
    auto norms = [&] {  // 1 / rms of each row of x
#pragma omp barrier
      for (int64_t b = 0; b < B; ++b) {
        const float* x = m.x + b * x_width;
        scale[b] = 1 / std::sqrt(dot(x, x, D) / D + (float)m.eps);
      }
    };
    auto add_to_x = [&](int64_t b, int64_t panel, vec left, vec right) {
      float* x = m.x + b * x_width + panel * P;
      store(x, load(x) + left), store(x + LANES, load(x + LANES) + right);
    };
    auto scaled_to = [&](float* out, int64_t width) {
      return [&scale, out, width](int64_t b, int64_t panel, vec left, vec right) {
        float* y = out + b * width + panel * P;
        store(y, left * scale[b]), store(y + LANES, right * scale[b]);
      };
    };
    for (int64_t l = 0; l < m.n_layers; ++l) {
      const Layer& layer = m.layers[l];
      norms();
      product(layer.qkv, n_qkv, D, m.x, x_width, B, scaled_to(m.qkv, padded(n_qkv)));
#pragma omp barrier
      for (Share task(B * m.kv_heads); task.begin < task.end; ++task.begin)
        attend(m, layer, B, task.begin / m.kv_heads, task.begin % m.kv_heads, scratch);
#pragma omp barrier
      product(layer.wo, D, m.heads * Dh, m.heads_out, heads_width, B, add_to_x);
      norms();
      product(layer.gate_up, 2 * hidden_width, D, m.x, x_width, B,
              [&](int64_t b, int64_t panel, vec gate, vec up) {
                float* hidden = m.hidden_out + b * hidden_width + panel * LANES;
                for (int n = 0; n < LANES; ++n) {
                  const float g = gate[n] * scale[b];
                  hidden[n] = g / (1 + exponential(-g)) * (up[n] * scale[b]);
                }
              });
#pragma omp barrier
      product(layer.down, D, m.hidden, m.hidden_out, hidden_width, B, add_to_x);
    }
    norms();
    product(m.output, m.vocab, D, m.x, x_width, B, scaled_to(logits, padded(m.vocab)));
  }
  return true;
}
