// Attention of one query token of a row over its pages, for some key-value heads and the query heads that share them.
//
// Rows that share pages go through those together, key by key, and each through the rest of its own. Each row's sums are in the same
// order with and without others, and of the same operations: its result has the same bits.
//
// Keys are taken kWidth at a time: a head's products with them are summed to one vector of scores, with a key a lane. Values are
// added to sums that stay in registers for as many keys. Of heads of whole strips both are read where they lie.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "common.h"
#include "decode_tasks.h"
#include "pages.h"
#include "vectors.h"

namespace headway {

constexpr int kSums = kRows * kVectors;  // registers for sums: a key or value is brought to fp32 once for all heads that have some
constexpr int kStripVectors = 4;         // of a head's sums of values
constexpr int kStrip = kStripVectors * kWidth;
constexpr int kMostKeys = 2 * 16;  // in a block; of those that rows share, which are read from a copy that the first cache holds

// One thread's memory, and the steps of a task. P: the type of the pages. DIM fixes the head size for the compiler; 0: any.
template <class T, class P, int DIM> class Decode {
  static constexpr bool kInPlace = DIM > 0 && DIM % kStrip == 0 && !kIsRounded<P>;
  static constexpr bool kIsSplit = kInPlace && std::is_same_v<P, bf16>;

 public:
  explicit Decode(const DecodeShape& shape)
      : s(shape),
        group(s.group()),
        copies(kInPlace && !kIsSplit ? 0 : kMostKeys * stride()) {}

  // out, q, tables and lengths are those of the first row of the step.
  void run(const DecodeTask& task, T* out, const T* q, const P* k_cache, const P* v_cache, const int32_t* tables, const int32_t* lengths) {
    const int64_t num_heads = task.heads * group;  // of each row
    place(task, tables, lengths);
    load_queries(task, q);
    scores.resize(task.num_rows * num_heads * width);
    fetch_first(k_cache, 0, task.heads);
    each_block(k_cache, task.heads, [&](int64_t block, int64_t g, int64_t count, const auto& keys) { score(block, g, count, keys); });
    fetch_first(v_cache, 0, task.heads);
    totals.resize(task.num_rows * num_heads);
    for (int64_t g = 0; g < task.num_rows * num_heads; g++) totals[g] = soften(&scores[g * width], counts[g / num_heads]);
    sums.assign(task.num_rows * num_heads * stride(), 0.0f);
    each_block(v_cache, task.heads,
               [&](int64_t block, int64_t g, int64_t count, const auto& values) { add_values(block, g, count, values); });
    for (int64_t i = 0; i < task.num_rows * num_heads; i++) {
      const int64_t row = task.rows[i / num_heads], head = task.kv_head * group + i % num_heads;
      store_out(out + (row * s.q_heads + head) * dim(), &sums[i * stride()], 1 / totals[i]);
    }
  }

 private:
  // Keys that some rows of a task see in the same places.
  struct Span {
    int64_t row, num_rows, first, count;  // first: among those that the rows see
    int64_t places;                       // where theirs begin

    int64_t at_once() const { return num_rows > 1 ? kMostKeys : kWidth; }  // keys of a block
    int64_t ahead() const { return 2 * at_once(); }                        // keys that are on their way from memory
  };
  // A block of keys or values.
  template <class E, int KEYS> struct Found {
    const E* at[KEYS];
  };

  int64_t dim() const { return DIM > 0 ? DIM : s.dim; }
  int64_t stride() const { return (dim() + kStrip - 1) / kStrip * kStrip; }  // whole strips

  // Finds the spans of a task, and where its first head has their keys.
  void place(const DecodeTask& task, const int32_t* tables, const int32_t* lengths) {
    spans.clear(), places.clear(), scale_places.clear(), counts.clear();
    const int64_t shared = task.shared / kMostKeys * kMostKeys;  // whole blocks
    if (shared > 0) add_span({0, task.num_rows, 0, shared, 0}, 0, task.kv_head, tables + task.rows[0] * s.table_width);
    int64_t most = 0;
    for (int64_t r = 0; r < task.num_rows; r++) {
      const int64_t length = lengths[task.rows[r]], start = s.window > 0 ? std::max<int64_t>(0, length - s.window) : 0;
      counts.push_back(length - start), most = std::max(most, length - start);
      if (length - start > shared)
        add_span({r, 1, shared, length - start - shared, 0}, start + shared, task.kv_head, tables + task.rows[r] * s.table_width);
    }
    width = (most + kWidth - 1) / kWidth * kWidth;
  }

  // Whole blocks and some more, for those that are fetched ahead: the last key is repeated.
  void add_span(Span span, int64_t start, int64_t kv_head, const int32_t* table) {
    const Pages<P> pages{s.block_size, s.kv_heads, dim()};
    span.places = places.size();
    spans.push_back(span);
    const int64_t end = span.places + span.count, padded = span.places + (span.count + kWidth - 1) / kWidth * kWidth + span.ahead();
    places.resize(padded);
    if constexpr (kIsRounded<P>) scale_places.resize(padded);
    int64_t page = start / s.block_size, slot = start % s.block_size;
    for (int64_t j = span.places; j < end; j++) {
      places[j] = pages.at(table[page], slot, kv_head);
      if constexpr (kIsRounded<P>) scale_places[j] = pages.scale_at(table[page], slot, kv_head);
      if (++slot == s.block_size) page++, slot = 0;
    }
    std::fill(places.begin() + end, places.end(), places[end - 1]);
    if constexpr (kIsRounded<P>) std::fill(scale_places.begin() + end, scale_places.end(), scale_places[end - 1]);
  }

  void load_queries(const DecodeTask& task, const T* q) {
    const int64_t num_heads = task.heads * group;
    queries.assign(task.num_rows * num_heads * stride(), 0.0f);
    for (int64_t r = 0; r < task.num_rows; r++)
      for (int64_t g = 0; g < num_heads; g++) {
        const T* from = q + task.rows[r] * s.q_stride + (task.kv_head * group + g) * dim();
        float* to = &queries[(r * num_heads + g) * stride()];
        for (int64_t d = 0; d < dim(); d++) to[d] = load(from[d]) * s.scale;
        if constexpr (kIsSplit) reorder<2, 1>(to);
      }
  }

  void store_out(T* out, float* own, float share) {
    if constexpr (kIsSplit) reorder<1, 2>(own);
    for (int64_t d = 0; d < dim(); d++) out[d] = store<T>(own[d] * share);
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

  // What is fetched while a block that rows share is computed with: a share before each pass over some of the query heads. More at a time would wait
  // for each other, and the pass for all of them (8 rows behind 1,024 keys out of the caches: 435 us a layer at once, 390 in shares).
  struct Later {
    const P* cache;
    int64_t place, end, share;
  };

  void fetch_key(const P* key) const {
    for (int64_t d = 0; d < dim(); d += 64 / int64_t(sizeof(P))) __builtin_prefetch(key + d);
  }

  void fetch(const P* cache, int64_t place, int64_t count) const {
    for (int64_t j = place; j < place + count; j++) fetch_key(cache + places[j]);
  }

  void fetch_share() {
    const int64_t count = std::min(later.share, later.end - later.place);
    fetch(later.cache, later.place, count);
    later.place += count;
  }

  void fetch_first(const P* cache, size_t span, int64_t heads) const {
    if (span >= spans.size()) return;
    for (int64_t h = 0; h < heads; h++) fetch(cache + h * dim(), spans[span].places, spans[span].ahead());
  }

  // Calls with(where the block's scores begin, first query head, how many, keys or values) for each block and head of each span. Those of
  // a later block, and of the next span, are fetched meanwhile.
  template <class With> void each_block(const P* cache, int64_t heads, const With& with) {
    for (size_t i = 0; i < spans.size(); i++) {
      fetch_first(cache, i + 1, heads);
      for (int64_t block = 0; block < spans[i].count; block += spans[i].at_once())
        for (int64_t h = 0; h < heads; h++)
          if (spans[i].num_rows > 1)
            pass_block<kMostKeys>(cache, spans[i], block, h, heads, with);
          else
            pass_block<kWidth>(cache, spans[i], block, h, heads, with);
    }
  }

  template <int KEYS, class With> void pass_block(const P* cache, const Span& span, int64_t block, int64_t h, int64_t heads, const With& with) {
    const int64_t place = span.places + block, first = (span.row * heads + h) * group, count = span.num_rows * group;
    if constexpr (KEYS == kWidth)
      for (int64_t j = 0; j < KEYS; j++) fetch_key(cache + h * dim() + places[place + 2 * KEYS + j]);
    const int64_t passes = (count + kSums / kStripVectors - 1) / (kSums / kStripVectors);
    later = {cache + h * dim(), place + span.ahead(), place + span.ahead() + KEYS, (KEYS + passes - 1) / passes};
    // Bringing numbers to fp32 pays for more than one row.
    if constexpr (kInPlace && (!kIsSplit || KEYS == kWidth))
      with(span.first + block, first, count, find<KEYS>(cache + h * dim(), place));
    else
      with(span.first + block, first, count, bring<KEYS>(cache, h, place));
  }

  template <int KEYS> Found<P, KEYS> find(const P* own, int64_t place) const {
    Found<P, KEYS> found;
    for (int64_t j = 0; j < KEYS; j++) found.at[j] = own + places[place + j];
    return found;
  }

  // As find, of numbers in fp32, in the order of numbers().
  template <int KEYS> Found<float, KEYS> bring(const P* cache, int64_t head, int64_t place) {
    Found<float, KEYS> found;
    for (int64_t j = 0; j < KEYS; j++) {
      const P* from = cache + head * dim() + places[place + j];
      float* to = &copies[j * stride()];
      if constexpr (kIsRounded<P>)
        read_rounded(to, from, load_scale(cache, scale_places[place + j] + 4 * head));
      else if constexpr (kIsSplit)
        for (int64_t v = 0; v < dim() / kWidth; v++) loose(to + v * kWidth) = numbers(from, int(v));
      else
        for (int64_t d = 0; d < dim(); d++) to[d] = load(from[d]);
      found.at[j] = to;
    }
    return found;
  }

  // Once for all query heads, each of which would do it again where it reads.
  void read_rounded(float* to, const int8_t* from, float scale) const {
    constexpr int64_t vectors = DIM / kWidth;
    for (int64_t v = 0; v < vectors; v++) loose(to + v * kWidth) = numbers(from, int(v)) * scale;
    for (int64_t d = vectors * kWidth; d < dim(); d++) to[d] = load(from[d]) * scale;
  }

  // Calls with(how many, first) for `count` heads, as many at a time as fit; four are two and two where only three would.
  template <int MOST, int KEYS, class With> void each_heads(int64_t first, int64_t count, const With& with) {
    for (int64_t g = first, end = first + count; g < end;) {
      const int64_t left = end - g;
      if constexpr (KEYS == kMostKeys) fetch_share();
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

  template <class E, int KEYS> void score(int64_t block, int64_t first, int64_t count, const Found<E, KEYS>& keys) {
    each_heads<kSums / 4, KEYS>(first, count, [&]<int HEADS>(std::integral_constant<int, HEADS>, int64_t g) { score<HEADS>(block, g, keys); });
  }

  template <int HEADS, class E, int KEYS> void score(int64_t block, int64_t g, const Found<E, KEYS>& keys) {
    constexpr int at_once = std::min<int>(kWidth, std::bit_floor(unsigned(kSums / HEADS)));  // keys
    const float* query = &queries[g * stride()];
#pragma GCC unroll 1
    for (int first = 0; first < KEYS; first += at_once) {
      Vec dots[HEADS][at_once];
      each<HEADS * at_once>([&](auto i) HEADWAY_INLINE { dots[i / at_once][i % at_once] = Vec{}; });
      for (int64_t v = 0; v < stride() / kWidth; v += 2)
        if constexpr (std::is_same_v<E, float>) {
          each<2>([&](auto second) HEADWAY_INLINE {
            Vec own[HEADS];  // in registers: with the sums and a key these are as many as there are
            each<HEADS>([&](auto h) HEADWAY_INLINE {
              own[h] = numbers(query + h * stride(), v + second);
              HEADWAY_IN_TURN(own[h]);
            });
            each<at_once>([&](auto j) HEADWAY_INLINE {
              const Vec key = numbers(keys.at[first + j], v + second);
              each<HEADS>([&](auto h) HEADWAY_INLINE {
                dots[h][j] += own[h] * key;
                HEADWAY_IN_TURN(dots[h][j]);
              });
            });
          });
        } else {  // two vectors of a key are one load
          each<at_once>([&](auto j) HEADWAY_INLINE {
            const auto pair = two_vectors(keys.at[first + j] + v * kWidth);
            each<2 * HEADS>([&](auto i) HEADWAY_INLINE {
              dots[i / 2][j] += numbers(query + (i / 2) * stride(), v + i % 2) * (i % 2 == 0 ? pair.first : pair.second);
              HEADWAY_IN_TURN(dots[i / 2][j]);
            });
          });
        }
      each<HEADS>([&](auto h) HEADWAY_INLINE {
        each<at_once / 4>([&](auto i) HEADWAY_INLINE {
          const Vec* own = &dots[h][4 * i];
          four(&scores[(g + h) * width + block + first + 4 * i]) = sum_four(own[0], own[1], own[2], own[3]);
        });
      });
    }
  }

  // A head's scores of `count` keys become probabilities but for the division by their sum, which is returned; those past the last key 0.
  float soften(float* own, int64_t count) const {
    if (count <= 0) return 1;
    const int64_t width = (count + kWidth - 1) / kWidth * kWidth;
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
    return total;
  }

  template <class E, int KEYS> void add_values(int64_t block, int64_t first, int64_t count, const Found<E, KEYS>& values) {
    for (int64_t strip = 0; strip < stride(); strip += kStrip)
      each_heads<kSums / kStripVectors, KEYS>(
          first, count, [&]<int HEADS>(std::integral_constant<int, HEADS>, int64_t g) { add_strip<HEADS>(block, g, strip, values); });
  }

  template <int HEADS, class E, int KEYS> void add_strip(int64_t block, int64_t g, int64_t strip, const Found<E, KEYS>& values) {
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
    for (int j = 0; j < KEYS; j++)
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
  const int64_t group;                // query heads to a key-value head
  int64_t width = 0;                  // of a head's scores: the keys of the longest row, padded to whole vectors
  std::vector<int64_t> counts;        // [rows]: keys seen
  std::vector<Span> spans;            // what rows share comes first
  std::vector<int64_t> places;        // of each span's keys, whole blocks and span.ahead() more
  std::vector<int64_t> scale_places;  // likewise, of pages in int8
  Later later{};
  std::vector<float> queries, sums;   // [rows][query heads][stride], in the order of numbers()
  std::vector<float> scores, totals;  // [rows][query heads][width], [rows][query heads]
  std::vector<float> copies;          // [kMostKeys][stride], where keys are not read in place
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
