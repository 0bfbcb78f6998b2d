// Whole layers of a decoder for rows of one token, each in one parallel region: at one row, what lies between two calls costs as much as
// the work. Each step is the same as that of the operation's own call.

#include <memory>
#include <vector>

#include "decode.h"
#include "first_maximum.h"
#include "grouped_lora.h"
#include "rows.h"
#include "wide.h"

using namespace headway;

// Biases may be null. Sizes of a head and numbers of heads are those of DecodeShape.
struct LayerWeights {
  const float *input_norm, *post_attention_norm;
  GroupedWeight qkv, o, gate_up, down;
  const float *qkv_bias, *o_bias, *gate_up_bias, *down_bias;
  float eps;
};

// Of the rows of a step that have adapters.
struct LayerAdapters {
  GroupedLora qkv, o, gate_up, down;
};

// What those layers of a step share that turn alike and have the same sliding window.
struct LayerStep {
  const float* cos_sin;
  const int64_t *positions, *slots;
  const int32_t *tables, *lengths;
  int64_t rotary_dim;
  DecodeShape attention;
};

// One of the layers that follow each other. step: which of the step's descriptions is its own. Pages are of the type of the call's.
struct PlacedLayer {
  const LayerWeights* weights;
  const LayerAdapters* adapters;  // null where it has no room for them
  void *k_cache, *v_cache;
  int64_t step;
};

// What the first layer reads where that is no hidden states yet: rows of a table. [count, size of the first layer]
struct ModelStart {
  const float* table;
  int64_t count;
  const int64_t* token_ids;
};

// What follows the last layer. The head has no bias.
struct ModelEnd {
  const float* norm;
  GroupedWeight head;
  float eps;
};

// Where its results go: logits [rows, head.out], the most likely token [rows] of each.
struct EndOutput {
  float* logits;
  int64_t* tokens;
};

namespace {

// Writes a row's keys, turned, and values to their page, and turns its queries in place.
template <class P> void turn(int64_t row, float* qkv, P* k_cache, P* v_cache, const LayerStep& step) {
  const DecodeShape& s = step.attention;
  const int64_t half = step.rotary_dim / 2, slot = step.slots[row];
  const float *cos = step.cos_sin + step.positions[row] * step.rotary_dim, *sin = cos + half;
  float* q = qkv + row * s.q_stride;
  for (int64_t h = 0; h < s.q_heads; h++) rotate(q + h * s.dim, q + h * s.dim, cos, sin, half, s.dim, 1);
  if (slot < 0) return;
  const float *k = q + s.q_heads * s.dim, *v = k + s.kv_heads * s.dim;
  write_heads(k_cache, v_cache, Pages<P>{s.block_size, s.kv_heads, s.dim}, slot, 0, s.kv_heads, k, v, cos, sin, half, 1);
}

// Of one layer and step; both null where no row has an adapter.
struct Adapters {
  const LayerAdapters* layer;
  const LoraRows* rows;

  // Adds to a product of x; by the threads of the region, which wait for each other.
  void add(float* out, int64_t stride, GroupedLora LayerAdapters::*linear, const RoundedRows& x) const {
    if (layer == nullptr) return;
    add_grouped_lora(out, stride, layer->*linear, *rows, [&](const RoundedRows& to, int64_t entry, int64_t row) { to.copy_row(entry, x, row); });
  }
};

// P: the type of the pages.
template <class P>
void decoder_layer(float* hidden, float* residual, P* k_cache, P* v_cache, const LayerWeights& w, const LayerStep& step,
                   const DecodeTasks& tasks, float* parts, const Adapters& adapters, bool is_first) {
  const int64_t rows = step.attention.rows, size = w.qkv.in, inner = w.down.in;
  const int64_t widest = std::max({w.qkv.groups(), w.o.groups(), w.down.groups()});
  const std::unique_ptr<uint8_t[]> memory(new uint8_t[RoundedRows::bytes(rows, widest)]);
  const std::unique_ptr<float[]> numbers(new float[rows * (size + w.qkv.out + w.o.in + w.gate_up.out + inner)]);
  float *normed = numbers.get(), *qkv = normed + rows * size, *attended = qkv + rows * w.qkv.out, *gate_up = attended + rows * w.o.in,
        *gated = gate_up + rows * w.gate_up.out;
  auto rounded = [&](const GroupedWeight& reader) { return RoundedRows(memory.get(), rows, reader.groups()); };
  const RoundedRows for_qkv = rounded(w.qkv), for_o = rounded(w.o), for_gate_up = rounded(w.gate_up), for_down = rounded(w.down);
#pragma omp parallel
  {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
      float *x = hidden + r * size, *total = residual + r * size;
      if (is_first) std::copy(x, x + size, total);
      norm_row<float>(normed + r * size, total, x, is_first ? nullptr : total, w.input_norm, w.eps, size);
      round_row(for_qkv, r, normed + r * size, size);
    }
    multiply_grouped(qkv, w.qkv, w.qkv_bias, for_qkv, rows);
    adapters.add(qkv, w.qkv.out, &LayerAdapters::qkv, for_qkv);
    // All rows before any attends: some may be further tokens of the sequence of another.
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) turn(r, qkv, k_cache, v_cache, step);
    with_decode<float, P>(step.attention, [&](auto decode) {
#pragma omp for schedule(dynamic, 1)
      for (int64_t task = 0; task < tasks.count(); task++) decode.run(tasks, tasks[task], parts, qkv, k_cache, v_cache, step.tables);
#pragma omp for schedule(static)
      for (int64_t r = 0; r < rows; r++) {
        decode.put_together(tasks, r, attended + r * w.o.in, parts);
        round_row(for_o, r, attended + r * w.o.in, w.o.in);
      }
    });
    multiply_grouped(hidden, w.o, w.o_bias, for_o, rows);
    adapters.add(hidden, size, &LayerAdapters::o, for_o);
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
      float* total = residual + r * size;
      norm_row<float>(normed + r * size, total, hidden + r * size, total, w.post_attention_norm, w.eps, size);
      round_row(for_gate_up, r, normed + r * size, size);
    }
    multiply_grouped(gate_up, w.gate_up, w.gate_up_bias, for_gate_up, rows);
    adapters.add(gate_up, w.gate_up.out, &LayerAdapters::gate_up, for_gate_up);
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
      silu_row<float>(gated + r * inner, gate_up + r * w.gate_up.out, inner);
      round_row(for_down, r, gated + r * inner, inner);
    }
    multiply_grouped(hidden, w.down, w.down_bias, for_down, rows);
    adapters.add(hidden, size, &LayerAdapters::down, for_down);
  }
}

