// Attention of prefill chunks over the cache pages: flash attention with the softmax carried from key block to key block.
//
// A task is a tile of one row's queries for one key-value head. Its lanes are (query, query head of the group), in panels of
// kPanel lanes; everything is kept transposed, with the lanes innermost:
//
//   scores [key][lane] = keys [key][dim] x queries [dim][lane]      softmax down the keys, one lane per vector element
//   sums   [dim][lane] += values [key][dim]^T x probs [key][lane]
//
// So keys and values are used as the pages hold them, one number at a time against vectors of lanes, the maximum and the sum of
// the softmax need no reduction across a vector, and the probabilities come out as the second product wants them. Only the
// queries and the output are transposed, once a tile.
//
// Key blocks start at multiples of kBlock whatever the tile, and hidden keys add exact zeros: a query's result has the same bits
// in any chunk, tile and batch. With AVX512-BF16 products with pages in bf16 are of pairs (Pair), and queries and probabilities are
// rounded to bf16; so it is with pages in int8, whose numbers are multiplied by their scales when a block is loaded.

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "common.h"
#include "pages.h"
#include "vectors.h"

namespace {

using namespace headway;

constexpr int kBlock = 64;               // keys
constexpr int64_t kMaxScaled = 128;      // numbers of a head that are scaled at a time
constexpr int kMaxPanels = 64 / kWidth;  // up to 192 lanes a tile
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct PrefillShape {
  int64_t rows, q_heads, kv_heads, dim, block_size, table_width, q_stride, q_head_stride, block_stride, slot_stride, head_stride, window;
  float scale, softcap;
};

struct Tile {
  int64_t row, kv_head, start, count;  // queries start .. start + count of the row
  int64_t num_keys;
};

// One thread's memory, and the steps of a tile. P: the type of the pages. DIM fixes the head size for the compiler; 0: any.
template <class T, class P, int DIM> class Attention {
  using Word = WordOf<P>;

 public:
  Attention(const PrefillShape& shape, int64_t panels)
      : s(shape),
        queries(panels * depth() * kPanel),
        sums(panels * height() * kPanel),
        tops(panels * kPanel),
        totals(panels * kPanel),
        positions(panels * kPanel),
        keys(kBlock * depth()),
        values(kBlock / kStep<Word> * height()),
        scores(kBlock * kPanel),
        rows(kWidth * stride()) {}

  void run(const Tile& tile, T* out, const T* q, const P* k_cache, const P* v_cache, const int32_t* table) {
    const int64_t first = tile.num_keys - tile.count;  // position of the tile's first query
    const int64_t panels = load_queries(tile, q, first);
    const int64_t seen = s.window > 0 ? std::max<int64_t>(0, first - s.window + 1) : 0;
    for (int64_t block = seen / kBlock * kBlock; block < tile.num_keys; block += kBlock) {
      load_block(block, std::min<int64_t>(kBlock, tile.num_keys - block), tile.kv_head, k_cache, v_cache, table);
      for (int64_t panel = 0; panel < panels; panel++) attend(panel, block);
    }
    store_out(tile, out);
  }

 private:
  // Functions, which are constants where DIM is one: distances in the products' code then, instead of registers.
  int64_t dim() const { return DIM ? DIM : s.dim; }
  int64_t depth() const { return (dim() + kStep<Word> - 1) / kStep<Word>; }     // Words in a query or key
  int64_t height() const { return (dim() + kRows - 1) / kRows * kRows; }       // dim, padded to whole products
  int64_t stride() const { return (dim() + kWidth - 1) / kWidth * kWidth; }    // dim, padded to whole vectors

  int64_t load_queries(const Tile& tile, const T* q, int64_t first) {
    const int64_t group = s.q_heads / s.kv_heads, lanes = tile.count * group, panels = (lanes + kPanel - 1) / kPanel;
    for (int64_t lane = 0; lane < panels * kPanel; lane++) {
      const int64_t used = std::min(lane, lanes - 1), query = used / group;  // lanes to spare repeat the last one
      positions[lane] = int32_t(first + query);
      pack(rows + lane % kWidth * stride(), q + query * s.q_stride + (tile.kv_head * group + used % group) * s.q_head_stride);
      if (lane % kWidth < kWidth - 1) continue;
      Word* to = queries + lane / kPanel * depth() * kPanel + lane % kPanel / kWidth * kWidth;
      for (int64_t d = 0; d < depth(); d += kWidth) {
        Vec x[kWidth];
        for (int i = 0; i < kWidth; i++) x[i] = vec(rows + i * stride() + d);
        transpose(x);
        for (int64_t i = 0; i < std::min<int64_t>(kWidth, depth() - d); i++) vec(to + (d + i) * kPanel) = x[i];
      }
    }
    std::fill(sums + 0, sums + panels * height() * kPanel, 0.0f);
    std::fill(totals + 0, totals + panels * kPanel, 0.0f);
    std::fill(tops + 0, tops + panels * kPanel, -kInfinity);
    return panels;
  }

  template <class From> void pack(Word* to, const From* from) const {
    constexpr int kNumbers = kStep<Word>;
    if constexpr (kNumbers == 2 && DIM > 0 && std::is_same_v<From, bf16>) {
      std::memcpy(to, from, DIM * sizeof(From));  // pairs lie as the numbers do
      return;
    }
    for (int64_t d = 0; d < dim() / kNumbers; d++) to[d] = word<Word>(from[d * kNumbers], from[d * kNumbers + kNumbers - 1]);
    if (DIM == 0 && dim() % kNumbers) to[depth() - 1] = word<Word>(from[dim() - 1], From{});
  }

  void pack_scaled(Word* to, const int8_t* from, float scale) const {
    float row[kMaxScaled + 1];
    for (int64_t start = 0; start < dim(); start += kMaxScaled) {
      const int64_t count = std::min(dim() - start, kMaxScaled);
      for (int64_t d = 0; d < count; d++) row[d] = load(from[start + d]) * scale;
      if (count % 2) row[count] = 0;  // of an odd number the last one has no second
      for (int64_t d = 0; d < (count + kStep<Word> - 1) / kStep<Word>; d++)
        to[start / kStep<Word> + d] = word<Word>(row[d * kStep<Word>], row[d * kStep<Word> + kStep<Word> - 1]);
    }
  }

  // Copies count keys and values; the rest of the block becomes zeros, for what lies in the pages there may be anything.
  void load_block(int64_t block, int64_t count, int64_t kv_head, const P* k_cache, const P* v_cache, const int32_t* table) {
    int64_t page = block / s.block_size, slot = block % s.block_size;
    int64_t place[kBlock], scale_place[kIsRounded<P> ? kBlock : 1];
    for (int64_t j = 0; j < count; j++) {
      place[j] = table[page] * s.block_stride + slot * s.slot_stride + kv_head * s.head_stride;
      if constexpr (kIsRounded<P>) scale_place[j] = Pages<P>{s.block_size, s.kv_heads, s.dim}.scale_at(table[page], slot, kv_head);
      if (++slot == s.block_size) page++, slot = 0;
    }
    for (int64_t j = 0; j < count; j++) {
      if constexpr (kIsRounded<P>)
        pack_scaled(keys + j * depth(), k_cache + place[j], load_scale(k_cache, scale_place[j]));
      else
        pack(keys + j * depth(), k_cache + place[j]);
    }
    for (int64_t j = 0; j < count; j += kStep<Word>) {
      const int64_t second = std::min(j + 1, count - 1);
      const P *from = v_cache + place[j], *next = v_cache + place[second];
      Word* to = values + j / kStep<Word> * height();
      if constexpr (kIsRounded<P>) {
        // Of a key without a second one the other number is 0.
        const float scale = load_scale(v_cache, scale_place[j]), other = j + 1 < count ? load_scale(v_cache, scale_place[second]) : 0.0f;
        for (int64_t d = 0; d < dim(); d++) to[d] = word<Word>(load(from[d]) * scale, load(next[d]) * other);
      } else if (j + 1 < count)
        for (int64_t d = 0; d < dim(); d++) to[d] = word<Word>(from[d], next[d]);
      else
        for (int64_t d = 0; d < dim(); d++) to[d] = word<Word>(from[d], P{});
    }
    const int64_t filled = (count + kStep<Word> - 1) / kStep<Word>;
    std::fill(keys + count * depth(), keys + kBlock * depth(), Word{});
    std::fill(values + filled * height(), values + kBlock / kStep<Word> * height(), Word{});
  }

  void attend(int64_t panel, int64_t block) {
    const int64_t first = positions[panel * kPanel], last = positions[panel * kPanel + kPanel - 1];
    const int64_t seen = std::min<int64_t>(kBlock, last + 1 - block);
    if (seen <= 0 || (s.window > 0 && block + kBlock <= first - s.window + 1)) return;
    const int64_t count = (seen + kRows - 1) / kRows * kRows;
    score(panel, count);
    if (s.softcap > 0) cap(count);
    if (block + count - 1 > first || (s.window > 0 && block <= last - s.window)) hide(panel, block, count);
    Vec fade[kVectors];
    soften(panel, count, fade);
    add_values(panel, count, fade);
  }

  void score(int64_t panel, int64_t count) {
    for (int64_t j = 0; j < count; j += kRows) {
      Vec dots[kRows][kVectors] = {};
      multiply<Word>(dots, keys + j * depth(), depth(), 1, queries + panel * depth() * kPanel, depth());
      for (int m = 0; m < kRows; m++)
        for (int v = 0; v < kVectors; v++) vec(scores + (j + m) * kPanel + v * kWidth) = dots[m][v];
    }
  }

  // From here on scores are without the factor s.scale if there is no cap.
  void cap(int64_t count) {
    for (int64_t i = 0; i < count * kPanel; i += kWidth) vec(scores + i) = s.softcap * tanh_of(vec(scores + i) * (s.scale / s.softcap));
  }

  void hide(int64_t panel, int64_t block, int64_t count) {
    for (int v = 0; v < kVectors; v++) {
      const IntVec position = ints(positions + panel * kPanel + v * kWidth);
      const IntVec oldest = s.window > 0 ? position - int32_t(std::min<int64_t>(s.window, INT32_MAX) - 1) : position & 0;
      for (int64_t j = 0; j < count; j++) {
        const int32_t key = int32_t(block + j);
        Vec& score = vec(scores + j * kPanel + v * kWidth);
        score = ((position < key) | (oldest > key)) ? spread(-kInfinity) : score;
      }
    }
  }

  // Scores become probabilities, up to the division by the total. fade: the factor of what was summed before this block.
  void soften(int64_t panel, int64_t count, Vec (&fade)[kVectors]) {
    const float factor = s.softcap > 0 ? kLog2e : s.scale * kLog2e;
    for (int v = 0; v < kVectors; v++) {
      float* own = scores + v * kWidth;
      Vec& top = vec(tops + panel * kPanel + v * kWidth);
      Vec& total = vec(totals + panel * kPanel + v * kWidth);
      Vec now = top;
      for (int64_t j = 0; j < count; j++) now = largest(vec(own + j * kPanel), now);
      const Vec base = now == -kInfinity ? spread(0) : now;  // nothing seen yet: all probabilities are 0
      fade[v] = exp2_negative((top - base) * factor);
      top = now;
      Vec sum = total * fade[v];
      for (int64_t j = 0; j < count; j += 2) {
        const Vec p0 = exp2_negative((vec(own + j * kPanel) - base) * factor);
        const Vec p1 = exp2_negative((vec(own + (j + 1) * kPanel) - base) * factor);
        sum = sum + p0 + p1;
        store_probs(own, j, p0, p1);
      }
      total = sum;
    }
  }

  // In place: a row of pairs lies where scores were that have been read.
  static void store_probs(float* own, int64_t j, Vec p0, Vec p1) {
#ifdef __AVX512BF16__
    if constexpr (kStep<Word> == 2) {
      const auto interleave = [] {
        struct Order {
          alignas(64) uint16_t lane[32];
        } order{};
        for (uint16_t i = 0; i < 32; i++) order.lane[i] = i / 2 + i % 2 * 16;
        return order;
      };
      static constexpr auto order = interleave();
      const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)p1, (__m512)p0);
      *reinterpret_cast<__m512i*>(own + j / 2 * kPanel) = _mm512_permutexvar_epi16(*reinterpret_cast<const __m512i*>(order.lane), both);
      return;
    }
#endif
    vec(own + j * kPanel) = p0;
    vec(own + (j + 1) * kPanel) = p1;
  }

  void add_values(int64_t panel, int64_t count, const Vec (&fade)[kVectors]) {
    const Word* probs = reinterpret_cast<const Word*>(static_cast<float*>(scores));
    for (int64_t d = 0; d < height(); d += kRows) {
      float* to = sums + (panel * height() + d) * kPanel;
      Vec own[kRows][kVectors];
      for (int m = 0; m < kRows; m++)
        for (int v = 0; v < kVectors; v++) own[m][v] = vec(to + m * kPanel + v * kWidth) * fade[v];
      multiply<Word>(own, values + d, 1, height(), probs, count / kStep<Word>);
      for (int m = 0; m < kRows; m++)
        for (int v = 0; v < kVectors; v++) vec(to + m * kPanel + v * kWidth) = own[m][v];
    }
  }

  void store_out(const Tile& tile, T* out) {
    const int64_t group = s.q_heads / s.kv_heads, lanes = tile.count * group;
    float* row = reinterpret_cast<float*>(static_cast<Word*>(rows));
    for (int64_t lane = 0; lane < lanes; lane++) {
      if (lane % kWidth == 0) {
        const Vec share = 1.0f / vec(totals + lane);
        float* from = sums + lane / kPanel * height() * kPanel + lane % kPanel;
        for (int64_t d = 0; d < dim(); d += kWidth) {
          Vec x[kWidth];
          for (int64_t i = 0; i < kWidth; i++) x[i] = vec(from + std::min(d + i, height() - 1) * kPanel) * share;
          transpose(x);
          for (int i = 0; i < kWidth; i++) vec(row + i * stride() + d) = x[i];
        }
      }
      T* to = out + (lane / group * s.q_heads + tile.kv_head * group + lane % group) * dim();
      for (int64_t d = 0; d < dim(); d++) to[d] = store<T>(row[lane % kWidth * stride() + d]);
    }
  }

  const PrefillShape& s;
  Buffer<Word> queries;        // [panels][depth][kPanel]
  Buffer<float> sums;          // [panels][height][kPanel]
  Buffer<float> tops, totals;  // [panels][kPanel]: largest score so far, before any factor; sum of probabilities
  Buffer<int32_t> positions;   // [panels][kPanel]
  Buffer<Word> keys;           // [kBlock][depth]
  Buffer<Word> values;         // [kBlock / kStep][height]
  Buffer<float> scores;        // [kBlock][kPanel]
  Buffer<Word> rows;           // [kWidth][stride]: queries or results, one by one
};

