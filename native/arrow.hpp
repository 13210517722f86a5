// Columns of a table in memory, as Arrow's C data interface hands them from one library to another.
//
// The three structs and their names are the interface: https://arrow.apache.org/docs/format/CDataInterface.html
// Read here are those types that the export's typed log has; any other throws NotPlain.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "bytes.hpp"
#include "request.hpp"

extern "C" {

struct ArrowSchema {
  const char* format;
  const char* name;
  const char* metadata;
  std::int64_t flags;
  std::int64_t n_children;
  ArrowSchema** children;
  ArrowSchema* dictionary;
  void (*release)(ArrowSchema*);
  void* private_data;
};

struct ArrowArray {
  std::int64_t length;
  std::int64_t null_count;
  std::int64_t offset;
  std::int64_t n_buffers;
  std::int64_t n_children;
  const void** buffers;
  ArrowArray** children;
  ArrowArray* dictionary;
  void (*release)(ArrowArray*);
  void* private_data;
};

struct ArrowArrayStream {
  int (*get_schema)(ArrowArrayStream*, ArrowSchema* out);
  int (*get_next)(ArrowArrayStream*, ArrowArray* out);
  const char* (*get_last_error)(ArrowArrayStream*);
  void (*release)(ArrowArrayStream*);
  void* private_data;
};

}  // extern "C"

namespace bidlight::arrow {

// One of the structs, which its maker frees.
template <class Struct>
class Owned {
 public:
  Owned() = default;
  ~Owned() {
    if (it_.release != nullptr) it_.release(&it_);
  }

  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;

  Struct* get() { return &it_; }
  const Struct& operator*() const { return it_; }
  const Struct* operator->() const { return &it_; }

 private:
  Struct it_{};
};

// Which elements of an array are not null.
class Validity {
 public:
  Validity() = default;
  explicit Validity(const ArrowArray& array)
      : bits_(array.null_count == 0 ? nullptr : static_cast<const std::uint8_t*>(array.buffers[0])),
        offset_(static_cast<std::size_t>(array.offset)) {}

  bool is_everywhere() const { return bits_ == nullptr; }
  bool operator[](std::size_t row) const {
    const std::size_t bit = offset_ + row;
    return bits_ == nullptr || (bits_[bit / 8] >> bit % 8 & 1) != 0;
  }

 private:
  const std::uint8_t* bits_ = nullptr;
  std::size_t offset_ = 0;
};

// The elements of a buffer of numbers.
template <class Number>
const Number* numbers_of(const ArrowArray& array, std::size_t buffer = 1) {
  return static_cast<const Number*>(array.buffers[buffer]) + array.offset;
}

// An array of texts: views of 16 bytes, as polars writes them, or offsets into one buffer.
class Texts {
 public:
  Texts() = default;

  Texts(const ArrowSchema& schema, const ArrowArray& array) : valid_(array) {
    const std::string_view format = schema.format;
    if (schema.dictionary != nullptr || (format != "vu" && format != "U")) throw NotPlain{};
    size_ = static_cast<std::size_t>(array.length);
    if (format == "vu") {
      views_ = static_cast<const char*>(array.buffers[1]) + array.offset * kViewBytes;
      data_ = array.buffers + 2;
    } else {
      ends_ = numbers_of<std::int64_t>(array);
      data_ = array.buffers + 2;
    }
  }

  std::size_t size() const { return size_; }

  // The text, which has no data if it is null.
  Text operator[](std::size_t row) const {
    if (!valid_[row]) return {};
    if (ends_ != nullptr) {
      const char* bytes = static_cast<const char*>(data_[0]);
      return {bytes + ends_[row], static_cast<std::size_t>(ends_[row + 1] - ends_[row])};
    }
    // Its size, then the text itself, or four bytes of it and the buffer and place where it lies.
    const char* view = views_ + row * kViewBytes;
    const auto size = load<std::uint32_t>(view);
    if (size <= kInlineBytes) return {view + 4, size};
    return {static_cast<const char*>(data_[load<std::int32_t>(view + 8)]) + load<std::int32_t>(view + 12), size};
  }

 private:
  static constexpr std::size_t kViewBytes = 16, kInlineBytes = 12;

  Validity valid_;
  std::size_t size_ = 0;
  const char* views_ = nullptr;
  const std::int64_t* ends_ = nullptr;
  const void** data_ = nullptr;
};

}  // namespace bidlight::arrow
