#include "tokenizer/vocabulary/gguf_pre_tokenizers.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include "formats/text.h"

namespace metal_marlin {
namespace {

constexpr std::string_view kGpt2 = R"re('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)re";
constexpr std::string_view kLlama3 =
    R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)re"
    R"re(\s*[\r\n]+|\s+(?!\S)|\s+)re";
constexpr std::string_view kQwen2 =
    R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r)re"
    R"re(\n]+|\s+(?!\S)|\s+)re";
constexpr std::string_view kQwen35 =
    R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[)re"
    R"re(\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re";
constexpr std::string_view kTekken =
    R"re([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{)re"
    R"re(N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n)re"
    R"re(/]*|\s*[\r\n]+|\s+(?!\S)|\s+)re";
constexpr std::string_view kGpt4o =
    R"re([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|')re"
    R"re(ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)re"
    R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s)re"
    R"re(+)re";
constexpr std::string_view kMiniCpm5 =
    R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[)re"
    R"re(\r\n]+|\s+(?!\S)|\s+)re";
constexpr std::string_view kJais2 =
    R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)re"
    R"re(\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S))re"
    R"re(|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1})re";
constexpr std::string_view kBailingMoe =
    R"re('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|)re"
    R"re(\s+(?!\S)|\s+)re";
constexpr std::string_view kSeedCoder =
    R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r)re"
    R"re(\n]+|\s+(?!\S)|\s+)re";
constexpr std::string_view kExaoneMoe =
    R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^)re"
    R"re(\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+)re";
constexpr std::string_view kDeepSeek3 =
    R"re([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{)re"
    R"re(P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re";
constexpr std::string_view kDeepSeekCjk = R"re([一-龥぀-ゟ゠-ヿ]+)re";
constexpr std::string_view kDeepSeekLetters = R"re(\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-Ֆ)re"
                                              R"re(Ⴀ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗ)re"
                                              R"re(ὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ)re"
                                              R"re(-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ)re"
                                              R"re(-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻)re"
                                              R"re(𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+)re";
constexpr std::string_view kDeepSeekPunctuation = R"re(\s?[!-/:-~！-／：-～‘-‟　-。]+)re";
constexpr std::string_view kDeepSeekCoderCjk = R"re([一-龥ࠀ-一가-퟿]+)re";
constexpr std::string_view kPoro = R"re( ?[^(\s|.,!?…。，、।۔،)]+)re";
constexpr std::string_view kDigit = R"re(\p{N})re";
constexpr std::string_view kDigits = R"re(\p{N}+)re";
constexpr std::string_view kThreeDigits = R"re(\p{N}{1,3})re";
constexpr std::string_view kThreeAscii = R"re([0-9][0-9][0-9])re";
constexpr std::string_view kLine = R"re([\r\n])re";
constexpr std::string_view kLines = R"re([^\n]+|[\n]+)re";
constexpr std::string_view kDeepSeekCjkLlm = R"re([一-龥ࠀ-一가-퟿]+)re";

