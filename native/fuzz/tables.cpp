// The bytes of a table's file -> look-ups, whatever the bytes are.
//
// A look-up stays within the table and ends, checked or not. In a table that `check` lets pass, every text of its
// records is found with its id, and none is there twice.

#include <bit>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "../utf8.hpp"
#include "../vocabulary.hpp"
#include "input.hpp"

namespace bidlight::fuzz {
namespace {

constexpr std::size_t kSlotsWord = 3, kRecordWordsWord = 4;

// The texts of the records, as far as they end within the table.
std::vector<std::string> texts_of(const Vocabulary& vocabulary) {
  std::vector<std::string> texts;
  try {
    vocabulary.for_each([&](std::string_view text) { texts.emplace_back(text); });
  } catch (const std::invalid_argument&) {
  }
  return texts;
}

std::int32_t find(const Vocabulary& vocabulary, std::string_view text, std::uint64_t hash) {
  vocabulary.prefetch(hash);
  vocabulary.prefetch_record(hash);
  return vocabulary.find(text, hash);
}

bool passes(const Vocabulary& vocabulary, const std::vector<std::int32_t>& ids) {
  try {
    vocabulary.check(ids.data());
  } catch (const std::invalid_argument&) {
    return false;
  }
  return true;
}

// Of a table that was checked.
void expect_sound(const Vocabulary& vocabulary, const std::vector<std::string>& texts) {
  const std::set<std::string> all(texts.begin(), texts.end());
  expect(all.size() == texts.size(), "no text of a checked table is there twice");
  expect(vocabulary.longest_run() <= Vocabulary::kLongestRun, "no run of a checked table is too long");
  for (const std::string& text : texts) {
    expect(is_utf8(text), "the texts of a checked table are UTF-8");
    const std::string other = text + "x";
    const std::int32_t id = find(vocabulary, other, vocabulary.hash(other));
    expect(all.contains(other) || id == kOutOfVocabularyId, "no other text is found in a checked table");
  }
}

void open(const std::vector<std::uint64_t>& given) {
  const std::vector<std::uint64_t> words(given);  // of exactly its size
  std::optional<Vocabulary> opened;
  try {
    opened.emplace(words);
  } catch (const std::invalid_argument&) {
    return;
  }
  const Vocabulary& vocabulary = *opened;
  const std::vector<std::string> texts = texts_of(vocabulary);
  std::vector<std::int32_t> ids;
  for (const std::string& text : texts) ids.push_back(find(vocabulary, text, vocabulary.hash(text)));
  // Hashes of which each leads to the record of a slot, whatever its text.
  for (std::size_t slot = 0; slot < words[kSlotsWord]; ++slot) {
    const std::uint64_t hash = words[Vocabulary::kHeaderWords + slot] >> 32 << 32 | slot;
    find(vocabulary, texts.empty() ? "v" : texts[slot % texts.size()], hash);
    find(vocabulary, "a value that no table has", hash);
  }
  if (texts.size() == vocabulary.size() && passes(vocabulary, ids)) expect_sound(vocabulary, texts);
}

void read(const std::uint8_t* data, std::size_t size) {
  std::vector<std::uint64_t> words(size / sizeof(std::uint64_t));
  if (!words.empty()) std::memcpy(words.data(), data, words.size() * sizeof(std::uint64_t));
  open(words);
  // With a header that fits, so that changes of the length get further.
  if (words.size() <= Vocabulary::kHeaderWords) return;
  const std::uint64_t rest = words.size() - Vocabulary::kHeaderWords;
  words[0] = Vocabulary::kMagic;
  words[kSlotsWord] = std::bit_floor(words[kSlotsWord] % rest + 1);
  words[kRecordWordsWord] = rest - words[kSlotsWord];
  open(words);
}

}  // namespace
}  // namespace bidlight::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  bidlight::fuzz::read(data, size);
  return 0;
}
