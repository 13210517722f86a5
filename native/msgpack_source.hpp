// MessagePack in the order in which it was written; it knows no request.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <memory>

#include "bytes.hpp"
#include "request.hpp"
#include "utf8.hpp"

namespace bidlight {

// The same interface as JsonSource. Every function throws NotPlain where the MessagePack is malformed, where it
// is something else than asked for, and at a number that is not finite or beyond int64.
class MsgpackSource {
 public:
  struct Nest {
    std::uint32_t left;
  };

  MsgpackSource(const char* begin, const char* end) : at_(begin), end_(end) {}

  bool at_map() {
    const unsigned byte = peek();
    return (byte & 0xF0) == 0x80 || byte == 0xDE || byte == 0xDF;
  }

  bool at_list() {
    const unsigned byte = peek();
    return (byte & 0xF0) == 0x90 || byte == 0xDC || byte == 0xDD;
  }

  Nest open_map() { return open(0x80, 0xDE); }
  Nest open_list() { return open(0x90, 0xDC); }

  bool next(Nest& nest) {
    if (nest.left == 0) return false;
    --nest.left;
    return true;
  }

  Text key() { return text(); }

  Text text() {
    const unsigned byte = take_byte();
    std::uint32_t size = 0;
    if ((byte & 0xE0) == 0xA0) {
      size = byte & 0x1F;
    } else if (byte == 0xD9) {
      size = take<std::uint8_t>();
    } else if (byte == 0xDA) {
      size = take<std::uint16_t>();
    } else if (byte == 0xDB) {
      size = take<std::uint32_t>();
    } else {
      throw NotPlain{};
    }
    if (static_cast<std::size_t>(end_ - at_) < size) throw NotPlain{};
    const Text found(at_, size);
    if (!is_ascii(found) && !is_utf8(found)) throw NotPlain{};
    at_ += size;
    return found;
  }

  Value scalar() {
    Value value;
    const unsigned byte = peek();
    if ((byte & 0xE0) == 0xA0 || (byte >= 0xD9 && byte <= 0xDB)) {
      const Text found = text();
      value.kind = Kind::text;
      value.size = static_cast<std::uint32_t>(found.size());
      value.text = found.data();
      return value;
    }
    ++at_;
    if (byte <= 0x7F || byte >= 0xE0) return integer(static_cast<std::int8_t>(byte));
    switch (byte) {
      case 0xC0:
        return value;
      case 0xC2:
      case 0xC3:
        value.kind = Kind::boolean;
        value.integer = byte == 0xC3;
        return value;
      case 0xCA:
        return real(std::bit_cast<float>(take<std::uint32_t>()));
      case 0xCB:
        return real(std::bit_cast<double>(take<std::uint64_t>()));
      case 0xCC:
        return integer(take<std::uint8_t>());
      case 0xCD:
        return integer(take<std::uint16_t>());
      case 0xCE:
        return integer(take<std::uint32_t>());
      case 0xCF: {
        const auto number = take<std::uint64_t>();
        if (number > static_cast<std::uint64_t>(INT64_MAX)) throw NotPlain{};
        return integer(static_cast<std::int64_t>(number));
      }
      case 0xD0:
        return integer(static_cast<std::int8_t>(take<std::uint8_t>()));
      case 0xD1:
        return integer(static_cast<std::int16_t>(take<std::uint16_t>()));
      case 0xD2:
        return integer(static_cast<std::int32_t>(take<std::uint32_t>()));
      case 0xD3:
        return integer(static_cast<std::int64_t>(take<std::uint64_t>()));
      default:
        throw NotPlain{};
    }
  }

  std::unique_ptr<char[]> take_unescaped() { return nullptr; }

  void finish() {
    if (at_ != end_) throw NotPlain{};
  }

 private:
  static bool is_ascii(Text text) {
    unsigned any = 0;
    for (const char byte : text) any |= static_cast<unsigned char>(byte);
    return any < 0x80;
  }

  static Value integer(std::int64_t number) {
    Value value;
    value.kind = Kind::integer;
    value.integer = number;
    return value;
  }

  static Value real(double number) {
    if (!std::isfinite(number)) throw NotPlain{};
    Value value;
    value.kind = Kind::real;
    value.real = number;
    return value;
  }

  unsigned peek() {
    if (at_ == end_) throw NotPlain{};
    return static_cast<unsigned char>(*at_);
  }

  unsigned take_byte() {
    const unsigned byte = peek();
    ++at_;
    return byte;
  }

  template <class Word>
  Word take() {
    if (static_cast<std::size_t>(end_ - at_) < sizeof(Word)) throw NotPlain{};
    const auto word = load_big_endian<Word>(at_);
    at_ += sizeof(Word);
    return word;
  }

  // A map or a list: its short form begins with the four bits of `fixed`, its longer ones with `wide` and
  // wide + 1.
  Nest open(unsigned fixed, unsigned wide) {
    const unsigned byte = take_byte();
    if ((byte & 0xF0) == fixed) return {byte & 0x0F};
    if (byte == wide) return {take<std::uint16_t>()};
    if (byte == wide + 1) return {take<std::uint32_t>()};
    throw NotPlain{};
  }

  const char* at_;
  const char* end_;
};

}  // namespace bidlight
