#include "encoder.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>

namespace bidlight {

namespace {

// More unknown names than this are no client's habit; the Python code bounds what they cost.
constexpr std::size_t kMostUnknownNames = 16;

void add_unknown(Text name, Findings& findings) {
  if (!findings.tells_names) return;
  std::vector<Text>& names = findings.unknown_names;
  if (std::find(names.begin(), names.end(), name) != names.end()) return;
  if (names.size() == kMostUnknownNames) throw NotPlain{};
  names.push_back(name);
}

}  // namespace

Catalogue::Catalogue(std::span<const std::int32_t> starts, std::span<const std::uint64_t> hashes,
                     std::span<const std::int32_t> rows, std::span<const std::int32_t> ids, unsigned shift,
                     std::size_t widest, std::size_t missing_row, HashOf hash_of)
    : starts_(starts),
      hashes_(hashes),
      rows_(rows),
      ids_(ids),
      shift_(shift),
      widest_(widest),
      missing_row_(missing_row),
      width_(ids.size() / (missing_row + 1)),
      hash_of_(hash_of) {
  const bool fits = shift > 0 && shift < 64 && starts.size() == std::size_t{1} << (64 - shift) &&
                    hashes.size() == rows.size() && ids.size() == (missing_row + 1) * width_;
  if (!fits) throw std::invalid_argument("the arrays of a catalogue must have matching sizes");
}

std::size_t Catalogue::row_of(std::uint64_t hash) const {
  const auto first = static_cast<std::size_t>(starts_[hash >> shift_]);
  const std::size_t end = std::min(first + widest_, hashes_.size());
  for (std::size_t place = first; place < end; ++place) {
    if (hashes_[place] == hash) return std::min(static_cast<std::size_t>(rows_[place]), missing_row_);
  }
  return missing_row_;
}

void Catalogue::fill(std::span<const Candidate> candidates, std::int32_t* ids,
                     std::span<std::size_t> rows) const {
  for (std::size_t done = 0; done < candidates.size(); done += kAtOnce) {
    const std::size_t some = std::min(kAtOnce, candidates.size() - done);
    fill_some(candidates.subspan(done, some), ids + done * width_, rows.subspan(done, some));
  }
}

// Each step begins to load what the next one reads: an ad is anywhere in large arrays.
void Catalogue::fill_some(std::span<const Candidate> candidates, std::int32_t* ids,
                          std::span<std::size_t> rows) const {
  std::array<std::uint64_t, kAtOnce> hashes;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    if (candidates[i].id.data() == nullptr) continue;
    hashes[i] = hash_of_(candidates[i].id);
    __builtin_prefetch(&starts_[hashes[i] >> shift_]);
  }
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    if (candidates[i].id.data() == nullptr) continue;
    __builtin_prefetch(hashes_.data() + starts_[hashes[i] >> shift_]);
  }
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    rows[i] = candidates[i].id.data() == nullptr ? missing_row_ : row_of(hashes[i]);
    __builtin_prefetch(ids_.data() + rows[i] * width_);
  }
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    std::copy_n(ids_.data() + rows[i] * width_, width_, ids + i * width_);
  }
}

void Encoder::index_names(std::uint64_t seed) {
  context.index_names(seed);
  candidate.index_names(seed);
  context_given_.resize(context.fields().size());
  candidate_given_.resize(candidate.fields().size());
}

void Encoder::set_user_id_field(std::optional<std::size_t> field) {
  if (field && *field >= context.fields().size()) {
    throw std::invalid_argument("'user_id_field' must be the number of a context field");
  }
  user_id_field_ = field;
}

bool Encoder::has_whole_context(const Request& request) {
  const std::size_t fields = context.fields().size();
  if (request.context.size() < fields) return false;
  context_given_.begin();
  std::size_t position = 0;
  for (const Feature& feature : request.context) {
    const std::size_t field = context.find(feature.name, position++);
    if (field != Block::kUnknown && !context_given_.has(field)) context_given_.add(field);
  }
  return context_given_.count() == fields;
}

