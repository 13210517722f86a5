// Typed columns of a log -> the ids of its rows, for the context of a real bundle.
//
// A row has the ids that its values have one by one, in any layout of the columns; a column is refused if and only
// if a value of it is not plain; and the distinct texts of a column are numbered in order of appearance.

#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "../columns.hpp"
#include "../numbering.hpp"
#include "arrow_column.hpp"
#include "schema.hpp"

namespace bidlight::fuzz {
namespace {

using Ids = std::vector<std::int32_t>;

Value value_of(const std::optional<std::string>& text) {
  Value value;
  if (!text) return value;
  value.kind = Kind::text;
  value.size = static_cast<std::uint32_t>(text->size());
  value.text = text->data();
  return value;
}

// A column with rows that its cells give in turn, and what each cell means. Its first `offset` elements are not rows.
class Cells {
 public:
  Cells(const Field& field, std::size_t rows, Input& input)
      : field_(field), offset_(input.below(4)), elements_(offset_ + rows), leaves_out_(input.yes()) {
    cells_ = 1 + input.below(20);
    if (std::holds_alternative<Bins>(field.encoding)) {
      make_numbers(input);
    } else if (field.is_sequence) {
      make_lists(input);
    } else if (input.yes()) {
      const Texts texts = draw_texts(cells_, input);
      column_ = make_texts(in_turn(texts), offset_, input);
      for (const auto& text : texts) add_cell(value_of(text), nullptr);
    } else {
      make_numbers_of_texts(input);
    }
    column_->schema.name = field.name.c_str();
  }

  ArrowColumn& column() { return *column_; }
  const std::optional<Ids>& ids_of_texts() const { return ids_of_texts_; }
  const Ids& ids_of(std::size_t row) const { return ids_[(offset_ + row) % cells_]; }

  // Whether each of the rows is plain.
  bool is_plain(std::size_t rows) const {
    for (std::size_t row = 0; row < std::min(rows, cells_); ++row) {
      if (!plain_[(offset_ + row) % cells_]) return false;
    }
    return true;
  }

 private:
  static Texts draw_texts(std::size_t count, Input& input) {
    Texts texts(count);
    for (auto& text : texts) {
      if (input.below(8) != 0) text = input.yes() ? "s" + std::to_string(input.below(8)) : input.text(20);
    }
    return texts;
  }

  static Column make_texts(const Texts& texts, std::size_t offset, Input& input) {
    const bool leaves_out = input.yes();
    return input.yes() ? views_of(texts, offset, leaves_out) : large_texts_of(texts, offset, leaves_out);
  }

  template <class Cell>
  std::vector<Cell> in_turn(const std::vector<Cell>& cells) const {
    std::vector<Cell> elements(elements_);
    for (std::size_t i = 0; i < elements_; ++i) elements[i] = cells[i % cells.size()];
    return elements;
  }

  // What the request's way makes of a value, alone.
  void add_cell(const Value& value, const Value* elements, bool is_plain = true) {
    Ids ids(field_.length, -1);
    Lookups lookups;
    Block::write(field_, value, elements, ids.data(), lookups);
    lookups.finish();
    ids_.push_back(std::move(ids));
    plain_.push_back(is_plain);
  }

  template <class Element>
  void set_column(const char* format, const std::vector<bool>& valid, const std::vector<Element>& elements) {
    column_ = std::make_unique<ArrowColumn>(format, elements_, offset_);
    column_->add_validity(in_turn(valid), leaves_out_);
    column_->add_buffer(elements);
  }

  void make_numbers(Input& input) {
    std::vector<double> numbers;
    std::vector<bool> valid;
    for (std::size_t i = 0; i < cells_; ++i) {
      numbers.push_back(input.yes() ? static_cast<double>(input.below(40)) - 10.0 : input.number<double>());
      valid.push_back(input.below(8) != 0);
      Value value;
      if (valid.back()) {
        value.kind = Kind::real;
        value.real = numbers.back();
      }
      add_cell(value, nullptr, !valid.back() || std::isfinite(numbers.back()));
    }
    set_column("g", valid, in_turn(numbers));
  }

  void make_lists(Input& input) {
    std::vector<Texts> lists;
    std::vector<bool> valid;
    for (std::size_t i = 0; i < cells_; ++i) {
      lists.push_back(draw_texts(input.below(7), input));
      valid.push_back(input.below(8) != 0);
      std::vector<Value> elements;
      for (const auto& text : lists.back()) elements.push_back(value_of(text));
      Value list;
      if (valid.back()) {
        list.kind = Kind::list;
        list.size = static_cast<std::uint32_t>(elements.size());
        list.first = 0;
      }
      add_cell(list, elements.data());
    }
    const std::size_t child_offset = input.below(3);
    Texts all(child_offset);
    std::vector<std::int64_t> ends{0};
    for (const Texts& list : in_turn(lists)) {
      all.insert(all.end(), list.begin(), list.end());
      ends.push_back(static_cast<std::int64_t>(all.size() - child_offset));
    }
    child_ = make_texts(all, child_offset, input);
    set_column("+L", valid, ends);
    column_->set_child(*child_);
  }

