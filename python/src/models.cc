#include <metal_marlin/convert.h>
#include <metal_marlin/evaluate.h>
#include <metal_marlin/generate.h>
#include <metal_marlin/inspect.h>
#include <metal_marlin/quantize.h>
#include <metal_marlin/report.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include "calls.h"

namespace metal_marlin::python {
namespace {

Bos parse_bos(const std::string& name) {
  if (name == "auto") return Bos::kAuto;
  if (name == "always") return Bos::kAlways;
  if (name == "never") return Bos::kNever;
  throw ArgumentError("bos: expected one of auto, always, never, found \"" + name + "\"");
}

// Sets fields from keyword arguments; TypeError names the one that is unknown or of another type.
class Fields {
 public:
  template <typename T>
  Fields& add(const char* name, T& field) {
    setters_[name] = [name, &field](nb::handle value) {
      T converted{};
      if (nb::isinstance<nb::bool_>(value) != std::is_same_v<T, bool> || !nb::try_cast(value, converted)) {
        throw nb::type_error(
            (std::string(name) + ": found " + nb::cast<std::string>(nb::repr(value)) + ", which has the wrong type")
                .c_str());
      }
      field = std::move(converted);
    };
    return *this;
  }
  // A string, or a list of them.
  Fields& one_or_more(const char* name, std::vector<std::string>& field) {
    add(name, field);
    setters_[name] = [list = setters_[name], &field](nb::handle value) {
      if (nb::isinstance<nb::str>(value)) {
        field = {nb::cast<std::string>(value)};
      } else {
        list(value);
      }
    };
    return *this;
  }
  Fields& bos(const char* name, Bos& field) {
    setters_[name] = [&field](nb::handle value) { field = parse_bos(nb::cast<std::string>(value)); };
    return *this;
  }
  void set(const nb::dict& values) const {
    for (const auto& [key, value] : values) {
      const auto name = nb::cast<std::string>(key);
      const auto it = setters_.find(name);
      if (it == setters_.end()) {
        std::string known;
        for (const auto& [n, setter] : setters_) known += (known.empty() ? "" : ", ") + n;
        throw nb::type_error((name + ": no such option; there are " + known).c_str());
      }
      it->second(value);
    }
  }

