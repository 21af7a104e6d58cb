// Texts of the command line to values. All throw UsageError with a message that says what is accepted.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace metal_marlin::cli {

// Also in the form "1e6".
int64_t parse_integer(const std::string& text, int64_t least, int64_t most);
uint64_t parse_unsigned(const std::string& text);
double parse_real(const std::string& text, double least, double most);

// Bytes: a number and a unit. K, M, G, T and KiB, MiB, GiB, TiB are powers of 1024; KB, MB, GB, TB powers of 1000.
uint64_t parse_size(const std::string& text);
// The same for a memory budget, which is at least 1 MB: a smaller one was meant in a larger unit.
uint64_t parse_budget(const std::string& text);

// "a,b" -> {"a", "b"}; each one of `choices`, none twice.
std::vector<std::string> parse_choices(const std::string& text, const std::vector<std::string>& choices);

// The parts between separators; one empty part of an empty text.
std::vector<std::string> split(const std::string& text, char separator);
std::string join(const std::vector<std::string>& parts, const std::string& separator);
// "612 MiB", "1.4 GiB": of memory.
std::string format_bytes(uint64_t bytes);
// "98.5 MB", "4.92 GB": of files, in powers of 1000.
std::string format_file_size(uint64_t bytes);
// The one of `names` that differs from `word` in at most two letters (a third of its length), for a word that is none
// of them; empty: there is no such.
std::string nearest(const std::string& word, const std::vector<std::string>& names);
// What a user may have meant by `word`: the names that begin with it ("--calibration or --calibration-weights"), else
// the nearest(); empty: nothing is near.
std::string meant_by(const std::string& word, const std::vector<std::string>& names);
// The text as one word of a shell: quoted when it holds anything but letters, digits and -_./+:,@=~.
std::string shell_word(const std::string& text);
// "41 s", "3 min 05 s", "2 h 10 min".
std::string format_seconds(double seconds);
// "0.01", "1", "1e-05": the shortest text that reads back as the number.
std::string format_real(double value);

}  // namespace metal_marlin::cli
