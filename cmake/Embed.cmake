# mm_embed(NAME FILE): FILE's text as a constant of the program. The header embedded/NAME.h has it as
# metal_marlin::NAME, a std::string_view.
function(mm_embed NAME FILE)
  set(path ${CMAKE_SOURCE_DIR}/${FILE})
  set_property(DIRECTORY ${CMAKE_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${path})
  file(READ ${path} text)
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/embedded/${NAME}.h @ONLY
       CONTENT "// Made of ${FILE}.\n#pragma once\n\n#include <string_view>\n\nnamespace metal_marlin {\n
inline constexpr std::string_view ${NAME} = R\"embedded(@text@)embedded\";\n\n}  // namespace metal_marlin\n")
endfunction()
