// One option of an operation: all that the command line, its help, the completion, the manual, Python and the report
// know of it. A new option is a member of its struct in include/metal_marlin/ and a row in one table of this folder.
#pragma once

#include <metal_marlin/report_records.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace metal_marlin {

enum class OptionKind : uint8_t {
  kFlag,      // bool, set by its name
  kToggle,    // bool, --NAME and --no-NAME
  kSwitch,    // std::optional<bool>: auto, on, off
  kInteger,   // from `least` to `most`
  kUnsigned,  // any uint64_t
  kReal,      // from `least` to `most`
  kBytes,     // a size of memory, "4GiB"
  kText,
  kChoice,    // one of `choices`
  kChoices,   // some of `choices`, separated by commas
  kTexts,     // may be repeated
  kReals,     // separated by commas, each from `least` to `most`
  kIntegers,  // the same, whole
};

// What a shell may offer for a value.
enum class Completes : uint8_t { kNothing, kFiles, kFolders, kChoices };

// Whether another value may give other bytes of a result.
enum class Shapes : uint8_t {
  kResult,    // part of a run's fingerprint, listed in the report
  kJudgment,  // listed in the report, but no part of the fingerprint
  kNothing,
};

struct Option {
  std::string name;   // "salient-ratio"; empty: no option of the command line
  std::string names;  // as the command takes it: "--salient-ratio", "-t,--threads", "--temperature;--temp"
  std::string key;    // "salient_ratio": in reports, journals and Python
  OptionKind kind = OptionKind::kText;
  std::string value;  // what help calls the value: "N", "FILE"
  double least = 0;
  double most = 0;
  bool above_least = false;          // `least` itself is out of range
  std::vector<std::string> choices;  // in the order of help; of a kText: what shells offer
  bool automatic = false;            // the value may be left to the method, the model or the machine
  std::string default_text;          // where the default is more than a value: "9 for awq, else 1"
  std::string help;
  std::string group;      // heading in help
  bool advanced = false;  // for few users: shown by --help-all
  Completes completes = Completes::kNothing;
  bool required = false;
  bool of_method = false;  // its default follows from the method
  Shapes shapes = Shapes::kResult;
  std::string python;  // type in Python where it does not follow from the kind
  // What a number must be beside its range: whether it is, and how a message calls it ("a multiple of 8").
  std::function<bool(int64_t)> accepts;
  std::string expected;
};

// "salient_ratio" of "salient-ratio".
std::string key_of_option(const std::string& name);
// ArgumentError naming the option, unless `value`, a number, lies in the option's range.
void check_option_range(const Option& option, const OptionValue& value);
// The default, whose value is `value`, as the command takes it: "128", "auto", "9 for awq, else 1".
std::string default_of_option(const Option& option, const OptionValue& value);
// "a number from 0 to 1", "one of asym, sym": what the option takes.
std::string expected_of_option(const Option& option);

}  // namespace metal_marlin
