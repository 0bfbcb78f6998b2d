// The product of grouped.h for many rows, with the same operations in the same order and so the same bits.
//
// Three tiles' weights are brought to bytes and their factors to fp32 once, for all rows of a panel; each activation is then loaded for
// three products, which leaves the units that multiply as the limit. Of K as much is brought at a time as stays in a core's cache beside
// the rows; sums wait in the output meanwhile.
#pragma once

#include <memory>

#include "grouped.h"

namespace headway {

// Shares of rows, of which there are some, as even as whole eights allow.
struct Panels {
  int64_t rows, count, height;

  Panels(int64_t rows, int64_t most)
      : rows(rows), count((rows + most - 1) / most), height(RoundedRows::padded((rows + count - 1) / count)) {}
  int64_t size(int64_t first) const { return std::min(height, rows - first); }
};

#if defined(__AVX512VNNI__)

constexpr int kWideRows = 64;      // from as many on bringing weights to bytes pays (32 and 48 rows: within 5% of grouped.h)
constexpr int kWideTiles = 3;      // tiles by rows whose sums stay in registers
constexpr int kWideRowsAtOnce = 4;
constexpr int kWidePanel = 256;    // rows whose bytes stay in a core's cache
constexpr int kWideGroups = 64;    // likewise of the weights

// Some groups of kWideTiles tiles: bytes [groups][kQuads][kWideTiles][64], scales and offsets [groups][2][kWideTiles][kTile].
struct WideTiles {
  alignas(64) uint8_t bytes[kWideGroups * kQuads * kWideTiles * 64];
  alignas(64) float factors[kWideGroups * 2 * kWideTiles * kTile];

  template <int BITS> void bring(const GroupedWeight& w, int64_t tile, int64_t group, int64_t count) {
    const __m512i low = _mm512_set1_epi8(15);
    for (int t = 0; t < kWideTiles; t++) {
      const uint8_t* block = w.blocks + ((tile + t) * w.groups() + group) * kBlockBytes<BITS>;
      for (int64_t g = 0; g < count; g++, block += kBlockBytes<BITS>) {
        const __m256i *scales = reinterpret_cast<const __m256i*>(block), *offsets = scales + 1;
        float* factor = factors + (g * 2 * kWideTiles + t) * kTile;
        _mm512_store_ps(factor, _mm512_cvtph_ps(_mm256_loadu_si256(scales)));
        _mm512_store_ps(factor + kWideTiles * kTile, _mm512_cvtph_ps(_mm256_loadu_si256(offsets)));
        uint8_t* to = bytes + (g * kQuads * kWideTiles + t) * 64;
        for (int j = 0; j < BITS; j++) {
          const __m512i four = _mm512_loadu_si512(block + 64 + 64 * j);
          _mm512_store_si512(to + j * kWideTiles * 64, BITS == 4 ? _mm512_and_si512(four, low) : four);
          if constexpr (BITS == 4)
            _mm512_store_si512(to + (j + 4) * kWideTiles * 64, _mm512_and_si512(_mm512_srli_epi16(four, 4), low));
        }
      }
    }
  }
};

// Adds `count` groups, of x those from `group` on, to out[r][0 .. 47], whose rows are `stride` apart; the first groups begin with 0.
inline void add_wide(float* out, int64_t stride, const WideTiles& w, const RoundedRows& x, int64_t group, int64_t count) {
  constexpr int T = kWideTiles, R = kWideRowsAtOnce;
  __m512 sums[R][T];
  each<R * T>([&](auto i) HEADWAY_INLINE {
    sums[i / T][i % T] = group == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(out + i / T * stride + i % T * kTile);
  });
  for (int64_t g = 0; g < count; g++) {
    const int64_t at = (group + g) * kRowsAtOnce;
    const int8_t* values = x.values + at * kGroup;
    const uint8_t* bytes = w.bytes + g * kQuads * T * 64;
    const float* factors = w.factors + g * 2 * T * kTile;
    __m512i dots[R][T];
    each<R * T>([&](auto i) HEADWAY_INLINE { dots[i / T][i % T] = _mm512_setzero_si512(); });
#pragma GCC unroll 8
    for (int j = 0; j < kQuads; j++) {
      __m512i weights[T];
      each<T>([&](auto t) HEADWAY_INLINE { weights[t] = _mm512_load_si512(bytes + (j * T + t) * 64); });
      each<R>([&](auto r) HEADWAY_INLINE {
        const __m512i four = _mm512_set1_epi32(quad(values + r * kGroup + 4 * j));
        each<T>([&](auto t) HEADWAY_INLINE { dots[r][t] = _mm512_dpbusd_epi32(dots[r][t], weights[t], four); });
      });
    }
    each<R>([&](auto r) HEADWAY_INLINE {
      const __m512 scale = _mm512_set1_ps(x.scale[at + r]), sum = _mm512_set1_ps(x.sum[at + r]);
      each<T>([&](auto t) HEADWAY_INLINE {
        const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[r][t]), _mm512_load_ps(factors + t * kTile));
        sums[r][t] = _mm512_fmadd_ps(product, scale, sums[r][t]);
        sums[r][t] = _mm512_fmadd_ps(_mm512_load_ps(factors + (T + t) * kTile), sum, sums[r][t]);
      });
    });
  }
  each<R * T>([&](auto i) HEADWAY_INLINE { _mm512_storeu_ps(out + i / T * stride + i % T * kTile, sums[i / T][i % T]); });
}

