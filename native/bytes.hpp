// Loads of words from bytes, and a hash of text. All formats are little-endian, as the machines are.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace bidlight {

static_assert(std::endian::native == std::endian::little);

template <class Word>
inline Word load(const void* from) {
  Word word;
  std::memcpy(&word, from, sizeof(Word));
  return word;
}

template <class Word>
inline Word load_big_endian(const void* from) {
  Word word = 0;
  const auto* bytes = static_cast<const unsigned char*>(from);
  for (std::size_t i = 0; i < sizeof(Word); ++i) word = static_cast<Word>((word << 8) | bytes[i]);
  return word;
}

__extension__ typedef unsigned __int128 uint128;

inline std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  const uint128 product = static_cast<uint128>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

// A 64-bit hash of `text`. With a secret seed nobody can choose texts that collide.
inline std::uint64_t hash_text(std::string_view text, std::uint64_t seed) {
  constexpr std::uint64_t kFirst = 0x9e3779b97f4a7c15, kSecond = 0xd6e8feb86659fd93;
  const char* data = text.data();
  std::size_t left = text.size();
  std::uint64_t hash = mix(seed ^ left, kFirst);
  for (; left > 8; data += 8, left -= 8) hash = mix(hash ^ load<std::uint64_t>(data), kSecond);
  std::uint64_t last = 0;
  if (left >= 4) {  // two words that may overlap
    last = load<std::uint32_t>(data) | std::uint64_t{load<std::uint32_t>(data + left - 4)} << 32;
  } else if (left > 0) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(data);
    last = std::uint64_t{bytes[0]} | std::uint64_t{bytes[left / 2]} << 8 | std::uint64_t{bytes[left - 1]} << 16;
  }
  return mix(hash ^ last, kFirst);
}

}  // namespace bidlight
