// Products of 4-bit or 8-bit weights, which have a scale and an offset for each group of 32, with activations rounded to 8 bits in the
// same groups. A weight is w[n, k] = scale[n, g] * q[n, k] + offset[n, g], q unsigned, so that
//
//     sum over k of w x  ~  sum over g of  x_scale[g] * (scale[n, g] * sum of q xq  +  offset[n, g] * sum of xq)
//
// whose inner sums are exact integers: of bytes without a sign and bytes with one, which is what VNNI multiplies.
//
// Layout: tiles of 16 output channels, for each group one block that is read from front to back:
//
//     16 scales, 16 offsets (fp16) | 4 bits: 4 x 64 bytes, the low halves inputs 4 j to 4 j + 3 of 16 channels, the high ones 16 + 4 j ...
//                                  | 8 bits: 8 x 64 bytes, inputs 4 j to 4 j + 3
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "common.h"

namespace headway {

constexpr int kGroup = 32;     // inputs with one scale
constexpr int kTile = 16;      // output channels side by side
constexpr int kQuads = 8;      // four inputs at a time
constexpr int kRowsAtOnce = 8; // whose sums stay in registers

template <int BITS> constexpr int64_t kBlockBytes = 4 * kTile + kTile * kGroup * BITS / 8;

struct GroupedWeight {
  const uint8_t* blocks;
  int64_t in, out, bits;

  int64_t groups() const { return (in + kGroup - 1) / kGroup; }
  int64_t tiles() const { return (out + kTile - 1) / kTile; }
};

// Rows rounded to 8 bits: values, a scale a group, and scale times the sum of the group's values. Eight rows lie side by side, group by
// group, so that a product finds all of them at fixed distances: values [rows / 8][groups][8][32], scale and sum [rows / 8][groups][8].
struct RoundedRows {
  int8_t* values;
  float *scale, *sum;
  int64_t groups;

  static int64_t padded(int64_t rows) { return (rows + kRowsAtOnce - 1) / kRowsAtOnce * kRowsAtOnce; }
  static int64_t bytes(int64_t rows, int64_t groups) { return padded(rows) * groups * (kGroup + 8); }
  RoundedRows(void* memory, int64_t rows, int64_t groups)
      : values(static_cast<int8_t*>(memory)),
        scale(reinterpret_cast<float*>(values + padded(rows) * groups * kGroup)),
        sum(scale + padded(rows) * groups),
        groups(groups) {}
  // Place of a row's group, in groups.
  int64_t at(int64_t row, int64_t group) const { return (row / kRowsAtOnce * groups + group) * kRowsAtOnce + row % kRowsAtOnce; }
  RoundedRows from(int64_t row) const {
    RoundedRows other = *this;
    other.values += at(row, 0) * kGroup, other.scale += at(row, 0), other.sum += at(row, 0);
    return other;
  }
  // Another's row becomes this one's.
  void copy_row(int64_t to, const RoundedRows& other, int64_t row) const {
    for (int64_t g = 0; g < groups; g++) {
      const int64_t here = at(to, g), there = other.at(row, g);
      std::memcpy(values + here * kGroup, other.values + there * kGroup, kGroup);
      scale[here] = other.scale[there], sum[here] = other.sum[there];
    }
  }
};

// One row of `size` inputs; what is missing of the last group counts as 0.
inline void round_row(const RoundedRows& to, int64_t row, const float* x, int64_t size) {
  for (int64_t g = 0; g < to.groups; g++) {
    float padded[kGroup];
    const float* from = x + g * kGroup;
    if (size - g * kGroup < kGroup) {
      std::fill(padded, padded + kGroup, 0.0f);
      std::copy(from, x + size, padded);
      from = padded;
    }
    // The bits of non-negative floats are ordered as integers, whose maximum every compiler vectorises.
    int32_t largest_bits = 0x1e3ce508;  // 1e-20
    for (int i = 0; i < kGroup; i++) largest_bits = std::max(largest_bits, std::bit_cast<int32_t>(from[i]) & 0x7fffffff);
    float largest = std::bit_cast<float>(largest_bits), inverse = 127.0f / largest;
    int8_t* values = to.values + to.at(row, g) * kGroup;
    int32_t sum = 0;
    for (int i = 0; i < kGroup; i++) {
      // Adding 1.5 * 2^23 rounds to the nearest even integer and leaves it in the low bits.
      int32_t rounded = std::bit_cast<int32_t>(from[i] * inverse + 12582912.0f) - 0x4b400000;
      values[i] = int8_t(rounded);
      sum += rounded;
    }
    to.scale[to.at(row, g)] = largest / 127.0f;
    to.sum[to.at(row, g)] = largest / 127.0f * float(sum);
  }
}

inline int32_t quad(const int8_t* values) {
  int32_t four;
  std::memcpy(&four, values, 4);
  return four;
}

// What to fetch from memory while a tile is multiplied: a share of the next one, since all passes over the rows find theirs in the cache.
struct Ahead {
  const uint8_t* from;
  int64_t lines;  // for each group

