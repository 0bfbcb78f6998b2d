// How keys and values lie in the cache's pages: [block][slot][head][dim] numbers of P. Pages in int8 have a scale of each slot and head
// behind a block's numbers, as headway/kernels/kv_cache.py draws it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common.h"

namespace headway {

template <class P> constexpr bool kIsRounded = std::is_same_v<P, int8_t>;

template <class P> struct Pages {
  int64_t block_size, kv_heads, dim;

  int64_t rows() const { return block_size * kv_heads; }  // of a block
  int64_t scales_offset() const { return (rows() * dim + 3) / 4 * 4; }
  int64_t block_stride() const { return kIsRounded<P> ? scales_offset() + 4 * rows() : rows() * dim; }  // in numbers
  // Where a head's numbers begin in the cache.
  int64_t at(int64_t block, int64_t slot, int64_t head) const { return block * block_stride() + (slot * kv_heads + head) * dim; }
  // How many bytes of the cache lie before a head's scale.
  int64_t scale_at(int64_t block, int64_t slot, int64_t head) const {
    return block * block_stride() + scales_offset() + (slot * kv_heads + head) * 4;
  }
};

inline float load_scale(const int8_t* cache, int64_t at) {
  float scale;
  std::memcpy(&scale, cache + at, sizeof(scale));
  return scale;
}

// to = from / scale, whose largest number becomes +-127; returns the scale. Halves go to the even number. NaN where one is not finite.
template <class T> inline float round_head(int8_t* to, const T* from, int64_t dim) {
  float peak = 0, strange = 0;
  for (int64_t d = 0; d < dim; d++) {
    const float x = load(from[d]);
    peak = std::max(peak, std::fabs(x));
    strange += x * 0.0f;
  }
  const float scale = peak / 127.0f + strange, divisor = scale > 0 ? scale : 1.0f;
  for (int64_t d = 0; d < dim; d++) to[d] = int8_t(std::min(std::max(std::nearbyint(load(from[d]) / divisor), -127.0f), 127.0f));
  return scale;
}

// Rounds some heads of a token, which lie next to each other, into a slot.
template <class T>
inline void write_rounded(int8_t* cache, const Pages<int8_t>& pages, int64_t slot_of_all, int64_t head, const T* from, int64_t heads) {
  const int64_t block = slot_of_all / pages.block_size, slot = slot_of_all % pages.block_size;
  for (int64_t h = 0; h < heads; h++) {
    const float scale = round_head(cache + pages.at(block, slot, head + h), from + h * pages.dim, pages.dim);
    std::memcpy(cache + pages.scale_at(block, slot, head + h), &scale, sizeof(scale));
  }
}

}  // namespace headway
