// A file in memory, read-only and shared with every process that maps it.
#pragma once

#include <cstddef>

namespace bidlight {

struct MappedRange;

// The bytes of an open file, which nobody is meant to write to any more.
//
// Where a page can no longer be read, because somebody cuts the file short or its disk fails, the system sends
// SIGBUS, which ends the process. Of these bytes it reads zeros instead, and `is_whole` is false from then on.
class MappedFile {
 public:
  // The first `size` bytes, at least one; the descriptor may be closed afterwards. Throws std::system_error.
  MappedFile(int descriptor, std::size_t size);
  ~MappedFile();

  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const char* data() const { return data_; }
  std::size_t size() const { return size_; }
  bool is_whole() const;

 private:
  const char* data_;
  std::size_t size_;
  MappedRange* range_;
};

}  // namespace bidlight
