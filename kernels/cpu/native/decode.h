// Attention of one query token over its pages, for the query heads that share a key-value head.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "common.h"

namespace headway {

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
inline void decode_head(T* out, const T* q, const T* k_cache, const T* v_cache, const int32_t* table, int64_t length, const DecodeShape& s,
                        int64_t kv_head, std::vector<float>& scratch) {
  if (s.dim == 64)
    decode_group<T, 64>(out, q, k_cache, v_cache, table, length, s, kv_head, scratch);
  else if (s.dim == 128)
    decode_group<T, 128>(out, q, k_cache, v_cache, table, length, s, kv_head, scratch);
  else
    decode_group<T, 0>(out, q, k_cache, v_cache, table, length, s, kv_head, scratch);
}

}  // namespace headway
