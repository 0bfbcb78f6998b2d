// Which rows of a step go through pages together, and how a step is cut into what threads do.
//
// Rows that begin with the same pages, as behind a common prefix or as further tokens of one sequence, read them together: a key is then
// fetched, and brought to fp32, once for all of them. What a row's result is does not depend on who else is there.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "common.h"

namespace headway {

struct DecodeShape {
  int64_t rows, q_heads, kv_heads, dim, block_size, table_width, q_stride, window;
  float scale, softcap;

  int64_t group() const { return q_heads / kv_heads; }
};

// Some heads of one row, or one head of some rows: what a thread does at a time.
struct DecodeTask {
  const int32_t* rows;
  int64_t num_rows, kv_head, heads;
  int64_t shared;  // keys from the first on that lie in the same pages for all rows
};

constexpr int64_t kLeastShared = 64;   // keys; fewer are not worth a look
constexpr int64_t kLeastTogether = 4;  // rows: 1.2 times as fast as one by one with AVX2 and the same with AVX-512; two are slower
constexpr int64_t kMostTogether = 8;   // whose scores are kept until the last of them is through

// A step cut into tasks. All heads of a row are one where there are rows enough, for then the pages are read from front to back (32 rows
// of 190 keys: 17 ms with all, 21 with one). To be made outside of a parallel region, within which OpenMP's number of threads may be
// another (OMP_NUM_THREADS=2,1). tables [rows][table_width], lengths [rows].
class DecodeTasks {
 public:
  DecodeTasks(const DecodeShape& s, const int32_t* tables, const int32_t* lengths) : s(s), tables(tables), lengths(lengths), order(s.rows) {
    std::iota(order.begin(), order.end(), 0);
    if (s.rows > 1) std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return is_before(a, b); });
    const int64_t threads = omp_get_max_threads(), heads = s.rows >= 4 * threads ? s.kv_heads : 1;
    // Tasks enough that all threads end at about the same time.
    const int64_t least = threads > 1 ? 2 * threads : 1, most = std::clamp(s.rows * s.kv_heads / least, int64_t(1), kMostTogether);
    for (int64_t first = 0; first < s.rows;) {
      const Together found = together(first);
      const int64_t parts = (found.num_rows + most - 1) / most;
      if (found.num_rows / parts >= kLeastTogether)
        for (int64_t part = 0; part < parts; part++) {
          const int64_t from = found.num_rows * part / parts, to = found.num_rows * (part + 1) / parts;
          add(first + from, to - from, 1, found.shared);
        }
      else
        for (int64_t row = 0; row < found.num_rows; row++) add(first + row, 1, heads, 0);
      first += found.num_rows;
    }
    std::stable_sort(tasks.begin(), tasks.end(), [](const DecodeTask& a, const DecodeTask& b) { return a.num_rows > b.num_rows; });
  }
  DecodeTasks(const DecodeTasks&) = delete;

  int64_t count() const { return int64_t(tasks.size()); }
  const DecodeTask& operator[](int64_t index) const { return tasks[index]; }

 private:
  struct Together {
    int64_t num_rows, shared;
  };

  void add(int64_t first, int64_t num_rows, int64_t heads, int64_t shared) {
    for (int64_t head = 0; head < s.kv_heads; head += heads) tasks.push_back({&order[first], num_rows, head, heads, shared});
  }

  const int32_t* table(int32_t row) const { return tables + row * s.table_width; }
  // Those full of the row's keys. With a window, rows share only what all of them see from the first key on.
  int64_t blocks(int32_t row) const { return s.window > 0 && lengths[row] > s.window ? 0 : lengths[row] / s.block_size; }

  // Such that those with most in common are neighbours.
  bool is_before(int32_t a, int32_t b) const {
    return std::lexicographical_compare(table(a), table(a) + blocks(a), table(b), table(b) + blocks(b));
  }

  int64_t shared(int32_t a, int32_t b) const {
    const int32_t* end = table(a) + std::min(blocks(a), blocks(b));
    return (std::mismatch(table(a), end, table(b)).first - table(a)) * s.block_size;
  }

  // The rows from order[first] on that share at least half of their keys.
  Together together(int64_t first) const {
    Together found{1, 0};
    int64_t longest = lengths[order[first]];
    for (int64_t next = first + 1; next < s.rows; next++) {
      const int64_t keys = shared(order[first], order[next]);
      longest = std::max<int64_t>(longest, lengths[order[next]]);
      if (keys < kLeastShared || 2 * keys < longest) break;
      found = {next + 1 - first, keys};
    }
    return found;
  }

  const DecodeShape& s;
  const int32_t *tables, *lengths;
  std::vector<int32_t> order;  // rows
  std::vector<DecodeTask> tasks;
};

}  // namespace headway
