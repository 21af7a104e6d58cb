#include "platform/mapping.h"

#include <errno.h>
#include <metal_marlin/error.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <utility>

#include "platform/file.h"
#include "platform/system_calls.h"

namespace metal_marlin {

// One for each mapping that exists. The signal handler walks the list at any moment, so a guard is never freed: it is
// used again for the next mapping.
struct Mapping::Guard {
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};
  std::atomic<bool> lost{false};
  Guard* next = nullptr;  // set before the guard enters the list, then never changed
};

namespace {

using Guard = Mapping::Guard;

std::atomic<Guard*> guards{nullptr};
std::mutex guards_mutex;     // for everything but the handler's walk
int guards_used = 0;         // the handler is installed while this is above 0
struct sigaction before {};  // what SIGBUS did without us
uintptr_t page_size = 4096;

static_assert(std::atomic<uintptr_t>::is_always_lock_free && std::atomic<Guard*>::is_always_lock_free);

void on_bus_error(int number, siginfo_t* info, void* context) {
  const auto at = reinterpret_cast<uintptr_t>(info->si_addr);
  if (info->si_code > 0) {  // of the system, about an address; not sent by kill()
    for (Guard* g = guards.load(std::memory_order_acquire); g != nullptr; g = g->next) {
      const uintptr_t end = g->end.load(std::memory_order_acquire);
      if (at < g->begin.load(std::memory_order_acquire) || at >= end) continue;
      const int kept = errno;
      g->lost.store(true, std::memory_order_release);
      const uintptr_t from = at / page_size * page_size;
      void* zeros =
          mmap(reinterpret_cast<void*>(from), end - from, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
      errno = kept;
      if (zeros != MAP_FAILED) return;  // the read is repeated and finds zeros
      break;
    }
  }
  if ((before.sa_flags & SA_SIGINFO) != 0) {
    before.sa_sigaction(number, info, context);
  } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
    before.sa_handler(number);
  } else {
    // Ends the process as if we had never been there: the read is repeated, a sent signal is sent again.
    struct sigaction plain {};
    plain.sa_handler = SIG_DFL;
    sigaction(SIGBUS, &plain, nullptr);
    if (info->si_code <= 0) raise(SIGBUS);
  }
}

Guard* begin_guard(uintptr_t begin, uintptr_t end) {
  const std::lock_guard lock(guards_mutex);
  Guard* guard = guards.load(std::memory_order_relaxed);
  while (guard != nullptr && guard->end.load(std::memory_order_relaxed) != 0) guard = guard->next;
  if (guard == nullptr) {
    guard = new Guard;
    guard->next = guards.load(std::memory_order_relaxed);
    guards.store(guard, std::memory_order_release);
  }
  guard->lost.store(false, std::memory_order_relaxed);
  guard->begin.store(begin, std::memory_order_release);
  guard->end.store(end, std::memory_order_release);
  if (guards_used++ == 0) {
    page_size = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    struct sigaction ours {};
    ours.sa_sigaction = on_bus_error;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&ours.sa_mask);
    sigaction(SIGBUS, &ours, &before);
  }
  return guard;
}

void end_guard(Guard* guard) {
  const std::lock_guard lock(guards_mutex);
  guard->end.store(0, std::memory_order_release);
  if (--guards_used > 0) return;
  struct sigaction now {};
  sigaction(SIGBUS, nullptr, &now);
  // Somebody who came after us keeps the place, and goes on calling ours, which then finds no mapping.
  if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == on_bus_error) sigaction(SIGBUS, &before, nullptr);
}

}  // namespace

Mapping::Mapping(const UniqueFd& fd, size_t size, const std::string& path) : size_(size) {
  if (size == 0) return;
  void* p = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (p == MAP_FAILED) fail_with(path, "map", errno);
  data_ = static_cast<const std::byte*>(p);
  const auto begin = reinterpret_cast<uintptr_t>(p);
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  guard_ = begin_guard(begin, begin + (size + page - 1) / page * page);
}

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      guard_(std::exchange(other.guard_, nullptr)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(guard_, other.guard_);
  return *this;
}

Mapping::~Mapping() {
  if (data_ == nullptr) return;
  end_guard(guard_);
  munmap(const_cast<std::byte*>(data_), size_);
}

bool Mapping::lost() const noexcept {
  return guard_ != nullptr && guard_->lost.load(std::memory_order_acquire);
}

void Mapping::release(std::span<const std::byte> part) const noexcept {
  if (part.empty()) return;
  // A fault maps the pages around it as well: 64 KiB on older Linux, and since Linux 6 the whole folio of the page
  // cache, up to 2 MiB. The edges of many small parts add up, so the range grows outwards. What belongs to a neighbour
  // is mapped again when it is read.
  constexpr uintptr_t kAround = 2u << 20;
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<uintptr_t>(data_);
  const auto last = first + size_;
  const auto begin = std::max(first, reinterpret_cast<uintptr_t>(part.data()) / kAround * kAround);
  const auto end =
      std::min(last, (reinterpret_cast<uintptr_t>(part.data()) + part.size() + kAround - 1) / kAround * kAround);
  const auto aligned = begin / page * page;
  if (end > aligned) madvise(reinterpret_cast<void*>(aligned), end - aligned, MADV_DONTNEED);
}

std::byte* map_memory(size_t bytes) noexcept {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return p == MAP_FAILED ? nullptr : static_cast<std::byte*>(p);
}

void unmap_memory(std::byte* data, size_t bytes) noexcept {
  munmap(data, bytes);
}

void prefer_huge_pages(std::byte* data, size_t bytes) noexcept {
  platform::advise_huge_pages(data, bytes);
}

}  // namespace metal_marlin
