#include "families/family.h"

namespace metal_marlin {

const char* linear_kind_name(LinearKind kind) noexcept {
  constexpr const char* kNames[kLinears] = {"q", "k", "v", "o", "gate", "up", "down"};
  return kNames[static_cast<int>(kind)];
}

LinearInput input_of(LinearKind kind) noexcept {
  switch (kind) {
    case LinearKind::kQ:
    case LinearKind::kK:
    case LinearKind::kV:
      return LinearInput::kQkv;
    case LinearKind::kO:
      return LinearInput::kO;
    case LinearKind::kGate:
    case LinearKind::kUp:
      return LinearInput::kGateUp;
    case LinearKind::kDown:
      break;
  }
  return LinearInput::kDown;
}

}  // namespace metal_marlin