  void fetch(int64_t group) const {
    for (int64_t line = 0; line < lines; line++) __builtin_prefetch(from + (group * lines + line) * 64);
  }
};

#if defined(__AVX512VNNI__)

// out[r][0 .. 15] of the first ROWS rows of x, which are of one eight.
template <int BITS, int ROWS>
inline void multiply_tile(float (&out)[ROWS][kTile], const uint8_t* block, const RoundedRows& x, const Ahead& ahead) {
  const __m512i low = _mm512_set1_epi8(15);
  __m512 sums[ROWS];
  for (int r = 0; r < ROWS; r++) sums[r] = _mm512_setzero_ps();
  for (int64_t g = 0; g < x.groups; g++, block += kBlockBytes<BITS>) {
    ahead.fetch(g);
    __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(block)));
    __m512 offset = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 2 * kTile)));
    __m512i weights[kQuads];
    for (int j = 0; j < BITS; j++) weights[j] = _mm512_loadu_si512(block + 64 + 64 * j);
    if constexpr (BITS == 4)
      for (int j = 0; j < 4; j++) {
        weights[j + 4] = _mm512_and_si512(_mm512_srli_epi16(weights[j], 4), low);
        weights[j] = _mm512_and_si512(weights[j], low);
      }
    __m512i dots[ROWS];
    for (int r = 0; r < ROWS; r++) dots[r] = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int j = 0; j < kQuads; j++)
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; r++)
        dots[r] = _mm512_dpbusd_epi32(dots[r], weights[j], _mm512_set1_epi32(quad(x.values + (g * kRowsAtOnce + r) * kGroup + 4 * j)));
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
      __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[r]), scale);
      sums[r] = _mm512_fmadd_ps(product, _mm512_set1_ps(x.scale[g * kRowsAtOnce + r]), sums[r]);
      sums[r] = _mm512_fmadd_ps(offset, _mm512_set1_ps(x.sum[g * kRowsAtOnce + r]), sums[r]);
    }
  }
  for (int r = 0; r < ROWS; r++) _mm512_storeu_ps(out[r], sums[r]);
}

#elif defined(__AVX2__)

