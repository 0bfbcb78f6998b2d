// Rounding of activations to 8 bits before an integer matrix product, and the way back after it.

#include <algorithm>
#include <cstdint>

namespace {

constexpr int64_t kParallelElements = 16384;

}  // namespace

// q[r] = round(x[r] * 127 / max |x[r]|), scale[r] = max |x[r]| / 127, a row each. x [rows, size] fp32, contiguous.
extern "C" void quantize_rows_f32(int8_t* q, float* scale, const float* x, int64_t rows, int64_t size) {
#pragma omp parallel for schedule(static) if (rows * size > kParallelElements)
  for (int64_t r = 0; r < rows; r++) {
    const float* from = x + r * size;
    int8_t* to = q + r * size;
    // The bits of non-negative floats are ordered as integers, whose maximum every compiler vectorises.
    int32_t largest_bits = 0x1e3ce508;  // 1e-20
    for (int64_t i = 0; i < size; i++) {
      int32_t bits;
      __builtin_memcpy(&bits, from + i, 4);
      largest_bits = std::max(largest_bits, bits & 0x7fffffff);
    }
    float largest;
    __builtin_memcpy(&largest, &largest_bits, 4);
    float inverse = 127.0f / largest;
    scale[r] = largest / 127.0f;
    for (int64_t i = 0; i < size; i++) {
      // Adding 1.5 * 2^23 rounds to the nearest even integer and leaves it in the low bits.
      float shifted = from[i] * inverse + 12582912.0f;
      int32_t bits;
      __builtin_memcpy(&bits, &shifted, 4);
      to[i] = int8_t(bits);
    }
  }
}

// out[r, n] = sums[r, n] * row_scale[r] * column_scale[n] + bias[n]; bias may be null.
extern "C" void dequantize_f32(float* out, const int32_t* sums, const float* row_scale, const float* column_scale, const float* bias,
                               int64_t rows, int64_t size) {
#pragma omp parallel for schedule(static) if (rows * size > kParallelElements)
  for (int64_t r = 0; r < rows; r++) {
    const int32_t* from = sums + r * size;
    float* to = out + r * size;
    float s = row_scale[r];
    if (bias != nullptr)
      for (int64_t i = 0; i < size; i++) to[i] = float(from[i]) * (s * column_scale[i]) + bias[i];
    else
      for (int64_t i = 0; i < size; i++) to[i] = float(from[i]) * (s * column_scale[i]);
  }
}
