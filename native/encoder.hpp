// A request -> the ids of its context and of its candidates, for the schema of one arm.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "fields.hpp"
#include "request.hpp"

namespace bidlight {

// The catalogue of ads (service/features/ads.py): an index of the hashes of their ids, and the ids of their
// features. It reads the arrays where their owner holds them.
class Catalogue {
 public:
  // The hash of an ad's id. It may depend on the process.
  using HashOf = std::uint64_t (*)(Text);

  // `starts` has one element for each value of the first 64 - `shift` bits of a hash: where in `hashes` those
  // with these bits begin. No more than `widest` have the same. `rows` [hashes] are rows of `ids`
  // [missing_row + 1, width]; the last one is an unknown ad's. Throws std::invalid_argument where sizes differ.
  Catalogue(std::span<const std::int32_t> starts, std::span<const std::uint64_t> hashes,
            std::span<const std::int32_t> rows, std::span<const std::int32_t> ids, unsigned shift,
            std::size_t widest, std::size_t missing_row, HashOf hash_of);

  std::size_t width() const { return width_; }
  std::size_t missing_row() const { return missing_row_; }

  // Copies the features of the candidates' ads to `ids` [candidates, width], and their rows to `rows`.
  void fill(std::span<const Candidate> candidates, std::int32_t* ids, std::span<std::size_t> rows) const;

 private:
  static constexpr std::size_t kAtOnce = 32;

  void fill_some(std::span<const Candidate> candidates, std::int32_t* ids, std::span<std::size_t> rows) const;
  std::size_t row_of(std::uint64_t hash) const;

  std::span<const std::int32_t> starts_;
  std::span<const std::uint64_t> hashes_;
  std::span<const std::int32_t> rows_;
  std::span<const std::int32_t> ids_;
  unsigned shift_;
  std::size_t widest_, missing_row_, width_;
  HashOf hash_of_;
};

// What an encoding finds besides ids.
struct Findings {
  bool tells_names = true;          // else any number of names that no field has is passed over
  std::vector<Text> unknown_names;  // each once; no field has them
  std::size_t unknown_ads = 0;      // candidates whose ad the catalogue would have to hold, and does not
};

class Encoder {
 public:
  Block context, candidate;

  // Call it once, when all fields are added.
  void index_names(std::uint64_t seed);

  // The number of the context field that the request's own user_id fills unless the context has it. Throws
  // std::invalid_argument where there is no such field.
  void set_user_id_field(std::optional<std::size_t> field);
  std::optional<std::size_t> user_id_field() const { return user_id_field_; }

  // Whether the context gives every field, also as null: nothing that is known of the user would be used.
  bool has_whole_context(const Request& request);

  // Writes `ids` [context width]. Throws NotPlain for a value that a field may not have, a field that is given
  // twice, and very many unknown names.
  void encode_context(const Request& request, std::int32_t* ids, Findings& findings);

  // Finds the unknown names alone: for a context whose ids are made elsewhere.
  void find_unknown_in_context(const Request& request, Findings& findings);

  // Writes `ids` [candidates, candidate width]. What a candidate leaves out is the catalogue's, if there is one,
  // and else missing. Throws NotPlain as above.
  void encode_candidates(const Request& request, const Catalogue* catalogue, std::int32_t* ids,
                         Findings& findings);

 private:
  // Which fields of a mapping were given; forgetting all takes no time.
  class Given {
   public:
    void resize(std::size_t fields) { last_.assign(fields, 0); }
    void begin() { ++mapping_, count_ = 0; }
    bool has(std::size_t field) const { return last_[field] == mapping_; }
    std::size_t count() const { return count_; }
    // Throws NotPlain for a field that was given before.
    void add(std::size_t field) {
      if (has(field)) throw NotPlain{};
      last_[field] = mapping_;
      ++count_;
    }

   private:
    std::vector<std::uint64_t> last_;
    std::uint64_t mapping_ = 0;
    std::size_t count_ = 0;
  };

  void encode_rows(const Request& request, std::int32_t* ids, Findings& findings);
  void encode_columns(const Request& request, std::int32_t* ids, Findings& findings);
  void count_unknown_ad(const Candidate& candidate, std::size_t row, Findings& findings) const;

  std::optional<std::size_t> user_id_field_;
  Given context_given_, candidate_given_;
  const Catalogue* catalogue_ = nullptr;
  std::vector<std::size_t> rows_;  // of the candidates' ads in the catalogue
  Lookups lookups_;
};

}  // namespace bidlight
