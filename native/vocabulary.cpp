#include "vocabulary.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <stdexcept>

#include "utf8.hpp"

namespace bidlight {

namespace {

enum Header : std::size_t { kMagicWord, kSeedWord, kCountWord, kSlotsWord, kRecordWordsWord };

void expect(bool holds, const char* otherwise) {
  if (!holds) throw std::invalid_argument(otherwise);
}

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

std::size_t Vocabulary::longest_run() const {
  const std::size_t slots = mask_ + 1;
  const std::uint64_t* end = slots_ + slots;
  const auto free = static_cast<std::size_t>(std::find(slots_, end, 0) - slots_);
  if (free == slots) return std::numeric_limits<std::size_t>::max();
  // From a free slot on once around: a run may go from the last slots to the first ones.
  std::size_t longest = 0, run = 0;
  for (std::size_t step = 1; step <= slots; ++step) {
    run = slots_[(free + step) & mask_] == 0 ? 0 : run + 1;
    longest = std::max(longest, run);
  }
  return longest;
}

void Vocabulary::check_slot(std::uint64_t hash, std::size_t record) const {
  const std::uint64_t own = slot_of(hash, record);
  const std::string_view text = text_of(record);
  for (std::uint64_t probe = 0;; ++probe) {
    const std::uint64_t slot = slots_[(hash + probe) & mask_];
    if (slot == own) return;
    expect(slot != 0 && probe < mask_, "a value is in no slot of its hash");
    expect(slot >> 32 != own >> 32 || !is_of(slot, text), "a value is there twice");
  }
}

void Vocabulary::check(const std::int32_t* ids) const {
  constexpr std::size_t kAtOnce = 64;
  expect(longest_run() <= kLongestRun, "too many of its slots lie side by side");
  const auto taken = mask_ + 1 - static_cast<std::size_t>(std::count(slots_, slots_ + mask_ + 1, 0));
  // With a slot of its own for each record, no slot is left that is none's.
  expect(taken == count_, "it has not as many slots as values");
  std::array<std::pair<std::uint64_t, std::size_t>, kAtOnce> found;  // hashes and records
  std::size_t record = 0;
  for (std::size_t done = 0; done < count_; done += kAtOnce) {
    const std::size_t some = std::min(kAtOnce, count_ - done);
    for (std::size_t i = 0; i < some; ++i) {
      const std::string_view text = text_of(record);
      expect(is_utf8(text), "a value is not UTF-8");
      const std::int32_t id = ids == nullptr ? static_cast<std::int32_t>(kFirstId + done + i) : ids[done + i];
      expect(load<std::int32_t>(records_ + record) == id, "a value has another id than its field gives it");
      found[i] = {hash(text), record};
      prefetch(found[i].first);
      record += kRecordHead + padded(text.size());
    }
    for (std::size_t i = 0; i < some; ++i) check_slot(found[i].first, found[i].second);
  }
  expect(record_bytes_ - record < sizeof(std::uint64_t), "it has more records than values");
}

std::vector<std::uint64_t> pack_vocabulary(std::span<const VocabularyEntry> entries, std::uint64_t seed) {
  // At most three of four slots are taken, and one is always free: there a look-up ends.
  const std::size_t slots = std::bit_ceil(entries.size() + entries.size() / 3 + 1);
  std::size_t bytes = 0;
  for (const VocabularyEntry& entry : entries) bytes += Vocabulary::kRecordHead + Vocabulary::padded(entry.text.size());
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
    first_slot[at] = Vocabulary::slot_of(hash, record);
    const auto size = static_cast<std::uint32_t>(entry.text.size());
    std::memcpy(records + record, &entry.id, 4);
    std::memcpy(records + record + 4, &size, 4);
    std::memcpy(records + record + Vocabulary::kRecordHead, entry.text.data(), size);
    record += Vocabulary::kRecordHead + Vocabulary::padded(size);
  }
  return words;
}

}  // namespace bidlight
