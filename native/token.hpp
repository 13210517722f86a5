// Tokens of candidates, the same that service/feedback/tokens.py makes, whose comment says what is in one.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "bytes.hpp"

namespace bidlight {

constexpr std::size_t kTokenCharacters = 40;

// SipHash-2-4 (Aumasson and Bernstein, INDOCRYPT 2012) of three words, the last of which is padded.
class SipHash {
 public:
  SipHash(std::uint64_t first, std::uint64_t second) : first_(first), second_(second) {}

  std::uint64_t of(std::uint64_t one, std::uint64_t two, std::uint64_t three) const {
    State v{first_ ^ 0x736f6d6570736575, second_ ^ 0x646f72616e646f6d, first_ ^ 0x6c7967656e657261,
            second_ ^ 0x7465646279746573};
    for (const std::uint64_t word : {one, two, three}) {
      v.v3 ^= word;
      v.round();
      v.round();
      v.v0 ^= word;
    }
    v.v2 ^= 0xff;
    for (int i = 0; i < 4; ++i) v.round();
    return v.v0 ^ v.v1 ^ v.v2 ^ v.v3;
  }

 private:
  struct State {
    std::uint64_t v0, v1, v2, v3;

    void round() {
      v0 += v1, v1 = std::rotl(v1, 13) ^ v0, v0 = std::rotl(v0, 32);
      v2 += v3, v3 = std::rotl(v3, 16) ^ v2;
      v0 += v3, v3 = std::rotl(v3, 21) ^ v0;
      v2 += v1, v1 = std::rotl(v1, 17) ^ v2, v2 = std::rotl(v2, 32);
    }
  };

  std::uint64_t first_, second_;
};

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
      : signer_(signer),
        start_(signer.head | std::uint64_t{signer.source} << 8 | milliseconds << 40),
        milliseconds_high_(milliseconds >> 24 & 0xFFFF),
        first_(first) {}

  // Writes the token of a row to `out`, which has room for kTokenCharacters.
  void write(char* out, std::size_t row, double pctr) const {
    constexpr unsigned kSignedBytes = 22;
    const auto odds = std::bit_cast<std::uint32_t>(static_cast<float>(log_odds(pctr)));
    const std::uint64_t middle =
        milliseconds_high_ | std::uint64_t{odds} << 16 | std::uint64_t{signer_.revision} << 48;
    const std::uint64_t number = (first_ + row) & 0xFFFF'FFFF'FFFF;
    const std::uint64_t hash = signer_.hash.of(start_, middle, number | std::uint64_t{kSignedBytes} << 56);
    unsigned char bytes[kSignedBytes + 8];
    std::memcpy(bytes, &start_, 8);
    std::memcpy(bytes + 8, &middle, 8);
    std::memcpy(bytes + 16, &number, 8);  // its last two bytes are those of the hash
    std::memcpy(bytes + kSignedBytes, &hash, 8);
    for (std::size_t at = 0; at < sizeof(bytes); at += 3, out += 4) {
      constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
      const unsigned three = bytes[at] << 16 | bytes[at + 1] << 8 | bytes[at + 2];
      out[0] = kAlphabet[three >> 18];
      out[1] = kAlphabet[three >> 12 & 63];
      out[2] = kAlphabet[three >> 6 & 63];
      out[3] = kAlphabet[three & 63];
    }
  }

 private:
  static double log_odds(double pctr) {
    const double probability = std::min(std::max(pctr, 0x1p-126), 1.0 - 0x1p-53);
    return std::log(probability / (1.0 - probability));
  }

  const TokenSigner& signer_;
  std::uint64_t start_, milliseconds_high_, first_;
};

}  // namespace bidlight
