// What is done to one row: RMS norm, gated activation, rotation of a head.
//
// T is float or bf16 (16 bits, the upper half of a float). Sums are in float; results are rounded to T where torch rounds.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "common.h"
#include "pages.h"

namespace headway {

// to = norm(x + residual) * weight, total = x + residual; without a residual, total is not written.
template <class T>
inline void norm_row(T* to, T* total, const T* x, const T* residual, const T* weight, float eps, int64_t size) {
  float sum = 0;
  if (residual != nullptr) {
    for (int64_t i = 0; i < size; i++) {
      total[i] = store<T>(load(x[i]) + load(residual[i]));
      float t = load(total[i]);
      sum += t * t;
    }
    x = total;
  } else {
    for (int64_t i = 0; i < size; i++) sum += load(x[i]) * load(x[i]);
  }
  float scale = 1.0f / std::sqrt(sum / float(size) + eps);
  for (int64_t i = 0; i < size; i++) to[i] = store<T>(load(store<T>(load(x[i]) * scale)) * load(weight[i]));
}

// to = silu(x[0 .. size]) * x[size .. 2 size]
template <class T> inline void silu_row(T* to, const T* gate, int64_t size) {
  const T* up = gate + size;
  for (int64_t i = 0; i < size; i++) {
    float g = load(gate[i]);
    to[i] = store<T>(load(store<T>(g / (1.0f + fast_exp(-g)))) * load(up[i]));
  }
}

template <class To, class From> inline void convert(To* to, const From* from, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    if constexpr (std::is_same_v<To, From>)
      to[i] = from[i];
    else
      to[i] = store<To>(load(from[i]));
}

template <class To, class From>
inline void rotate(To* to, const From* from, const float* cos, const float* sin, int64_t half, int64_t dim, int64_t step) {
  // step 1: pairs (i, i + half); step 2: pairs (2 i, 2 i + 1)
  int64_t second = step == 1 ? half : 1;
  for (int64_t i = 0; i < half; i++) {
    float a = load(from[i * step]), b = load(from[i * step + second]);
    to[i * step] = store<To>(a * cos[i] - b * sin[i]);
    to[i * step + second] = store<To>(b * cos[i] + a * sin[i]);
  }
  convert(to + 2 * half, from + 2 * half, dim - 2 * half);
}

// Writes some heads' keys, turned, and values, as they lie next to each other, to a slot. ``slot`` counts those of all blocks.
template <class T, class P>
inline void write_heads(P* k_cache, P* v_cache, const Pages<P>& pages, int64_t slot, int64_t head, int64_t heads, const T* k, const T* v,
                        const float* cos, const float* sin, int64_t half, int64_t step) {
  const int64_t dim = pages.dim, place = pages.at(slot / pages.block_size, slot % pages.block_size, head);
  if constexpr (kIsRounded<P>) {
    std::vector<T> turned(heads * dim);
    for (int64_t h = 0; h < heads; h++) rotate(turned.data() + h * dim, k + h * dim, cos, sin, half, dim, step);
    write_rounded(k_cache, pages, slot, head, turned.data(), heads);
    write_rounded(v_cache, pages, slot, head, v, heads);
  } else {
    for (int64_t h = 0; h < heads; h++) rotate(k_cache + place + h * dim, k + h * dim, cos, sin, half, dim, step);
    convert(v_cache + place, v, heads * dim);
  }
}

}  // namespace headway
