// The distinct texts of a column, numbered in order of appearance.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "arrow.hpp"

namespace bidlight {

// Numbers texts one after the other. They must stay where they are as long as this lives.
class Numbering {
 public:
  // With a secret seed nobody can write texts into a log that collide.
  explicit Numbering(std::uint64_t seed) : seed_(seed), slots_(kFirstSlots) {}

  std::size_t size() const { return texts_.size(); }

  // The number of a text; size() before the call if it is new.
  std::uint32_t number_of(Text text) {
    const std::uint64_t hash = hash_text(text, seed_);
    const std::size_t mask = slots_.size() - 1;
    std::size_t at = hash & mask;
    for (; slots_[at] != 0; at = (at + 1) & mask) {
      if (slots_[at] >> 32 != hash >> 32) continue;
      const auto number = static_cast<std::uint32_t>(slots_[at]) - 1;
      if (texts_[number] == text) return number;
    }
    const auto number = static_cast<std::uint32_t>(texts_.size());
    slots_[at] = hash >> 32 << 32 | (std::uint64_t{number} + 1);
    texts_.push_back(text);
    if (texts_.size() * 2 > slots_.size()) grow();
    return number;
  }

 private:
  static constexpr std::size_t kFirstSlots = 1024;

  void grow() {
    slots_.assign(slots_.size() * 4, 0);
    const std::size_t mask = slots_.size() - 1;
    for (std::size_t number = 0; number < texts_.size(); ++number) {
      const std::uint64_t hash = hash_text(texts_[number], seed_);
      std::size_t at = hash & mask;
      while (slots_[at] != 0) at = (at + 1) & mask;
      slots_[at] = hash >> 32 << 32 | (number + 1);
    }
  }

  std::uint64_t seed_;
  std::vector<std::uint64_t> slots_;  // 0, or the upper half of a text's hash and its number from 1
  std::vector<Text> texts_;
};

}  // namespace bidlight
