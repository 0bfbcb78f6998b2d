// CPU kernels behind a plain C interface, called through ctypes by headway.kernels.cpu.native.library.
//
// Built once per instruction set from this one file; the loops are written so that the compiler vectorises them. No torch and
// no Python headers. Parallel loops use OpenMP, whose run-time library is the one that torch has loaded already: this file is
// linked without one, so that there is never a second pool of threads beside torch's.
//
// T is float or bf16 (16 bits, the upper half of a float). Sums are in float; results are rounded to T where torch rounds.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "common.h"

namespace {

using namespace headway;

// Work below this many elements is done by the calling thread: waking a second one costs more.
constexpr int64_t kParallelElements = 8192;

template <class T>
void add_rms_norm(T* out, T* total, const T* x, const T* residual, const T* weight, float eps, int64_t rows, int64_t size,
                  int64_t x_stride, int64_t residual_stride) {
#pragma omp parallel for schedule(static) if (rows * size > kParallelElements)
  for (int64_t r = 0; r < rows; r++) {
    const T* xr = x + r * x_stride;
    T* to = out + r * size;
    float sum = 0;
    if (residual != nullptr) {
      const T* rr = residual + r * residual_stride;
      T* tr = total + r * size;
      for (int64_t i = 0; i < size; i++) {
        tr[i] = store<T>(load(xr[i]) + load(rr[i]));
        float t = load(tr[i]);
        sum += t * t;
      }
      xr = tr;
    } else {
      for (int64_t i = 0; i < size; i++) sum += load(xr[i]) * load(xr[i]);
    }
    float scale = 1.0f / std::sqrt(sum / float(size) + eps);
    for (int64_t i = 0; i < size; i++) to[i] = store<T>(load(store<T>(load(xr[i]) * scale)) * load(weight[i]));
  }
}

template <class T> void silu_and_mul(T* out, const T* x, int64_t rows, int64_t size, int64_t x_stride) {
#pragma omp parallel for schedule(static) if (rows * size > kParallelElements / 4)
  for (int64_t r = 0; r < rows; r++) {
    const T* gate = x + r * x_stride;
    const T* up = gate + size;
    T* to = out + r * size;
    for (int64_t i = 0; i < size; i++) {
      float g = load(gate[i]);
      to[i] = store<T>(load(store<T>(g / (1.0f + fast_exp(-g)))) * load(up[i]));
    }
  }
}

template <class T> inline void rotate(T* to, const T* from, const float* cos, const float* sin, int64_t half, int64_t dim, int64_t step) {
  // step 1: pairs (i, i + half); step 2: pairs (2 i, 2 i + 1)
  int64_t second = step == 1 ? half : 1;
  for (int64_t i = 0; i < half; i++) {
    float a = load(from[i * step]), b = load(from[i * step + second]);
    to[i * step] = store<T>(a * cos[i] - b * sin[i]);
    to[i * step + second] = store<T>(b * cos[i] + a * sin[i]);
  }
  for (int64_t i = 2 * half; i < dim; i++) to[i] = from[i];
}

struct RopeShape {
  int64_t tokens, q_heads, kv_heads, dim, rotary_dim, q_stride, k_stride, v_stride, interleaved;
};

template <class T>
void rope_and_cache(T* q_out, const T* q, const T* k, const T* v, const float* cos_sin, const int64_t* positions, T* k_cache, T* v_cache,
                    const int64_t* slots, const RopeShape& s) {
  int64_t half = s.rotary_dim / 2, step = s.interleaved ? 2 : 1;
#pragma omp parallel for schedule(static) if (s.tokens * s.q_heads * s.dim > kParallelElements)
  for (int64_t t = 0; t < s.tokens; t++) {
    const float* cos = cos_sin + positions[t] * s.rotary_dim;
    const float* sin = cos + half;
    for (int64_t h = 0; h < s.q_heads; h++)
      rotate(q_out + (t * s.q_heads + h) * s.dim, q + t * s.q_stride + h * s.dim, cos, sin, half, s.dim, step);
    if (slots[t] < 0) continue;
    for (int64_t h = 0; h < s.kv_heads; h++)
      rotate(k_cache + (slots[t] * s.kv_heads + h) * s.dim, k + t * s.k_stride + h * s.dim, cos, sin, half, s.dim, step);
    std::memcpy(v_cache + slots[t] * s.kv_heads * s.dim, v + t * s.v_stride, sizeof(T) * s.kv_heads * s.dim);
  }
}

struct DecodeShape {
  int64_t rows, q_heads, kv_heads, dim, block_size, table_width, q_stride, window;
  float scale, softcap;
};

// One row's query heads that share a key-value head. DIM fixes the head size for the compiler; 0: any.
template <class T, int DIM>
void decode_group(T* out, const T* q, const T* k_cache, const T* v_cache, const int32_t* table, int64_t length, const DecodeShape& s,
                  int64_t kv_head, std::vector<float>& scratch) {
  const int64_t dim = DIM ? DIM : s.dim, group = s.q_heads / s.kv_heads;
  const int64_t start = s.window > 0 ? std::max<int64_t>(0, length - s.window) : 0, count = length - start;
  scratch.resize(2 * group * dim + dim + group * count);
  float* queries = scratch.data();
  float* sums = queries + group * dim;
  float* row = sums + group * dim;
  float* scores = row + dim;  // [group][count]
  for (int64_t i = 0; i < group * dim; i++) queries[i] = load(q[i]) * s.scale;
  auto at = [&](const T* cache, int64_t j) {
    int64_t slot = table[j / s.block_size] * s.block_size + j % s.block_size;
    return cache + (slot * s.kv_heads + kv_head) * dim;
  };
  for (int64_t j = 0; j < count; j++) {
    const T* key = at(k_cache, start + j);
    for (int64_t d = 0; d < dim; d++) row[d] = load(key[d]);
    for (int64_t g = 0; g < group; g++) {
      float dot = 0;
      for (int64_t d = 0; d < dim; d++) dot += queries[g * dim + d] * row[d];
      scores[g * count + j] = dot;
    }
  }
  for (int64_t g = 0; g < group; g++) {
    float* own = scores + g * count;
    if (s.softcap > 0)
      for (int64_t j = 0; j < count; j++) own[j] = s.softcap * std::tanh(own[j] / s.softcap);
    float largest = own[0];
    for (int64_t j = 1; j < count; j++) largest = std::max(largest, own[j]);
    float total = 0;
    for (int64_t j = 0; j < count; j++) {
      own[j] = fast_exp(own[j] - largest);
      total += own[j];
    }
    for (int64_t j = 0; j < count; j++) own[j] /= total;
  }
  std::fill(sums, sums + group * dim, 0.0f);
  for (int64_t j = 0; j < count; j++) {
    const T* value = at(v_cache, start + j);
    for (int64_t d = 0; d < dim; d++) row[d] = load(value[d]);
    for (int64_t g = 0; g < group; g++) {
      float p = scores[g * count + j];
      for (int64_t d = 0; d < dim; d++) sums[g * dim + d] += p * row[d];
    }
  }
  for (int64_t i = 0; i < group * dim; i++) out[i] = store<T>(sums[i]);
}

template <class T>
void paged_decode(T* out, const T* q, const T* k_cache, const T* v_cache, const int32_t* tables, const int32_t* lengths, const DecodeShape& s) {
  const int64_t tasks = s.rows * s.kv_heads, group = s.q_heads / s.kv_heads;
#pragma omp parallel if (tasks > 1)
  {
    std::vector<float> scratch;
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; task++) {
      int64_t r = task / s.kv_heads, h = task % s.kv_heads;
      T* to = out + (r * s.q_heads + h * group) * s.dim;
      const T* from = q + r * s.q_stride + h * group * s.dim;
      const int32_t* table = tables + r * s.table_width;
      if (s.dim == 64)
        decode_group<T, 64>(to, from, k_cache, v_cache, table, lengths[r], s, h, scratch);
      else if (s.dim == 128)
        decode_group<T, 128>(to, from, k_cache, v_cache, table, lengths[r], s, h, scratch);
      else
        decode_group<T, 0>(to, from, k_cache, v_cache, table, lengths[r], s, h, scratch);
    }
  }
}

}  // namespace

