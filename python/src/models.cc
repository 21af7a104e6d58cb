#include <metal_marlin/array.h>
#include <metal_marlin/check.h>
#include <metal_marlin/convert.h>
#include <metal_marlin/diff.h>
#include <metal_marlin/error.h>
#include <metal_marlin/evaluate.h>
#include <metal_marlin/generate.h>
#include <metal_marlin/inspect.h>
#include <metal_marlin/quantize.h>
#include <metal_marlin/report.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "arrays.h"
#include "calls.h"
#include "options/spelling.h"
#include "options/tables.h"

namespace metal_marlin::python {
namespace {

// A Python value as the value of an option; TypeError where it is of no type that options have.
OptionValue value_of(const std::string& name, nb::handle value) {
  const auto refuse = [&] {
    throw nb::type_error(
        (name + ": found " + nb::cast<std::string>(nb::repr(value)) + ", which has the wrong type").c_str());
  };
  if (nb::isinstance<nb::bool_>(value)) return nb::cast<bool>(value);
  if (nb::isinstance<nb::str>(value)) return nb::cast<std::string>(value);
  if (PyIndex_Check(value.ptr()) != 0) {
    int64_t number = 0;
    if (nb::try_cast(value, number)) return number;
    uint64_t large = 0;
    if (nb::try_cast(value, large)) return number_option(large);
    refuse();
  }
  double real = 0;
  if (nb::try_cast(value, real)) return real;
  std::vector<std::string> texts;
  if (nb::try_cast(value, texts)) return texts;
  std::vector<double> numbers;
  if (nb::try_cast(value, numbers)) return list_option(numbers);
  refuse();
  return {};
}

// Sets members of `options` from keyword arguments; false where the table has no such option.
template <class Options>
bool set_one(const OptionTable<Options>& table, Options& options, const std::string& name, nb::handle value) {
  const OptionRow<Options>* row = table.find(name);
  if (row == nullptr) return false;
  const OptionValue taken = value_of(name, value);
  // True and False for a number are mistakes, and so is a name that there is not.
  if (row->set(options, taken)) return true;
  const std::string found = nb::cast<std::string>(nb::repr(value));
  if (std::holds_alternative<std::string>(taken) && !row->choices.empty())
    throw ArgumentError(row->name.empty() ? name : row->name,
                        name + ": expected " + expected_of_option(*row) + ", found " + found);
  throw nb::type_error(
      (name + ": found " + found + ", which has the wrong type; expected " + expected_of_option(*row)).c_str());
}

template <class Options>
void append_keys(std::string& known, const OptionTable<Options>& table) {
  for (const auto& row : table.rows()) known += (known.empty() ? "" : ", ") + row.key;
}

// Each value goes to the first table that has its name.
template <class... Pairs>
void set_options(const nb::dict& values, Pairs... pairs) {
  for (const auto& [key, value] : values) {
    const auto name = nb::cast<std::string>(key);
    if ((set_one(*pairs.first, *pairs.second, name, value) || ...)) continue;
    std::string known;
    (append_keys(known, *pairs.first), ...);
    throw nb::type_error((name + ": no such option; there are " + known).c_str());
  }
}

QuantizeOptions quantize_options_of(const nb::dict& values) {
  QuantizeOptions o;
  set_options(values, std::pair(&quantize_options(), &o));
  return o;
}

nb::tuple quantize(const std::string& model, const std::string& output, const nb::dict& options, nb::handle on_progress,
                   nb::handle on_note, nb::handle on_warning) {
  const QuantizeOptions o = quantize_options_of(options);
  Callbacks calls(on_progress, on_note, on_warning);
  const QuantizeResult r = calls.run([&] { return quantize_model(model, output, o, calls.observer()); });
  calls.raise_pending();
  return nb::make_tuple(r.report.to_json(), r.already_complete, r.passed_gate);
}

std::string plan(const std::string& model, const std::string& output, const nb::dict& options) {
  const QuantizeOptions o = quantize_options_of(options);
  Callbacks calls;
  return calls.run([&] { return plan_quantization(model, output, o, calls.observer()).to_json(); });
}

std::string sensitivity(const std::string& model, const nb::dict& options, nb::handle on_progress, nb::handle on_note,
                        nb::handle on_warning) {
  const QuantizeOptions o = quantize_options_of(options);
  Callbacks calls(on_progress, on_note, on_warning);
  std::string json = calls.run([&] { return sensitivity_of_model(model, o, calls.observer()).to_json(); });
  calls.raise_pending();
  return json;
}

std::string calibrate(const std::string& model, const std::string& output, const nb::dict& options,
                      nb::handle on_progress, nb::handle on_note, nb::handle on_warning) {
  CalibrationOptions c;
  MachineOptions m;
  CalibrateExtras extras;
  set_options(options, std::pair(&calibration_options(), &c), std::pair(&machine_options(), &m),
              std::pair(&calibrate_options(), &extras));
  Callbacks calls(on_progress, on_note, on_warning);
  std::string json = calls.run([&] {
    return calibrate_model(model, output, c, m, extras.gram, extras.keep_activations, calls.observer(),
                           extras.overwrite)
        .to_json();
  });
  calls.raise_pending();
  return json;
}

std::string evaluate(const std::string& model, const std::string& reference, const nb::dict& options,
                     nb::handle on_progress, nb::handle on_note, nb::handle on_warning) {
  EvaluationOptions e;
  MachineOptions m;
  ComputeOptions compute;
  set_options(options, std::pair(&evaluation_options(), &e), std::pair(&machine_options(), &m),
              std::pair(&compute_options(), &compute));
  Callbacks calls(on_progress, on_note, on_warning);
  std::string json =
      calls.run([&] { return evaluate_model(model, reference, e, m, calls.observer(), compute).to_json(); });
  calls.raise_pending();
  return json;
}

std::string convert(const std::string& model, const std::string& output, const nb::dict& options,
                    nb::handle on_progress, nb::handle on_note, nb::handle on_warning) {
  ConvertOptions o;
  set_options(options, std::pair(&convert_options(), &o));
  Callbacks calls(on_progress, on_note, on_warning);
  std::string json = calls.run([&] { return convert_model(model, output, o, calls.observer()).to_json(); });
  calls.raise_pending();
  return json;
}

// A TextGenerator that several threads may hold: one generation at a time, the others wait without the GIL.
class Generator {
 public:
  Generator(const std::string& model, const nb::dict& options) {
    MachineOptions machine;
    ComputeOptions compute;
    set_options(options, std::pair(&machine_options(), &machine), std::pair(&compute_options(), &compute));
    Callbacks calls;
    calls.run([&] { generator_ = std::make_unique<TextGenerator>(model, machine, false, compute); });
  }
  nb::tuple generate(const std::string& prompt, const nb::dict& options, nb::handle on_text, nb::handle on_warning,
                     nb::handle stopped) {
    return run(options, on_text, on_warning, stopped, [&](const auto& o, const auto& piece, auto* stats) {
      return generator_->generate(prompt, o, piece, stats);
    });
  }
  nb::tuple chat(const std::vector<std::pair<std::string, std::string>>& messages, const nb::dict& options,
                 nb::handle on_text, nb::handle on_warning) {
    return run(options, on_text, on_warning, nb::none(), [&](const auto& o, const auto& piece, auto* stats) {
      return generator_->chat(messages, o, piece, stats);
    });
  }
  // on_answer(number, text, error, stats) for each prompt, as it ends; may return False to stop.
  void batch(const std::vector<std::string>& prompts, const nb::dict& options, int64_t sequences, nb::handle on_answer,
             nb::handle on_warning, nb::handle stopped) {
    Callbacks calls;
    calls.stop_when(stopped);
    BatchRequest request;
    request.options = options_of(options, calls, on_warning);
    std::vector<BatchRequest> requests(prompts.size(), request);
    for (size_t i = 0; i < prompts.size(); ++i) requests[i].prompt = prompts[i];
    const auto answered = [&](size_t number, const BatchAnswer& answer) {
      return calls.guarded([&] {
        const nb::object more = on_answer(number, answer.text, python_spelling(answer.error), dict_of(answer.stats));
        return more.is_none() || nb::cast<bool>(nb::bool_(more));
      });
    };
    const auto step = [&] { return calls.guarded([] { return true; }); };
    calls.run([&] {
      const Turn turn(*this, calls);
      generator_->batch(requests, sequences, answered, step);
    });
    calls.raise_pending();
  }
  std::vector<int32_t> tokenize(const std::string& text, bool special) const {
    return Callbacks().run([&] { return generator_->tokenize(text, special); });
  }
  std::string detokenize(const std::vector<int32_t>& tokens) const {
    return Callbacks().run([&] { return generator_->detokenize(tokens); });
  }
  nb::object logits(const std::vector<int32_t>& tokens) {
    Callbacks calls;
    return to_numpy(calls.run([&] {
      const Turn turn(*this, calls);
      const std::vector<float> values = generator_->logits(tokens);
      Array array;
      array.type = ElementType::kF32;
      array.shape = {std::ssize(tokens), generator_->vocab_size()};
      array.bytes.resize(values.size() * sizeof(float));
      std::memcpy(array.bytes.data(), values.data(), array.bytes.size());
      return array;
    }));
  }

