// The fields of a real bundle, for targets that make ids: FIELDS_FILE names them, tests/native/fuzzing.py writes it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "../encoder.hpp"
#include "input.hpp"

namespace bidlight::fuzz {

// The packed words of a vocabulary/N.table, whose first bytes say of which values it is.
inline std::vector<std::uint64_t> table_words(const std::filesystem::path& path) {
  constexpr std::size_t kSourceBytes = 32;
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  expect(bytes.size() > kSourceBytes, "a table of the bundle can be read");
  std::vector<std::uint64_t> words((bytes.size() - kSourceBytes) / sizeof(std::uint64_t));
  std::memcpy(words.data(), bytes.data() + kSourceBytes, words.size() * sizeof(std::uint64_t));
  return words;
}

class Schema {
 public:
  // A field a line, of words: `context` or `candidate`, its name, 0 or the length of a sequence, and its encoding.
  // That is `vocabulary` and the name of the table's file; `hashing`, buckets, seed and a list, the renumbering;
  // or `bins` and two lists, the edges and their ids. A list begins with its length.
  explicit Schema(const std::filesystem::path& path) {
    std::ifstream file(path);
    for (std::string role; file >> role;) {
      Field field{};
      std::size_t length = 0;
      file >> field.name >> length;
      field.is_sequence = length > 0;
      field.length = std::max<std::size_t>(length, 1);
      field.encoding = read_encoding(file, path.parent_path());
      expect(!file.fail(), "FIELDS_FILE can be read");
      (role == "context" ? context_ : candidate_).push_back(std::move(field));
    }
    expect(!context_.empty() && !candidate_.empty(), "FIELDS_FILE has fields of both roles");
  }

  // One that has encoded nothing yet.
  Encoder make_encoder() const {
    Encoder encoder;
    for (const Field& field : context_) encoder.context.add(field);
    for (const Field& field : candidate_) encoder.candidate.add(field);
    encoder.index_names(11);
    for (std::size_t number = 0; number < context_.size(); ++number) {
      if (context_[number].name == "user_id") encoder.set_user_id_field(number);
    }
    return encoder;
  }

 private:
  template <class Number>
  static std::vector<Number> read_list(std::ifstream& file) {
    std::size_t size = 0;
    file >> size;
    std::vector<Number> list(size);
    for (Number& number : list) file >> number;
    return list;
  }

  static std::variant<SharedVocabulary, Hashing, Bins> read_encoding(std::ifstream& file,
                                                                     const std::filesystem::path& folder) {
    std::string kind;
    file >> kind;
    if (kind == "vocabulary") {
      std::string name;
      file >> name;
      const auto words = std::make_shared<const std::vector<std::uint64_t>>(table_words(folder / name));
      return std::make_shared<const OwnedVocabulary>(*words, words);
    }
    if (kind == "hashing") {
      Hashing hashing{};
      file >> hashing.buckets >> hashing.seed;
      hashing.renumbering = read_list<std::int32_t>(file);
      return hashing;
    }
    expect(kind == "bins", "an encoding is a vocabulary, hashing or bins");
    Bins bins;
    bins.edges = read_list<double>(file);
    bins.ids = read_list<std::int32_t>(file);
    return bins;
  }

  std::vector<Field> context_, candidate_;
};

// The number of ids of a field: each is below.
inline std::int32_t cardinality_of(const Field& field) {
  std::int32_t largest = kOutOfVocabularyId;
  if (const auto* vocabulary = std::get_if<SharedVocabulary>(&field.encoding)) {
    const Vocabulary& values = (*vocabulary)->get();
    values.for_each([&](Text text) { largest = std::max(largest, values.find(text, values.hash(text))); });
    return largest + 1;
  }
  const auto* hashing = std::get_if<Hashing>(&field.encoding);
  const auto& ids = hashing != nullptr ? hashing->renumbering : std::get<Bins>(field.encoding).ids;
  if (ids.empty()) return static_cast<std::int32_t>(kFirstId + hashing->buckets);
  return std::max(largest, *std::max_element(ids.begin(), ids.end())) + 1;
}

// One past the largest id of each column of a block.
inline std::vector<std::int32_t> cardinalities_of(const Block& block) {
  std::vector<std::int32_t> found;
  for (const Field& field : block.fields()) found.insert(found.end(), field.length, cardinality_of(field));
  return found;
}

// Expects that `ids` [rows, width] are ids of the block's fields.
inline void expect_ids(const std::vector<std::int32_t>& ids, const std::vector<std::int32_t>& cardinalities) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    expect(ids[i] >= 0 && ids[i] < cardinalities[i % cardinalities.size()], "each id is one of its field");
  }
}

}  // namespace bidlight::fuzz
