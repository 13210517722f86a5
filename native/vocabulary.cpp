#include "vocabulary.hpp"

#include <bit>
#include <limits>
#include <stdexcept>

namespace bidlight {

namespace {

enum Header : std::size_t { kMagicWord, kSeedWord, kCountWord, kSlotsWord, kRecordWordsWord };

std::size_t padded(std::size_t size) { return (size + 3) / 4 * 4; }

}  // namespace

Vocabulary::Vocabulary(std::span<const std::uint64_t> words) {
  if (words.size() < kHeaderWords || words[kMagicWord] != kMagic) {
    throw std::invalid_argument("a packed vocabulary must begin with its header");
  }
  const std::uint64_t slots = words[kSlotsWord], record_words = words[kRecordWordsWord];
  const std::uint64_t rest = words.size() - kHeaderWords;
  if (!std::has_single_bit(slots) || slots > rest || record_words != rest - slots) {
    throw std::invalid_argument("a packed vocabulary must have the size that its header says");
  }
  slots_ = words.data() + kHeaderWords;
  records_ = reinterpret_cast<const char*>(slots_ + slots);
  seed_ = words[kSeedWord];
  mask_ = slots - 1;
  record_bytes_ = record_words * sizeof(std::uint64_t);
  count_ = words[kCountWord];
}

std::vector<std::uint64_t> pack_vocabulary(std::span<const VocabularyEntry> entries, std::uint64_t seed) {
  // At most three of four slots are taken, and one is always free: there a look-up ends.
  const std::size_t slots = std::bit_ceil(entries.size() + entries.size() / 3 + 1);
  std::size_t bytes = 0;
  for (const VocabularyEntry& entry : entries) bytes += Vocabulary::kRecordHead + padded(entry.text.size());
  if (bytes / 4 >= std::numeric_limits<std::uint32_t>::max()) {
    throw std::length_error("a vocabulary must have at most 16 GiB of values");
  }
  const std::size_t record_words = (bytes + sizeof(std::uint64_t) - 1) / sizeof(std::uint64_t);
  std::vector<std::uint64_t> words(Vocabulary::kHeaderWords + slots + record_words);
  words[kMagicWord] = Vocabulary::kMagic;
  words[kSeedWord] = seed;
  words[kCountWord] = entries.size();
  words[kSlotsWord] = slots;
  words[kRecordWordsWord] = record_words;
  std::uint64_t* first_slot = words.data() + Vocabulary::kHeaderWords;
  char* records = reinterpret_cast<char*>(first_slot + slots);
  std::size_t record = 0;
  for (const VocabularyEntry& entry : entries) {
    const std::uint64_t hash = hash_text(entry.text, seed);
    std::uint64_t at = hash & (slots - 1);
    while (first_slot[at] != 0) at = (at + 1) & (slots - 1);
    first_slot[at] = hash >> 32 << 32 | (record / 4 + 1);
    const auto size = static_cast<std::uint32_t>(entry.text.size());
    std::memcpy(records + record, &entry.id, 4);
    std::memcpy(records + record + 4, &size, 4);
    std::memcpy(records + record + Vocabulary::kRecordHead, entry.text.data(), size);
    record += Vocabulary::kRecordHead + padded(size);
  }
  return words;
}

}  // namespace bidlight