// False where a token has no row in the table, and then nothing is changed.
bool look_up(float* hidden, const ModelStart& start, int64_t rows, int64_t size) {
  for (int64_t r = 0; r < rows; r++)
    if (start.token_ids[r] < 0 || start.token_ids[r] >= start.count) return false;
  for (int64_t r = 0; r < rows; r++) std::copy_n(start.table + start.token_ids[r] * size, size, hidden + r * size);
  return true;
}

// The last norm, whose result takes the place of hidden, the head, and its most likely tokens.
void end_model(const EndOutput& out, float* hidden, float* residual, const ModelEnd& end, int64_t rows) {
  const int64_t size = end.head.in;
  const std::unique_ptr<uint8_t[]> memory(new uint8_t[RoundedRows::bytes(rows, end.head.groups())]);
  const RoundedRows rounded(memory.get(), rows, end.head.groups());
#pragma omp parallel
  {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
      float *x = hidden + r * size, *total = residual + r * size;
      norm_row<float>(x, total, x, total, end.norm, end.eps, size);
      round_row(rounded, r, x, size);
    }
    multiply_grouped(out.logits, end.head, nullptr, rounded, rows);
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) out.tokens[r] = first_maximum(out.logits + r * end.head.out, end.head.out);
  }
}

template <class P>
int64_t decoder_layers(float* hidden, float* residual, const PlacedLayer* layers, int64_t count, const LayerStep* steps,
                       const LoraRows* lora_rows, bool is_first, const ModelStart* start, const ModelEnd* end, const EndOutput* out) {
  const int64_t rows = steps[0].attention.rows;
  if (start != nullptr && !look_up(hidden, *start, rows, layers[0].weights->qkv.in)) return 1;
  std::vector<std::unique_ptr<DecodeTasks>> tasks;  // of each of the step's descriptions: the layers that share one share pages alike
  std::unique_ptr<float[]> parts;
  int64_t parts_size = 0;
  for (int64_t i = 0; i < count; i++) {
    const PlacedLayer& layer = layers[i];
    const LayerStep& step = steps[layer.step];
    if (layer.step >= int64_t(tasks.size())) tasks.resize(layer.step + 1);
    std::unique_ptr<DecodeTasks>& own = tasks[layer.step];
    if (own == nullptr) {
      own = std::make_unique<DecodeTasks>(step.attention, step.tables, step.lengths);
      const int64_t size = own->first_part(step.attention.rows) * decode_part_size(step.attention);
      if (size > parts_size) parts.reset(new float[parts_size = size]);
    }
    const Adapters adapters{lora_rows == nullptr ? nullptr : layer.adapters, lora_rows};
    decoder_layer(hidden, residual, static_cast<P*>(layer.k_cache), static_cast<P*>(layer.v_cache), *layer.weights, step, *own, parts.get(), adapters,
                  is_first && i == 0);
  }
  if (end != nullptr) end_model(*out, hidden, residual, *end, rows);
  return 0;
}

}  // namespace

// hidden and residual [rows, size] become the last layer's two outputs. is_first: there is no residual yet. lora_rows: null where no row
// has an adapter. start: null where hidden holds what the first layer reads. end: null where layers follow; else hidden becomes what the
// head reads, residual their sum, and the rest goes to out. Not 0: a token id has no row in the table, and nothing was computed.
#define HEADWAY_DECODER_LAYERS(NAME, P)                                                                                          \
  extern "C" int64_t NAME(float* hidden, float* residual, const PlacedLayer* layers, int64_t count, const LayerStep* steps,       \
                          const LoraRows* lora_rows, int64_t is_first, const ModelStart* start, const ModelEnd* end,              \
                          const EndOutput* out) {                                                                                 \
    return decoder_layers<P>(hidden, residual, layers, count, steps, lora_rows, is_first, start, end, out);                       \
  }

HEADWAY_DECODER_LAYERS(decoder_layers_f32, float)
HEADWAY_DECODER_LAYERS(decoder_layers_f32_pages_bf16, bf16)
HEADWAY_DECODER_LAYERS(decoder_layers_f32_pages_int8, int8_t)
