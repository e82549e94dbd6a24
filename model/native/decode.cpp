// The next T tokens of B texts through the whole model, T = 1 in decoding: logits out.
//
//   tokens (B, T) --> x (B * T, D)
//   each layer:
//     x --> q k v --> rotate --> k, v into the ring --> attend --> wo ------> added to x
//     x --> gate, up --> silu(gate) * up --> down -------------------------> added to x
//   x --> logits
//
// One parallel region computes all of it. Threads share the outputs of each product, and the pairs
// of a text and a key head in attention. A barrier stands where a thread reads what others wrote.
//
// A later token may overwrite a key that an earlier one still sees. So the thread of a pair takes
// its tokens in turn: it writes the key of one, attends, and continues with the next.
//
// A norm's weight g is folded into the product after it: W (x / rms(x) * g) = (W g) x / rms(x).
// `panels.h` computes the products. `decode.py` fills the structs below.
#include <stdexcept>
#include <vector>

#include "guard.h"
#include "panels.h"
#include "vectors.h"

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
  float *x, *qkv, *heads_out, *hidden_out;  // scratch, each row padded to P: see `padded`
  float* turns;                             // (n_rotations, B, T, Dh): cos, sin of each pair
  int64_t* at;                              // (B, T) positions, -1 for padding
};

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

// The memory of one thread.
struct Workspace {
  std::vector<float> scale;  // of each row of x: 1 / rms
  std::vector<float> query, sink_query, weights;
  std::vector<int64_t> positions;  // of the slots, as the present token finds them
  Workspace(int64_t head_dim, int64_t rows, int64_t slots)
      : scale(rows), query(head_dim), sink_query(head_dim), weights(slots), positions(slots) {}
};

// Attend with a query of head h, at position i, over the first S slots of its key head.
static void attend(const Layer& layer, int64_t Dh, int64_t h, int64_t i, int64_t S,
                   const float* keys, const float* values, Workspace& w, float* out) {
  const float scale = 1 / std::sqrt((float)Dh);
  float largest = layer.sink_logits ? layer.sink_logits[h] : -1e30f;
  for (int64_t s = 0; s < S; ++s) {
    const int64_t j = w.positions[s];
    const bool is_sink = j < layer.sinks;
    const bool visible = j >= 0 && j <= i && (i - j < layer.window || is_sink);
    const float* query = is_sink ? w.sink_query.data() : w.query.data();
    w.weights[s] = visible ? dot(query, keys + s * Dh, Dh) * scale : -1e30f;
    largest = std::max(largest, w.weights[s]);
  }
  float total = layer.sink_logits ? exponential(layer.sink_logits[h] - largest) : 0.f;
  for (int64_t s = 0; s < S; ++s) {
    float& weight = w.weights[s];
    weight = weight == -1e30f ? 0.f : exponential(weight - largest);  // NaN stays
    total += weight;
  }
  const float* weights = w.weights.data();
  int64_t d = 0;
  while (d + 4 * LANES <= Dh) d += mean<4 * LANES>(weights, values + d, S, Dh, total, out + d);
  while (d + LANES <= Dh) d += mean<LANES>(weights, values + d, S, Dh, total, out + d);
  while (d < Dh) d += mean<1>(weights, values + d, S, Dh, total, out + d);
}

// One text and key head: for each token, write its rotated key and its value, and attend.
static void attend_in_turn(const Model& m, const Layer& layer, int64_t B, int64_t T, int64_t b,
                           int64_t head, Workspace& w) {
  const int64_t Dh = m.head_dim, group = m.heads / m.kv_heads;
  const int64_t first = (b * m.kv_heads + head) * (layer.slots + 1) * Dh;
  float *keys = layer.k + first, *values = layer.v + first;
  const int64_t* positions = layer.positions + b * (layer.slots + 1);
  std::copy_n(positions, std::min<int64_t>(layer.slots, w.positions.size()), w.positions.begin());
  for (int64_t row = b * T; row < (b + 1) * T; ++row) {
    const int64_t i = m.at[row];
    if (i < 0) continue;  // padding
    const float* q = m.qkv + row * padded((m.heads + 2 * m.kv_heads) * Dh) + head * group * Dh;
    const float* new_k = q + ((m.heads - head * group) + head) * Dh;
    const float* new_v = new_k + m.kv_heads * Dh;
    const int64_t slot = slot_of(layer, i);
    const float* turns = m.turns + (layer.rotation * B * T + row) * Dh;
    rotate(new_k, turns, Dh, keys + slot * Dh);
    std::copy(new_v, new_v + Dh, values + slot * Dh);
    w.positions[slot] = i;
    const int64_t S = std::min(layer.slots, i + 1);  // later slots hold nothing that it sees
    for (int64_t h = head * group; h < (head + 1) * group; ++h, q += Dh) {
      const float* sink_turns = m.turns + (layer.sink_rotation * B * T + row) * Dh;
      rotate(q, turns, Dh, w.query.data());
      if (layer.sinks) rotate(q, sink_turns, Dh, w.sink_query.data());
      float* out = m.heads_out + row * padded(m.heads * Dh) + h * Dh;
      attend(layer, Dh, h, i, S, keys, values, w, out);
    }
  }
}

