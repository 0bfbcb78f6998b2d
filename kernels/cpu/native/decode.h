// Attention of one query token over its pages, for some key-value heads and the query heads that share them.
//
// Keys are taken kWidth at a time: a head's products with them are summed to one vector of scores, with a key a lane. Values are
// added to sums that stay in registers for as many keys. Of heads of whole strips both are read where they lie.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "common.h"
#include "pages.h"
#include "vectors.h"

namespace headway {

struct DecodeShape {
  int64_t rows, q_heads, kv_heads, dim, block_size, table_width, q_stride, window;
  float scale, softcap;

  int64_t group() const { return q_heads / kv_heads; }
};

// Some heads of one row: what a thread does at a time.
struct DecodeTask {
  int64_t row, kv_head, heads;
};

// A step cut into tasks. All heads of a row are one where there are rows enough, for then the pages are read from front to back (32 rows
// of 190 keys: 17 ms with all, 21 with one). A head's result does not depend on the others of its task. To be made outside of a parallel
// region, within which OpenMP's number of threads may be another (OMP_NUM_THREADS=2,1).
struct DecodeTasks {
  int64_t kv_heads, heads_at_once, count;

  explicit DecodeTasks(const DecodeShape& s)
      : kv_heads(s.kv_heads), heads_at_once(s.rows >= 4 * omp_get_max_threads() ? kv_heads : 1), count(s.rows * kv_heads / heads_at_once) {}
  DecodeTask operator[](int64_t index) const {
    const int64_t head = index * heads_at_once;
    return {head / kv_heads, head % kv_heads, heads_at_once};
  }
};

constexpr int kSums = kRows * kVectors;  // registers for sums: a key or value is brought to fp32 once for all heads that have some
constexpr int kStripVectors = 4;         // of a head's sums of values
constexpr int kStrip = kStripVectors * kWidth;
constexpr int kAhead = 2;  // blocks of kWidth keys that are on their way from memory

// One thread's memory, and the steps of a task. P: the type of the pages. DIM fixes the head size for the compiler; 0: any.
template <class T, class P, int DIM> class Decode {
  static constexpr bool kInPlace = DIM > 0 && DIM % kStrip == 0 && !kIsRounded<P>;
  static constexpr bool kIsSplit = kInPlace && std::is_same_v<P, bf16>;
  using Stored = std::conditional_t<kInPlace, P, float>;  // what keys and values are read as

 public:
  explicit Decode(const DecodeShape& shape)
      : s(shape),
        group(s.group()),
        copies(kInPlace ? 0 : kWidth * stride()) {}

  // out and q are those of the task's first query head.
  void run(const DecodeTask& task, T* out, const T* q, const P* k_cache, const P* v_cache, const int32_t* table, int64_t length) {
    const int64_t start = s.window > 0 ? std::max<int64_t>(0, length - s.window) : 0, num_heads = task.heads * group;
    count = length - start, width = (count + kWidth - 1) / kWidth * kWidth;
    if (count <= 0) {
      std::fill(out, out + num_heads * dim(), T{});  // as the reference
      return;
    }
    place(start, task.kv_head, table);
    load_queries(q, num_heads);
    scores.resize(num_heads * width);
    fetch_first(k_cache, task.heads);
    for (int64_t block = 0; block < count; block += kWidth)
      for (int64_t h = 0; h < task.heads; h++) score(block, h * group, find(k_cache, h, block));
    fetch_first(v_cache, task.heads);
    for (int64_t g = 0; g < num_heads; g++) soften(&scores[g * width]);
    sums.assign(num_heads * stride(), 0.0f);
    for (int64_t block = 0; block < count; block += kWidth)
      for (int64_t h = 0; h < task.heads; h++) add_values(block, h * group, find(v_cache, h, block));
    for (int64_t g = 0; g < num_heads; g++) store_out(out + g * dim(), &sums[g * stride()]);
  }

 private:
  struct Found {
    const Stored* at[kWidth];
  };

  int64_t dim() const { return DIM > 0 ? DIM : s.dim; }
  int64_t stride() const { return (dim() + kStrip - 1) / kStrip * kStrip; }  // whole strips

  // Where the task's first head has its keys. Whole blocks and some more, for those that are fetched ahead: the last key is repeated.
  void place(int64_t start, int64_t kv_head, const int32_t* table) {
    const Pages<P> pages{s.block_size, s.kv_heads, dim()};
    places.resize(width + kAhead * kWidth);
    if constexpr (kIsRounded<P>) scale_places.resize(width);
    int64_t page = start / s.block_size, slot = start % s.block_size;
    for (int64_t j = 0; j < count; j++) {
      places[j] = pages.at(table[page], slot, kv_head);
      if constexpr (kIsRounded<P>) scale_places[j] = pages.scale_at(table[page], slot, kv_head);
      if (++slot == s.block_size) page++, slot = 0;
    }
    std::fill(places.begin() + count, places.end(), places[count - 1]);
    if constexpr (kIsRounded<P>) std::fill(scale_places.begin() + count, scale_places.end(), scale_places[count - 1]);
  }

  void load_queries(const T* q, int64_t num_heads) {
    queries.assign(num_heads * stride(), 0.0f);
    for (int64_t g = 0; g < num_heads; g++) {
      float* to = &queries[g * stride()];
      for (int64_t d = 0; d < dim(); d++) to[d] = load(q[g * dim() + d]) * s.scale;
      if constexpr (kIsSplit) reorder<2, 1>(to);
    }
  }

  void store_out(T* out, float* own) {
    if constexpr (kIsSplit) reorder<1, 2>(own);
    for (int64_t d = 0; d < dim(); d++) out[d] = store<T>(own[d]);
  }

  // Between the order of numbers() for bf16 and that of the pages, within each 2 kWidth numbers:
  // those of a vector lie FROM apart, and then TO.
  template <int FROM, int TO> void reorder(float* x) const {
    for (int64_t d = 0; d < dim(); d += 2 * kWidth, x += 2 * kWidth) {
      constexpr int from_second = FROM == 1 ? kWidth : 1, to_second = TO == 1 ? kWidth : 1;
      float copy[2 * kWidth];
      for (int i = 0; i < kWidth; i++) copy[i * TO] = x[i * FROM], copy[i * TO + to_second] = x[i * FROM + from_second];
      std::copy(copy, copy + 2 * kWidth, x);
    }
  }

  void fetch(const P* cache, int64_t block) const {
    for (int64_t j = 0; j < kWidth; j++)
      for (int64_t d = 0; d < dim(); d += 64 / int64_t(sizeof(P))) __builtin_prefetch(cache + places[block + j] + d);
  }

  void fetch_first(const P* cache, int64_t heads) const {
    for (int64_t block = 0; block < kAhead * kWidth; block += kWidth)
      for (int64_t h = 0; h < heads; h++) fetch(cache + h * dim(), block);
  }

  // The block's keys or values of one of the task's heads. Those of a later block are fetched meanwhile.
  Found find(const P* cache, int64_t head, int64_t block) {
    const P* own = cache + head * dim();
    fetch(own, block + kAhead * kWidth);
    Found found;
    for (int64_t j = 0; j < kWidth; j++) {
      const P* from = own + places[block + j];
      if constexpr (kInPlace) {
        found.at[j] = from;
      } else {
        float* to = &copies[j * stride()];
        if constexpr (kIsRounded<P>)
          read_rounded(to, from, load_scale(cache, scale_places[block + j] + 4 * head));
        else
          for (int64_t d = 0; d < dim(); d++) to[d] = load(from[d]);
        found.at[j] = to;
      }
    }
    return found;
  }

  // Once for all query heads, each of which would do it again where it reads.
  void read_rounded(float* to, const int8_t* from, float scale) const {
    constexpr int64_t vectors = DIM / kWidth;
    for (int64_t v = 0; v < vectors; v++) loose(to + v * kWidth) = numbers(from, int(v)) * scale;
    for (int64_t d = vectors * kWidth; d < dim(); d++) to[d] = load(from[d]) * scale;
  }

  // Calls with(how many, first) for heads of a group, as many at a time as fit; four are two and two where only three would.
  template <int MOST, class With> void each_heads(int64_t first, const With& with) {
    for (int64_t g = first, end = first + group; g < end;) {
      const int64_t left = end - g;
      const auto take = [&]<int HEADS>(std::integral_constant<int, HEADS> heads) { with(heads, g), g += HEADS; };
      if (MOST >= 4 && left >= 4)
        take(std::integral_constant<int, std::min(MOST, 4)>());
      else if (left >= 3 && left != 4)
        take(std::integral_constant<int, 3>());
      else if (left >= 2)
        take(std::integral_constant<int, 2>());
      else
        take(std::integral_constant<int, 1>());
    }
  }

  void score(int64_t block, int64_t first, const Found& keys) {
    each_heads<kSums / 4>(first, [&]<int HEADS>(std::integral_constant<int, HEADS>, int64_t g) { score<HEADS>(block, g, keys); });
  }

  template <int HEADS> void score(int64_t block, int64_t g, const Found& keys) {
    constexpr int at_once = std::min<int>(kWidth, std::bit_floor(unsigned(kSums / HEADS)));  // keys
    const float* query = &queries[g * stride()];
#pragma GCC unroll 1
    for (int first = 0; first < kWidth; first += at_once) {
      Vec dots[HEADS][at_once];
      each<HEADS * at_once>([&](auto i) HEADWAY_INLINE { dots[i / at_once][i % at_once] = Vec{}; });
      for (int64_t v = 0; v < stride() / kWidth; v += 2)
        each<at_once>([&](auto j) HEADWAY_INLINE {
          const auto pair = two_vectors(keys.at[first + j] + v * kWidth);
          each<2 * HEADS>([&](auto i) HEADWAY_INLINE {
            dots[i / 2][j] += numbers(query + (i / 2) * stride(), v + i % 2) * (i % 2 == 0 ? pair.first : pair.second);
            HEADWAY_IN_TURN(dots[i / 2][j]);
          });
        });
      each<HEADS>([&](auto h) HEADWAY_INLINE {
        each<at_once / 4>([&](auto i) HEADWAY_INLINE {
          const Vec* own = &dots[h][4 * i];
          four(&scores[(g + h) * width + block + first + 4 * i]) = sum_four(own[0], own[1], own[2], own[3]);
        });
      });
    }
  }

  // A head's scores become probabilities; those past the last key 0.
  void soften(float* own) const {
    if (s.softcap > 0)
      for (int64_t j = 0; j < width; j += kWidth) loose(own + j) = s.softcap * tanh_of(loose(own + j) / s.softcap);
    std::fill(own + count, own + width, -std::numeric_limits<float>::infinity());
    Vec tops = loose(own);
    for (int64_t j = kWidth; j < width; j += kWidth) tops = largest(loose(own + j), tops);
    float top = tops[0], total = 0;
    for (int i = 1; i < kWidth; i++) top = std::max(top, tops[i]);
    Vec totals = {};
    for (int64_t j = 0; j < width; j += kWidth) {
      loose(own + j) = exp2_negative((loose(own + j) - top) * kLog2e);
      totals += loose(own + j);
    }
    for (int i = 0; i < kWidth; i++) total += totals[i];
    for (int64_t j = 0; j < width; j += kWidth) loose(own + j) /= total;
  }

  void add_values(int64_t block, int64_t first, const Found& values) {
    for (int64_t strip = 0; strip < stride(); strip += kStrip)
      each_heads<kSums / kStripVectors>(
          first, [&]<int HEADS>(std::integral_constant<int, HEADS>, int64_t g) { add_strip<HEADS>(block, g, strip, values); });
  }

  template <int HEADS> void add_strip(int64_t block, int64_t g, int64_t strip, const Found& values) {
    Vec own[HEADS][kStripVectors];
    float* to = &sums[g * stride() + strip];
    const float* probs = &scores[g * width + block];
    const auto each_sum = [&](const auto& with) HEADWAY_INLINE {
      each<HEADS>([&](auto h) HEADWAY_INLINE {
        each<kStripVectors>([&](auto v) HEADWAY_INLINE { with(own[h][v], loose(to + h * stride() + v * kWidth)); });
      });
    };
    each_sum([](Vec& sum, LooseVec& kept) HEADWAY_INLINE { sum = kept; });
#pragma GCC unroll 1
    for (int j = 0; j < kWidth; j++)
      each<kStripVectors / 2>([&](auto v) HEADWAY_INLINE {
        const auto pair = two_vectors(values.at[j] + strip + 2 * v * kWidth);
        const float* prob = probs + j;
        asm volatile("" : "+r"(prob));  // read again: kept for all pairs, probabilities would push sums out of the registers
        each<HEADS>([&](auto h) HEADWAY_INLINE {
          own[h][2 * v] += prob[h * width] * pair.first;
          own[h][2 * v + 1] += prob[h * width] * pair.second;
        });
      });
    each_sum([](Vec& sum, LooseVec& kept) HEADWAY_INLINE { kept = sum; });
  }

  const DecodeShape& s;
  const int64_t group;               // query heads to a key-value head
  int64_t count = 0, width = 0;      // keys seen, and those padded to whole vectors
  std::vector<int64_t> places;       // [width + kAhead * kWidth]
  std::vector<int64_t> scale_places;  // [width], of pages in int8
  std::vector<float> queries, sums;  // [query heads][stride], in the order of numbers()
  std::vector<float> scores;         // [query heads][width]
  std::vector<float> copies;         // [kWidth][stride], where keys are not read in place
};

// Calls with(Decode) for the heads' size.
template <class T, class P, class With> inline void with_decode(const DecodeShape& s, const With& with) {
  if (s.dim == 64)
    with(Decode<T, P, 64>(s));
  else if (s.dim == 128)
    with(Decode<T, P, 128>(s));
  else
    with(Decode<T, P, 0>(s));
}

}  // namespace headway
