// JSON in the order in which it was written; it knows no request.
#pragma once

#include <bit>
#include <cstdint>

#include "bytes.hpp"
#include "json_number.hpp"
#include "request.hpp"
#include "utf8.hpp"

namespace bidlight {

// Every function throws NotPlain where the JSON is malformed, where it is something else than asked for, and at
// an escape in a string.
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
      if (byte < 0x20 || byte == '\\') throw NotPlain{};
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
};

}  // namespace bidlight