 private:
  // The model works for one caller at a time: the others wait, and can be interrupted. Its own callbacks cannot wait.
  class Turn {
   public:
    Turn(Generator& of, Callbacks& calls) : of_(of) {
      if (of_.owner_.load() == std::this_thread::get_id()) {
        throw ArgumentError(
            "a callback of this model's own answer called the model, which would wait for itself: call it "
            "when the answer is there, or load the model twice");
      }
      while (!of_.mutex_.try_lock_for(std::chrono::milliseconds(50))) {
        if (calls.asked()) throw Interrupted("interrupted while the model worked for another caller");
      }
      of_.owner_ = std::this_thread::get_id();
    }
    ~Turn() {
      of_.owner_ = std::thread::id();
      of_.mutex_.unlock();
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    Generator& of_;
  };

  static GenerateOptions options_of(const nb::dict& values, Callbacks& calls, nb::handle on_warning) {
    GenerateOptions o;
    set_options(values, std::pair(&generate_options(), &o));
    if (!on_warning.is_none()) {
      o.on_warning = [&calls, on_warning](const std::string& text) {
        calls.guarded([&] { return on_warning(python_spelling(text)), true; });
      };
    }
    return o;
  }
  struct DictWriter {
    template <class T>
    void operator()(const char* key, const T& field, const char* /*text*/ = "") {
      dict[key] = field;
    }
    nb::dict dict;
  };
  static nb::dict dict_of(const GenerateStats& stats) {
    DictWriter writer;
    GenerateStats::describe(writer, stats);
    return writer.dict;
  }
  template <typename Fn>
  nb::tuple run(const nb::dict& values, nb::handle on_text, nb::handle on_warning, nb::handle stopped, const Fn& fn) {
    Callbacks calls;
    calls.stop_when(stopped);
    const GenerateOptions o = options_of(values, calls, on_warning);
    const auto piece = [&](const std::string& text) {
      return calls.guarded([&] {
        if (on_text.is_none()) return true;
        const nb::object answer = on_text(text);
        return answer.is_none() || nb::cast<bool>(nb::bool_(answer));
      });
    };
    GenerateStats stats;
    const std::string text = calls.run([&] {
      const Turn turn(*this, calls);
      return fn(o, piece, &stats);
    });
    calls.raise_pending();
    return nb::make_tuple(text, dict_of(stats));
  }
  std::unique_ptr<TextGenerator> generator_;
  std::timed_mutex mutex_;
  std::atomic<std::thread::id> owner_{};
};

}  // namespace

void bind_models(nb::module_& m) {
  m.def("quantize_model", &quantize, nb::arg("model"), nb::arg("output"), nb::arg("options"),
        nb::arg("on_progress").none(), nb::arg("on_note").none(), nb::arg("on_warning").none());
  m.def("plan_quantization", &plan, nb::arg("model"), nb::arg("output"), nb::arg("options"));
  m.def("sensitivity_of_model", &sensitivity, nb::arg("model"), nb::arg("options"), nb::arg("on_progress").none(),
        nb::arg("on_note").none(), nb::arg("on_warning").none());
  m.def("calibrate_model", &calibrate, nb::arg("model"), nb::arg("output"), nb::arg("options"),
        nb::arg("on_progress").none(), nb::arg("on_note").none(), nb::arg("on_warning").none());
  m.def("evaluate_model", &evaluate, nb::arg("model"), nb::arg("reference"), nb::arg("options"),
        nb::arg("on_progress").none(), nb::arg("on_note").none(), nb::arg("on_warning").none());
  m.def("convert_model", &convert, nb::arg("model"), nb::arg("output"), nb::arg("options"),
        nb::arg("on_progress").none(), nb::arg("on_note").none(), nb::arg("on_warning").none());
  m.def(
      "inspect_model",
      [](const std::string& model, bool tensors) {
        return Callbacks().run([&] { return inspect_model(model, tensors).to_json(); });
      },
      nb::arg("model"), nb::arg("tensors"));
  m.def(
      "compare_models",
      [](const std::string& a, const std::string& b) {
        return Callbacks().run([&] { return compare_models(a, b).to_json(); });
      },
      nb::arg("a"), nb::arg("b"));
  m.def(
      "diff_models",
      [](const std::string& a, const std::string& b, int64_t limit) {
        return Callbacks().run([&] { return diff_models(a, b, {.limit = limit, .machine = {}}).to_json(); });
      },
      nb::arg("a"), nb::arg("b"), nb::arg("limit"));
  m.def(
      "check_model",
      [](const std::string& model, const std::string& target, int64_t tensor_parallel) {
        return Callbacks().run(
            [&] { return check_model(model, {.target = target, .tensor_parallel = tensor_parallel}).to_json(); });
      },
      nb::arg("model"), nb::arg("target"), nb::arg("tensor_parallel"));
  nb::class_<Generator>(m, "Generator")
      .def(nb::init<const std::string&, const nb::dict&>(), nb::arg("model"), nb::arg("options"))
      .def("generate", &Generator::generate, nb::arg("prompt"), nb::arg("options"), nb::arg("on_text").none(),
           nb::arg("on_warning").none(), nb::arg("stopped").none() = nb::none())
      .def("chat", &Generator::chat, nb::arg("messages"), nb::arg("options"), nb::arg("on_text").none(),
           nb::arg("on_warning").none())
      .def("batch", &Generator::batch, nb::arg("prompts"), nb::arg("options"), nb::arg("sequences"),
           nb::arg("on_answer"), nb::arg("on_warning").none(), nb::arg("stopped").none() = nb::none())
      .def("tokenize", &Generator::tokenize, nb::arg("text"), nb::arg("special"))
      .def("detokenize", &Generator::detokenize, nb::arg("tokens"))
      .def("logits", &Generator::logits, nb::arg("tokens"));
}

}  // namespace metal_marlin::python
