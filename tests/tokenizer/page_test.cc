#include "tokenizer/page.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <nlohmann/json.hpp>
#include <string>

namespace metal_marlin {
namespace {

std::string refusal(const char* page, const nlohmann::json& context) {
  try {
    return "rendered: " + render_page(page, context).substr(0, 100);
  } catch (const UnsupportedError& e) {
    return e.what();
  }
}

TEST(Page, WhatItPrintsIsEscaped) {
  const nlohmann::json context = {{"text", "<b a=\"1\" c='2'>&</b>"}, {"list", {"<i>"}}, {"size", 3}, {"share", 0.25}};
  EXPECT_EQ(render_page("<p>{{ text }}</p>\n", context),
            "<p>&lt;b a=&quot;1&quot; c=&#x27;2&#x27;&gt;&amp;&lt;&#x2f;b&gt;</p>\n");
  // Whatever it goes through on its way.
  for (const char* page : {"{{ list[0] }}", "{{ list|first }}", "{% for t in list %}{{ t }}{% endfor %}",
                           "{% macro m(t) %}{{ t }}{% endmacro %}{{ m(list[0]) }}", "{% set t = list[0] %}{{ t }}",
                           "{{ \"%s\"|format(list[0]) }}", "{{ list|join }}", "{{ list[0] ~ \"\" }}"})
    EXPECT_EQ(render_page(page, context), "&lt;i&gt;") << page;
  EXPECT_EQ(render_page("{{ size }} {{ \"%.3f\"|format(share) }} {{ list[0]|safe }}", context), "3 0.250 <i>");
  // A value is no template.
  EXPECT_EQ(render_page("{{ t }}", {{"t", "{{ 7 * 7 }}"}}), "{{ 7 * 7 }}");
}

TEST(Page, WhatIsMissingIsTold) {
  for (const char* page : {"{{ none_of_it }}", "{{ a.b }}", "{% for x in none_of_it %}{% endfor %}"})
    EXPECT_NE(refusal(page, {{"a", nlohmann::json::object()}}).find("undefined"), std::string::npos)
        << refusal(page, {{"a", nlohmann::json::object()}});
  EXPECT_NE(refusal("{% for", nlohmann::json::object()).find("syntax error"), std::string::npos);
}

TEST(Page, HasBounds) {
  const nlohmann::json context = {{"text", std::string(1000, 'x')}};
  const std::string told = refusal("{% for i in range(90000) %}{{ text }}{{ text }}{% endfor %}", context);
  EXPECT_NE(told.find("more than the limit of"), std::string::npos) << told;
  EXPECT_EQ(render_page("{{ text }}", context), std::string(1000, 'x'));  // and after it
}

}  // namespace
}  // namespace metal_marlin
