// Low-rank updates in 8 bits alone, for linears of a layer that is not computed in one call.

#include "grouped_lora.h"

using namespace headway;

// x [tokens, lora.in] and out, rows x_stride and out_stride apart.
extern "C" void add_grouped_lora_f32(float* out, const float* x, const GroupedLora* lora, const LoraRows* step, int64_t x_stride,
                                     int64_t out_stride) {
#pragma omp parallel
  add_grouped_lora(out, out_stride, *lora, *step,
                   [&](const RoundedRows& to, int64_t entry, int64_t token) { round_row(to, entry, x + token * x_stride, lora->in); });
}
