// The page of a report: everything is on it, and nothing in a report is HTML there.
#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <metal_marlin/report.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "core/files/atomic_file.h"
#include "records/strings.h"
#include "report/render/report_words.h"

namespace metal_marlin {
namespace {

const char* const kReports[] = {"evaluated", "mixed", "statistics"};

std::string text_of(const std::string& name) {
  return read_text_file(std::string(TEST_DATA) + "/report/" + name + ".json");
}

size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

// "td", "/td", "svg", ... of a page.
std::set<std::string> tags_of(const std::string& page) {
  std::set<std::string> tags;
  for (size_t at = page.find('<'); at != std::string::npos; at = page.find('<', at + 1))
    tags.insert(page.substr(at + 1, page.find_first_of(" >", at) - at - 1));
  return tags;
}

TEST(ReportHtml, HasTheFiguresAndListsOfTheReport) {
  for (const char* name : kReports) {
    const auto report = nlohmann::json::parse(text_of(name));
    const std::string page = render_report_html(report_from_json(text_of(name)));
    EXPECT_TRUE(page.starts_with(page_start())) << name;
    EXPECT_TRUE(page_start().starts_with("<!doctype html>"));
    EXPECT_TRUE(page.ends_with("</html>\n")) << name;
    char digits[32];
    const auto cell = [&](double number) {
      std::snprintf(digits, sizeof digits, "<td class=\"n\">%.4f</td>", number);
      return std::string(digits);
    };
    for (const auto& linear : report["linears"]) {
      const size_t at = page.rfind("<td>" + linear["name"].get<std::string>() + "</td><td class=\"n\">");
      ASSERT_NE(at, std::string::npos) << name << linear["name"];
      const std::string row = page.substr(at, page.find("</tr>", at) - at);
      const std::string errors =
          cell(linear["weight_error"].get<double>()) + cell(linear["output_error"].get<double>());
      EXPECT_NE(row.find(errors), std::string::npos) << name << row;
    }
    for (const char* list : {"linears", "warnings", "skipped"}) {
      const std::string heading = "(" + std::to_string(report[list].size()) + ")</h2>";
      EXPECT_TRUE(report[list].empty() || page.find(heading) != std::string::npos) << name << list;
    }
    for (const auto& [stage, time] : report["run"]["stages"].items())
      EXPECT_TRUE(time["seconds"] < 0.005 || page.find("<td>" + stage + "</td>") != std::string::npos) << name << stage;
    const auto& kl = report["model"]["kl_divergence"]["mean"];
    EXPECT_EQ(page.find("not evaluated") != std::string::npos, kl.is_null()) << name;
    if (!kl.is_null()) {
      std::snprintf(digits, sizeof digits, "%.4f", kl.get<double>());
      EXPECT_NE(page.find(std::string(": KL divergence ") + digits), std::string::npos) << name;
    }
    EXPECT_EQ(page.find("Bits of each linear") != std::string::npos, !report["mixed"].is_null()) << name;
    const std::string shown = page.substr(page.find("</style>"));
    for (const char* left : {"{{", "{%", "}}", ">none<", ">null<", "undefined"})
      EXPECT_EQ(shown.find(left), std::string::npos) << name << left;
  }
}

TEST(ReportHtml, ANulByteDoesNotEndAReport) {
  const std::string text = text_of("evaluated") + std::string("\0x", 2);
  try {
    report_from_json(text);
    ADD_FAILURE() << "taken";
  } catch (const FormatError& e) {
    EXPECT_NE(std::string(e.what()).find("found a zero byte"), std::string::npos) << e.what();
  }
}

// Every string of a report, each key of its maps too, as somebody would have it who wants to run a script.
TEST(ReportHtml, NothingInAReportIsHtml) {
  for (const char* name : kReports) {
    const Report good = report_from_json(text_of(name));
    Report bad = good;
    StringVisitor([](std::string& text) { text += "\"'><script src=//x>alert(1)</script><img onerror=x>&lt;"; }, true)
        .visit(bad);
    const std::string page = render_report_html(bad);
    std::set<std::string> more = tags_of(page);
    for (const std::string& tag : tags_of(render_report_html(good))) more.erase(tag);
    EXPECT_TRUE(more.empty()) << name << " <" << *more.begin() << ">";
    EXPECT_GT(count_of(page, "&lt;script"), bad.linears.size()) << name;
    EXPECT_NE(page.find("&amp;lt;"), std::string::npos) << name;
    for (const char* raw : {"<script", "<img", "\"'>"}) EXPECT_EQ(page.find(raw), std::string::npos) << name << raw;
  }
}

}  // namespace
}  // namespace metal_marlin
