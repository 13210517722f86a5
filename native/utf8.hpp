// Whether bytes are UTF-8, by the rules of Python's strict decoder: no surrogates, nothing overlong.
#pragma once

#include <string_view>

namespace bidlight {

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
