#include "fields.hpp"

#include <algorithm>
#include <charconv>
#include <utility>

#include "crc32.hpp"

namespace bidlight {

namespace {

template <class... Functions>
struct Overloaded : Functions... {
  using Functions::operator()...;
};

// The decimal digits of an integer, which are the same feature as the integer.
Text digits_of(std::int64_t integer, std::array<char, 20>& digits) {
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), integer).ptr;
  return {digits.data(), static_cast<std::size_t>(end - digits.data())};
}

// The id of one text or integer. Throws NotPlain for a number that is no integer, a boolean and a list.
void write_category(const Field& field, const Value& value, std::int32_t* id, Lookups& lookups) {
  if (value.kind == Kind::null || (value.kind == Kind::text && value.size == 0)) {
    *id = kMissingId;
    return;
  }
  if (value.kind != Kind::text && value.kind != Kind::integer) throw NotPlain{};
  if (const auto* vocabulary = std::get_if<SharedVocabulary>(&field.encoding)) {
    if (value.kind == Kind::text) {
      lookups.add((*vocabulary)->get(), value.as_text(), id);
    } else {
      lookups.add((*vocabulary)->get(), value.integer, id);
    }
    return;
  }
  std::array<char, 20> digits;
  const Text text = value.kind == Kind::text ? value.as_text() : digits_of(value.integer, digits);
  *id = std::get<Hashing>(field.encoding).id_of(text);
}

void write_number(const Bins& bins, const Value& value, std::int32_t* id) {
  switch (value.kind) {
    case Kind::integer:
      *id = bins.id_of(static_cast<double>(value.integer));
      return;
    case Kind::real:
      *id = bins.id_of(value.real);
      return;
    case Kind::null:
      *id = kMissingId;
      return;
    default:
      if (value.kind != Kind::text || value.size != 0) throw NotPlain{};
      *id = kMissingId;
  }
}

}  // namespace

std::int32_t Hashing::id_of(Text text) const {
  const std::uint32_t base = kFirstId + crc32(text, seed) % buckets;
  return renumbering.empty() ? static_cast<std::int32_t>(base) : renumbering[base];
}

std::int32_t Bins::id_of(double number) const {
  // Python's bisect_right: the number of edges that are not above the number.
  const auto above = std::upper_bound(edges.begin(), edges.end(), number);
  return ids[static_cast<std::size_t>(above - edges.begin())];
}

void Bins::ids_of(std::span<const double> numbers, std::int32_t* found) const {
  constexpr std::size_t kSideBySide = 8;
  std::size_t done = 0;
  for (; done + kSideBySide <= numbers.size(); done += kSideBySide) {
    const double* number = numbers.data() + done;
    // The first edge above the number, if there is one, is among the `left` edges from `below` on.
    std::array<std::size_t, kSideBySide> below{};
    std::size_t left = edges.size();
    for (; left > 1; left -= left / 2) {
      const std::size_t half = left / 2;
      for (std::size_t i = 0; i < kSideBySide; ++i) {
        // A mask: compilers make a branch of a conditional.
        below[i] += half & -std::size_t{edges[below[i] + half - 1] <= number[i]};
      }
    }
    for (std::size_t i = 0; i < kSideBySide; ++i) {
      found[done + i] = ids[below[i] + (left == 1 && edges[below[i]] <= number[i])];
    }
  }
  for (; done < numbers.size(); ++done) found[done] = id_of(numbers[done]);
}

void Lookups::add(const Vocabulary& vocabulary, std::int64_t integer, std::int32_t* id) {
  if (count_ == kMost) finish();
  add(vocabulary, digits_of(integer, digits_[count_]), id);
}

void Block::add(Field field) {
  field.column = width_;
  width_ += field.length;
  order_.push_back(fields_.size());
  fields_.push_back(std::move(field));
}

void Block::index_names(std::uint64_t seed) {
  std::vector<VocabularyEntry> entries;
  for (const Field& field : fields_) {
    entries.push_back({field.name, static_cast<std::int32_t>(kFirstId + entries.size())});
  }
  names_ = std::make_unique<OwnedVocabulary>(entries, seed);
}

std::size_t Block::find_anew(Text name, std::size_t position) {
  const Vocabulary& names = names_->get();
  const std::int32_t id = names.find(name, names.hash(name));
  if (id == kOutOfVocabularyId) return kUnknown;
  const auto field = static_cast<std::size_t>(id - kFirstId);
  if (position < order_.size()) order_[position] = field;
  return field;
}

void Block::write(const Field& field, const Value& value, const Value* elements, std::int32_t* ids,
                  Lookups& lookups) {
  if (const auto* bins = std::get_if<Bins>(&field.encoding)) {
    write_number(*bins, value, ids);
  } else if (!field.is_sequence) {
    write_category(field, value, ids, lookups);
  } else if (value.kind == Kind::list) {
    const std::size_t kept = std::min<std::size_t>(value.size, field.length);
    const Value* first = elements + value.first + (value.size - kept);
    for (std::size_t i = 0; i < kept; ++i) write_category(field, first[i], ids + i, lookups);
    std::fill(ids + kept, ids + field.length, kMissingId);
  } else if (value.kind == Kind::null || (value.kind == Kind::text && value.size == 0)) {
    std::fill(ids, ids + field.length, kMissingId);
  } else {
    throw NotPlain{};
  }
}

}  // namespace bidlight
