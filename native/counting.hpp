// Sums for metrics, over many rows at a time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "vocabulary.hpp"

namespace bidlight {

// Adds to `missing` and `unknown` [columns] how many of the `ids` [rows, columns] are missing, or out of
// vocabulary. A row counts as many times as `weights` [rows] says; empty, each counts once.
inline void count_ids(std::span<const std::int32_t> ids, std::span<const std::int32_t> weights,
                      std::span<std::int64_t> missing, std::span<std::int64_t> unknown) {
  const std::size_t columns = missing.size();
  const std::int32_t* id = ids.data();
  for (std::size_t row = 0; row < ids.size() / columns; ++row, id += columns) {
    const std::int64_t weight = weights.empty() ? 1 : weights[row];
    for (std::size_t column = 0; column < columns; ++column) {
      missing[column] += id[column] == kMissingId ? weight : 0;
      unknown[column] += id[column] == kOutOfVocabularyId ? weight : 0;
    }
  }
}

// Adds to `counts` [bounds] how many of the values are at most each of the ascending `bounds`, and above the one
// before it; what is above all of them, or NaN, counts with the last. Returns the sum of the values.
inline double count_values(std::span<const double> values, std::span<const double> bounds,
                           std::span<std::int64_t> counts) {
  double sum = 0.0;
  for (const double value : values) {
    sum += value;
    std::size_t bucket = 0;  // without a branch: bounds are few, and which one it is cannot be foreseen
    for (const double bound : bounds) bucket += !(value <= bound);
    ++counts[std::min(bucket, bounds.size() - 1)];
  }
  return sum;
}

}  // namespace bidlight
