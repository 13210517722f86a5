#include "mapped_file.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <mutex>
#include <system_error>

namespace bidlight {

// Read by a handler of signals, at any time, while others are added and removed: one that was added stays in the
// list, empty, until another mapping takes it.
struct MappedRange {
  std::atomic<std::uintptr_t> begin{0}, end{0};
  std::atomic<bool> is_whole{true};
  std::atomic<bool> is_taken{true};
  MappedRange* next = nullptr;
};

namespace {

std::atomic<MappedRange*> ranges{nullptr};
std::uintptr_t page_size = 0;
struct sigaction other_handling;

bool put_zeros(std::uintptr_t address) {
  for (MappedRange* range = ranges.load(); range != nullptr; range = range->next) {
    if (address < range->begin || address >= range->end) continue;
    void* page = reinterpret_cast<void*>(address / page_size * page_size);
    range->is_whole = false;
    return mmap(page, page_size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == page;
  }
  return false;
}

void on_bus_error(int signal, siginfo_t* info, void*) {
  const int before = errno;
  const bool is_fault = info->si_code > 0;  // else somebody has sent it
  if (is_fault && put_zeros(reinterpret_cast<std::uintptr_t>(info->si_addr))) {
    errno = before;
    return;
  }
  // Whatever it would have done without this handler; a fault happens again.
  sigaction(signal, &other_handling, nullptr);
  if (!is_fault) raise(signal);
  errno = before;
}

void handle_bus_errors() {
  page_size = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  struct sigaction handling = {};
  handling.sa_sigaction = on_bus_error;
  handling.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&handling.sa_mask);
  sigaction(SIGBUS, &handling, &other_handling);
}

MappedRange* free_range() {
  for (MappedRange* range = ranges.load(); range != nullptr; range = range->next) {
    if (!range->is_taken.exchange(true)) return range;
  }
  auto* added = new MappedRange;
  added->next = ranges.load();
  while (!ranges.compare_exchange_weak(added->next, added)) {
  }
  return added;
}

}  // namespace

MappedFile::MappedFile(int descriptor, std::size_t size) : size_(size) {
  static std::once_flag once;
  std::call_once(once, handle_bus_errors);
  void* data = mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor, 0);
  if (data == MAP_FAILED) throw std::system_error(errno, std::generic_category());
  data_ = static_cast<const char*>(data);
  range_ = free_range();
  range_->is_whole = true;
  range_->begin = reinterpret_cast<std::uintptr_t>(data);
  range_->end = reinterpret_cast<std::uintptr_t>(data) + size;
}

MappedFile::~MappedFile() {
  range_->end = 0;
  range_->begin = 0;
  munmap(const_cast<char*>(data_), size_);
  range_->is_taken = false;
}

bool MappedFile::is_whole() const { return range_->is_whole; }

}  // namespace bidlight
