// JSON in the order in which it was written; it knows no request.
#pragma once

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstdint>
#include <memory>
#include <utility>

#include "bytes.hpp"
#include "json_number.hpp"
#include "request.hpp"
#include "utf8.hpp"

namespace bidlight {

// Every function throws NotPlain where the JSON is malformed, and where it is something else than asked for.
class JsonSource {
 public:
  struct Nest {
    char close;
    bool is_first = true;
  };

  JsonSource(const char* begin, const char* end) : at_(begin), end_(end) {}

  bool at_map() { return next_byte() == '{'; }
  bool at_list() { return next_byte() == '['; }

  Nest open_map() { return open('{', '}'); }
  Nest open_list() { return open('[', ']'); }

  // Whether another member follows, at which the source stands then.
  bool next(Nest& nest) {
    const char byte = next_byte();
    if (byte == nest.close) {
      ++at_;
      return false;
    }
    if (nest.is_first) {
      nest.is_first = false;
    } else {
      expect(',');
    }
    return true;
  }

  Text key() {
    const Text name = text();
    if (at_ != end_ && *at_ == ':') {
      ++at_;
    } else {
      expect(':');
    }
    return name;
  }

  // Without its escapes: it points into the body, or else into what `take_unescaped` gives.
  Text text() {
    expect('"');
    const char* begin = at_;
    while (end_ - at_ >= 8) {
      const std::uint64_t found = special_bytes(load<std::uint64_t>(at_));
      if (found != 0) {
        at_ += std::countr_zero(found) / 8;
        break;
      }
      at_ += 8;
    }
    bool is_ascii = true;
    for (;; ++at_) {
      if (at_ == end_) throw NotPlain{};
      const auto byte = static_cast<unsigned char>(*at_);
      if (byte == '"') break;
      if (byte == '\\') return unescaped(begin);
      if (byte < 0x20) throw NotPlain{};
      if (byte >= 0x80) is_ascii = false;
    }
    const Text found(begin, static_cast<std::size_t>(at_ - begin));
    if (!is_ascii && !is_utf8(found)) throw NotPlain{};
    ++at_;
    return found;
  }

  // A value that is neither a map nor a list.
  Value scalar() {
    Value value;
    switch (next_byte()) {
      case '"': {
        const Text found = text();
        value.kind = Kind::text;
        value.size = static_cast<std::uint32_t>(found.size());
        value.text = found.data();
        return value;
      }
      case 'n':
        word("null");
        return value;
      case 't':
        word("true");
        value.kind = Kind::boolean;
        value.integer = 1;
        return value;
      case 'f':
        word("false");
        value.kind = Kind::boolean;
        return value;
      default:
        return read_json_number(at_, end_);
    }
  }

  // The memory of the texts that had escapes; empty if there were none.
  std::unique_ptr<char[]> take_unescaped() { return std::move(unescaped_); }

  // Nothing may follow but white space.
  void finish() {
    skip_space();
    if (at_ != end_) throw NotPlain{};
  }

 private:
  // The high bit of each byte that ends a run of plain ASCII: a quote, a backslash, a control character or the
  // lead of a longer character. Only the lowest bit set is exact.
  static std::uint64_t special_bytes(std::uint64_t word) {
    constexpr std::uint64_t kOnes = 0x0101010101010101, kHighs = 0x8080808080808080;
    const std::uint64_t quote = word ^ (kOnes * '"'), backslash = word ^ (kOnes * '\\');
    return ((quote - kOnes) | (backslash - kOnes) | (word - kOnes * 0x20) | word) & kHighs;
  }

  // The text from `begin` on, whose first escape the source stands at.
  Text unescaped(const char* begin) {
    if (unescaped_ == nullptr) {  // no text is longer without its escapes, so this is enough for all that follow
      unescaped_ = std::make_unique_for_overwrite<char[]>(static_cast<std::size_t>(end_ - begin));
      free_ = unescaped_.get();
    }
    char* const text = free_;
    free_ = std::copy(begin, at_, free_);
    bool is_ascii = true;
    for (;;) {
      if (at_ == end_) throw NotPlain{};
      const auto byte = static_cast<unsigned char>(*at_++);
      if (byte == '"') break;
      if (byte < 0x20) throw NotPlain{};
      if (byte == '\\') {
        free_ = write_escaped(free_);
      } else {
        *free_++ = static_cast<char>(byte);
      }
    }
    for (const char* at = text; at != free_; ++at) is_ascii = is_ascii && static_cast<signed char>(*at) >= 0;
    const Text found(text, static_cast<std::size_t>(free_ - text));
    if (!is_ascii && !is_utf8(found)) throw NotPlain{};
    return found;
  }

  // Reads what follows a backslash, and writes the character that is meant; returns the end of that.
  char* write_escaped(char* out) {
    if (at_ == end_) throw NotPlain{};
    switch (const char byte = *at_++) {
      case '"':
      case '\\':
      case '/':
        *out++ = byte;
        return out;
      case 'b':
        *out++ = '\b';
        return out;
      case 'f':
        *out++ = '\f';
        return out;
      case 'n':
        *out++ = '\n';
        return out;
      case 'r':
        *out++ = '\r';
        return out;
      case 't':
        *out++ = '\t';
        return out;
      case 'u':
        return write_utf8(code_point(), out);
      default:
        throw NotPlain{};
    }
  }

  // Of four hexadecimal digits, or of two times four with an escape between them.
  std::uint32_t code_point() {
    const std::uint32_t first = four_digits();
    if (first < 0xD800 || first > 0xDFFF) return first;
    if (first > 0xDBFF || end_ - at_ < 2 || at_[0] != '\\' || at_[1] != 'u') throw NotPlain{};
    at_ += 2;
    const std::uint32_t second = four_digits();
    if (second < 0xDC00 || second > 0xDFFF) throw NotPlain{};
    return 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
  }

  std::uint32_t four_digits() {
    std::uint32_t number = 0;
    if (end_ - at_ < 4 || std::from_chars(at_, at_ + 4, number, 16).ptr != at_ + 4) throw NotPlain{};
    at_ += 4;
    return number;
  }

  void skip_space() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\t' || *at_ == '\r')) ++at_;
  }

  // The byte after any white space, at which the source stands then.
  char next_byte() {
    skip_space();
    if (at_ == end_) throw NotPlain{};
    return *at_;
  }

  void expect(char byte) {
    if (next_byte() != byte) throw NotPlain{};
    ++at_;
  }

  Nest open(char byte, char close) {
    expect(byte);
    return {close};
  }

  void word(Text expected) {
    if (static_cast<std::size_t>(end_ - at_) < expected.size() || Text(at_, expected.size()) != expected) {
      throw NotPlain{};
    }
    at_ += expected.size();
  }

  const char* at_;
  const char* end_;
  std::unique_ptr<char[]> unescaped_;
  char* free_ = nullptr;  // what of it holds no text yet
};

}  // namespace bidlight
