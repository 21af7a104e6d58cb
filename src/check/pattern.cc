#include "check/pattern.h"

#include <bitset>
#include <cctype>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace metal_marlin {
namespace {

using Characters = std::bitset<256>;

// A state of the automaton. kSplit goes to both, the others to `next` alone.
struct State {
  enum class Kind : uint8_t { kCharacters, kSplit, kBegin, kEnd, kPass, kDone };
  Kind kind = Kind::kPass;
  Characters characters = {};
  int next = -1;
  int other = -1;
};

constexpr size_t kLongestPattern = 2000;
constexpr size_t kMostStates = 4000;
constexpr int kMostRepeats = 64;
constexpr int kDeepestGroup = 50;

// Thompson's construction. A piece is its first state and a kPass state at its end, whose `next` is still open.
class Builder {
 public:
  explicit Builder(std::string_view pattern) : pattern_(pattern) {}

  bool build(int& start) {
    Piece all;
    if (pattern_.size() > kLongestPattern || !alternatives(all, 0) || at_ != pattern_.size()) return false;
    const int done = add({.kind = State::Kind::kDone});
    states_[static_cast<size_t>(all.last)].next = done;
    start = all.first;
    return states_.size() <= kMostStates;
  }
  std::vector<State> take_states() { return std::move(states_); }

 private:
  struct Piece {
    int first = -1;
    int last = -1;
  };

  int add(State state) {
    states_.push_back(state);
    return static_cast<int>(states_.size()) - 1;
  }
  bool more() const { return at_ < pattern_.size(); }
  char peek() const { return pattern_[at_]; }
  void link(int from, int to) { states_[static_cast<size_t>(from)].next = to; }

  Piece one(State state) {
    Piece p;
    p.last = add({});
    state.next = p.last;
    p.first = add(state);
    return p;
  }

  bool alternatives(Piece& out, int depth) {
    if (depth > kDeepestGroup || !sequence(out, depth)) return false;
    while (more() && peek() == '|') {
      ++at_;
      Piece right;
      if (!sequence(right, depth)) return false;
      const int end = add({});
      link(out.last, end);
      link(right.last, end);
      out = {add({.kind = State::Kind::kSplit, .next = out.first, .other = right.first}), end};
    }
    return true;
  }

  bool sequence(Piece& out, int depth) {
    const int empty = add({});
    out = {empty, empty};
    while (more() && peek() != '|' && peek() != ')') {
      const size_t begin = at_;
      Piece p;
      if (!atom(p, depth) || !repeated(p, begin, depth)) return false;
      link(out.last, p.first);
      out.last = p.last;
      if (states_.size() > kMostStates) return false;
    }
    return true;
  }

  Piece optional(const Piece& p, bool again) {
    const int end = add({});
    const int split = add({.kind = State::Kind::kSplit, .next = p.first, .other = end});
    link(p.last, again ? split : end);
    return {split, end};
  }

  // Reads the repetition behind an atom that began at `begin`.
  bool repeated(Piece& p, size_t begin, int depth) {
    if (!more()) return true;
    const char c = peek();
    if (c == '*' || c == '?') {
      p = optional(p, c == '*');
    } else if (c == '+') {
      const Piece loop = optional(p, true);
      p.last = loop.last;  // through the atom once, then the split
    } else if (c == '{') {
      return counted(p, begin, depth);
    } else {
      return true;
    }
    ++at_;
    if (more() && peek() == '?') ++at_;  // which of several matches is taken makes no difference here
    return !more() || (peek() != '*' && peek() != '+' && peek() != '{');
  }

  bool number(int& out) {
    out = 0;
    const size_t begin = at_;
    while (more() && std::isdigit(static_cast<unsigned char>(peek())) != 0 && at_ - begin < 3)
      out = out * 10 + (pattern_[at_++] - '0');
    return at_ > begin && out <= kMostRepeats;
  }

  bool counted(Piece& p, size_t begin, int depth) {
    const size_t atom_end = at_;
    ++at_;
    int least = 0;
    if (!number(least)) return false;
    int most = least;
    bool open = false;
    if (more() && peek() == ',') {
      ++at_;
      open = more() && peek() == '}';
      if (!open && !number(most)) return false;
    }
    if (!more() || peek() != '}' || most < least) return false;
    const size_t after = at_ + 1;
    const int empty = add({});
    Piece all{empty, empty};
    for (int i = 0; i < most + (open ? 1 : 0); ++i) {
      Piece copy;
      at_ = begin;
      if (!atom(copy, depth) || at_ != atom_end || states_.size() > kMostStates) return false;
      if (i >= least) copy = optional(copy, open);
      link(all.last, copy.first);
      all.last = copy.last;
    }
    p = all;
    at_ = after;
    return true;
  }

  bool atom(Piece& out, int depth) {
    const char c = pattern_[at_++];
    Characters set;
    switch (c) {
      case '(':
        return group(out, depth);
      case '[':
        if (!bracket(set)) return false;
        break;
      case '.':
        set.set();
        set.reset('\n');
        break;
      case '^':
        out = one({.kind = State::Kind::kBegin});
        return true;
      case '$':
        out = one({.kind = State::Kind::kEnd});
        return true;
      case '\\':
        if (!more() || !escape(pattern_[at_++], set)) return false;
        break;
      case '*':
      case '+':
      case '?':
      case '{':
        return false;
      default:
        set.set(static_cast<unsigned char>(c));
    }
    out = one({.kind = State::Kind::kCharacters, .characters = set});
    return true;
  }

