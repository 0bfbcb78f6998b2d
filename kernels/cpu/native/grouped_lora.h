// Low-rank updates whose A and B are rounded to 8 bits, of rows whose inputs are.
//
// A is a grouped weight whose outputs are the ranks. What comes out of it is rounded to 8 bits, 16 ranks with one scale, and multiplied
// with B, which has a scale for 16 ranks of each output. A slot, as kernels/cpu/grouped_lora.py makes it, R of its own ranks:
//
//     A: blocks of grouped.h, ceil(R / 16) tiles
//     B: scales (bf16) [ceil(out / 16)][ceil(R / 16)][16], to a multiple of 64 bytes
//        values [ceil(out / 16)][ceil(R / 4)][16 outputs][4 ranks], with 128 added
#pragma once

#include <cstring>
#include <memory>

#include "grouped.h"

namespace headway {

// Which rows have which adapter: a tile is a slot (below 0: none) and the first and last + 1 entry of `tokens` that have it.
struct LoraRows {
  const int32_t *tokens, *tiles;
  int64_t num_tiles;
};

constexpr int kLoraRows = 32;  // entries a tile, at most

// The adapters of one part of a linear layer, which adds to the outputs [first, first + out).
struct GroupedLoraPart {
  const uint8_t* slots;
  const int32_t* ranks;  // by slot; 0: nothing there
  int64_t slot_bytes, first, out;
};

struct GroupedLora {
  const GroupedLoraPart* parts;
  int64_t num_parts, in, max_rank;

  int64_t groups() const { return (in + kGroup - 1) / kGroup; }
};

inline int64_t tiles_of(int64_t count) { return (count + kTile - 1) / kTile; }

// What a tile's rows are between A and B: [rows][tiles of ranks], of which each has 16 values, a scale and the sum of the values.
struct RoundedRanks {
  int8_t* values;
  float* scale;
  int32_t* sum;
  int64_t tiles;

  static int64_t bytes(int64_t max_rank) { return kLoraRows * tiles_of(max_rank) * (kTile + 8); }
  RoundedRanks(void* memory, int64_t max_rank, int64_t rank)
      : values(static_cast<int8_t*>(memory)),
        scale(reinterpret_cast<float*>(values + kLoraRows * tiles_of(max_rank) * kTile)),
        sum(reinterpret_cast<int32_t*>(scale + kLoraRows * tiles_of(max_rank))),
        tiles(tiles_of(rank)) {}

  void round(int64_t row, int64_t tile, const float* x) const {
    float largest = 1e-20f;
    for (int i = 0; i < kTile; i++) largest = std::max(largest, std::abs(x[i]));
    const float inverse = 127.0f / largest;
    const int64_t at = row * tiles + tile;
    int32_t total = 0;
    for (int i = 0; i < kTile; i++) {
      const int32_t rounded = std::bit_cast<int32_t>(x[i] * inverse + 12582912.0f) - 0x4b400000;  // as round_row
      values[at * kTile + i] = int8_t(rounded);
      total += rounded;
    }
    scale[at] = largest / 127.0f, sum[at] = total;
  }
};

struct ExpandWeights {
  const bf16* scales;
  const uint8_t* values;
  int64_t tiles, quads;  // of ranks

  ExpandWeights(const uint8_t* b, int64_t rank, int64_t out) : tiles(tiles_of(rank)), quads((rank + 3) / 4) {
    scales = reinterpret_cast<const bf16*>(b);
    values = b + (tiles_of(out) * tiles * kTile * 2 + 63) / 64 * 64;
  }
};

#if defined(__AVX512VNNI__)

inline int32_t quad_at(const int8_t* values, int64_t index) { return quad(values + 4 * index); }

// Adds 16 outputs, or the first of them, to ROWS rows.
template <int ROWS>
inline void expand_tile(float* const* to, int64_t count, const ExpandWeights& b, int64_t tile, const RoundedRanks& x, int64_t row) {
  const uint8_t* values = b.values + tile * b.quads * 64;
  __m512 sums[ROWS];
  for (int r = 0; r < ROWS; r++) sums[r] = _mm512_setzero_ps();
  for (int64_t i = 0; i < b.tiles; i++) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b.scales + (tile * b.tiles + i) * kTile));
    const __m512 scale = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
    const int8_t* own[ROWS];
    __m512i dots[ROWS];
    for (int r = 0; r < ROWS; r++) {
      const int64_t at = (row + r) * x.tiles + i;
      own[r] = x.values + at * kTile;
      dots[r] = _mm512_set1_epi32(-128 * x.sum[at]);
    }
    auto add = [&](int64_t quad) HEADWAY_INLINE {
      const __m512i four = _mm512_loadu_si512(values + quad * 64);
      for (int r = 0; r < ROWS; r++) dots[r] = _mm512_dpbusd_epi32(dots[r], four, _mm512_set1_epi32(quad_at(own[r], quad)));
    };
    const int64_t quads = std::min<int64_t>(b.quads - 4 * i, 4);
    if (quads == 4)
      each<4>(add);
    else
      for (int64_t quad = 0; quad < quads; quad++) add(quad);
    values += quads * 64;
    for (int r = 0; r < ROWS; r++) {
      const __m512 factor = _mm512_mul_ps(scale, _mm512_set1_ps(x.scale[(row + r) * x.tiles + i]));
      sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r]), factor, sums[r]);
    }
  }
  const __mmask16 mask = __mmask16((1u << count) - 1);
  for (int r = 0; r < ROWS; r++)
    _mm512_mask_storeu_ps(to[r], mask, _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to[r]), sums[r]));
}

#else

