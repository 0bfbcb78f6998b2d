// Which rows of a step go through pages together, and how a step is cut into what threads do.
//
// Rows that begin with the same pages, as behind a common prefix or as further tokens of one sequence, read them together: a key is then
// fetched, and brought to fp32, once for all of them.
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

// Some heads of one row, or of some rows that see the same keys: what a thread does at a time.
struct DecodeTask {
  const int32_t* rows;
  int64_t num_rows, kv_head, heads;
  int64_t part;  // which of the rows' keys
};

// A row's keys are gone through in parts, from the first that it sees on, each with sums of its own: who computes which part, and with
// which other rows, then leaves a row's bits as they are.
constexpr int64_t kPartKeys = 128;
constexpr int64_t kLeastTogether = 4;  // rows: two were slower than one by one, before keys were cut into parts
constexpr int64_t kMostTogether = 8;   // whose scores of a part are kept until the last of them is through

// A step cut into tasks. To be made outside of a parallel region, within which OpenMP's number of threads may be another
// (OMP_NUM_THREADS=2,1). tables [rows][table_width], lengths [rows].
class DecodeTasks {
 public:
  DecodeTasks(const DecodeShape& s, const int32_t* tables, const int32_t* lengths)
      : s(s), tables(tables), lengths(lengths), order(s.rows), firsts(s.rows + 1) {
    for (int64_t row = 0; row < s.rows; row++) firsts[row + 1] = firsts[row] + (seen(row) + kPartKeys - 1) / kPartKeys;
    std::iota(order.begin(), order.end(), 0);
    if (s.rows > 1) std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return is_before(a, b); });
    // All heads of a part are one task where there are tasks enough: pages are then read from front to back.
    const int64_t threads = omp_get_max_threads();
    deal(s.kv_heads);
    if (threads > 1 && count() < 4 * threads) tasks.clear(), deal(1);
    std::stable_sort(tasks.begin(), tasks.end(), [](const DecodeTask& a, const DecodeTask& b) { return a.num_rows > b.num_rows; });
  }
  DecodeTasks(const DecodeTasks&) = delete;

  int64_t count() const { return int64_t(tasks.size()); }
  const DecodeTask& operator[](int64_t index) const { return tasks[index]; }

  // Parts of all rows are numbered, a row's one after the other.
  int64_t first_part(int64_t row) const { return firsts[row]; }
  int64_t num_parts(int64_t row) const { return firsts[row + 1] - firsts[row]; }

  // Of a row's keys the first that it sees, and how many it sees.
  int64_t start(int64_t row) const { return s.window > 0 ? std::max<int64_t>(0, lengths[row] - s.window) : 0; }
  int64_t seen(int64_t row) const { return lengths[row] - start(row); }

 private:
  struct Together {
    int64_t num_rows, parts;  // the first of which all rows have in the same pages
  };

  void deal(int64_t heads) {
    for (int64_t first = 0; first < s.rows;) {
      const Together found = together(first);
      const int64_t groups = (found.num_rows + kMostTogether - 1) / kMostTogether;
      const int64_t shared = found.num_rows / groups >= kLeastTogether ? found.parts : 0;
      for (int64_t part = 0; part < shared; part++)
        for (int64_t group = 0; group < groups; group++) {
          const int64_t from = found.num_rows * group / groups, to = found.num_rows * (group + 1) / groups;
          add(first + from, to - from, heads, part);
        }
      for (int64_t i = first; i < first + found.num_rows; i++)
        for (int64_t part = shared; part < num_parts(order[i]); part++) add(i, 1, heads, part);
      first += found.num_rows;
    }
  }

  void add(int64_t first, int64_t num_rows, int64_t heads, int64_t part) {
    for (int64_t head = 0; head < s.kv_heads; head += heads) tasks.push_back({&order[first], num_rows, head, heads, part});
  }

  const int32_t* table(int32_t row) const { return tables + row * s.table_width; }
  // Those full of the row's keys. With a window, rows share only what all of them see from the first key on.
  int64_t blocks(int32_t row) const { return start(row) > 0 ? 0 : lengths[row] / s.block_size; }

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
      if (keys < kPartKeys || 2 * keys < longest) break;
      found = {next + 1 - first, keys / kPartKeys};
    }
    return found;
  }

  const DecodeShape& s;
  const int32_t *tables, *lengths;
  std::vector<int32_t> order;  // rows
  std::vector<int64_t> firsts;  // parts
  std::vector<DecodeTask> tasks;
};

}  // namespace headway