// Give each token its position. Throws, with nothing changed, if one is outside the vocabulary.
static void place(const Model& m, int64_t B, int64_t T, const int64_t* tokens, int64_t* seen) {
  for (int64_t row = 0; row < B * T; ++row)
    if (tokens[row] >= m.vocab) throw std::out_of_range("a token is outside the vocabulary");
  for (int64_t row = 0; row < B * T; ++row)
    m.at[row] = tokens[row] < 0 ? -1 : m.first_position + seen[row / T]++;
}

// Write the positions of the new tokens to their slots.
static void record(const Model& m, int64_t B, int64_t T) {
  for (int64_t l = 0; l < m.n_layers; ++l)
    for (int64_t row = 0; row < B * T; ++row) {
      const Layer& layer = m.layers[l];
      int64_t* positions = layer.positions + row / T * (layer.slots + 1);
      if (m.at[row] >= 0) positions[slot_of(layer, m.at[row])] = m.at[row];
    }
}

extern "C" int64_t lanes() { return LANES; }

// Logits are computed after each token (B, T, V), or with `last_only` after the last (B, 1, V).
// Returns null, or the text of an exception.
extern "C" const char* decode(const Model* model, int64_t B, int64_t T, const int64_t* tokens,
                              int64_t* seen, bool last_only, float* logits, int threads) try {
  const Model& m = *model;
  place(m, B, T, tokens, seen);
  const int64_t rows = B * T, every = last_only ? T : 1;
  const int64_t D = m.dim, Dh = m.head_dim, x_width = padded(D), hidden_width = padded(m.hidden);
  const int64_t n_qkv = (m.heads + 2 * m.kv_heads) * Dh, heads_width = padded(m.heads * Dh);
  int64_t slots = 0;
  for (int64_t l = 0; l < m.n_layers; ++l) slots = std::max(slots, m.layers[l].slots);
  slots = std::min(slots, 1 + *std::max_element(m.at, m.at + rows));  // later ones are empty
  std::vector<Workspace> workspaces(threads, Workspace(Dh, rows, slots));
#pragma omp parallel num_threads(threads)
  {
    Workspace& workspace = workspaces[omp_get_thread_num()];
    std::vector<float>& scale = workspace.scale;
    for (Share share(rows); share.begin < share.end; ++share.begin) {
      const int64_t row = share.begin;
      const float* embedding = m.embeddings + std::max<int64_t>(tokens[row], 0) * D;
      std::copy(embedding, embedding + D, m.x + row * x_width);
      for (int64_t t = 0; t < m.n_rotations; ++t)
        for (int64_t n = 0; n < Dh / 2; ++n) {
          const Rotation& r = m.rotations[t];
          const double angle = r.speeds[n] * (double)std::min(m.at[row], r.last);
          float* turn = m.turns + (t * rows + row) * Dh + 2 * n;
          turn[0] = r.magnitude * std::cos(angle), turn[1] = r.magnitude * std::sin(angle);
        }
    }
    auto norms = [&] {  // 1 / rms of each row of x
#pragma omp barrier
      for (int64_t row = 0; row < rows; ++row) {
        const float* x = m.x + row * x_width;
        scale[row] = 1 / std::sqrt(dot(x, x, D) / D + (float)m.eps);
      }
    };
    auto add_to_x = [&](int64_t row, int64_t panel, vec left, vec right) {
      float* x = m.x + row * x_width + panel * P;
      store(x, load(x) + left), store(x + LANES, load(x + LANES) + right);
    };
    auto scaled_to = [&](float* out, int64_t width, int64_t every) {  // of one row in `every`
      return [&scale, out, width, every](int64_t n, int64_t panel, vec left, vec right) {
        float* y = out + n * width + panel * P;
        const float factor = scale[n * every + every - 1];
        store(y, left * factor), store(y + LANES, right * factor);
      };
    };
    for (int64_t l = 0; l < m.n_layers; ++l) {
      const Layer& layer = m.layers[l];
      norms();
      product(layer.qkv, n_qkv, D, m.x, x_width, rows, scaled_to(m.qkv, padded(n_qkv), 1));
#pragma omp barrier
      for (Share task(B * m.kv_heads); task.begin < task.end; ++task.begin)
        attend_in_turn(m, layer, B, T, task.begin / m.kv_heads, task.begin % m.kv_heads, workspace);
#pragma omp barrier
      product(layer.wo, D, m.heads * Dh, m.heads_out, heads_width, rows, add_to_x);
      norms();
      product(layer.gate_up, 2 * hidden_width, D, m.x, x_width, rows,
              [&](int64_t row, int64_t panel, vec gate, vec up) {
                float* hidden = m.hidden_out + row * hidden_width + panel * LANES;
                for (int n = 0; n < LANES; ++n) {
                  const float g = gate[n] * scale[row];
                  hidden[n] = g / (1 + exponential(-g)) * (up[n] * scale[row]);
                }
              });
#pragma omp barrier
      product(layer.down, D, m.hidden, m.hidden_out, hidden_width, rows, add_to_x);
    }
    norms();
    product(m.output, m.vocab, D, m.x + (every - 1) * x_width, every * x_width, rows / every,
            scaled_to(logits, padded(m.vocab), every));
  }
  record(m, B, T);
  return nullptr;
} catch (...) {
  return caught();
}