// Products of bytes are added in pairs to 16 bits, saturating: 4-bit weights are far below, of 8-bit ones (less 128, which is added back)
// the sign goes to the activation, so that 2 * 128 * 127 fits. Of sixteen registers eight are integer sums: of four rows at most, since an
// activation, whose loads are the limit, then meets all sixteen channels.
template <int BITS, int ROWS>
inline void multiply_some(float (*out)[kTile], const uint8_t* block, const RoundedRows& x, const Ahead& ahead) {
  static_assert(ROWS <= 4);
  const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1), top = _mm256_set1_epi8(-128);
  __m256 sums[ROWS][2];
  each<2 * ROWS>([&](auto i) HEADWAY_INLINE { sums[i / 2][i % 2] = _mm256_setzero_ps(); });
  for (int64_t g = 0; g < x.groups; g++, block += kBlockBytes<BITS>) {
    ahead.fetch(g);
    const int64_t at = g * kRowsAtOnce;
    const int8_t* values = x.values + at * kGroup;
    __m256i dots[ROWS][2];
    each<2 * ROWS>([&](auto i) HEADWAY_INLINE { dots[i / 2][i % 2] = _mm256_setzero_si256(); });
    each<kQuads>([&](auto j) HEADWAY_INLINE {
      __m256i weights[2];
      each<2>([&](auto half) HEADWAY_INLINE {
        weights[half] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 64 + 64 * (j % BITS) + 32 * half));
        if constexpr (BITS == 8) weights[half] = _mm256_xor_si256(weights[half], top);
        if constexpr (BITS == 4) weights[half] = _mm256_and_si256(j < 4 ? weights[half] : _mm256_srli_epi16(weights[half], 4), low);
      });
      each<ROWS>([&](auto r) HEADWAY_INLINE {
        const __m256i four = _mm256_set1_epi32(quad(values + r * kGroup + 4 * j));
        each<2>([&](auto half) HEADWAY_INLINE {
          const __m256i w = weights[half];
          if constexpr (BITS == 4) {
            dots[r][half] = _mm256_add_epi16(dots[r][half], _mm256_maddubs_epi16(w, four));  // 8 * 2 * 15 * 127 fits in 16 bits
          } else {
            const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(four, w));
            dots[r][half] = _mm256_add_epi32(dots[r][half], _mm256_madd_epi16(pairs, ones));
          }
          asm("" : "+x"(dots[r][half]));  // else the compiler adds in another order, for which all products wait in memory
        });
      });
    });
    each<2>([&](auto half) HEADWAY_INLINE {
      const __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 16 * half)));
      __m256 offset = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 2 * kTile + 16 * half)));
      if constexpr (BITS == 8) offset = _mm256_fmadd_ps(scale, _mm256_set1_ps(128.0f), offset);
      each<ROWS>([&](auto r) HEADWAY_INLINE {
        if constexpr (BITS == 4) dots[r][half] = _mm256_madd_epi16(dots[r][half], ones);
        const __m256 product = _mm256_mul_ps(_mm256_cvtepi32_ps(dots[r][half]), scale);
        sums[r][half] = _mm256_fmadd_ps(product, _mm256_set1_ps(x.scale[at + r]), sums[r][half]);
        sums[r][half] = _mm256_fmadd_ps(offset, _mm256_set1_ps(x.sum[at + r]), sums[r][half]);
      });
    });
  }
  each<2 * ROWS>([&](auto i) HEADWAY_INLINE { _mm256_storeu_ps(out[i / 2] + 8 * (i % 2), sums[i / 2][i % 2]); });
}

template <int BITS, int ROWS>
inline void multiply_tile(float (&out)[ROWS][kTile], const uint8_t* block, const RoundedRows& x, const Ahead& ahead) {
  multiply_some<BITS, std::min(ROWS, 4)>(out, block, x, ahead);
  if constexpr (ROWS > 4) multiply_some<BITS, ROWS - 4>(out + 4, block, x.from(4), Ahead{});
}

#else

inline float half_to_float(const uint8_t* from) {
  uint16_t bits;
  std::memcpy(&bits, from, 2);
  float magnitude = std::bit_cast<float>(uint32_t(bits & 0x7fff) << 13) * 0x1p112f;
  return bits & 0x8000 ? -magnitude : magnitude;
}

