// What the CPU kernels share: bf16, a vectorisable exponential, fetching ahead.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <utility>

namespace headway {

// Which functions there are, with which arguments and layouts: as INTERFACE in library.py, and raised with it when one of them changes.
constexpr int64_t kInterface = 8;

// Calls f(0), f(1) ... f(COUNT - 1) with constants, which are also indices: GCC keeps arrays in registers only where no loop is left.
#define HEADWAY_INLINE __attribute__((always_inline))
template <int COUNT, class F> [[gnu::always_inline]] inline void each(F&& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) HEADWAY_INLINE {
    (f(std::integral_constant<int, I>()), ...);
  }(std::make_integer_sequence<int, COUNT>());
}

struct bf16 {
  uint16_t bits;
};

inline float load(float x) { return x; }
inline float load(int8_t x) { return float(x); }
inline float load(bf16 x) { return std::bit_cast<float>(uint32_t(x.bits) << 16); }

template <class T> T store(float x);
template <> inline float store<float>(float x) { return x; }
template <> inline bf16 store<bf16>(float x) {
  // Round to nearest even. A NaN stays one: its upper half never becomes infinity, since 0x7fff is kept out by the quiet bit.
  uint32_t bits = std::bit_cast<uint32_t>(x);
  uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return bf16{uint16_t((bits & 0x7fffffff) > 0x7f800000 ? (bits >> 16) | 0x40 : rounded)};
}

// What to fetch from memory while something else is computed: a share of it in each of `steps`.
struct NextBytes {
  const char* from;
  int64_t bytes, share;

  NextBytes(const void* from, int64_t bytes, int64_t steps)
      : from(static_cast<const char*>(from)), bytes(bytes), share((bytes / std::max<int64_t>(steps, 1) / 64 + 1) * 64) {}
  void fetch() {
    const int64_t count = std::min(bytes, share);
    for (int64_t at = 0; at < count; at += 64) __builtin_prefetch(from + at);
    from += count, bytes -= count;
  }
};

// exp to 2 ulp, vectorisable: 2^round(x log2 e) by the exponent bits, the rest by a polynomial (Cephes expf).
inline float fast_exp(float x) {
  x = std::min(std::max(x, -87.0f), 88.0f);
  float z = x * 1.44269504088896341f;
  int32_t n = int32_t(z + (z < 0 ? -0.5f : 0.5f));
  float f = x - float(n) * 0.693359375f + float(n) * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * f * f + f + 1.0f;
  return p * std::bit_cast<float>((n + 127) << 23);
}

}  // namespace headway