// Not inlined: see add_group.
[[gnu::noinline]] inline void add_ranks(float* sums, const int32_t* dots, const bf16* scale, float x_scale) {
  for (int n = 0; n < kTile; n++) sums[n] += float(dots[n]) * (load(scale[n]) * x_scale);
}

template <int ROWS>
inline void expand_tile(float* const* to, int64_t count, const ExpandWeights& b, int64_t tile, const RoundedRanks& x, int64_t row) {
  for (int r = 0; r < ROWS; r++) {
    const uint8_t* values = b.values + tile * b.quads * 64;
    float sums[kTile] = {};
    for (int64_t i = 0; i < b.tiles; i++) {
      const int64_t at = (row + r) * x.tiles + i, quads = std::min<int64_t>(b.quads - 4 * i, 4);
      int32_t dots[kTile];
      std::fill(dots, dots + kTile, -128 * x.sum[at]);
      for (int64_t quad = 0; quad < quads; quad++, values += 64) {
        const int8_t* four = x.values + at * kTile + 4 * quad;
        for (int n = 0; n < kTile; n++) {
          uint32_t bytes;
          std::memcpy(&bytes, values + 4 * n, 4);
          for (int j = 0; j < 4; j++) dots[n] += int32_t(bytes >> 8 * j & 255) * four[j];
        }
      }
      add_ranks(sums, dots, b.scales + (tile * b.tiles + i) * kTile, x.scale[at]);
    }
    for (int64_t n = 0; n < count; n++) to[r][n] += sums[n];
  }
}

#endif

// out[r][0 .. out) += B x of `rows` rows. `next`: what to fetch from memory meanwhile.
inline void expand(float* const* out, const uint8_t* b, int64_t rank, int64_t size, const RoundedRanks& x, int64_t rows, NextBytes next) {
  const ExpandWeights weights(b, rank, size);
  for (int64_t tile = 0; tile < tiles_of(size); tile++) {
    next.fetch();
    const int64_t count = std::min<int64_t>(kTile, size - tile * kTile);
    float* to[kRowsAtOnce];
    int64_t row = 0;
    auto pass = [&]<int ROWS>(std::integral_constant<int, ROWS>) {
      for (int r = 0; r < ROWS; r++) to[r] = out[row + r] + tile * kTile;
      expand_tile<ROWS>(to, count, weights, tile, x, row);
      row += ROWS;
    };
    while (rows - row >= kRowsAtOnce) pass(std::integral_constant<int, kRowsAtOnce>());
    if (rows - row >= 4) pass(std::integral_constant<int, 4>());
    if (rows - row >= 2) pass(std::integral_constant<int, 2>());
    if (rows - row >= 1) pass(std::integral_constant<int, 1>());
  }
}

// out[token] += B[slot] A[slot] x[token], shared by the threads of the region that it is called in, which wait for each other at its end.
// bring(rounded, entry, token): puts a token's inputs, rounded, where its tile has them.
template <class Bring>
inline void add_grouped_lora(float* out, int64_t stride, const GroupedLora& lora, const LoraRows& step, const Bring& bring) {
  const int64_t groups = lora.groups(), width = tiles_of(lora.max_rank) * kTile;
  const int64_t input_bytes = RoundedRows::bytes(kLoraRows, groups);
  const std::unique_ptr<uint8_t[]> memory(new uint8_t[input_bytes + RoundedRanks::bytes(lora.max_rank)]);
  const std::unique_ptr<float[]> small(new float[kLoraRows * width]());
  const RoundedRows inputs(memory.get(), kLoraRows, groups);
#pragma omp for schedule(static)
  for (int64_t tile = 0; tile < step.num_tiles; tile++) {
    const int64_t slot = step.tiles[3 * tile], first = step.tiles[3 * tile + 1], rows = step.tiles[3 * tile + 2] - first;
    if (slot < 0) continue;
    const int64_t following = tile + 1 < step.num_tiles ? std::max(step.tiles[3 * tile + 3], 0) : slot;
    for (int64_t r = 0; r < rows; r++) bring(inputs, r, step.tokens[first + r]);
    for (int64_t p = 0; p < lora.num_parts; p++) {
      const GroupedLoraPart &part = lora.parts[p], &next_part = lora.parts[(p + 1) % lora.num_parts];
      const int64_t rank = part.ranks[slot], tiles = tiles_of(rank);
      if (rank == 0) continue;
      const uint8_t* a = part.slots + slot * part.slot_bytes;
      const GroupedWeight shrink{a, lora.in, rank, 8};
      const RoundedRanks ranks(memory.get() + input_bytes, lora.max_rank, rank);
      for (int64_t i = 0; i < tiles; i++) store_rows<8>(small.get(), width, shrink, nullptr, i, inputs, rows);
      for (int64_t r = 0; r < rows; r++) {
        float* own = small.get() + r * width;
        std::fill(own + rank, own + tiles * kTile, 0.0f);
        for (int64_t i = 0; i < tiles; i++) ranks.round(r, i, own + i * kTile);
      }
      float* to[kLoraRows];
      for (int64_t r = 0; r < rows; r++) to[r] = out + step.tokens[first + r] * stride + part.first;
      const int64_t next_slot = p + 1 < lora.num_parts ? slot : following;
      const int64_t next_bytes = tiles_of(next_part.ranks[next_slot]) * groups * kBlockBytes<8>;
      expand(to, a + tiles * groups * kBlockBytes<8>, rank, part.out, ranks, rows,
             NextBytes(next_part.slots + next_slot * next_part.slot_bytes, next_bytes, tiles_of(part.out)));
    }
  }
}

}  // namespace headway
