// The product of grouped weights alone.

#include <memory>

#include "wide.h"

using namespace headway;

// out [rows, weight.out] = x w^T + bias; x [rows, weight.in], rows x_stride apart; bias may be null.
extern "C" void grouped_linear_f32(float* out, const float* x, const GroupedWeight* weight, const float* bias, int64_t rows,
                                   int64_t x_stride) {
  const int64_t groups = weight->groups();
  const std::unique_ptr<uint8_t[]> memory(new uint8_t[RoundedRows::bytes(rows, groups)]);
  RoundedRows rounded(memory.get(), rows, groups);
#pragma omp parallel
  {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) round_row(rounded, r, x + r * x_stride, weight->in);
    multiply_grouped(out, *weight, bias, rounded, rows);
  }
}