  bool group(Piece& out, int depth) {
    if (more() && peek() == '?') {
      if (pattern_.substr(at_, 2) != "?:") return false;
      at_ += 2;
    }
    if (!alternatives(out, depth + 1) || !more() || peek() != ')') return false;
    ++at_;
    return true;
  }

  static bool escape(char c, Characters& set) {
    const auto add_where = [&](auto test, bool inverse) {
      for (int i = 0; i < 256; ++i)
        set.set(static_cast<size_t>(i), set.test(static_cast<size_t>(i)) || test(i) != inverse);
    };
    const auto digit = [](int i) { return i >= '0' && i <= '9'; };
    const auto word = [&](int i) { return digit(i) || (i >= 'a' && i <= 'z') || (i >= 'A' && i <= 'Z') || i == '_'; };
    const auto space = [](int i) { return i == ' ' || (i >= 9 && i <= 13); };
    if (c == 'd' || c == 'D') {
      add_where(digit, c == 'D');
    } else if (c == 'w' || c == 'W') {
      add_where(word, c == 'W');
    } else if (c == 's' || c == 'S') {
      add_where(space, c == 'S');
    } else if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
      return false;  // \b, \1, \A and others
    } else {
      set.set(static_cast<unsigned char>(c));
    }
    return true;
  }

  bool bracket(Characters& set) {
    const bool inverse = more() && peek() == '^';
    if (inverse) ++at_;
    for (bool first = true; more() && (first || peek() != ']'); first = false) {
      char c = pattern_[at_++];
      if (c == '\\') {
        if (!more()) return false;
        if (!escape(c = pattern_[at_++], set)) return false;
        continue;
      }
      if (at_ + 1 < pattern_.size() && peek() == '-' && pattern_[at_ + 1] != ']') {
        const char last = pattern_[at_ + 1];
        if (last == '\\' || static_cast<unsigned char>(last) < static_cast<unsigned char>(c)) return false;
        for (int i = static_cast<unsigned char>(c); i <= static_cast<unsigned char>(last); ++i)
          set.set(static_cast<size_t>(i));
        at_ += 2;
      } else {
        set.set(static_cast<unsigned char>(c));
      }
    }
    if (!more()) return false;
    ++at_;
    if (inverse) set.flip();
    return true;
  }

  std::string_view pattern_;
  size_t at_ = 0;
  std::vector<State> states_;
};

// All states at once, character by character.
class Walk {
 public:
  Walk(const std::vector<State>& states, std::string_view name)
      : states_(states), name_(name), seen_(states.size(), 0) {}

  bool run(int start, bool whole) {
    begin_step();
    enter(start, 0);
    for (size_t i = 0;; ++i) {
      if (done_ && (!whole || i == name_.size())) return true;
      if (i == name_.size()) return false;
      const std::vector<int> here = std::move(now_);
      begin_step();
      for (const int state : here) {
        const State& s = states_[static_cast<size_t>(state)];
        if (s.characters.test(static_cast<unsigned char>(name_[i]))) enter(s.next, i + 1);
      }
      if (now_.empty() && !done_) return false;
    }
  }

 private:
  void begin_step() {
    now_.clear();
    done_ = false;
    ++step_;
  }
  // What is reached from `start` without a character.
  void enter(int start, size_t at) {
    std::vector<int> open = {start};
    while (!open.empty()) {
      const int i = open.back();
      open.pop_back();
      if (i < 0 || seen_[static_cast<size_t>(i)] == step_) continue;
      seen_[static_cast<size_t>(i)] = step_;
      const State& s = states_[static_cast<size_t>(i)];
      switch (s.kind) {
        case State::Kind::kCharacters:
          now_.push_back(i);
          break;
        case State::Kind::kDone:
          done_ = true;
          break;
        case State::Kind::kBegin:
          if (at == 0) open.push_back(s.next);
          break;
        case State::Kind::kEnd:
          if (at == name_.size()) open.push_back(s.next);
          break;
        case State::Kind::kSplit:
          open.push_back(s.other);
          [[fallthrough]];
        case State::Kind::kPass:
          open.push_back(s.next);
          break;
      }
    }
  }

  const std::vector<State>& states_;
  std::string_view name_;
  std::vector<uint32_t> seen_;
  std::vector<int> now_;
  uint32_t step_ = 0;
  bool done_ = false;
};

}  // namespace

struct Pattern::Automaton {
  std::vector<State> states;
  int start = -1;
};

Pattern::Pattern(const std::string& text) {
  Builder builder(text);
  Automaton built;
  if (!builder.build(built.start)) return;
  built.states = builder.take_states();
  automaton_ = std::make_shared<const Automaton>(std::move(built));
}

bool Pattern::matches(const std::string& name, bool whole) const {
  return Walk(automaton_->states, name).run(automaton_->start, whole);
}

}  // namespace metal_marlin
