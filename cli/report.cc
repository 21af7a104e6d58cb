// metal-marlin report: report.json as text or as a page.
#include <metal_marlin/error.h>
#include <metal_marlin/report.h>

#include <fmt/format.h>

#include <cerrno>
#include <fstream>
#include <memory>
#include <system_error>

#include "console/console.h"
#include "subcommands.h"

namespace metal_marlin::cli {
namespace {

struct State {
  std::string run;
  std::string html;
  OutputOptions console;
};

int show(const State& state) {
  Console console(state.console);
  const Report report = read_report(state.run);
  if (state.html == "-") {
    print_result(render_report_html(report));
    return 0;
  }
  if (!state.html.empty()) {
    write_report_html(report, state.html);
    console.info(fmt::format("wrote {}", state.html));
    if (!console.json()) return 0;
  }
  console.result(console.json() ? report.to_json() : render_report_text(report));
  return 0;
}

}  // namespace

void add_report(Application& application) {
  auto& command = application.add_command("report", "Render the report of a quantization again");
  auto state = std::make_shared<State>();
  command.group("Input and result");
  command.positional("RUN", state->run, "Folder that 'quantize' wrote, or a report.json", Completes::kFiles);
  command.text("--html", state->html, "FILE",
               "Write one self-contained page instead of printing the text; - writes it to stdout", Completes::kFiles);
  add_output_options(command, state->console);
  command.example("The tables again", "metal-marlin report OUT");
  command.example("A page to pass on", "metal-marlin report OUT --html report.html");
  command.action([state] { return show(*state); });
}

}  // namespace metal_marlin::cli
