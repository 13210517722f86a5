// The values of a vocabulary and their ids, packed into one run of bytes that holds no pointer: it can be shared
// by processes, and is a file of the bundle (docs/bundle.md).
//
// A header of five words, then the slots, then the records. A slot is 0 or the upper half of a value's hash and
// the place of its record; a value lies in the first free slot from the lower half of its hash on. A record is
// its id (int32), its size in bytes (uint32) and its UTF-8, at a multiple of four bytes. A place counts four
// bytes, from 1. With values of 8 bytes it takes 27 to 38 bytes a value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "bytes.hpp"

namespace bidlight {

constexpr std::int32_t kMissingId = 0, kOutOfVocabularyId = 1, kFirstId = 2;

struct VocabularyEntry {
  std::string_view text;
  std::int32_t id;
};

// Reads a packed vocabulary, which must outlive it. Whatever the bytes hold, it reads none beyond them, and a
// look-up ends.
class Vocabulary {
 public:
  static constexpr std::uint64_t kMagic = 0x3130636f76646962;  // "bidvoc01"
  static constexpr std::size_t kHeaderWords = 5;
  static constexpr std::size_t kRecordHead = 8;
  // The longest run of taken slots that `check` allows, and so the most that a look-up reads, whatever the text.
  // Where hashes are even, one of 500 is rare with a billion values.
  static constexpr std::size_t kLongestRun = 1024;

  Vocabulary() = default;

  // Throws std::invalid_argument unless the header fits the bytes.
  explicit Vocabulary(std::span<const std::uint64_t> words);

  // Throws std::invalid_argument unless `find` gives each text of the table its own id, the texts are unique and
  // UTF-8, no run of taken slots is too long, and the ids in the order of the records are `ids` [size()], or
  // kFirstId, ... where that is null.
  void check(const std::int32_t* ids) const;

  // Of the taken slots that lie side by side; the largest number where none is free: there no look-up would end.
  std::size_t longest_run() const;

  // Calls `use` (text) for each record in their order. Throws std::invalid_argument where the table was changed
  // since it was checked, and a text does not end within it.
  template <class Use>
  void for_each(Use use) const {
    std::size_t record = 0;
    for (std::size_t number = 0; number < count_; ++number) {
      const std::string_view text = text_of(record);
      use(text);
      record += kRecordHead + padded(text.size());
    }
  }

  std::size_t size() const { return count_; }

  std::uint64_t hash(std::string_view text) const { return hash_text(text, seed_); }

  void prefetch(std::uint64_t hash) const { __builtin_prefetch(slots_ + (hash & mask_)); }

  // Of the first slot that `find` looks at, the record: it is probably the value's.
  void prefetch_record(std::uint64_t hash) const {
    const std::size_t record = record_of(slots_[hash & mask_]);
    if (record < record_bytes_) __builtin_prefetch(records_ + record);
  }

  // The id of a text that is not empty and whose hash this is.
  std::int32_t find(std::string_view text, std::uint64_t hash) const {
    const std::uint64_t tag = hash >> 32;
    for (std::uint64_t probe = 0; probe <= mask_; ++probe) {
      const std::uint64_t slot = slots_[(hash + probe) & mask_];
      if (slot == 0) break;
      if (slot >> 32 == tag && is_of(slot, text)) return load<std::int32_t>(records_ + record_of(slot));
    }
    return kOutOfVocabularyId;
  }

  static std::size_t padded(std::size_t size) { return (size + 3) / 4 * 4; }

  static std::uint64_t slot_of(std::uint64_t hash, std::size_t record) { return hash >> 32 << 32 | (record / 4 + 1); }

 private:
  static std::size_t record_of(std::uint64_t slot) {
    return (static_cast<std::size_t>(static_cast<std::uint32_t>(slot)) - 1) * 4;  // huge for an empty slot
  }

  // Throws std::invalid_argument where it does not end within the records; `record` is at most their end.
  std::string_view text_of(std::size_t record) const {
    const std::size_t rest = record_bytes_ - record;
    const std::uint32_t size = rest < kRecordHead ? 0 : load<std::uint32_t>(records_ + record + 4);
    if (size == 0 || size > rest - kRecordHead) throw std::invalid_argument("a value does not end within the table");
    return {records_ + record + kRecordHead, size};
  }

  // Whether the record of a slot that is taken has this text.
  bool is_of(std::uint64_t slot, std::string_view text) const {
    const std::size_t record = record_of(slot);
    if (record >= record_bytes_ || record_bytes_ - record < kRecordHead + text.size()) return false;
    const auto size = load<std::uint32_t>(records_ + record + 4);
    return size == text.size() && std::memcmp(records_ + record + kRecordHead, text.data(), size) == 0;
  }

  // Throws std::invalid_argument unless a look-up of the record's text ends at the record's own slot.
  void check_slot(std::uint64_t hash, std::size_t record) const;

  const std::uint64_t* slots_ = nullptr;
  const char* records_ = nullptr;
  std::uint64_t seed_ = 0;
  std::uint64_t mask_ = 0;
  std::size_t record_bytes_ = 0;
  std::size_t count_ = 0;
};

// Packs values that are unique and not empty. Throws std::length_error beyond 16 GiB of records.
std::vector<std::uint64_t> pack_vocabulary(std::span<const VocabularyEntry> entries, std::uint64_t seed);

}  // namespace bidlight
