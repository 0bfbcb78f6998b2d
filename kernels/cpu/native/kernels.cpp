// CPU kernels behind a plain C interface, called through ctypes by headway.kernels.cpu.native.library.
//
// Built once per instruction set from this one file; the loops are written so that the compiler vectorises them. No torch and
// no Python headers. Parallel loops use OpenMP, whose run-time library is the one that torch has loaded already: this file is
// linked without one, so that there is never a second pool of threads beside torch's.

#include <cstdint>
#include <memory>

#include "common.h"
#include "decode.h"
#include "rows.h"

namespace {

using namespace headway;

// Work below this many elements is done by the calling thread: waking a second one costs more.
constexpr int64_t kParallelElements = 8192;

template <class T>
void add_rms_norm(T* out, T* total, const T* x, const T* residual, const T* weight, float eps, int64_t rows, int64_t size,
                  int64_t x_stride, int64_t residual_stride) {
#pragma omp parallel for schedule(static) if (rows * size > kParallelElements)
  for (int64_t r = 0; r < rows; r++)
    norm_row(out + r * size, residual == nullptr ? nullptr : total + r * size, x + r * x_stride,
             residual == nullptr ? nullptr : residual + r * residual_stride, weight, eps, size);
}

template <class T> void silu_and_mul(T* out, const T* x, int64_t rows, int64_t size, int64_t x_stride) {
#pragma omp parallel for schedule(static) if (rows * size > kParallelElements / 4)
  for (int64_t r = 0; r < rows; r++) silu_row(out + r * size, x + r * x_stride, size);
}

struct RopeShape {
  int64_t tokens, q_heads, kv_heads, dim, rotary_dim, q_stride, k_stride, v_stride, interleaved, block_size;
};

// P, here and below, is the type of the pages.
template <class T, class P>
void rope_and_cache(T* q_out, const T* q, const T* k, const T* v, const float* cos_sin, const int64_t* positions, P* k_cache, P* v_cache,
                    const int64_t* slots, const RopeShape& s) {
  const Pages<P> pages{s.block_size, s.kv_heads, s.dim};
  int64_t half = s.rotary_dim / 2, step = s.interleaved ? 2 : 1;
#pragma omp parallel for schedule(static) if (s.tokens * s.q_heads * s.dim > kParallelElements)
  for (int64_t t = 0; t < s.tokens; t++) {
    const float* cos = cos_sin + positions[t] * s.rotary_dim;
    const float* sin = cos + half;
    for (int64_t h = 0; h < s.q_heads; h++)
      rotate(q_out + (t * s.q_heads + h) * s.dim, q + t * s.q_stride + h * s.dim, cos, sin, half, s.dim, step);
    if (slots[t] < 0) continue;
    write_heads(k_cache, v_cache, pages, slots[t], 0, s.kv_heads, k + t * s.k_stride, v + t * s.v_stride, cos, sin, half, step);
  }
}

template <class T, class P>
void paged_decode(T* out, const T* q, const P* k_cache, const P* v_cache, const int32_t* tables, const int32_t* lengths, const DecodeShape& s) {
  const DecodeTasks tasks(s, tables, lengths);
  const std::unique_ptr<float[]> parts(new float[tasks.first_part(s.rows) * decode_part_size(s)]);
#pragma omp parallel if (tasks.count() > 1)
  with_decode<T, P>(s, [&](auto decode) {
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < tasks.count(); i++) decode.run(tasks, tasks[i], parts.get(), q, k_cache, v_cache, tables);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < s.rows; row++) decode.put_together(tasks, row, out + row * s.q_heads * s.dim, parts.get());
  });
}

}  // namespace

// One function a type and operation; pointers are to contiguous memory unless a stride (in elements) says otherwise.
#define HEADWAY_KERNELS(T, SUFFIX)                                                                                                      \
  extern "C" void add_rms_norm_##SUFFIX(T* out, T* total, const T* x, const T* residual, const T* weight, float eps, int64_t rows,      \
                                        int64_t size, int64_t x_stride, int64_t residual_stride) {                                      \
    add_rms_norm<T>(out, total, x, residual, weight, eps, rows, size, x_stride, residual_stride);                                       \
  }                                                                                                                                     \
  extern "C" void silu_and_mul_##SUFFIX(T* out, const T* x, int64_t rows, int64_t size, int64_t x_stride) {                             \
    silu_and_mul<T>(out, x, rows, size, x_stride);                                                                                      \
  }

// And those that read or write pages, one a type of these too.
#define HEADWAY_PAGE_KERNELS(T, P, SUFFIX)                                                                                              \
  extern "C" void rope_and_cache_##SUFFIX(T* q_out, const T* q, const T* k, const T* v, const float* cos_sin, const int64_t* positions, \
                                          P* k_cache, P* v_cache, const int64_t* slots, const RopeShape* shape) {                       \
    rope_and_cache<T, P>(q_out, q, k, v, cos_sin, positions, k_cache, v_cache, slots, *shape);                                          \
  }                                                                                                                                     \
  extern "C" void paged_decode_##SUFFIX(T* out, const T* q, const P* k_cache, const P* v_cache, const int32_t* tables,                  \
                                        const int32_t* lengths, const DecodeShape* shape) {                                             \
    paged_decode<T, P>(out, q, k_cache, v_cache, tables, lengths, *shape);                                                              \
  }

extern "C" int64_t headway_interface() { return kInterface; }

HEADWAY_KERNELS(float, f32)
HEADWAY_KERNELS(bf16, bf16)
HEADWAY_PAGE_KERNELS(float, float, f32)
HEADWAY_PAGE_KERNELS(float, bf16, f32_pages_bf16)
HEADWAY_PAGE_KERNELS(bf16, bf16, bf16)
HEADWAY_PAGE_KERNELS(float, int8_t, f32_pages_int8)
HEADWAY_PAGE_KERNELS(bf16, int8_t, bf16_pages_int8)
