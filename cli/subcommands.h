// One function per subcommand, each in the file of its name: states its options and what it does.
#pragma once

#include "command.h"

namespace metal_marlin::cli {

// Exit codes beside 0 and 2 (see help.cc).
constexpr int kExitFault = 1;
constexpr int kExitMissedGate = 4;  // the work is done, and the answer is no
constexpr int kExitInterrupted = 130;

void add_quantize(Application& application);
void add_calibrate(Application& application);
void add_convert(Application& application);
void add_evaluate(Application& application);
void add_generate(Application& application);
void add_chat(Application& application);
void add_bench(Application& application);
void add_inspect(Application& application);
void add_compare(Application& application);
void add_diff(Application& application);
void add_check(Application& application);
void add_report(Application& application);
void add_help(Application& application);
void add_completion(Application& application);
void add_man(Application& application);

}  // namespace metal_marlin::cli