// Rows `first` to `first + rows` (whole fours) of x times kWideTiles whole tiles.
template <int BITS>
inline void multiply_wide(float* out, const GroupedWeight& w, const float* bias, int64_t tile, const RoundedRows& x, int64_t first,
                          int64_t rows, WideTiles& wide) {
  float* to = out + first * w.out + tile * kTile;
  for (int64_t group = 0; group < w.groups(); group += kWideGroups) {
    const int64_t count = std::min<int64_t>(kWideGroups, w.groups() - group);
    wide.bring<BITS>(w, tile, group, count);
    for (int64_t r = 0; r < rows; r += kWideRowsAtOnce) add_wide(to + r * w.out, w.out, wide, x.from(first + r), group, count);
  }
  if (bias == nullptr) return;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t n = 0; n < kWideTiles * kTile; n++) to[r * w.out + n] += bias[tile * kTile + n];
}

// As multiply_grouped, which calls it.
template <int BITS>
inline void multiply_many(float* out, const GroupedWeight& w, const float* bias, const RoundedRows& x, int64_t rows) {
  const Panels panels(rows, kWidePanel);
  const int64_t tiles = w.tiles(), steps = (tiles + kWideTiles - 1) / kWideTiles;
  const std::unique_ptr<WideTiles> wide(new WideTiles);
#pragma omp for schedule(static)
  for (int64_t task = 0; task < panels.count * steps; task++) {
    const int64_t first = task / steps * panels.height, tile = task % steps * kWideTiles, count = panels.size(first);
    const bool is_whole = (tile + kWideTiles) * kTile <= w.out;
    const int64_t fours = is_whole ? count / kWideRowsAtOnce * kWideRowsAtOnce : 0;
    if (fours > 0) multiply_wide<BITS>(out, w, bias, tile, x, first, fours, *wide);
    for (int64_t t = tile; t < std::min(tile + kWideTiles, tiles); t++)
      store_rows<BITS>(out + (first + fours) * w.out, w.out, w, bias, t, x.from(first + fours), count - fours);
  }
}

#endif

// out [rows, w.out] = x w^T + bias, shared by the threads of the region that it is called in, which wait for each other at its end.
inline void multiply_grouped(float* out, const GroupedWeight& w, const float* bias, const RoundedRows& x, int64_t rows) {
#if defined(__AVX512VNNI__)
  if (rows >= kWideRows) {
    if (w.bits == 4)
      multiply_many<4>(out, w, bias, x, rows);
    else
      multiply_many<8>(out, w, bias, x, rows);
    return;
  }
#endif
  const Panels panels(rows, 64);  // rows whose bytes stay in a core's cache while tiles pass
  const int64_t tiles = w.tiles();
#pragma omp for schedule(static)
  for (int64_t task = 0; task < panels.count * tiles; task++) {
    const int64_t first = task / tiles * panels.height, tile = task % tiles, count = panels.size(first);
    if (w.bits == 4)
      store_rows<4>(out + first * w.out, w.out, w, bias, tile, x.from(first), count);
    else
      store_rows<8>(out + first * w.out, w.out, w, bias, tile, x.from(first), count);
  }
}

}  // namespace headway
