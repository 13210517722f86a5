// Columns in Arrow's C data interface, whose buffers each have memory of exactly their size.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "../arrow.hpp"
#include "input.hpp"

namespace bidlight::fuzz {

using Texts = std::vector<std::optional<std::string>>;  // none is null

class ArrowColumn {
 public:
  // The elements before `offset` are in the buffers, and not of the column.
  ArrowColumn(const char* format, std::size_t elements, std::size_t offset) {
    schema.format = format;
    schema.name = "";
    array.offset = static_cast<std::int64_t>(offset);
    array.length = static_cast<std::int64_t>(elements - offset);
    array.null_count = -1;
  }

  template <class Element>
  void add_buffer(const std::vector<Element>& elements) {
    owned_.push_back(std::make_unique<Bytes>(elements.data(), elements.size() * sizeof(Element)));
    buffers_.push_back(owned_.back()->begin());
    array.buffers = buffers_.data();
    array.n_buffers = static_cast<std::int64_t>(buffers_.size());
  }

  // Which elements are not null. A column without nulls may have no bits.
  void add_validity(const std::vector<bool>& valid, bool leaves_out) {
    if (leaves_out && std::find(valid.begin(), valid.end(), false) == valid.end()) {
      buffers_.push_back(nullptr);
      array.null_count = 0;
      return;
    }
    std::vector<std::uint8_t> bits((valid.size() + 7) / 8);
    for (std::size_t i = 0; i < valid.size(); ++i) bits[i / 8] |= static_cast<std::uint8_t>(valid[i] << i % 8);
    add_buffer(bits);
  }

  void set_child(ArrowColumn& child) {
    child_schema_ = &child.schema;
    child_array_ = &child.array;
    schema.children = &child_schema_;
    array.children = &child_array_;
    schema.n_children = array.n_children = 1;
  }

  ArrowSchema schema{};
  ArrowArray array{};

 private:
  std::vector<std::unique_ptr<Bytes>> owned_;
  std::vector<const void*> buffers_;
  ArrowSchema* child_schema_ = nullptr;
  ArrowArray* child_array_ = nullptr;
};

using Column = std::unique_ptr<ArrowColumn>;

inline std::vector<bool> validity_of(const Texts& texts) {
  std::vector<bool> valid;
  for (const auto& text : texts) valid.push_back(text.has_value());
  return valid;
}

// As polars has texts: up to 12 bytes in the view, others in one of two buffers.
inline Column views_of(const Texts& texts, std::size_t offset, bool leaves_out) {
  auto column = std::make_unique<ArrowColumn>("vu", texts.size(), offset);
  std::vector<char> views(texts.size() * 16);
  std::array<std::vector<char>, 2> data;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (!texts[i]) continue;
    const std::string& text = *texts[i];
    char* view = views.data() + i * 16;
    const auto size = static_cast<std::uint32_t>(text.size()), buffer = static_cast<std::uint32_t>(i % 2);
    std::memcpy(view, &size, 4);
    if (text.size() <= 12) {
      std::memcpy(view + 4, text.data(), text.size());
      continue;
    }
    const auto place = static_cast<std::uint32_t>(data[buffer].size());
    std::memcpy(view + 4, text.data(), 4);
    std::memcpy(view + 8, &buffer, 4);
    std::memcpy(view + 12, &place, 4);
    data[buffer].insert(data[buffer].end(), text.begin(), text.end());
  }
  column->add_validity(validity_of(texts), leaves_out);
  column->add_buffer(views);
  for (const std::vector<char>& each : data) column->add_buffer(each);
  return column;
}

// As others have them: one after the other, with their ends.
inline Column large_texts_of(const Texts& texts, std::size_t offset, bool leaves_out) {
  auto column = std::make_unique<ArrowColumn>("U", texts.size(), offset);
  std::vector<std::int64_t> ends{0};
  std::vector<char> data;
  for (const auto& text : texts) {
    if (text) data.insert(data.end(), text->begin(), text->end());
    ends.push_back(static_cast<std::int64_t>(data.size()));
  }
  column->add_validity(validity_of(texts), leaves_out);
  column->add_buffer(ends);
  column->add_buffer(data);
  return column;
}

}  // namespace bidlight::fuzz