// Families that share a row's patterns and settings differ only in their vocabulary.
const std::vector<GgufPreTokenizer>& table() {
  static const std::vector<GgufPreTokenizer> rows = {
      {.name = "default", .patterns = {R"re([\p{P}\$\+<=>\^~\|]+)re", kGpt2, kDigits, kThreeAscii}},
      {.name = "gpt-2", .patterns = {kGpt2}},
      {.name = "phi-2", .patterns = {kGpt2}},
      {.name = "gigachat", .patterns = {kGpt2}},
      {.name = "a.x-4.0", .patterns = {kGpt2}},
      {.name = "mellum", .patterns = {kGpt2}},
      {.name = "exaone4", .patterns = {kGpt2}},
      {.name = "mpt", .patterns = {kGpt2}},
      {.name = "olmo", .patterns = {kGpt2}},
      {.name = "jais", .patterns = {kGpt2}},
      {.name = "trillion", .patterns = {kGpt2}},
      {.name = "granite-docling", .patterns = {kGpt2}},
      {.name = "smollm", .patterns = {kDigit, kGpt2}},
      {.name = "starcoder", .patterns = {kDigit, kGpt2}},
      {.name = "refact", .patterns = {kDigit, kGpt2}},
      {.name = "codeshell", .patterns = {kDigit, kGpt2}},
      {.name = "exaone", .patterns = {kDigit, kGpt2}},
      {.name = "minerva-7b", .patterns = {kDigit, kGpt2}},
      {.name = "mellum2", .patterns = {kDigit, kGpt2}},
      {.name = "command-r", .patterns = {kDigit, kGpt2}, .nfc = true},
      {.name = "llama3", .patterns = {kLlama3}, .ignore_merges = true, .adds_bos = true},
      {.name = "llama-v3", .patterns = {kLlama3}, .ignore_merges = true, .adds_bos = true},
      {.name = "llama-bpe", .patterns = {kLlama3}, .ignore_merges = true, .adds_bos = true},
      {.name = "falcon3", .patterns = {kLlama3}, .ignore_merges = true, .adds_bos = true},
      {.name = "falcon-h1", .patterns = {kLlama3}, .ignore_merges = true, .adds_bos = true},
      {.name = "pixtral", .patterns = {kLlama3}, .ignore_merges = true, .adds_bos = true},
      {.name = "midm-2.0", .patterns = {kLlama3}, .ignore_merges = true, .adds_bos = true},
      {.name = "lfm2", .patterns = {kLlama3}, .ignore_merges = true, .adds_bos = true},
      {.name = "dbrx", .patterns = {kLlama3}},
      {.name = "smaug-bpe", .patterns = {kLlama3}},
      {.name = "chatglm-bpe", .patterns = {kLlama3}},
      {.name = "glm4", .patterns = {kLlama3}, .ignore_merges = true},
      {.name = "glm5", .patterns = {kLlama3}, .ignore_merges = true},
      {.name = "jais-2", .patterns = {kJais2}},
      {.name = "qwen2", .patterns = {kQwen2}, .nfc = true},
      {.name = "deepseek-r1-qwen", .patterns = {kQwen2}},
      {.name = "kormo", .patterns = {kQwen2}},
      {.name = "f2llmv2", .patterns = {kQwen2}},
      {.name = "megrez", .patterns = {kQwen2}},
      {.name = "stablelm2", .patterns = {kQwen2}},
      {.name = "hunyuan", .patterns = {kQwen2}},
      {.name = "solar-open", .patterns = {kQwen2}},
      {.name = "grok-2", .patterns = {kQwen2}},
      {.name = "qwen35", .patterns = {kQwen35}, .nfc = true},
      {.name = "tekken", .patterns = {kTekken}, .ignore_merges = true, .adds_bos = true},
      {.name = "gpt-4o", .patterns = {kGpt4o}},
      {.name = "llama4", .patterns = {kGpt4o}},
      {.name = "kanana2", .patterns = {kGpt4o}},
      {.name = "talkie", .patterns = {kGpt4o}},
      {.name = "minimax-m2", .patterns = {kGpt4o}},
      {.name = "laguna", .patterns = {kLines, kQwen2}},
      {.name = "minicpm5", .patterns = {kThreeDigits, kMiniCpm5}, .ignore_merges = true},
      {.name = "deepseek-llm",
       .patterns = {kLine, kDeepSeekLetters, kDeepSeekPunctuation, R"re(\s+$)re", kDeepSeekCjkLlm, kDigits}},
      {.name = "deepseek-coder",
       .patterns = {kLine, R"re(\s?\p{L}+)re", R"re(\s?\p{P}+)re", kDeepSeekCoderCjk, kDigit}},
      {.name = "deepseek-v3", .patterns = {kThreeDigits, kDeepSeekCjk, kDeepSeek3}},
      {.name = "hunyuan-dense", .patterns = {kThreeDigits, kDeepSeekCjk, kDeepSeek3}},
      {.name = "joyai-llm", .patterns = {kThreeDigits, kDeepSeekCjk, kDeepSeek3}},
      {.name = "hy_v4", .patterns = {kThreeDigits, kDeepSeekCjk, kDeepSeek3}},
      {.name = "falcon", .patterns = {R"re([\p{P}\$\+<=>\^~\|`]+)re", kGpt2, kThreeAscii}},
      {.name = "poro-chat", .patterns = {kPoro}},
      {.name = "bloom", .patterns = {kPoro}},
      {.name = "gpt3-finnish", .patterns = {kPoro}},
      {.name = "viking", .patterns = {kPoro, kDigit}},
      {.name = "bailingmoe", .patterns = {kBailingMoe}},
      {.name = "bailingmoe2", .patterns = {kBailingMoe}},
      {.name = "llada-moe", .patterns = {kBailingMoe}},
      {.name = "seed-coder", .patterns = {kSeedCoder}},
      {.name = "exaone-moe", .patterns = {kExaoneMoe}},
      {.name = "superbpe", .patterns = {kDigits, R"re((?=(\d{3})+(?!\d)))re"}},
      {.name = "tiny_aya", .patterns = {R"re(\d{1,3}(?=(?:\d{3})*\b))re", kGpt4o}},
      {.name = "cohere2moe", .patterns = {R"re(\d{1,3}(?=(?:\d{3})*\b))re", kGpt4o}},
      {.name = "gemma4", .patterns = {kLines}, .adds_bos = true, .byte_level = false},
  };
  return rows;
}

}  // namespace

std::vector<std::string_view> gguf_pre_tokenizer_names() {
  std::vector<std::string_view> names;
  for (const auto& row : table()) names.push_back(row.name);
  return names;
}

std::vector<std::string_view> line_cutting_patterns() {
  return {kGpt2,  kLlama3,     kQwen2,     kQwen35,    kTekken,    kGpt4o, kMiniCpm5,
          kJais2, kBailingMoe, kSeedCoder, kExaoneMoe, kDeepSeek3, kLines, kLine};
}

std::vector<std::string_view> line_indifferent_patterns() {
  return {kDigit, kDigits, kThreeDigits, kDeepSeekCjk, kDeepSeekCjkLlm, kDeepSeekCoderCjk};
}

const GgufPreTokenizer& gguf_pre_tokenizer(std::string_view name, const std::string& file) {
  for (const auto& row : table())
    if (row.name == name) return row;
  throw UnsupportedError(fmt::format(
      "{}: tokenizer.ggml.pre is {}, a way to cut text that this version does not know; known are: {}. Use the model's "
      "original folder with its tokenizer.json instead",
      file, shown(name), fmt::join(gguf_pre_tokenizer_names(), ", ")));
}

}  // namespace metal_marlin