 private:
  std::map<std::string, std::function<void(nb::handle)>> setters_;
};

void add_machine(Fields& f, MachineOptions& m) {
  f.add("memory_bytes", m.memory_bytes).add("threads", m.threads).add("precision", m.precision);
}
void add_calibration(Fields& f, CalibrationOptions& c) {
  f.one_or_more("calibration", c.calibration)
      .add("calibration_weights", c.calibration_weights)
      .add("samples", c.samples)
      .add("select", c.select);
  f.add("sequence_length", c.sequence_length).bos("bos", c.bos).add("seed", c.seed).add("temperature", c.temperature);
}

QuantizeOptions quantize_options(const nb::dict& values) {
  QuantizeOptions o;
  Fields f;
  add_machine(f, o.machine);
  add_calibration(f, o.calibration);
  f.add("evaluate", o.evaluation.text).add("chunks", o.evaluation.chunks).add("context", o.evaluation.context);
  f.add("formats", o.formats)
      .add("method", o.method)
      .add("effort", o.effort)
      .add("scheme", o.scheme)
      .add("bits", o.bits)
      .add("group_size", o.group_size);
  f.add("target_bits", o.target_bits)
      .add("mixed_bits", o.mixed_bits)
      .add("linear_bits", o.linear_bits)
      .add("sensitivity_tokens", o.sensitivity_tokens);
  f.add("range", o.range)
      .add("clip", o.clip)
      .add("signed_scales", o.signed_scales)
      .add("refine", o.refine)
      .add("guard", o.guard);
  f.add("scale_search", o.scale_search).add("error_feedback", o.error_feedback);
  f.add("builtin_share", o.builtin_share)
      .add("awq_loss", o.awq_loss)
      .add("first_token_weight", o.first_token_weight)
      .add("salient_ratio", o.salient_ratio);
  f.add("activation_method", o.activation_method)
      .add("damping", o.damping)
      .add("act_order", o.act_order)
      .add("skip", o.skip);
  f.add("resume", o.resume).add("overwrite", o.overwrite).add("max_kl", o.max_kl);
  f.set(values);
  for (const auto& [key, value] : values) {
    std::string name = nb::cast<std::string>(key);
    for (char& c : name) c = c == '_' ? '-' : c;
    o.given.push_back(name == "formats" ? "format" : name);
  }
  return o;
}

nb::tuple quantize(const std::string& model, const std::string& output, const nb::dict& options, nb::handle on_progress,
                   nb::handle on_note, nb::handle on_warning) {
  const QuantizeOptions o = quantize_options(options);
  Callbacks calls(on_progress, on_note, on_warning);
  const QuantizeResult r = calls.run([&] { return quantize_model(model, output, o, calls.observer()); });
  calls.raise_pending();
  return nb::make_tuple(r.report.to_json(), r.already_complete, r.passed_gate);
}

std::string plan(const std::string& model, const std::string& output, const nb::dict& options) {
  const QuantizeOptions o = quantize_options(options);
  Callbacks calls;
  return calls.run([&] { return plan_quantization(model, output, o, calls.observer()).to_json(); });
}

std::string sensitivity(const std::string& model, const nb::dict& options, nb::handle on_progress, nb::handle on_note,
                        nb::handle on_warning) {
  const QuantizeOptions o = quantize_options(options);
  Callbacks calls(on_progress, on_note, on_warning);
  std::string json = calls.run([&] { return sensitivity_of_model(model, o, calls.observer()).to_json(); });
  calls.raise_pending();
  return json;
}

std::string calibrate(const std::string& model, const std::string& output, const nb::dict& options, bool gram,
                      bool keep_activations, nb::handle on_progress, nb::handle on_note, nb::handle on_warning) {
  CalibrationOptions c;
  MachineOptions m;
  bool overwrite = false;
  Fields f;
  add_machine(f, m);
  add_calibration(f, c);
  f.add("overwrite", overwrite);
  f.set(options);
  Callbacks calls(on_progress, on_note, on_warning);
  std::string json = calls.run([&] {
    return calibrate_model(model, output, c, m, gram, keep_activations, calls.observer(), overwrite).to_json();
  });
  calls.raise_pending();
  return json;
}

std::string evaluate(const std::string& model, const std::string& reference, const nb::dict& options,
                     nb::handle on_progress, nb::handle on_note, nb::handle on_warning) {
  EvaluationOptions e;
  MachineOptions m;
  Fields f;
  add_machine(f, m);
  f.add("text", e.text).add("chunks", e.chunks).add("context", e.context).bos("bos", e.bos);
  f.set(options);
  Callbacks calls(on_progress, on_note, on_warning);
  std::string json = calls.run([&] { return evaluate_model(model, reference, e, m, calls.observer()).to_json(); });
  calls.raise_pending();
  return json;
}

std::string convert(const std::string& model, const std::string& output, const std::string& to, bool overwrite,
                    int threads, nb::handle on_progress, nb::handle on_note, nb::handle on_warning) {
  Callbacks calls(on_progress, on_note, on_warning);
  std::string json =
      calls.run([&] { return convert_model(model, output, {to, overwrite, threads}, calls.observer()).to_json(); });
  calls.raise_pending();
  return json;
}

// A TextGenerator that several threads may hold: one generation at a time, the others wait without the GIL.
class Generator {
 public:
  Generator(const std::string& model, int threads) {
    MachineOptions machine;
    machine.threads = threads;
    Callbacks calls;
    calls.run([&] { generator_ = std::make_unique<TextGenerator>(model, machine); });
  }
  nb::tuple generate(const std::string& prompt, const nb::dict& options, nb::handle on_text, nb::handle on_warning) {
    return run(options, on_text, on_warning, [&](const auto& o, const auto& piece, auto* stats) {
      return generator_->generate(prompt, o, piece, stats);
    });
  }
  nb::tuple chat(const std::vector<std::pair<std::string, std::string>>& messages, const nb::dict& options,
                 nb::handle on_text, nb::handle on_warning) {
    return run(options, on_text, on_warning, [&](const auto& o, const auto& piece, auto* stats) {
      return generator_->chat(messages, o, piece, stats);
    });
  }

