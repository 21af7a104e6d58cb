#include "core/border.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <filesystem>
#include <new>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <system_error>

namespace metal_marlin {
namespace {

// The library's words are "[json.exception.type_error.302] type must be ...": the part in brackets is for programs.
std::string reason_of(const nlohmann::json::exception& error) {
  const std::string text = error.what();
  const size_t end = text.find("] ");
  return end == std::string::npos ? text : text.substr(end + 2);
}

}  // namespace

void rethrow_as_error(const char* function) {
  try {
    throw;
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw SystemError(
        fmt::format("{}: out of memory: allow less of it (--memory), give fewer or shorter sequences, or close other "
                    "programs",
                    function));
  } catch (const std::length_error& error) {
    throw SystemError(fmt::format("{}: out of memory: a size is beyond any machine ({})", function, error.what()));
  } catch (const std::filesystem::filesystem_error& error) {
    const std::string path = error.path1().empty() ? std::string(function) : error.path1().string();
    throw SystemError(
        fmt::format("{}: the system refuses: {}; check the path and its permissions", path, error.code().message()));
  } catch (const std::system_error& error) {
    throw SystemError(fmt::format("{}: the system refuses: {}", function, error.code().message()));
  } catch (const nlohmann::json::exception& error) {
    throw FormatError(
        fmt::format("{}: expected JSON as this version writes it, found JSON of another shape ({}); make it anew",
                    function, reason_of(error)));
  } catch (const std::exception& error) {
    throw Error(fmt::format("{}: internal fault ({}); please report it with the command and the model's name", function,
                            error.what()));
  }
}

}  // namespace metal_marlin
