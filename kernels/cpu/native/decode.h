// Attention of one query token of a row over its pages, for some key-value heads and the query heads that share them.
//
// Rows that share pages go through those together, key by key. What is kept of a part of a row's keys are its sums of values, the sum of
// its probabilities and its highest score; the parts are then put together in their order. Each row's sums are in the same order with and
// without others, and of the same operations: its result has the same bits.
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
inline int64_t decode_stride(int64_t dim) { return (dim + kStrip - 1) / kStrip * kStrip; }  // whole strips
// What is kept of a part of a row's keys, in numbers: for each query head its sums of values, its highest score, the sum of probabilities.
inline int64_t decode_part_size(const DecodeShape& s) { return s.q_heads * (decode_stride(s.dim) + 2); }
constexpr int kMostKeys = 32;  // in a block; of those that rows share, which are read from a copy that the first cache holds

static_assert(kPartKeys % kMostKeys == 0);

// One thread's memory, and the steps of a task. P: the type of the pages. DIM fixes the head size for the compiler; 0: any.
template <class T, class P, int DIM> class Decode {
  static constexpr bool kInPlace = DIM > 0 && DIM % kStrip == 0 && !kIsRounded<P>;
  static constexpr bool kIsSplit = kInPlace && std::is_same_v<P, bf16>;

 public:
  explicit Decode(const DecodeShape& shape)
      : s(shape),
        group(s.group()),
        copies(kInPlace && !kIsSplit ? 0 : kMostKeys * stride()) {}

  // q and tables are those of the first row of the step, parts [all parts of its rows][decode_part_size].
  void run(const DecodeTasks& tasks, const DecodeTask& task, float* parts, const T* q, const P* k_cache, const P* v_cache, const int32_t* tables) {
    const int64_t num_heads = task.heads * group;  // of each row
    place(tasks, task, tables);
    load_queries(task, q);
    scores.resize(task.num_rows * num_heads * width());
    if (task.num_rows > 1)
      attend<kMostKeys>(task, k_cache, v_cache);
    else
      attend<kWidth>(task, k_cache, v_cache);
    for (int64_t r = 0; r < task.num_rows; r++) {
      Part to(*this, parts, tasks.first_part(task.rows[r]) + task.part);
      for (int64_t h = 0; h < num_heads; h++) {
        const int64_t g = of(task, r, h), head = task.kv_head * group + h;
        std::copy_n(&sums[g * stride()], stride(), to.sums + head * stride());
        to.tops[head] = tops[g], to.totals[head] = totals[g];
      }
    }
  }

  // What a row's parts come to, [query heads][dim].
  void put_together(const DecodeTasks& tasks, int64_t row, T* out, float* parts) {
    const int64_t first = tasks.first_part(row), count = tasks.num_parts(row);
    if (count == 0) {
      std::fill_n(out, s.q_heads * dim(), T{});
      return;
    }
    sums.resize(stride());
    for (int64_t head = 0; head < s.q_heads; head++, out += dim()) {
      const Part begin(*this, parts, first);
      if (count == 1) {
        store_out(out, begin.sums + head * stride(), 1 / begin.totals[head]);
        continue;
      }
      float top = begin.tops[head], total = 0;
      for (int64_t i = 1; i < count; i++) top = std::max(top, Part(*this, parts, first + i).tops[head]);
      std::fill(sums.begin(), sums.end(), 0.0f);
      for (int64_t i = 0; i < count; i++) {
        const Part part(*this, parts, first + i);
        const float share = exp2_negative(spread((part.tops[head] - top) * kLog2e))[0];
        total += share * part.totals[head];
        for (int64_t d = 0; d < stride(); d += kWidth) loose(&sums[d]) += share * loose(part.sums + head * stride() + d);
      }
      store_out(out, sums.data(), 1 / total);
    }
  }

 private:
  // Where a part's numbers are: sums of values [query heads][stride], highest scores and sums of probabilities [query heads].
  struct Part {
    float *sums, *tops, *totals;

    Part(const Decode& d, float* parts, int64_t index)
        : sums(parts + index * decode_part_size(d.s)), tops(sums + d.s.q_heads * d.stride()), totals(tops + d.s.q_heads) {}
  };
  // A block of keys or values.
  template <class E, int KEYS> struct Found {
    const E* at[KEYS];
  };

  int64_t dim() const { return DIM > 0 ? DIM : s.dim; }
  int64_t stride() const { return decode_stride(dim()); }
  int64_t width() const { return (num_keys + kWidth - 1) / kWidth * kWidth; }  // of a head's scores

  template <int KEYS> void attend(const DecodeTask& task, const P* k_cache, const P* v_cache) {
    const int64_t num_heads = task.num_rows * task.heads * group;
    each_keys<KEYS>(k_cache, v_cache, task, [&](int64_t block, int64_t g, int64_t heads, const auto& keys) { score(block, g, heads, keys); });
    sums.assign(num_heads * stride(), 0.0f);
    tops.resize(num_heads), totals.resize(num_heads);
    for (int64_t g = 0; g < num_heads; g++) soften(g);
    each_values<KEYS>(v_cache, task, [&](int64_t block, int64_t g, int64_t heads, const auto& values) { add_values(block, g, heads, values); });
  }

  // Among a task's query heads that of a row: those of a key-value head lie together, for all rows.
  int64_t of(const DecodeTask& task, int64_t row, int64_t head) const {
    return (head / group * task.num_rows + row) * group + head % group;
  }

  // Finds where the first head of a task has its keys: whole blocks and some more, for those that are fetched ahead, with the last repeated.
  void place(const DecodeTasks& tasks, const DecodeTask& task, const int32_t* tables) {
    const int32_t row = task.rows[0], *table = tables + row * s.table_width;
    const Pages<P> pages{s.block_size, s.kv_heads, dim()};
    num_keys = std::min(kPartKeys, tasks.seen(row) - task.part * kPartKeys);
    at_once = task.num_rows > 1 ? kMostKeys : kWidth;
    const int64_t start = tasks.start(row) + task.part * kPartKeys, padded = (num_keys + at_once - 1) / at_once * at_once + ahead();
    places.resize(padded);
    if constexpr (kIsRounded<P>) scale_places.resize(padded);
    int64_t page = start / s.block_size, slot = start % s.block_size;
    for (int64_t j = 0; j < num_keys; j++) {
      places[j] = pages.at(table[page], slot, task.kv_head);
      if constexpr (kIsRounded<P>) scale_places[j] = pages.scale_at(table[page], slot, task.kv_head);
      if (++slot == s.block_size) page++, slot = 0;
    }
    std::fill(places.begin() + num_keys, places.end(), places[num_keys - 1]);
    if constexpr (kIsRounded<P>) std::fill(scale_places.begin() + num_keys, scale_places.end(), scale_places[num_keys - 1]);
  }

  int64_t ahead() const { return std::max<int64_t>(at_once, 16); }  // keys that are on their way from memory

  void load_queries(const DecodeTask& task, const T* q) {
    const int64_t num_heads = task.heads * group;
    queries.assign(task.num_rows * num_heads * stride(), 0.0f);
    for (int64_t r = 0; r < task.num_rows; r++)
      for (int64_t g = 0; g < num_heads; g++) {
        const T* from = q + task.rows[r] * s.q_stride + (task.kv_head * group + g) * dim();
        float* to = &queries[of(task, r, g) * stride()];
        for (int64_t d = 0; d < dim(); d++) to[d] = load(from[d]) * s.scale;
        if constexpr (kIsSplit) reorder<2, 1>(to);
      }
  }

  void store_out(T* out, float* own, float share) const {
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

  // What is fetched while a block of keys is computed with: some before each pass over some of the query heads, since more at a time would
  // wait for each other, and the pass for all of them. All heads of a token lie together and are fetched together: what reads ahead by
  // itself, as the second cache does, follows addresses that rise without gaps (47 MB of pages out of the caches: 1.4 to 2.5 ms so, 4.8 head by
  // head).
  struct Later {
    const P *k_cache, *v_cache;
    int64_t heads, place, end, share;
  };

  void fetch(const P* cache, int64_t heads, int64_t first, int64_t last) const {
    for (int64_t j = first; j < last; j++)
      for (int64_t d = 0; d < heads * dim(); d += 64 / int64_t(sizeof(P))) __builtin_prefetch(cache + places[j] + d, 0, 2);
  }

  void fetch_share() {
    const int64_t last = std::min(later.place + later.share, later.end);
    fetch(later.k_cache, later.heads, later.place + ahead(), last + ahead());
    fetch(later.v_cache, later.heads, later.place, last);
    later.place = last;
  }

  // Both call with(where the block's scores begin, first query head, how many, keys or values) for each block and head.
  // Keys come block by block, and meanwhile later ones and the values from memory. Values are read head by head, so that the first cache holds
  // what they are added to.
  template <int KEYS, class With> void each_keys(const P* k_cache, const P* v_cache, const DecodeTask& task, const With& with) {
    const int64_t count = task.num_rows * group;
    const int64_t passes = task.heads * ((count + kSums / kStripVectors - 1) / (kSums / kStripVectors));
    fetch(k_cache, task.heads, 0, ahead());
    for (int64_t block = 0; block < num_keys; block += KEYS) {
      later = {k_cache, v_cache, task.heads, block, block + KEYS, (KEYS + passes - 1) / passes};
      for (int64_t h = 0; h < task.heads; h++) with_block<KEYS>(k_cache, block, h, count, with);
    }
  }

  template <int KEYS, class With> void each_values(const P* v_cache, const DecodeTask& task, const With& with) {
    for (int64_t h = 0; h < task.heads; h++)
      for (int64_t block = 0; block < num_keys; block += KEYS) with_block<KEYS>(v_cache, block, h, task.num_rows * group, with);
  }

  template <int KEYS, class With> void with_block(const P* cache, int64_t block, int64_t h, int64_t count, const With& with) {
    // Bringing numbers to fp32 pays for more than one row.
    if constexpr (kInPlace && (!kIsSplit || KEYS == kWidth))
      with(block, h * count, count, find<KEYS>(cache + h * dim(), block));
    else
      with(block, h * count, count, bring<KEYS>(cache, h, block));
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
  template <int MOST, class With> void each_heads(int64_t first, int64_t count, const With& with) {
    for (int64_t g = first, end = first + count; g < end;) {
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

  template <class E, int KEYS> void score(int64_t block, int64_t first, int64_t count, const Found<E, KEYS>& keys) {
    each_heads<kSums / 4>(first, count, [&]<int HEADS>(std::integral_constant<int, HEADS>, int64_t g) {
      fetch_share();
      score<HEADS>(block, g, keys);
    });
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
          four(&scores[(g + h) * width() + block + first + 4 * i]) = sum_four(own[0], own[1], own[2], own[3]);
        });
      });
    }
  }

  // A head's scores become probabilities but for the division by their sum, those past the last key 0.
  void soften(int64_t head) {
    float* own = &scores[head * width()];
    if (s.softcap > 0)
      for (int64_t j = 0; j < width(); j += kWidth) loose(own + j) = s.softcap * tanh_of(loose(own + j) / s.softcap);
    std::fill(own + num_keys, own + width(), -std::numeric_limits<float>::infinity());
    Vec most = loose(own);
    for (int64_t j = kWidth; j < width(); j += kWidth) most = largest(loose(own + j), most);
    float top = most[0], total = 0;
    for (int i = 1; i < kWidth; i++) top = std::max(top, most[i]);
    // Of a part that has no probability at all, since its scores are too low for a float, nothing is left.
    const float base = top == -std::numeric_limits<float>::infinity() ? 0 : top;
    Vec sum = {};
    for (int64_t j = 0; j < width(); j += kWidth) {
      loose(own + j) = exp2_negative((loose(own + j) - base) * kLog2e);
      sum += loose(own + j);
    }
    for (int i = 0; i < kWidth; i++) total += sum[i];
    tops[head] = top, totals[head] = total;
  }

  template <class E, int KEYS> void add_values(int64_t block, int64_t first, int64_t count, const Found<E, KEYS>& values) {
    for (int64_t strip = 0; strip < stride(); strip += kStrip)
      each_heads<kSums / kStripVectors>(
          first, count, [&]<int HEADS>(std::integral_constant<int, HEADS>, int64_t g) { add_strip<HEADS>(block, g, strip, values); });
  }

  template <int HEADS, class E, int KEYS> void add_strip(int64_t block, int64_t g, int64_t strip, const Found<E, KEYS>& values) {
    Vec own[HEADS][kStripVectors];
    float* to = &sums[g * stride() + strip];
    const int64_t apart = width();  // of two heads
    const float* probs = &scores[g * apart + block];
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
          own[h][2 * v] += prob[h * apart] * pair.first;
          own[h][2 * v + 1] += prob[h * apart] * pair.second;
        });
      });
    each_sum([](Vec& sum, LooseVec& kept) HEADWAY_INLINE { kept = sum; });
  }

  const DecodeShape& s;
  const int64_t group;                // query heads to a key-value head
  int64_t num_keys = 0, at_once = 0;  // of the part; of a block
  std::vector<int64_t> places;        // of the part's keys, whole blocks and ahead() more
  std::vector<int64_t> scale_places;  // likewise, of pages in int8
  Later later{};
  std::vector<float> queries, sums;         // [query heads][stride], in the order of numbers()
  std::vector<float> scores, tops, totals;  // [query heads][width], [query heads]
  std::vector<float> copies;                // [kMostKeys][stride], where keys are not read in place
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