// One function a type and operation; pointers are to contiguous memory unless a stride (in elements) says otherwise.
#define HEADWAY_KERNELS(T, SUFFIX)                                                                                                      \
  extern "C" void add_rms_norm_##SUFFIX(T* out, T* total, const T* x, const T* residual, const T* weight, float eps, int64_t rows,      \
                                        int64_t size, int64_t x_stride, int64_t residual_stride) {                                      \
    add_rms_norm<T>(out, total, x, residual, weight, eps, rows, size, x_stride, residual_stride);                                       \
  }                                                                                                                                     \
  extern "C" void silu_and_mul_##SUFFIX(T* out, const T* x, int64_t rows, int64_t size, int64_t x_stride) {                             \
    silu_and_mul<T>(out, x, rows, size, x_stride);                                                                                      \
  }                                                                                                                                     \
  extern "C" void rope_and_cache_##SUFFIX(T* q_out, const T* q, const T* k, const T* v, const float* cos_sin, const int64_t* positions, \
                                          T* k_cache, T* v_cache, const int64_t* slots, const RopeShape* shape) {                       \
    rope_and_cache<T>(q_out, q, k, v, cos_sin, positions, k_cache, v_cache, slots, *shape);                                             \
  }                                                                                                                                     \
  extern "C" void paged_decode_##SUFFIX(T* out, const T* q, const T* k_cache, const T* v_cache, const int32_t* tables,                  \
                                        const int32_t* lengths, const DecodeShape* shape) {                                             \
    paged_decode<T>(out, q, k_cache, v_cache, tables, lengths, *shape);                                                                 \
  }

HEADWAY_KERNELS(float, f32)
HEADWAY_KERNELS(bf16, bf16)