// Tiles of all rows, the longest first. Short work is cut finer, that every thread gets some.
std::vector<Tile> cut(const PrefillShape& s, const int32_t* lengths, const int32_t* starts, int64_t panels) {
  const int64_t size = std::max<int64_t>(1, panels * kPanel / (s.q_heads / s.kv_heads));
  std::vector<Tile> tiles;
  for (int64_t row = 0; row < s.rows; row++) {
    const int64_t queries = starts[row + 1] - starts[row];
    for (int64_t start = 0; start < queries; start += size) {
      const int64_t count = std::min(size, queries - start);
      for (int64_t head = 0; head < s.kv_heads; head++) tiles.push_back({row, head, start, count, lengths[row] - queries + start + count});
    }
  }
  std::stable_sort(tiles.begin(), tiles.end(), [](const Tile& a, const Tile& b) { return a.count * a.num_keys > b.count * b.num_keys; });
  return tiles;
}

template <class T, class P, int DIM>
void attend_all(T* out, const T* q, const P* k_cache, const P* v_cache, const int32_t* tables, const int32_t* lengths,
                const int32_t* starts, const PrefillShape& s) {
  int64_t panels = kMaxPanels;
  std::vector<Tile> tiles = cut(s, lengths, starts, panels);
  while (panels > 1 && int64_t(tiles.size()) < 4 * omp_get_max_threads()) tiles = cut(s, lengths, starts, panels /= 2);
  // A tile is at least one query, whose heads may need more lanes than asked for.
  panels = std::max(panels, (s.q_heads / s.kv_heads + kPanel - 1) / kPanel);
#pragma omp parallel if (tiles.size() > 1)
  {
    Attention<T, P, DIM> attention(s, panels);
#pragma omp for schedule(dynamic, 1)
    for (size_t i = 0; i < tiles.size(); i++) {
      const Tile& tile = tiles[i];
      const int64_t token = starts[tile.row] + tile.start;
      attention.run(tile, out + token * s.q_heads * s.dim, q + token * s.q_stride, k_cache, v_cache, tables + tile.row * s.table_width);
    }
  }
}

