// The product of fp32 activations and fp32 weights, which lie in panels of columns: see cpu/linear.py.
//
// A sum is made in the order of the inputs, whatever the number of rows: a row's bits do not depend on the others.

#include "vectors.h"

using namespace headway;

namespace {

constexpr int64_t kRowsAtOnce = 128;  // whose inputs stay in a core's cache while it goes through them with a panel

// out[0 .. R][0 .. columns] = x[0 .. R] panel + bias
template <int R>
inline void multiply_panel(float* out, int64_t out_stride, const float* x, int64_t x_stride, const float* panel, const float* bias,
                           int64_t inputs, int64_t columns) {
  Vec sums[R][kVectors];
  each<R * kVectors>([&](auto i) HEADWAY_INLINE { sums[i / kVectors][i % kVectors] = Vec{}; });
  for (int64_t k = 0; k < inputs; k++, panel += kPanel)
    each<R * kVectors>([&](auto i) HEADWAY_INLINE {
      Vec& sum = sums[i / kVectors][i % kVectors];
      sum = multiply_add(sum, x + i / kVectors * x_stride + k, panel + i % kVectors * kWidth);
    });
  float row[kPanel];
  for (int r = 0; r < R; r++) {
    for (int v = 0; v < kVectors; v++) loose(row + v * kWidth) = sums[r][v];
    float* to = out + r * out_stride;
    for (int64_t n = 0; n < columns; n++) to[n] = bias == nullptr ? row[n] : row[n] + bias[n];
  }
}

template <int R = kRows>
inline void multiply_rows(float* out, int64_t out_stride, const float* x, int64_t x_stride, const float* panel, const float* bias,
                          int64_t inputs, int64_t columns, int64_t rows) {
  for (; rows >= R; rows -= R, out += R * out_stride, x += R * x_stride)
    multiply_panel<R>(out, out_stride, x, x_stride, panel, bias, inputs, columns);
  if constexpr (R > 1)
    if (rows > 0) multiply_rows<R - 1>(out, out_stride, x, x_stride, panel, bias, inputs, columns, rows);
}

}  // namespace

// Columns of a panel.
extern "C" int64_t dense_panel() { return kPanel; }

// out [rows, outputs] = x w^T + bias. x [rows, inputs], rows x_stride apart; w as panels [ceil(outputs / kPanel), inputs, kPanel], aligned for
// vectors, with zeros behind the last output; bias [outputs] may be null.
extern "C" void dense_linear_f32(float* out, const float* x, const float* panels, const float* bias, int64_t rows, int64_t inputs,
                                 int64_t outputs, int64_t x_stride) {
  const int64_t num_panels = (outputs + kPanel - 1) / kPanel, shares = (rows + kRowsAtOnce - 1) / kRowsAtOnce;
#pragma omp parallel for schedule(static)
  for (int64_t task = 0; task < num_panels * shares; task++) {
    const int64_t panel = task / shares, first = task % shares * kRowsAtOnce, column = panel * kPanel;
    multiply_rows(out + first * outputs + column, outputs, x + first * x_stride, x_stride, panels + panel * inputs * kPanel,
                  bias == nullptr ? nullptr : bias + column, inputs, std::min<int64_t>(kPanel, outputs - column),
                  std::min(kRowsAtOnce, rows - first));
  }
}