// Adds a row's products with a group. Not inlined: where sums may be reassociated, a row's would be in another way among more rows.
[[gnu::noinline]] inline void add_group(float* out, const int32_t* dots, const float* scale, const float* offset, float x_scale,
                                        float x_sum) {
  for (int n = 0; n < kTile; n++) out[n] += float(dots[n]) * scale[n] * x_scale + offset[n] * x_sum;
}

template <int BITS, int ROWS>
inline void multiply_tile(float (&out)[ROWS][kTile], const uint8_t* block, const RoundedRows& x, const Ahead& ahead) {
  for (int r = 0; r < ROWS; r++) std::fill(out[r], out[r] + kTile, 0.0f);
  for (int64_t g = 0; g < x.groups; g++, block += kBlockBytes<BITS>) {
    ahead.fetch(g);
    const uint8_t* weights = block + 64;
    float scale[kTile], offset[kTile];
    for (int n = 0; n < kTile; n++) scale[n] = half_to_float(block + 2 * n), offset[n] = half_to_float(block + 2 * kTile + 2 * n);
    for (int r = 0; r < ROWS; r++) {
      const int8_t* values = x.values + (g * kRowsAtOnce + r) * kGroup;
      int32_t dots[kTile] = {};
      for (int j = 0; j < BITS; j++)
        for (int n = 0; n < kTile; n++)
          for (int i = 0; i < 4; i++) {
            int32_t byte = weights[64 * j + 4 * n + i];
            if constexpr (BITS == 4)
              dots[n] += (byte & 15) * values[4 * j + i] + (byte >> 4) * values[16 + 4 * j + i];
            else
              dots[n] += byte * values[4 * j + i];
          }
      add_group(out[r], dots, scale, offset, x.scale[g * kRowsAtOnce + r], x.sum[g * kRowsAtOnce + r]);
    }
  }
}

#endif

// out[r, first .. first + 15] of ROWS rows, `stride` apart.
template <int BITS, int ROWS>
inline void store_tile(float* out, int64_t stride, const GroupedWeight& w, const float* bias, int64_t tile, const RoundedRows& x,
                       const Ahead& ahead) {
  alignas(64) float sums[ROWS][kTile];
  multiply_tile<BITS, ROWS>(sums, w.blocks + tile * w.groups() * kBlockBytes<BITS>, x, ahead);
  const int64_t first = tile * kTile, count = std::min<int64_t>(kTile, w.out - first);
  for (int r = 0; r < ROWS; r++)
    for (int64_t n = 0; n < count; n++) out[r * stride + first + n] = bias == nullptr ? sums[r][n] : sums[r][n] + bias[first + n];
}

template <int BITS>
inline void store_rows(float* out, int64_t stride, const GroupedWeight& w, const float* bias, int64_t tile, const RoundedRows& x,
                       int64_t rows) {
  const int64_t tile_bytes = w.groups() * kBlockBytes<BITS>, passes = (rows + kRowsAtOnce - 1) / kRowsAtOnce;
  int64_t r = 0;
  auto pass = [&]<int ROWS>(std::integral_constant<int, ROWS>) {
    // With one row memory is waited for anyhow, and fetching costs 3%.
    const int64_t lines = rows == 1 ? 0 : (kBlockBytes<BITS> / 64 + passes - 1) / passes;
    const int64_t fetched = r / kRowsAtOnce * lines * w.groups() * 64;
    const Ahead ahead{w.blocks + (tile + 1) * tile_bytes + std::min(fetched, tile_bytes), lines};
    store_tile<BITS, ROWS>(out + r * stride, stride, w, bias, tile, x.from(r), ahead);
    r += ROWS;
  };
  while (rows - r >= kRowsAtOnce) pass(std::integral_constant<int, kRowsAtOnce>());
  if (rows - r >= 4) pass(std::integral_constant<int, 4>());
  if (rows - r >= 2) pass(std::integral_constant<int, 2>());
  if (rows - r >= 1) pass(std::integral_constant<int, 1>());
}

}  // namespace headway
