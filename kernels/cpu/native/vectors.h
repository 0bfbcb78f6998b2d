// Vectors as wide as the instruction set's, and the register-blocked product of attention. GCC's vector extensions, which clang has
// too; what they cannot express is AVX512-BF16's product of pairs, and bytes that become numbers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "common.h"

namespace headway {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

// The inner product holds kRows x kVectors sums in registers, of which there are 32 or 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRows = 8;
#else
constexpr int kRows = 4;
#endif
constexpr int kVectors = 3;
constexpr int kPanel = kVectors * kWidth;
constexpr float kLog2e = 1.44269504088896341f;

typedef float Vec __attribute__((vector_size(kWidth * 4), may_alias));
typedef float LooseVec __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(kWidth * 4), may_alias));
typedef int8_t LooseByteVec __attribute__((vector_size(kWidth), aligned(1), may_alias));
typedef int32_t LooseIntVec __attribute__((vector_size(kWidth * 4), aligned(2), may_alias));

// Two bf16 that are multiplied and added in one step, the first in the lower half.
struct Pair {
  uint32_t bits;
};

template <class Word> constexpr int kStep = std::is_same_v<Word, Pair> ? 2 : 1;  // numbers in a Word

#ifdef __AVX512BF16__
template <class T> using WordOf = std::conditional_t<std::is_same_v<T, float>, float, Pair>;
#else
template <class T> using WordOf = float;
#endif

template <class Word, class T> inline Word word(T first, [[maybe_unused]] T second) {
  if constexpr (kStep<Word> == 2 && std::is_same_v<T, float>)
    return Pair{store<bf16>(first).bits | uint32_t(store<bf16>(second).bits) << 16};
  else if constexpr (kStep<Word> == 2)
    return Pair{first.bits | uint32_t(second.bits) << 16};
  else
    return load(first);
}

template <class E> inline Vec& vec(E* p) { return *reinterpret_cast<Vec*>(p); }
inline LooseVec& loose(float* p) { return *reinterpret_cast<LooseVec*>(p); }  // wherever a float may lie
inline const LooseVec& loose(const float* p) { return *reinterpret_cast<const LooseVec*>(p); }
inline Vec numbers(const float* p, int vector) { return loose(p + vector * kWidth); }
// Of twice as many numbers in bf16 the first, third ... are one vector, the others the next.
inline Vec numbers(const bf16* p, int vector) {
  const IntVec pairs = *reinterpret_cast<const LooseIntVec*>(p + vector / 2 * 2 * kWidth);
  return (Vec)(vector % 2 == 0 ? pairs << 16 : pairs & int32_t(0xffff0000));
}
// Without their scale. GCC 12 converts bytes one by one.
inline Vec numbers(const int8_t* p, int vector) {
  p += vector * kWidth;
#if defined(__AVX512F__)
  return (Vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return (Vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  return __builtin_convertvector(__builtin_convertvector(*reinterpret_cast<const LooseByteVec*>(p), IntVec), Vec);
#endif
}
// The first and the second vector of numbers().
struct TwoVectors {
  Vec first, second;
};
inline TwoVectors two_vectors(const float* p) { return {numbers(p, 0), numbers(p, 1)}; }
inline TwoVectors two_vectors(const bf16* p) { return {numbers(p, 0), numbers(p, 1)}; }
inline IntVec& ints(int32_t* p) { return *reinterpret_cast<IntVec*>(p); }
inline Vec largest(Vec a, Vec b) { return a > b ? a : b; }
inline Vec spread(float x) { return x - Vec{}; }

// A sum as it is now: where sums may be reassociated, the compiler multiplies and adds apart what could be one instruction.
#if defined(__AVX512F__)
#define HEADWAY_IN_TURN(sum) asm("" : "+v"(sum))
#elif defined(__x86_64__)
#define HEADWAY_IN_TURN(sum) asm("" : "+x"(sum))
#else
#define HEADWAY_IN_TURN(sum)
#endif

// 2^x for x <= 0, to 2 ulp; exactly 1 for 0 and 0 from -127 down. A NaN stays one, for the larger of two is the second then.
inline Vec exp2_negative(Vec x) {
  x = largest(spread(-127.0f), x);
  IntVec n = __builtin_convertvector(x - 0.5f, IntVec);
  Vec f = x - __builtin_convertvector(n, Vec);
  Vec p = f * 1.535336188319500e-4f + 1.339887440266574e-3f;
  p = p * f + 9.618437357674640e-3f;
  p = p * f + 5.550332471162809e-2f;
  p = p * f + 2.402264791363012e-1f;
  p = p * f + 6.931472028550421e-1f;
  p = p * f + 1.0f;
  return (Vec)((IntVec)p + (n << 23));
}

inline Vec tanh_of(Vec x) {
  Vec size = x < 0 ? -x : x;
  Vec t = exp2_negative(size * (-2 * kLog2e));
  Vec y = (1.0f - t) / (1.0f + t);
  return x < 0 ? -y : y;
}

inline Vec multiply_add(Vec sum, const float* a, const float* b) { return sum + *a * *reinterpret_cast<const Vec*>(b); }
#ifdef __AVX512BF16__
inline Vec multiply_add(Vec sum, const Pair* a, const Pair* b) {
  __m512i x = _mm512_set1_epi32(int32_t(a->bits)), y = *reinterpret_cast<const __m512i*>(b);
  return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)y, (__m512bh)x);
}
#endif

