// Tokens of candidates, the same that service/feedback/tokens.py makes, whose comment says what is in one.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "bytes.hpp"

namespace bidlight {

constexpr std::size_t kTokenCharacters = 40;

// SipHash-2-4 (Aumasson and Bernstein, INDOCRYPT 2012) of some words, the last of which is padded.
class SipHash {
 public:
  SipHash(std::uint64_t first, std::uint64_t second)
      : v0_(first ^ 0x736f6d6570736575),
        v1_(second ^ 0x646f72616e646f6d),
        v2_(first ^ 0x6c7967656e657261),
        v3_(second ^ 0x7465646279746573) {}

  // The hash so far, and of one word more.
  SipHash with(std::uint64_t word) const {
    SipHash next = *this;
    next.v3_ ^= word;
    next.round();
    next.round();
    next.v0_ ^= word;
    return next;
  }

  // Of all bytes of a message: their number stands in the last byte.
  std::uint64_t of(const unsigned char* bytes, std::size_t size) const {
    SipHash hash = *this;
    std::size_t left = size;
    for (; left >= 8; bytes += 8, left -= 8) hash = hash.with(load<std::uint64_t>(bytes));
    std::uint64_t last = std::uint64_t{size & 0xFF} << 56;
    std::memcpy(&last, bytes, left);
    return hash.with(last).get();
  }

  std::uint64_t get() const {
    SipHash last = *this;
    last.v2_ ^= 0xff;
    for (int i = 0; i < 4; ++i) last.round();
    return last.v0_ ^ last.v1_ ^ last.v2_ ^ last.v3_;
  }

 private:
  void round() {
    v0_ += v1_, v1_ = std::rotl(v1_, 13) ^ v0_, v0_ = std::rotl(v0_, 32);
    v2_ += v3_, v3_ = std::rotl(v3_, 16) ^ v2_;
    v0_ += v3_, v3_ = std::rotl(v3_, 21) ^ v0_;
    v2_ += v1_, v1_ = std::rotl(v1_, 17) ^ v2_, v2_ = std::rotl(v2_, 32);
  }

  std::uint64_t v0_, v1_, v2_, v3_;
};

// The two characters of base64url of every 12 bits: half as many look-ups as one by one.
constexpr auto kPairs = [] {
  constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  std::array<std::uint16_t, 4096> pairs{};
  for (unsigned bits = 0; bits < pairs.size(); ++bits) {
    pairs[bits] = static_cast<std::uint16_t>(kAlphabet[bits >> 6] | kAlphabet[bits & 63] << 8);
  }
  return pairs;
}();

// What the tokens of one arm have in common.
struct TokenSigner {
  std::uint8_t head;  // version and number of the key
  std::uint32_t source;
  std::uint16_t revision;
  SipHash hash;
};

// The tokens of one answer, made at `milliseconds` since 2020; numbers of candidates count on from `first`.
class Tokens {
 public:
  Tokens(const TokenSigner& signer, std::uint64_t milliseconds, std::uint64_t first)
      : start_(signer.head | std::uint64_t{signer.source} << 8 | milliseconds << 40),
        middle_((milliseconds >> 24 & 0xFFFF) | std::uint64_t{signer.revision} << 48),
        first_(first),
        hash_(signer.hash.with(start_)) {}

  // Writes the token of a row to `out`, which has room for kTokenCharacters.
  void write(char* out, std::size_t row, double pctr) const {
    constexpr std::uint64_t kSignedBytes = 22;
    const auto odds = std::bit_cast<std::uint32_t>(static_cast<float>(log_odds(pctr)));
    const std::uint64_t middle = middle_ | std::uint64_t{odds} << 16;
    const std::uint64_t number = (first_ + row) & 0xFFFF'FFFF'FFFF;
    const std::uint64_t hash = hash_.with(middle).with(number | kSignedBytes << 56).get();
    // The bytes in their order, the first one highest: base64 takes their bits from there.
    const std::array<std::uint64_t, 4> words{big_endian(start_), big_endian(middle),
                                             big_endian(number | hash << 48), big_endian(hash >> 16)};
#pragma GCC unroll 20
    for (unsigned bit = 0; bit < 6 * kTokenCharacters; bit += 12, out += 2) {
      const unsigned in_word = bit % 64;
      std::uint64_t bits = in_word <= 52 ? words[bit / 64] >> (52 - in_word) : words[bit / 64] << (in_word - 52);
      if (in_word > 52) bits |= words[bit / 64 + 1] >> (116 - in_word);
      std::memcpy(out, &kPairs[bits & 0xFFF], 2);
    }
  }

 private:
  static double log_odds(double pctr) {
    const double probability = std::min(std::max(pctr, 0x1p-126), 1.0 - 0x1p-53);
    return std::log(probability / (1.0 - probability));
  }

  static std::uint64_t big_endian(std::uint64_t word) { return load_big_endian<std::uint64_t>(&word); }

  std::uint64_t start_, middle_, first_;
  SipHash hash_;
};

}  // namespace bidlight
