#include "core/files/digest.h"

#include <fmt/format.h>

#define XXH_INLINE_ALL  // the whole library in this file
#include <xxhash.h>

#if XXH_VERSION_NUMBER < 800
#error "xxHash 0.8 or newer is needed: earlier versions give other digests of 128 bits"
#endif

namespace metal_marlin {
namespace {

Digest digest_from(XXH128_hash_t hash) {
  return {hash.high64, hash.low64};
}

}  // namespace

struct Digester::State {
  XXH3_state_t xxh;
};

std::string Digest::text() const {
  return fmt::format("{:016x}{:016x}", high, low);
}

Digester::Digester() : state_(std::make_unique<State>()) {
  XXH3_128bits_reset(&state_->xxh);
}

Digester::~Digester() = default;

void Digester::add(const void* data, size_t size) {
  if (size > 0) XXH3_128bits_update(&state_->xxh, data, size);
}

void Digester::add_text(std::string_view text) {
  add_number(text.size());
  add(text.data(), text.size());
}

Digest Digester::result() const {
  return digest_from(XXH3_128bits_digest(&state_->xxh));
}

Digest digest_of(std::string_view bytes) {
  return digest_from(XXH3_128bits(bytes.data(), bytes.size()));
}

}  // namespace metal_marlin
