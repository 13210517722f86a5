// UTF-8 by the rules of Python's strict codec: no surrogates, nothing overlong.
#pragma once

#include <cstdint>
#include <string_view>

namespace bidlight {

// Writes a character that is no surrogate, in at most four bytes; returns the end.
inline char* write_utf8(std::uint32_t code, char* out) {
  const auto put = [&out](std::uint32_t byte) { *out++ = static_cast<char>(byte); };
  const auto tail = [&put, code](int shift) { put(0x80 | ((code >> shift) & 0x3F)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6), tail(0);
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12), tail(6), tail(0);
  } else {
    put(0xF0 | code >> 18), tail(12), tail(6), tail(0);
  }
  return out;
}

inline bool is_utf8(std::string_view text) {
  const auto* at = reinterpret_cast<const unsigned char*>(text.data());
  const auto* end = at + text.size();
  while (at != end) {
    const unsigned lead = *at++;
    if (lead < 0x80) continue;
    int more = 0;
    // What the second byte may be; all later ones are 80 to BF.
    unsigned lowest = 0x80, highest = 0xBF;
    if (lead >= 0xC2 && lead <= 0xDF) {
      more = 1;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
      more = 2;
      if (lead == 0xE0) lowest = 0xA0;
      if (lead == 0xED) highest = 0x9F;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
      more = 3;
      if (lead == 0xF0) lowest = 0x90;
      if (lead == 0xF4) highest = 0x8F;
    } else {
      return false;
    }
    if (end - at < more) return false;
    for (; more > 0; --more, lowest = 0x80, highest = 0xBF) {
      const unsigned byte = *at++;
      if (byte < lowest || byte > highest) return false;
    }
  }
  return true;
}

}  // namespace bidlight
