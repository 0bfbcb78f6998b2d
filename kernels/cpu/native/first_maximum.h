// The most likely token of a row of logits.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace headway {

// The index of the first maximum; -1, which is BROKEN in headway/kernels/sampling.py, where a number is NaN, or the maximum infinite. Floats
// are compared as integers, whose maximum every compiler vectorises and which know NaN: the magnitude's bits are ordered, and -0 is 0.
inline int64_t first_maximum(const float* x, int64_t count) {
  constexpr int64_t kPiece = 512;  // looked through a second time, for the index
  constexpr int32_t kInfinity = 0x7f800000;
  auto magnitude = [&](int64_t i) { return std::bit_cast<int32_t>(x[i]) & 0x7fffffff; };
  auto ordered = [&](int64_t i) {
    const int32_t sign = std::bit_cast<int32_t>(x[i]) >> 31;
    return (magnitude(i) ^ sign) - sign;
  };
  int32_t highest = -kInfinity, largest = 0;
  int64_t place = 0;
  for (int64_t first = 0; first < count; first += kPiece) {
    const int64_t end = std::min(first + kPiece, count);
    int32_t own = -kInfinity;
    for (int64_t i = first; i < end; i++) {
      own = std::max(own, ordered(i));
      largest = std::max(largest, magnitude(i));
    }
    if (own > highest) highest = own, place = first;
  }
  if (largest > kInfinity || highest == kInfinity || highest == -kInfinity) return -1;
  while (ordered(place) != highest) place++;
  return place;
}

}  // namespace headway
