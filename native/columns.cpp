#include "columns.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace bidlight {

namespace {

using arrow::Texts;
using arrow::Validity;

// Rows whose ids are written column after column: they stay in the cache meanwhile.
constexpr std::size_t kBlockRows = 512;

// Where the ids of a field go in the rows of a block.
struct Out {
  std::int32_t* ids;
  std::size_t width;

  std::int32_t* row(std::size_t number) const { return ids + number * width; }
};

Value value_of(Text text) {
  Value value;
  if (text.data() == nullptr) return value;
  value.kind = Kind::text;
  value.size = static_cast<std::uint32_t>(text.size());
  value.text = text.data();
  return value;
}

class Numbers {
 public:
  Numbers(const Bins& bins, const ArrowArray& array)
      : bins_(bins), valid_(array), numbers_(arrow::numbers_of<double>(array)) {}

  void write(std::size_t first, std::size_t count, Out out, Lookups&) const {
    std::array<std::int32_t, kBlockRows> ids;
    bins_.ids_of({numbers_ + first, count}, ids.data());
    bool are_finite = true;
    for (std::size_t row = 0; row < count; ++row) {
      const bool is_given = valid_[first + row];
      are_finite &= !is_given | std::isfinite(numbers_[first + row]);
      *out.row(row) = is_given ? ids[row] : kMissingId;
    }
    if (!are_finite) throw NotPlain{};
  }

 private:
  const Bins& bins_;
  Validity valid_;
  const double* numbers_;
};

// The numbers of texts, whose ids are known.
template <class Number>
class TextNumbers {
 public:
  TextNumbers(const ArrowArray& array, const std::vector<std::int32_t>& ids)
      : valid_(array), numbers_(arrow::numbers_of<Number>(array)), ids_(ids) {}

  void write(std::size_t first, std::size_t count, Out out, Lookups&) const {
    for (std::size_t row = 0; row < count; ++row) {
      std::int32_t id = kMissingId;
      if (valid_[first + row]) {
        const std::size_t number = numbers_[first + row];
        if (number >= ids_.size()) throw NotPlain{};
        id = ids_[number];
      }
      *out.row(row) = id;
    }
  }

 private:
  Validity valid_;
  const Number* numbers_;
  std::span<const std::int32_t> ids_;
};

class PlainTexts {
 public:
  PlainTexts(const Field& field, const ArrowSchema& schema, const ArrowArray& array)
      : field_(field), texts_(schema, array) {}

  void write(std::size_t first, std::size_t count, Out out, Lookups& lookups) const {
    for (std::size_t row = 0; row < count; ++row) {
      Block::write(field_, value_of(texts_[first + row]), nullptr, out.row(row), lookups);
    }
  }

 private:
  const Field& field_;
  Texts texts_;
};

class Lists {
 public:
  Lists(const Field& field, const ArrowSchema& schema, const ArrowArray& array)
      : field_(field),
        valid_(array),
        ends_(arrow::numbers_of<std::int64_t>(array)),
        elements_(*schema.children[0], *array.children[0]) {}

  void write(std::size_t first, std::size_t count, Out out, Lookups& lookups) const {
    std::vector<Value> kept(field_.length);
    for (std::size_t row = 0; row < count; ++row) {
      Value list;
      if (valid_[first + row]) {
        const auto begin = static_cast<std::size_t>(ends_[first + row]);
        const auto end = static_cast<std::size_t>(ends_[first + row + 1]);
        list.kind = Kind::list;
        list.size = static_cast<std::uint32_t>(std::min(end - begin, field_.length));
        list.first = 0;
        for (std::size_t i = 0; i < list.size; ++i) kept[i] = value_of(elements_[end - list.size + i]);
      }
      Block::write(field_, list, kept.data(), out.row(row), lookups);
    }
  }

 private:
  const Field& field_;
  Validity valid_;
  const std::int64_t* ends_;
  Texts elements_;
};

using FieldColumn = std::variant<Numbers, TextNumbers<std::uint8_t>, TextNumbers<std::uint16_t>,
                                 TextNumbers<std::uint32_t>, PlainTexts, Lists>;

FieldColumn column_of(const Field& field, const ArrowSchema& schema, const ArrowArray& array,
                      const std::optional<std::vector<std::int32_t>>& ids_of_texts) {
  const std::string_view format = schema.format;
  if (schema.dictionary != nullptr) throw NotPlain{};
  if (const auto* bins = std::get_if<Bins>(&field.encoding)) {
    if (format != "g") throw NotPlain{};
    return Numbers(*bins, array);
  }
  if (field.is_sequence) {
    if (format != "+L") throw NotPlain{};
    return Lists(field, schema, array);
  }
  if (!ids_of_texts) return PlainTexts(field, schema, array);
  if (format == "C") return TextNumbers<std::uint8_t>(array, *ids_of_texts);
  if (format == "S") return TextNumbers<std::uint16_t>(array, *ids_of_texts);
  if (format == "I") return TextNumbers<std::uint32_t>(array, *ids_of_texts);
  throw NotPlain{};
}

}  // namespace

void encode_columns(std::span<const Field* const> fields, const ArrowSchema& schema, const ArrowArray& table,
                    std::span<const std::optional<std::vector<std::int32_t>>> ids_of_texts, std::int32_t* ids) {
  if (std::string_view(schema.format) != "+s" || static_cast<std::size_t>(table.n_children) != fields.size() ||
      table.offset != 0) {
    throw NotPlain{};
  }
  std::vector<FieldColumn> columns;
  std::vector<std::size_t> places;
  std::size_t width = 0;
  for (std::size_t i = 0; i < fields.size(); ++i) {
    if (fields[i]->name != schema.children[i]->name) throw NotPlain{};
    columns.push_back(column_of(*fields[i], *schema.children[i], *table.children[i], ids_of_texts[i]));
    places.push_back(width);
    width += fields[i]->length;
  }
  const auto rows = static_cast<std::size_t>(table.length);
  Lookups lookups;
  for (std::size_t first = 0; first < rows; first += kBlockRows) {
    const std::size_t count = std::min(kBlockRows, rows - first);
    for (std::size_t i = 0; i < columns.size(); ++i) {
      const Out out{ids + first * width + places[i], width};
      std::visit([&](const auto& column) { column.write(first, count, out, lookups); }, columns[i]);
    }
    lookups.finish();
  }
}

void encode_texts(const Field& field, const ArrowSchema& schema, const ArrowArray& array, std::int32_t* ids) {
  if (field.is_sequence || std::holds_alternative<Bins>(field.encoding)) throw NotPlain{};
  const PlainTexts texts(field, schema, array);
  Lookups lookups;
  texts.write(0, static_cast<std::size_t>(array.length), {ids, 1}, lookups);
  lookups.finish();
}

}  // namespace bidlight
