// CRC-32 as zlib computes it (the polynomial of Ethernet, reflected), which feature hashing uses.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "bytes.hpp"

namespace bidlight {

namespace crc32_tables {

using Tables = std::array<std::array<std::uint32_t, 256>, 4>;

// Table t is what a byte does to the sum when t bytes follow it in a word.
constexpr Tables make() {
  Tables tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t sum = byte;
    for (int bit = 0; bit < 8; ++bit) sum = (sum >> 1) ^ ((sum & 1) != 0 ? 0xEDB88320u : 0u);
    tables[0][byte] = sum;
  }
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    for (std::size_t t = 1; t < tables.size(); ++t) {
      const std::uint32_t before = tables[t - 1][byte];
      tables[t][byte] = (before >> 8) ^ tables[0][before & 0xFF];
    }
  }
  return tables;
}

inline constexpr Tables kTables = make();

}  // namespace crc32_tables

inline std::uint32_t crc32(std::string_view text, std::uint32_t seed) {
  const auto& tables = crc32_tables::kTables;
  std::uint32_t sum = ~seed;
  const char* at = text.data();
  std::size_t left = text.size();
  for (; left >= 4; at += 4, left -= 4) {
    sum ^= load<std::uint32_t>(at);
    sum = tables[3][sum & 0xFF] ^ tables[2][(sum >> 8) & 0xFF] ^ tables[1][(sum >> 16) & 0xFF] ^ tables[0][sum >> 24];
  }
  for (; left > 0; ++at, --left) {
    sum = (sum >> 8) ^ tables[0][(sum ^ static_cast<unsigned char>(*at)) & 0xFF];
  }
  return ~sum;
}

}  // namespace bidlight
