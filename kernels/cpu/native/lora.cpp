// Low-rank updates of a few tokens each: of every adapter, A and then B are read once from front to back, whatever tokens have it.
//
// T is the type of activations and adapters. Sums are in float.

#include <memory>

#include "vectors.h"

namespace headway {

struct LoraShape {
  int64_t groups, in, out, max_rank, x_stride, out_stride;  // strides in elements
};

constexpr int kLoraSums = 16;   // ranks by tokens whose sums stay in registers
constexpr int kLoraTokens = 4;  // at most at a time
constexpr int kLoraSpan = 4;    // vectors of the output at a time

inline Vec widened(const float* p) { return loose(p); }
inline Vec widened(const bf16* p) {
  typedef uint16_t Halves __attribute__((vector_size(kWidth * 2), aligned(2), may_alias));
  typedef uint32_t Words __attribute__((vector_size(kWidth * 4)));
  return (Vec)(__builtin_convertvector(*reinterpret_cast<const Halves*>(p), Words) << 16);
}

// small[t][first + r] = A[first + r] x[t], rounded as T; x in float.
template <class T, int TOKENS, int RANKS>
inline void shrink(float* small, const float* x, const T* a, int64_t first, const LoraShape& shape, NextBytes& next) {
  constexpr int kSums = (RANKS * TOKENS + kWidth - 1) / kWidth * kWidth;
  const int64_t whole = shape.in / kWidth * kWidth;
  Vec sums[kSums] = {};
  for (int64_t k = 0; k < whole; k += kWidth) {
    next.fetch();
    Vec inputs[TOKENS];
    each<TOKENS>([&](auto t) HEADWAY_INLINE { inputs[t] = loose(x + t * shape.in + k); });
    each<RANKS>([&](auto r) HEADWAY_INLINE {
      const Vec row = widened(a + r * shape.in + k);
      each<TOKENS>([&](auto t) HEADWAY_INLINE { sums[r * TOKENS + t] += row * inputs[t]; });
    });
  }
  for (int i = 0; i < kSums; i += kWidth) {
    Vec part[kWidth];
    each<kWidth>([&](auto j) HEADWAY_INLINE { part[j] = sums[i + j]; });
    const Vec added = sum_each(part);
    for (int j = 0; j < kWidth && i + j < RANKS * TOKENS; j++) {
      const int r = (i + j) / TOKENS, t = (i + j) % TOKENS;
      float sum = added[j];
      for (int64_t k = whole; k < shape.in; k++) sum += load(a[r * shape.in + k]) * x[t * shape.in + k];
      small[t * shape.max_rank + first + r] = load(store<T>(sum));
    }
  }
}

// out[t][n ..] += sum over r of small[t][r] B[r][n ..], of SPAN vectors.
template <class T, int TOKENS, int SPAN>
inline void expand(T* const* out, const float* small, const T* b, int64_t n, int64_t rank, const LoraShape& shape, NextBytes& next) {
  Vec sums[TOKENS][SPAN] = {};
  next.fetch();
  for (int64_t r = 0; r < rank; r++) {
    Vec columns[SPAN];
    each<SPAN>([&](auto v) HEADWAY_INLINE { columns[v] = widened(b + r * shape.out + n + v * kWidth); });
    each<TOKENS>([&](auto t) HEADWAY_INLINE {
      const float factor = small[t * shape.max_rank + r];
      each<SPAN>([&](auto v) HEADWAY_INLINE { sums[t][v] += factor * columns[v]; });
    });
  }
  for (int t = 0; t < TOKENS; t++)
    for (int v = 0; v < SPAN; v++) {
      T* to = out[t] + n + v * kWidth;
      if constexpr (std::is_same_v<T, float>)
        loose(to) += sums[t][v];
      else
        for (int i = 0; i < kWidth; i++) to[i] = store<T>(load(to[i]) + sums[t][v][i]);
    }
}

template <class T, int TOKENS>
inline void adapt(T* out, const T* x, const T* a, const T* b, int64_t rank, const int32_t* tokens, float* scratch, const LoraShape& shape,
                  NextBytes next) {
  T* to[TOKENS];
  float *inputs = scratch, *small = scratch + TOKENS * shape.in;
  for (int t = 0; t < TOKENS; t++) {
    to[t] = out + tokens[t] * shape.out_stride;
    for (int64_t k = 0; k < shape.in; k++) inputs[t * shape.in + k] = load(x[tokens[t] * shape.x_stride + k]);
  }
  constexpr int kMany = kLoraSums / TOKENS, kSome = std::min(kMany, 4);
  NextBytes of_b(b, rank * shape.out * sizeof(T), (rank + kMany - 1) / kMany * (shape.in / kWidth));
  int64_t r = 0;
  for (; r + kMany <= rank; r += kMany) shrink<T, TOKENS, kMany>(small, inputs, a + r * shape.in, r, shape, of_b);
  for (; r + kSome <= rank; r += kSome) shrink<T, TOKENS, kSome>(small, inputs, a + r * shape.in, r, shape, of_b);
  for (; r < rank; r++) shrink<T, TOKENS, 1>(small, inputs, a + r * shape.in, r, shape, of_b);
  int64_t n = 0;
  for (; n + kLoraSpan * kWidth <= shape.out; n += kLoraSpan * kWidth) expand<T, TOKENS, kLoraSpan>(to, small, b, n, rank, shape, next);
  for (; n + kWidth <= shape.out; n += kWidth) expand<T, TOKENS, 1>(to, small, b, n, rank, shape, next);
  for (; n < shape.out; n++)
    for (int t = 0; t < TOKENS; t++) {
      float sum = 0;
      for (int64_t i = 0; i < rank; i++) sum += small[t * shape.max_rank + i] * load(b[i * shape.out + n]);
      to[t][n] = store<T>(load(to[t][n]) + sum);
    }
}

// out[token] += B[slot] A[slot] x[token]; a [slots, max_rank, in], b [slots, max_rank, out]. A group is a slot and which of `tokens` have
// it: [groups, 3]. Ranks, by slot: what is behind them is not read.
template <class T>
inline void add_lora(T* out, const T* x, const T* a, const T* b, const int32_t* ranks, const int32_t* tokens, const int32_t* groups,
                     const LoraShape& shape) {
#pragma omp parallel
  {
    const Buffer<float> scratch(kLoraTokens * (shape.in + shape.max_rank));
#pragma omp for schedule(static)
    for (int64_t g = 0; g < shape.groups; g++) {
      const int64_t slot = groups[3 * g], end = groups[3 * g + 2], rank = ranks[slot];
      const T *own_a = a + slot * shape.max_rank * shape.in, *own_b = b + slot * shape.max_rank * shape.out;
      const int64_t following = g + 1 < shape.groups ? groups[3 * g + 3] : slot;
      const NextBytes next(a + following * shape.max_rank * shape.in, ranks[following] * shape.in * sizeof(T),
                           shape.out / (kLoraSpan * kWidth));
      for (int64_t first = groups[3 * g + 1]; rank > 0 && first < end;) {
        const int64_t left = end - first;
        if (left >= 4)
          adapt<T, 4>(out, x, own_a, own_b, rank, tokens + first, scratch, shape, next), first += 4;
        else if (left >= 2)
          adapt<T, 2>(out, x, own_a, own_b, rank, tokens + first, scratch, shape, next), first += 2;
        else
          adapt<T, 1>(out, x, own_a, own_b, rank, tokens + first, scratch, shape, next), first += 1;
      }
    }
  }
}

}  // namespace headway

using namespace headway;

#define HEADWAY_ADD_LORA(T, SUFFIX)                                                                                              \
  extern "C" void add_lora_##SUFFIX(T* out, const T* x, const T* a, const T* b, const int32_t* ranks, const int32_t* tokens,     \
                                    const int32_t* groups, const LoraShape* shape) {                                            \
    add_lora(out, x, a, b, ranks, tokens, groups, *shape);                                                                      \
  }

HEADWAY_ADD_LORA(float, f32)
HEADWAY_ADD_LORA(bf16, bf16)