 private:
  template <typename Fn>
  nb::tuple run(const nb::dict& values, nb::handle on_text, nb::handle on_warning, const Fn& fn) {
    GenerateOptions o;
    Fields f;
    f.add("predict", o.predict)
        .add("context", o.context)
        .add("temp", o.temp)
        .add("top_k", o.top_k)
        .add("top_p", o.top_p);
    f.add("min_p", o.min_p)
        .add("repeat_penalty", o.repeat_penalty)
        .add("repeat_last_n", o.repeat_last_n)
        .add("seed", o.seed);
    f.add("ignore_eos", o.ignore_eos).add("json_schema", o.json_schema);
    f.set(values);
    Callbacks calls;
    if (!on_warning.is_none()) {
      o.on_warning = [&](const std::string& text) { calls.guarded([&] { return on_warning(text), true; }); };
    }
    const auto piece = [&](const std::string& text) {
      return calls.guarded([&] {
        if (on_text.is_none()) return true;
        const nb::object answer = on_text(text);
        return answer.is_none() || nb::cast<bool>(nb::bool_(answer));
      });
    };
    GenerateStats stats;
    const std::string text = calls.run([&] {
      const std::lock_guard lock(mutex_);
      return fn(o, piece, &stats);
    });
    calls.raise_pending();
    nb::dict d;
    d["prompt_tokens"] = stats.prompt_tokens;
    d["generated_tokens"] = stats.generated_tokens;
    d["load_seconds"] = stats.load_seconds;
    d["prompt_seconds"] = stats.prompt_seconds;
    d["generate_seconds"] = stats.generate_seconds;
    d["stop"] = stats.stop;
    return nb::make_tuple(text, d);
  }
  std::unique_ptr<TextGenerator> generator_;
  std::mutex mutex_;
};

}  // namespace

void bind_models(nb::module_& m) {
  m.def("quantize_model", &quantize, nb::arg("model"), nb::arg("output"), nb::arg("options"),
        nb::arg("on_progress").none(), nb::arg("on_note").none(), nb::arg("on_warning").none());
  m.def("plan_quantization", &plan, nb::arg("model"), nb::arg("output"), nb::arg("options"));
  m.def("sensitivity_of_model", &sensitivity, nb::arg("model"), nb::arg("options"), nb::arg("on_progress").none(),
        nb::arg("on_note").none(), nb::arg("on_warning").none());
  m.def("calibrate_model", &calibrate, nb::arg("model"), nb::arg("output"), nb::arg("options"), nb::arg("gram"),
        nb::arg("keep_activations"), nb::arg("on_progress").none(), nb::arg("on_note").none(),
        nb::arg("on_warning").none());
  m.def("evaluate_model", &evaluate, nb::arg("model"), nb::arg("reference"), nb::arg("options"),
        nb::arg("on_progress").none(), nb::arg("on_note").none(), nb::arg("on_warning").none());
  m.def("convert_model", &convert, nb::arg("model"), nb::arg("output"), nb::arg("to"), nb::arg("overwrite"),
        nb::arg("threads"), nb::arg("on_progress").none(), nb::arg("on_note").none(), nb::arg("on_warning").none());
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
  nb::class_<Generator>(m, "Generator")
      .def(nb::init<const std::string&, int>(), nb::arg("model"), nb::arg("threads"))
      .def("generate", &Generator::generate, nb::arg("prompt"), nb::arg("options"), nb::arg("on_text").none(),
           nb::arg("on_warning").none())
      .def("chat", &Generator::chat, nb::arg("messages"), nb::arg("options"), nb::arg("on_text").none(),
           nb::arg("on_warning").none());
}

}  // namespace metal_marlin::python
