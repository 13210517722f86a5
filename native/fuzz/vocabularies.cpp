// Values -> a table, that is damaged then.
//
// A packed table passes its check and finds its values and no other ones. One that was changed passes only if it
// still is a table.

#include <algorithm>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "../utf8.hpp"
#include "../vocabulary.hpp"
#include "input.hpp"

namespace bidlight::fuzz {
namespace {

std::int32_t find(const Vocabulary& vocabulary, const std::string& text) {
  return vocabulary.find(text, vocabulary.hash(text));
}

std::vector<std::string> draw_values(Input& input) {
  std::set<std::string> values;
  // Many short ones have tables whose slots are nearly all taken.
  const std::size_t numbered = input.below(100);
  for (std::size_t number = 0; number < numbered; ++number) values.insert(std::to_string(number));
  for (std::size_t left = input.below(30); left > 0; --left) values.insert(input.text(40));
  std::erase_if(values, [](const std::string& value) { return value.empty() || !is_utf8(value); });
  return {values.begin(), values.end()};
}

void expect_packed(const Vocabulary& vocabulary, const std::vector<std::string>& values) {
  vocabulary.check(nullptr);
  expect(vocabulary.size() == values.size(), "a table has its number of values");
  std::size_t number = 0;
  vocabulary.for_each([&](std::string_view text) { expect(text == values[number++], "a table has its values in order"); });
  for (number = 0; number < values.size(); ++number) {
    expect(find(vocabulary, values[number]) == static_cast<std::int32_t>(kFirstId + number), "a value has its own id");
    const std::string other = values[number] + "0";
    const bool is_there = std::binary_search(values.begin(), values.end(), other);
    expect((find(vocabulary, other) != kOutOfVocabularyId) == is_there, "another text is out of vocabulary");
  }
}

void look_up_damaged(std::vector<std::uint64_t> words, const std::vector<std::string>& values, Input& input) {
  for (std::size_t left = 1 + input.below(6); left > 0; --left) {
    words[input.below(words.size())] ^= input.number<std::uint64_t>() >> input.below(64);
  }
  if (input.below(8) == 0) words.resize(input.below(words.size() + 1));
  words.shrink_to_fit();
  try {
    const Vocabulary vocabulary{words};
    for (const std::string& value : values) find(vocabulary, value);
    vocabulary.check(nullptr);
    std::size_t known = 0;
    vocabulary.for_each([&](std::string_view text) {
      const std::int32_t id = vocabulary.find(text, vocabulary.hash(text));
      expect(id == static_cast<std::int32_t>(kFirstId + known++), "a value of a checked table has its own id");
    });
    expect(known == vocabulary.size(), "a checked table has its number of values");
  } catch (const std::invalid_argument&) {
  }
}

void pack(Input input) {
  const auto seed = input.number<std::uint64_t>();
  const std::vector<std::string> values = draw_values(input);
  std::vector<VocabularyEntry> entries;
  for (const std::string& value : values) {
    entries.push_back({value, static_cast<std::int32_t>(kFirstId + entries.size())});
  }
  const std::vector<std::uint64_t> words = pack_vocabulary(entries, seed);
  expect_packed(Vocabulary{words}, values);
  while (!input.is_used_up()) look_up_damaged(words, values, input);
}

}  // namespace
}  // namespace bidlight::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  bidlight::fuzz::pack(bidlight::fuzz::Input(data, size));
  return 0;
}
