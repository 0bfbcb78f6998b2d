// Choosing tokens without drawing.

#include "first_maximum.h"

// tokens [rows]: see first_maximum. Rows of logits are `stride` apart.
extern "C" void first_maximum_f32(int64_t* tokens, const float* logits, int64_t rows, int64_t size, int64_t stride) {
#pragma omp parallel for schedule(static) if (rows > 1)
  for (int64_t r = 0; r < rows; r++) tokens[r] = headway::first_maximum(logits + r * stride, size);
}
