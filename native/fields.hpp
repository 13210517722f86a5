// The fields of a mapping (the context, or a candidate): names, and raw values -> ids.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "request.hpp"
#include "vocabulary.hpp"

namespace bidlight {

// Feature hashing: an id for every text.
struct Hashing {
  std::uint32_t buckets, seed;
  std::vector<std::int32_t> renumbering;  // of base ids; empty: none

  std::int32_t id_of(Text text) const;
};

// Intervals of numbers; `ids` has one for each bin.
struct Bins {
  std::vector<double> edges;
  std::vector<std::int32_t> ids;

  std::int32_t id_of(double number) const;

  // Those of many numbers, several times faster: bisections go side by side, without a branch to guess wrong.
  void ids_of(std::span<const double> numbers, std::int32_t* found) const;
};

// A vocabulary and its memory, shared by fields with the same values.
class OwnedVocabulary {
 public:
  OwnedVocabulary(std::span<const VocabularyEntry> entries, std::uint64_t seed)
      : owned_(pack_vocabulary(entries, seed)), words_(owned_), vocabulary_(words_) {}

  // One that was packed before, in words that stay as long as `memory`. Throws std::invalid_argument.
  OwnedVocabulary(std::span<const std::uint64_t> words, std::shared_ptr<const void> memory)
      : memory_(std::move(memory)), words_(words), vocabulary_(words_) {}

  // The vocabulary points into the words.
  OwnedVocabulary(const OwnedVocabulary&) = delete;
  OwnedVocabulary& operator=(const OwnedVocabulary&) = delete;

  const Vocabulary& get() const { return vocabulary_; }
  std::span<const std::uint64_t> words() const { return words_; }
  std::size_t bytes() const { return words_.size_bytes(); }

 private:
  std::vector<std::uint64_t> owned_;
  std::shared_ptr<const void> memory_;
  std::span<const std::uint64_t> words_;
  Vocabulary vocabulary_;
};

using SharedVocabulary = std::shared_ptr<const OwnedVocabulary>;

// One field. A sequence has `length` ids, any other field one.
struct Field {
  std::string name;
  std::variant<SharedVocabulary, Hashing, Bins> encoding;
  bool is_sequence = false;
  std::size_t length = 1;
  std::size_t column = 0;  // its first one among those of the block
};

// Look-ups in vocabularies that are under way. Each waits for memory while the others do: a vocabulary is
// larger than the caches.
class Lookups {
 public:
  // Begin anew: nothing is under way, not even what a thrown NotPlain has left.
  void forget() { count_ = 0; }

  void add(const Vocabulary& vocabulary, Text text, std::int32_t* id) {
    if (count_ == kMost) finish();
    Pending& pending = pending_[count_++];
    pending = {&vocabulary, text, vocabulary.hash(text), id};
    vocabulary.prefetch(pending.hash);
  }

  // Of an integer, whose decimal digits are the text.
  void add(const Vocabulary& vocabulary, std::int64_t integer, std::int32_t* id);

  // Writes all ids.
  void finish() {
    for (std::size_t i = 0; i < count_; ++i) pending_[i].vocabulary->prefetch_record(pending_[i].hash);
    for (std::size_t i = 0; i < count_; ++i) {
      const Pending& pending = pending_[i];
      *pending.id = pending.vocabulary->find(pending.text, pending.hash);
    }
    count_ = 0;
  }

 private:
  static constexpr std::size_t kMost = 32;

  struct Pending {
    const Vocabulary* vocabulary;
    Text text;
    std::uint64_t hash;
    std::int32_t* id;
  };

  std::array<Pending, kMost> pending_;
  std::array<std::array<char, 20>, kMost> digits_;
  std::size_t count_ = 0;
};

// The fields of a mapping, in the order of their columns.
class Block {
 public:
  static constexpr std::size_t kUnknown = static_cast<std::size_t>(-1);

  // Add all fields, then call `index_names` once.
  void add(Field field);
  void index_names(std::uint64_t seed);

  const std::vector<Field>& fields() const { return fields_; }
  std::size_t width() const { return width_; }

  // The number of the field of that name, or kUnknown. Names mostly come in the order of the last mapping:
  // `position` is that of the name in its own.
  std::size_t find(Text name, std::size_t position) {
    if (position < order_.size()) {
      const std::size_t expected = order_[position];
      if (fields_[expected].name == name) return expected;
    }
    return find_anew(name, position);
  }

  // Writes the ids of a value to `ids` [length]; those of vocabularies once the look-ups are finished. Throws
  // NotPlain for a value that the field may not have.
  static void write(const Field& field, const Value& value, const Value* elements, std::int32_t* ids,
                    Lookups& lookups);

 private:
  std::size_t find_anew(Text name, std::size_t position);

  std::vector<Field> fields_;
  std::vector<std::size_t> order_;
  std::unique_ptr<OwnedVocabulary> names_;
  std::size_t width_ = 0;
};

}  // namespace bidlight
