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

// Texts as codes into a dictionary, each of whose texts is looked up once.
template <class Code>
class Codes {
 public:
  Codes(const Field& field, const ArrowSchema& schema, const ArrowArray& array)
      : valid_(array), codes_(arrow::numbers_of<Code>(array)) {
    const Texts texts(*schema.dictionary, *array.dictionary);
    ids_.resize(texts.size());
    Lookups lookups;
    for (std::size_t code = 0; code < ids_.size(); ++code) {
      Block::write(field, value_of(texts[code]), nullptr, &ids_[code], lookups);
    }
    lookups.finish();
  }

  void write(std::size_t first, std::size_t count, Out out, Lookups&) const {
    for (std::size_t row = 0; row < count; ++row) {
      std::int32_t id = kMissingId;
      if (valid_[first + row]) {
        const std::size_t code = codes_[first + row];
        if (code >= ids_.size()) throw NotPlain{};
        id = ids_[code];
      }
      *out.row(row) = id;
    }
  }

 private:
  Validity valid_;
  const Code* codes_;
  std::vector<std::int32_t> ids_;
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

using FieldColumn = std::variant<Numbers, Codes<std::uint8_t>, Codes<std::uint16_t>, Codes<std::uint32_t>, PlainTexts, Lists>;

FieldColumn column_of(const Field& field, const ArrowSchema& schema, const ArrowArray& array) {
  const std::string_view format = schema.format;
  if (const auto* bins = std::get_if<Bins>(&field.encoding)) {
    if (format != "g" || schema.dictionary != nullptr) throw NotPlain{};
    return Numbers(*bins, array);
  }
  if (field.is_sequence) {
    if (format != "+L") throw NotPlain{};
    return Lists(field, schema, array);
  }
  if (schema.dictionary == nullptr) return PlainTexts(field, schema, array);
  if (format == "C") return Codes<std::uint8_t>(field, schema, array);
  if (format == "S") return Codes<std::uint16_t>(field, schema, array);
  if (format == "I") return Codes<std::uint32_t>(field, schema, array);
  throw NotPlain{};
}

}  // namespace

void encode_columns(std::span<const Field* const> fields, const ArrowSchema& schema, const ArrowArray& table,
                    std::int32_t* ids) {
  if (std::string_view(schema.format) != "+s" || static_cast<std::size_t>(table.n_children) != fields.size() ||
      table.offset != 0) {
    throw NotPlain{};
  }
  std::vector<FieldColumn> columns;
  std::vector<std::size_t> places;
  std::size_t width = 0;
  for (std::size_t i = 0; i < fields.size(); ++i) {
    if (fields[i]->name != schema.children[i]->name) throw NotPlain{};
    columns.push_back(column_of(*fields[i], *schema.children[i], *table.children[i]));
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

}  // namespace bidlight