void Encoder::encode_context(const Request& request, std::int32_t* ids, Findings& findings) {
  std::fill_n(ids, context.width(), kMissingId);
  context_given_.begin();
  lookups_.forget();
  std::size_t position = 0;
  for (const Feature& feature : request.context) {
    const std::size_t number = context.find(feature.name, position++);
    if (number == Block::kUnknown) {
      add_unknown(feature.name, findings);
      continue;
    }
    context_given_.add(number);
    const Field& field = context.fields()[number];
    Block::write(field, feature.value, request.elements.data(), ids + field.column, lookups_);
  }
  if (user_id_field_ && !context_given_.has(*user_id_field_)) {
    Value value;
    if (request.user_id.data() != nullptr) {
      value.kind = Kind::text;
      value.size = static_cast<std::uint32_t>(request.user_id.size());
      value.text = request.user_id.data();
    }
    const Field& field = context.fields()[*user_id_field_];
    Block::write(field, value, nullptr, ids + field.column, lookups_);
  }
  lookups_.finish();
}

void Encoder::find_unknown_in_context(const Request& request, Findings& findings) {
  std::size_t position = 0;
  for (const Feature& feature : request.context) {
    if (context.find(feature.name, position++) == Block::kUnknown) {
      add_unknown(feature.name, findings);
    }
  }
}

void Encoder::encode_candidates(const Request& request, const Catalogue* catalogue, std::int32_t* ids,
                                Findings& findings) {
  const std::size_t count = request.candidates.size();
  catalogue_ = catalogue;
  lookups_.forget();
  if (catalogue == nullptr) {
    std::fill_n(ids, count * candidate.width(), kMissingId);
  } else {
    rows_.resize(count);
    catalogue->fill(request.candidates, ids, rows_);
  }
  if (request.as_rows) {
    encode_rows(request, ids, findings);
  } else {
    encode_columns(request, ids, findings);
  }
  lookups_.finish();
}

void Encoder::encode_rows(const Request& request, std::int32_t* ids, Findings& findings) {
  const std::size_t fields = candidate.fields().size();
  std::size_t feature = 0;
  for (std::size_t row = 0; row < request.candidates.size(); ++row, ids += candidate.width()) {
    candidate_given_.begin();
    const std::size_t first = feature, end = request.candidates[row].features_end;
    for (; feature < end; ++feature) {
      const auto& [name, value] = request.features[feature];
      const std::size_t number = candidate.find(name, feature - first);
      if (number == Block::kUnknown) {
        add_unknown(name, findings);
        continue;
      }
      candidate_given_.add(number);
      const Field& field = candidate.fields()[number];
      Block::write(field, value, request.elements.data(), ids + field.column, lookups_);
    }
    if (request.features.empty() || candidate_given_.count() < fields) {
      count_unknown_ad(request.candidates[row], row, findings);
    }
  }
}

void Encoder::encode_columns(const Request& request, std::int32_t* ids, Findings& findings) {
  const std::size_t rows = request.candidates.size(), width = candidate.width();
  candidate_given_.begin();
  std::size_t position = 0;
  for (const Column& column : request.columns) {
    const std::size_t number = candidate.find(column.name, position++);
    if (number == Block::kUnknown) {
      add_unknown(column.name, findings);
      continue;
    }
    candidate_given_.add(number);
    const Field& field = candidate.fields()[number];
    for (std::size_t row = 0; row < rows; ++row) {
      Block::write(field, request.values[column.first + row], request.elements.data(),
                   ids + row * width + field.column, lookups_);
    }
  }
  if (request.columns.empty() || candidate_given_.count() < candidate.fields().size()) {
    for (std::size_t row = 0; row < rows; ++row) count_unknown_ad(request.candidates[row], row, findings);
  }
}

void Encoder::count_unknown_ad(const Candidate& candidate, std::size_t row, Findings& findings) const {
  if (catalogue_ == nullptr || candidate.id.data() == nullptr) return;
  if (rows_[row] == catalogue_->missing_row()) ++findings.unknown_ads;
}

}  // namespace bidlight