  void make_numbers_of_texts(Input& input) {
    const Texts texts = draw_texts(input.below(30), input);
    child_ = make_texts(texts, 0, input);
    ids_of_texts_.emplace(texts.size(), -1);
    encode_texts(field_, child_->schema, child_->array, ids_of_texts_->data());
    std::vector<std::uint32_t> numbers;
    std::vector<bool> valid;
    for (std::size_t i = 0; i < cells_; ++i) {
      const bool is_one = !texts.empty() && input.below(64) != 0;
      numbers.push_back(static_cast<std::uint32_t>(is_one ? input.below(texts.size()) : texts.size()));
      valid.push_back(input.below(8) != 0);
      add_cell(valid.back() && is_one ? value_of(texts[numbers.back()]) : Value{}, nullptr, !valid.back() || is_one);
    }
    switch (input.below(3)) {
      case 0:
        return set_column("C", valid, in_turn(std::vector<std::uint8_t>(numbers.begin(), numbers.end())));
      case 1:
        return set_column("S", valid, in_turn(std::vector<std::uint16_t>(numbers.begin(), numbers.end())));
      default:
        return set_column("I", valid, in_turn(numbers));
    }
  }

  const Field& field_;
  std::size_t offset_, elements_, cells_ = 1;
  bool leaves_out_;
  std::optional<Ids> ids_of_texts_;
  std::vector<Ids> ids_;  // [cells][length]
  std::vector<bool> plain_;
  Column column_, child_;
};

void encode(Input& input) {
  static const Schema schema(FIELDS_FILE);
  static const Encoder encoder = schema.make_encoder();
  const std::vector<Field>& fields = encoder.context.fields();
  // Rows are encoded in blocks: some inputs have more than one.
  const std::size_t rows = input.below(16) == 0 ? input.below(1100) : input.below(20);
  const std::size_t width = encoder.context.width();
  std::vector<std::unique_ptr<Cells>> cells;
  std::vector<const Field*> given;
  std::vector<ArrowSchema*> schemas;
  std::vector<ArrowArray*> arrays;
  std::vector<std::optional<Ids>> ids_of_texts;
  bool is_plain = true;
  for (const Field& field : fields) {
    Cells& each = *cells.emplace_back(std::make_unique<Cells>(field, rows, input));
    given.push_back(&field);
    schemas.push_back(&each.column().schema);
    arrays.push_back(&each.column().array);
    ids_of_texts.push_back(each.ids_of_texts());
    is_plain = is_plain && each.is_plain(rows);
  }
  ArrowColumn table("+s", rows, 0);
  table.schema.n_children = table.array.n_children = static_cast<std::int64_t>(given.size());
  table.schema.children = schemas.data();
  table.array.children = arrays.data();
  Ids ids(rows * width, -1);
  try {
    encode_columns(given, table.schema, table.array, ids_of_texts, ids.data());
  } catch (const NotPlain&) {
    expect(!is_plain, "plain columns are encoded");
    return;
  }
  expect(is_plain, "a column with a value that is not plain is refused");
  for (std::size_t row = 0; row < rows; ++row) {
    const std::int32_t* id = ids.data() + row * width;
    for (const auto& each : cells) {
      const Ids& expected = each->ids_of(row);
      expect(std::equal(expected.begin(), expected.end(), id), "a row has the ids of its values");
      id += expected.size();
    }
  }
}

void number(Input& input) {
  Texts texts(input.below(3000));
  for (auto& text : texts) text = input.is_used_up() ? std::to_string(&text - texts.data()) : input.text(3);
  const Column column = views_of(texts, 0, true);
  const arrow::Texts found(column->schema, column->array);
  Numbering numbering(input.number<std::uint64_t>());
  std::vector<std::string> distinct;
  for (std::size_t row = 0; row < texts.size(); ++row) {
    const std::size_t known = numbering.size();
    const std::uint32_t number = numbering.number_of(found[row]);
    if (number == known) distinct.push_back(*texts[row]);
    expect(number < distinct.size() && distinct[number] == *texts[row], "a text has the number of its first row");
  }
  expect(distinct.size() == numbering.size(), "as many texts are counted as are numbered");
  std::sort(distinct.begin(), distinct.end());
  expect(std::adjacent_find(distinct.begin(), distinct.end()) == distinct.end(), "a text has one number");
}

}  // namespace
}  // namespace bidlight::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  bidlight::fuzz::Input input(data, size);
  bidlight::fuzz::encode(input);
  if (input.yes()) bidlight::fuzz::number(input);
  return 0;
}
