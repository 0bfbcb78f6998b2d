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

// out[t] += B small[t], of all outputs.
template <class T, int TOKENS>
inline void expand_all(T* const* to, const float* small, const T* b, int64_t rank, const LoraShape& shape, NextBytes& next) {
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

// Of a linear layer.
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
  expand_all<T, TOKENS>(to, small, b, rank, shape, next);
}

// Of an embedding: A has a row of ranks for each token of the vocabulary, of which none is needed but those of the step's tokens.
template <class T, int TOKENS>
inline void adapt_embedding(T* out, const int64_t* ids, const T* a, const T* b, int64_t rank, const int32_t* tokens, float* small,
                            const LoraShape& shape, NextBytes next) {
  T* to[TOKENS];
  for (int t = 0; t < TOKENS; t++) {
    to[t] = out + tokens[t] * shape.out_stride;
    const int64_t id = ids[tokens[t]];
    const bool is_here = id >= 0 && id < shape.in;
    for (int64_t r = 0; r < rank; r++) small[t * shape.max_rank + r] = is_here ? load(a[id * shape.max_rank + r]) : 0;
  }
  expand_all<T, TOKENS>(to, small, b, rank, shape, next);
}

// Calls f(count, slot, rank, tokens, scratch, next) for up to kLoraTokens tokens of a slot at a time. A group is a slot and which of
// `tokens` have it: [groups, 3]. `ranks`: by slot; 0: nothing is called. `next_bytes(slot)`: what is read first of the slot that follows.
template <class NEXT, class F>
inline void each_slot(const int32_t* ranks, const int32_t* tokens, const int32_t* groups, int64_t scratch_floats, const LoraShape& shape,
                      NEXT&& next_bytes, F&& f) {
#pragma omp parallel
  {
    const Buffer<float> scratch(scratch_floats);
#pragma omp for schedule(static)
    for (int64_t g = 0; g < shape.groups; g++) {
      const int64_t slot = groups[3 * g], end = groups[3 * g + 2], rank = ranks[slot];
      const NextBytes next = next_bytes(g + 1 < shape.groups ? groups[3 * g + 3] : slot);
      for (int64_t first = groups[3 * g + 1]; rank > 0 && first < end;) {
        const int64_t left = end - first;
        if (left >= 4)
          f(std::integral_constant<int, 4>(), slot, rank, tokens + first, scratch, next), first += 4;
        else if (left >= 2)
          f(std::integral_constant<int, 2>(), slot, rank, tokens + first, scratch, next), first += 2;
        else
          f(std::integral_constant<int, 1>(), slot, rank, tokens + first, scratch, next), first += 1;
      }
    }
  }
}

// out[token] += B[slot] A[slot] x[token]; a [slots, max_rank, in], b [slots, max_rank, out]. What is behind the ranks is not read.
template <class T>
inline void add_lora(T* out, const T* x, const T* a, const T* b, const int32_t* ranks, const int32_t* tokens, const int32_t* groups,
                     const LoraShape& shape) {
  const int64_t a_size = shape.max_rank * shape.in, b_size = shape.max_rank * shape.out;
  each_slot(
      ranks, tokens, groups, kLoraTokens * (shape.in + shape.max_rank), shape,
      [&](int64_t slot) {
        return NextBytes(a + slot * a_size, ranks[slot] * shape.in * sizeof(T), shape.out / (kLoraSpan * kWidth));
      },
      [&](auto count, int64_t slot, int64_t rank, const int32_t* own, float* scratch, const NextBytes& next) {
        adapt<T, count>(out, x, a + slot * a_size, b + slot * b_size, rank, own, scratch, shape, next);
      });
}

// out[token] += B[slot] A[slot][ids[token]]; a [slots, in, max_rank], b [slots, max_rank, out]; nothing where the id is not in [0, in).
template <class T>
inline void add_embedding_lora(T* out, const int64_t* ids, const T* a, const T* b, const int32_t* ranks, const int32_t* tokens,
                               const int32_t* groups, const LoraShape& shape) {
  const int64_t a_size = shape.max_rank * shape.in, b_size = shape.max_rank * shape.out;
  each_slot(
      ranks, tokens, groups, kLoraTokens * shape.max_rank, shape,
      [&](int64_t slot) {
        return NextBytes(b + slot * b_size, ranks[slot] * shape.out * sizeof(T), shape.out / (kLoraSpan * kWidth));
      },
      [&](auto count, int64_t slot, int64_t rank, const int32_t* own, float* scratch, const NextBytes& next) {
        adapt_embedding<T, count>(out, ids, a + slot * a_size, b + slot * b_size, rank, own, scratch, shape, next);
      });
}

}  // namespace headway

using namespace headway;

#define HEADWAY_ADD_LORA(NAME, INPUT, T, SUFFIX)                                                                                 \
  extern "C" void NAME##_##SUFFIX(T* out, const INPUT* x, const T* a, const T* b, const int32_t* ranks, const int32_t* tokens,   \
                                  const int32_t* groups, const LoraShape* shape) {                                              \
    NAME(out, x, a, b, ranks, tokens, groups, *shape);                                                                          \
  }

HEADWAY_ADD_LORA(add_lora, float, float, f32)
HEADWAY_ADD_LORA(add_lora, bf16, bf16, bf16)
HEADWAY_ADD_LORA(add_embedding_lora, int64_t, float, f32)
HEADWAY_ADD_LORA(add_embedding_lora, int64_t, bf16, bf16)
