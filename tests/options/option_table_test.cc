#include "options/option_table.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <cmath>
#include <set>

#include "options/spelling.h"
#include "options/tables.h"
#include "write/checkpoint_writer.h"

namespace metal_marlin {
namespace {

template <class Options>
void expect_whole(const OptionTable<Options>& table) {
  std::set<std::string> names;
  std::set<std::string> keys;
  for (const auto& row : table.rows()) {
    SCOPED_TRACE(row.key);
    EXPECT_TRUE(keys.insert(row.key).second);
    if (!row.name.empty()) EXPECT_TRUE(names.insert(row.name).second);
    EXPECT_FALSE(row.help.empty() || row.help.ends_with('.')) << row.help;
    EXPECT_FALSE(expected_of_option(row).empty());
    // What a member holds is taken back as it is.
    Options options;
    const OptionValue value = row.get(options);
    EXPECT_TRUE(row.set(options, value));
    EXPECT_EQ(row.get(options), value);
    if (row.key != "to") EXPECT_NO_THROW(check_option_range(row, value));  // which has no default
    EXPECT_FALSE(row.automatic && row.default_text.empty() && row.choices.empty()) << "what does an empty value mean?";
  }
}

TEST(OptionTables, AreWhole) {
  expect_whole(quantize_options());
  expect_whole(calibration_options());
  expect_whole(calibrate_options());
  expect_whole(evaluation_options());
  expect_whole(evaluate_options());
  expect_whole(machine_options());
  expect_whole(compute_options());
  expect_whole(generate_options());
  expect_whole(convert_options());
  expect_whole(bench_options());
  EXPECT_EQ(quantize_options().find("formats")->choices, checkpoint_formats());
}

TEST(OptionTables, ValuesOfOtherTypesAreRefusedAndChangeNothing) {
  const auto* method = quantize_options().find("method");
  const auto* samples = quantize_options().find("samples");
  const auto* guard = quantize_options().find("guard");
  const auto* damping = quantize_options().find("damping");
  const auto* bits = quantize_options().find("bits");
  QuantizeOptions o;
  EXPECT_TRUE(method->set(o, std::string("gptq")));
  EXPECT_EQ(o.method, Method::kGptq);
  EXPECT_FALSE(method->set(o, std::string("magic")));
  EXPECT_FALSE(method->set(o, int64_t{1}));
  EXPECT_EQ(o.method, Method::kGptq);
  EXPECT_FALSE(samples->set(o, std::string("many")));
  EXPECT_FALSE(samples->set(o, 1.5));
  EXPECT_FALSE(samples->set(o, true));
  EXPECT_FALSE(o.calibration.samples);
  EXPECT_TRUE(guard->set(o, std::string("off")));
  EXPECT_EQ(o.guard, false);
  EXPECT_TRUE(guard->set(o, true));
  EXPECT_EQ(o.guard, true);
  EXPECT_TRUE(guard->set(o, std::string("auto")));
  EXPECT_FALSE(o.guard);
  EXPECT_TRUE(damping->set(o, int64_t{1}));
  EXPECT_EQ(o.damping, 1.0);
  EXPECT_TRUE(damping->set(o, OptionValue()));
  EXPECT_FALSE(o.damping);
  EXPECT_TRUE(bits->set(o, std::string("mixed")));
  EXPECT_TRUE(o.mixed_bits);
  EXPECT_TRUE(bits->set(o, std::string("8")));
  EXPECT_FALSE(o.mixed_bits);
  EXPECT_EQ(o.bits, 8);
  EXPECT_FALSE(bits->set(o, std::string("9")));
}

template <class Change>
std::string fault(const Change& change) {
  QuantizeOptions o;
  change(o);
  try {
    quantize_options().check_ranges(o);
  } catch (const ArgumentError& e) {
    return e.option() + "| " + e.what();
  }
  return "none";
}

TEST(OptionTables, RangesAreChecked) {
  EXPECT_EQ(fault([](auto&) {}), "none");
  EXPECT_EQ(fault([](auto& o) { o.salient_ratio = 2; }),
            "salient-ratio| --salient-ratio: expected a number from 0 to 1, found 2");
  EXPECT_NE(fault([](auto& o) { o.salient_ratio = std::nan(""); }), "none");
  EXPECT_NE(fault([](auto& o) { o.damping = -0.5; }), "none");
  EXPECT_EQ(fault([](auto& o) { o.calibration.samples = 0; }),
            "samples| --samples: expected a whole number from 1 to 16777216, found 0");
  EXPECT_EQ(fault([](auto& o) { o.group_size = 12; }),
            "group-size| --group-size: expected auto, -1 or a multiple of 8 such as 32, found 12");
  EXPECT_EQ(fault([](auto& o) { o.group_size = -1; }), "none");
  EXPECT_EQ(fault([](auto& o) { o.method = Method{9}; }),
            "method| --method: expected one of awq, awq-paper, awq-salient, gptq, rtn, found another value");
  EXPECT_NE(fault([](auto& o) { o.calibration.calibration_weights = {1, -1}; }), "none");
  EXPECT_NE(fault([](auto& o) { o.max_kl = -1; }), "none");
}

TEST(Spelling, OptionsAreParametersInPython) {
  EXPECT_EQ(python_spelling("--group-size 7: expected a multiple of 8"), "group_size=7: expected a multiple of 8");
  EXPECT_EQ(python_spelling("give fewer --samples, or --method rtn."), "give fewer samples, or method=\"rtn\".");
  EXPECT_EQ(python_spelling("start over with --overwrite, or --no-resume"),
            "start over with overwrite=True, or resume=False");
  EXPECT_EQ(python_spelling("name one with --evaluate FILE; --evaluate none"),
            "name one with evaluate=FILE; evaluate=\"none\"");
  EXPECT_EQ(python_spelling("--memory 1 MiB: this run"), "memory_bytes=1 MiB: this run");
  EXPECT_EQ(python_spelling("unless --samples says otherwise"), "unless samples says otherwise");
  EXPECT_EQ(python_spelling("--format awq: no; a--samples, ---samples, --sample, -- --"),
            "formats=\"awq\": no; a--samples, ---samples, --sample, -- --");
  EXPECT_EQ(python_spelling("--damping 0.01"), "damping=0.01");
  EXPECT_EQ(python_spelling("--guard off, --clip on, --group-size auto: no"),
            "guard=False, clip=True, group_size=None: no");
  EXPECT_EQ(python_spelling(""), "");
}

TEST(ArgumentErrors, CarryTheOptionThatIsAtFault) {
  const ArgumentError error("linear-bits", "--linear-bits *=5: no");
  EXPECT_EQ(error.option(), "linear-bits");
  EXPECT_EQ(error.what(), std::string("--linear-bits *=5: no"));
  const ArgumentError copy = error;
  EXPECT_EQ(copy.option(), "linear-bits");
  EXPECT_EQ(ArgumentError("--compute and --precision contradict each other").option(), "");
}

// A value out of range of each row that has one; Python knows the option by the key of its row.
template <class Options>
void expect_named_by_key(const OptionTable<Options>& table) {
  for (const auto& row : table.rows()) {
    SCOPED_TRACE(row.key);
    if (!row.name.empty()) {
      EXPECT_EQ(python_parameter(row.name), row.key);
    }
    std::vector<OptionValue> wrong;
    if (row.kind == OptionKind::kInteger) wrong = {int64_t{-3}};
    if (row.kind == OptionKind::kReal) wrong = {row.least - 1, std::nan("")};
    if (row.kind == OptionKind::kReals || row.kind == OptionKind::kIntegers) wrong = {list_option({-1})};
    for (const OptionValue& value : wrong) {
      Options options;
      if (!row.set(options, value)) continue;
      try {
        check_option_range(row, row.get(options));
        ADD_FAILURE() << "taken";
      } catch (const ArgumentError& e) {
        EXPECT_EQ(python_parameter(e.option()), row.key) << e.what();
      }
    }
  }
}

TEST(ArgumentErrors, NameTheParameterOfPythonForEveryRow) {
  expect_named_by_key(quantize_options());
  expect_named_by_key(calibrate_options());
  expect_named_by_key(evaluation_options());
  expect_named_by_key(evaluate_options());
  expect_named_by_key(compute_options());
  expect_named_by_key(generate_options());
  expect_named_by_key(convert_options());
  EXPECT_EQ(python_parameter("format"), "formats");
  EXPECT_EQ(python_parameter("memory"), "memory_bytes");
  EXPECT_EQ(python_parameter("ctx-size"), "context");
}

}  // namespace
}  // namespace metal_marlin