template <int... I> inline void zip(Vec a, Vec b, Vec& low, Vec& high, std::integer_sequence<int, I...>) {
#if __has_builtin(__builtin_shufflevector)
  low = __builtin_shufflevector(a, b, (I / 2 + I % 2 * kWidth)...);
  high = __builtin_shufflevector(a, b, (I / 2 + kWidth / 2 + I % 2 * kWidth)...);
#else  // GCC before 12
  low = __builtin_shuffle(a, b, IntVec{(I / 2 + I % 2 * kWidth)...});
  high = __builtin_shuffle(a, b, IntVec{(I / 2 + kWidth / 2 + I % 2 * kWidth)...});
#endif
}

// Lane i of the result is the sum of x[i]'s lanes: each stage halves the vectors and what is left to add in their lanes.
template <int COUNT = kWidth> [[gnu::always_inline]] inline Vec sum_each(Vec (&x)[kWidth]) {
  if constexpr (COUNT > 1) {
    each<COUNT / 2>([&](auto i) HEADWAY_INLINE {
      Vec low, high;
      zip(x[i], x[i + COUNT / 2], low, high, std::make_integer_sequence<int, kWidth>());
      x[i] = low + high;
    });
    sum_each<COUNT / 2>(x);
  }
  return x[0];
}

typedef float Four __attribute__((vector_size(16), may_alias));
typedef float LooseFour __attribute__((vector_size(16), aligned(4), may_alias));
inline LooseFour& four(float* p) { return *reinterpret_cast<LooseFour*>(p); }

// Within every four lanes those of a and b in turn, of the lower two and of the higher two.
template <int... I> inline Vec zip_fours(Vec a, Vec b, std::integer_sequence<int, I...>) {
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, (I / 4 * 4 + I % 4 / 2 + I % 2 * kWidth)...) +
         __builtin_shufflevector(a, b, (I / 4 * 4 + 2 + I % 4 / 2 + I % 2 * kWidth)...);
#else  // GCC before 12
  return __builtin_shuffle(a, b, IntVec{(I / 4 * 4 + I % 4 / 2 + I % 2 * kWidth)...}) +
         __builtin_shuffle(a, b, IntVec{(I / 4 * 4 + 2 + I % 4 / 2 + I % 2 * kWidth)...});
#endif
}

// The sums of the lanes of a, b, c and d.
[[gnu::always_inline]] inline Four sum_four(Vec a, Vec b, Vec c, Vec d) {
  constexpr auto lanes = std::make_integer_sequence<int, kWidth>();
  const Vec sums = zip_fours(zip_fours(a, c, lanes), zip_fours(b, d, lanes), lanes);
  Four parts[kWidth / 4];
  std::memcpy(parts, &sums, sizeof(sums));
  each<kWidth / 4 - 1>([&](auto i) HEADWAY_INLINE { parts[0] += parts[i + 1]; });
  return parts[0];
}

// x[i][j] <-> x[j][i], by as many perfect shuffles of all elements as kWidth has bits.
[[gnu::always_inline]] inline void transpose(Vec (&x)[kWidth]) {
#pragma GCC unroll 4
  for (int stage = 1; stage < kWidth; stage *= 2) {
    Vec y[kWidth];
#pragma GCC unroll 8
    for (int i = 0; i < kWidth / 2; i++)
      zip(x[i], x[i + kWidth / 2], y[2 * i], y[2 * i + 1], std::make_integer_sequence<int, kWidth>());
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; i++) x[i] = y[i];
  }
}

// sums[m][lane] += a[m * row_step + k * step] * b[k][lane] over count k's.
template <class Word>
[[gnu::always_inline]] inline void multiply(Vec (&sums)[kRows][kVectors], const Word* a, int64_t row_step, int64_t step, const Word* b,
                                            int64_t count) {
  for (int64_t k = 0; k < count; k++, a += step, b += kPanel) {
#pragma GCC unroll 8
    for (int m = 0; m < kRows; m++)
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; v++) sums[m][v] = multiply_add(sums[m][v], a + m * row_step, b + v * kWidth);
  }
}

// Zeros, aligned for vectors.
template <class E> class Buffer {
 public:
  explicit Buffer(int64_t size) : start(static_cast<E*>(::operator new(size * sizeof(E), std::align_val_t(64)))) {
    std::memset(static_cast<void*>(start), 0, size * sizeof(E));
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { ::operator delete(start, std::align_val_t(64)); }
  operator E*() const { return start; }

 private:
  E* start;
};

}  // namespace headway