template <class T, class P>
void prefill_attention(T* out, const T* q, const P* k_cache, const P* v_cache, const int32_t* tables, const int32_t* lengths,
                       const int32_t* starts, const PrefillShape& s) {
  if (s.dim == 64)
    attend_all<T, P, 64>(out, q, k_cache, v_cache, tables, lengths, starts, s);
  else if (s.dim == 128)
    attend_all<T, P, 128>(out, q, k_cache, v_cache, tables, lengths, starts, s);
  else
    attend_all<T, P, 0>(out, q, k_cache, v_cache, tables, lengths, starts, s);
}

}  // namespace

extern "C" void prefill_attention_f32(float* out, const float* q, const float* k_cache, const float* v_cache, const int32_t* tables,
                                      const int32_t* lengths, const int32_t* starts, const PrefillShape* shape) {
  prefill_attention<float, float>(out, q, k_cache, v_cache, tables, lengths, starts, *shape);
}

extern "C" void prefill_attention_f32_pages_bf16(float* out, const float* q, const bf16* k_cache, const bf16* v_cache,
                                                 const int32_t* tables, const int32_t* lengths, const int32_t* starts,
                                                 const PrefillShape* shape) {
  prefill_attention<float, bf16>(out, q, k_cache, v_cache, tables, lengths, starts, *shape);
}

extern "C" void prefill_attention_bf16(bf16* out, const bf16* q, const bf16* k_cache, const bf16* v_cache, const int32_t* tables,
                                       const int32_t* lengths, const int32_t* starts, const PrefillShape* shape) {
  prefill_attention<bf16, bf16>(out, q, k_cache, v_cache, tables, lengths, starts, *shape);
}

extern "C" void prefill_attention_f32_pages_int8(float* out, const float* q, const int8_t* k_cache, const int8_t* v_cache,
                                                 const int32_t* tables, const int32_t* lengths, const int32_t* starts,
                                                 const PrefillShape* shape) {
  prefill_attention<float, int8_t>(out, q, k_cache, v_cache, tables, lengths, starts, *shape);
}

extern "C" void prefill_attention_bf16_pages_int8(bf16* out, const bf16* q, const int8_t* k_cache, const int8_t* v_cache,
                                                  const int32_t* tables, const int32_t* lengths, const int32_t* starts,
                                                  const PrefillShape* shape) {
  prefill_attention<bf16, int8_t>(out, q, k_cache, v_cache, tables, lengths, starts, *shape);
}
