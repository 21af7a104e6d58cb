#include "model/rope.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace metal_marlin {
namespace {

constexpr double kPi = std::numbers::pi;

void llama3(const RopeConfig& c, double original, std::vector<double>& inverse) {
  const double low_wavelength = original / c.low_freq_factor;
  const double high_wavelength = original / c.high_freq_factor;
  for (double& f : inverse) {
    const double wavelength = 2.0 * kPi / f;
    if (wavelength > low_wavelength) {
      f /= c.factor;
    } else if (wavelength >= high_wavelength) {
      const double smooth = (original / wavelength - c.low_freq_factor) / (c.high_freq_factor - c.low_freq_factor);
      f = (1.0 - smooth) * f / c.factor + smooth * f;
    }
  }
}

double yarn(const RopeConfig& c, int64_t dim, double original, std::vector<double>& inverse) {
  // The dimension at which a frequency turns `rotations` times over the original context.
  const auto correction = [&](double rotations) {
    return static_cast<double>(dim) * std::log(original / (rotations * 2.0 * kPi)) / (2.0 * std::log(c.theta));
  };
  double low = correction(c.beta_fast);
  double high = correction(c.beta_slow);
  if (c.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dim - 1));
  if (low == high) high += 0.001;
  for (size_t i = 0; i < inverse.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    inverse[i] = inverse[i] / c.factor * ramp + inverse[i] * (1.0 - ramp);
  }
  if (c.attention_factor > 0) return c.attention_factor;
  const auto scale = [&](double mscale) { return c.factor <= 1 ? 1.0 : 0.1 * mscale * std::log(c.factor) + 1.0; };
  if (c.mscale != 0 && c.mscale_all_dim != 0) return scale(c.mscale) / scale(c.mscale_all_dim);
  return scale(1.0);
}

double longrope(const RopeConfig& c, double original, double limit, int64_t sequence_length,
                std::vector<double>& inverse) {
  const auto& factors = static_cast<double>(sequence_length) > original ? c.long_factor : c.short_factor;
  for (size_t i = 0; i < inverse.size(); ++i) inverse[i] /= factors.at(i);
  if (c.attention_factor > 0) return c.attention_factor;
  const double factor = c.factor > 0 ? c.factor : limit / original;
  return factor <= 1 ? 1.0 : std::sqrt(1.0 + std::log(factor) / std::log(original));
}

}  // namespace

RopeFrequencies rope_frequencies(const RopeConfig& c, int64_t head_dim, int64_t max_position_embeddings,
                                 int64_t sequence_length) {
  const auto dim = static_cast<int64_t>(static_cast<double>(head_dim) * c.partial_rotary_factor);
  if (dim < 2 || dim % 2 != 0 || dim > head_dim) {
    throw UnsupportedError(
        fmt::format("rotary embedding: expected an even number of turning dimensions within the head, found {} of {} "
                    "(partial_rotary_factor {})",
                    dim, head_dim, c.partial_rotary_factor));
  }
  double theta = c.theta;
  const auto limit = static_cast<double>(max_position_embeddings);
  if (c.type == RopeType::kDynamic) {
    const double length = std::max(static_cast<double>(sequence_length), limit);
    const auto d = static_cast<double>(dim);
    theta *= std::pow(c.factor * length / limit - (c.factor - 1.0), d / (d - 2.0));
  }
  RopeFrequencies out;
  for (int64_t i = 0; i < dim; i += 2) {
    out.inverse.push_back(std::pow(theta, -static_cast<double>(i) / static_cast<double>(dim)));
  }
  const double original =
      c.original_max_position_embeddings > 0 ? static_cast<double>(c.original_max_position_embeddings) : limit;
  switch (c.type) {
    case RopeType::kDefault:
    case RopeType::kDynamic:
      break;
    case RopeType::kLinear:
      for (double& f : out.inverse) f /= c.factor;
      break;
    case RopeType::kLlama3:
      llama3(c, original, out.inverse);
      break;
    case RopeType::kLongrope:
      out.attention_factor = longrope(c, original, limit, sequence_length, out.inverse);
      break;
    case RopeType::kYarn:
      out.attention_factor = yarn(c, dim, original, out.inverse);
      break;
  }
  return out;
}

RopeTable make_rope(const RopeConfig& config, int64_t head_dim, int64_t max_position_embeddings,
                    int64_t sequence_length, int64_t positions) {
  const auto f = rope_frequencies(config, head_dim, max_position_embeddings, sequence_length);
  RopeTable table;
  table.half = static_cast<int64_t>(f.inverse.size());
  table.cos = Matrix(positions, table.half);
  table.sin = Matrix(positions, table.half);
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t i = 0; i < table.half; ++i) {
      const double angle = static_cast<double>(p) * f.inverse[static_cast<size_t>(i)];
      table.cos(p, i) = static_cast<float>(std::cos(angle) * f.attention_factor);
      table.sin(p, i) = static_cast<float>(std::sin(angle) * f.attention_factor);
    }
  }
  return table;
}

}  // namespace metal_marlin
