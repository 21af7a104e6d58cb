# mm_tokenizer_c: the Rust crate src/tokenizer/tokenizer_c as a static library with a C interface. cargo itself decides
# what is out of date. Its dependency file tells Ninja when to run cargo again.
set(MM_RUST_MINIMUM 1.88)

# Takes the first cargo (with the rustc beside it) that is new enough. A distribution's cargo may hide a newer one, or
# the reverse.
function(mm_find_cargo)
  set(seen "")
  string(REPLACE ":" ";" folders "$ENV{PATH}")
  foreach(folder IN LISTS folders ITEMS "$ENV{CARGO_HOME}/bin" "$ENV{HOME}/.cargo/bin" /usr/bin /usr/local/bin)
    if(NOT EXISTS ${folder}/cargo OR NOT EXISTS ${folder}/rustc)
      continue()
    endif()
    foreach(tool cargo rustc)
      # Run it in the crate's folder, because rustup chooses the toolchain by the current directory.
      execute_process(COMMAND ${CMAKE_COMMAND} -E env RUSTC=${folder}/rustc ${folder}/${tool} --version
                      WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}/src/tokenizer/tokenizer_c
                      OUTPUT_VARIABLE text ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
      string(REGEX MATCH "[0-9]+\\.[0-9]+(\\.[0-9]+)?" ${tool}_version "${text}")
    endforeach()
    if(cargo_version VERSION_GREATER_EQUAL MM_RUST_MINIMUM AND rustc_version VERSION_GREATER_EQUAL MM_RUST_MINIMUM)
      message(STATUS "Found cargo: ${folder}/cargo (rustc ${rustc_version})")
      set(MM_CARGO ${folder}/cargo CACHE FILEPATH "cargo, at least ${MM_RUST_MINIMUM}")
      set(MM_RUSTC ${folder}/rustc CACHE FILEPATH "rustc, at least ${MM_RUST_MINIMUM}")
      return()
    endif()
    string(APPEND seen "\n  ${folder}: cargo ${cargo_version}, rustc ${rustc_version}")
  endforeach()
  if(seen STREQUAL "")
    set(seen "\n  none")
  endif()
  message(FATAL_ERROR "The tokenizer needs cargo and rustc, at least ${MM_RUST_MINIMUM}. Found:${seen}\n"
                      "Install them: Debian 12 has them as rustc-web and cargo-web, Homebrew as rust, rustup everywhere. "
                      "Or name them with -DMM_CARGO=... -DMM_RUSTC=...")
endfunction()

if(NOT MM_CARGO OR NOT MM_RUSTC)
  mm_find_cargo()
endif()

set(MM_TOKENIZER_CRATE ${CMAKE_SOURCE_DIR}/src/tokenizer/tokenizer_c)
set(MM_TOKENIZER_TARGET ${CMAKE_BINARY_DIR}/tokenizer_c CACHE PATH "Where cargo builds; builds may share it")
set(MM_TOKENIZER_RUSTFLAGS "" CACHE STRING "Flags of rustc, for example of sanitizers; unstable ones too")
set(MM_TOKENIZER_RELEASE ${MM_TOKENIZER_TARGET}/release)
if(MM_TOKENIZER_RUSTFLAGS)
  # Where the target is named, the flags do not reach what cargo compiles to run while it builds.
  execute_process(COMMAND ${MM_RUSTC} -vV OUTPUT_VARIABLE text)
  string(REGEX MATCH "host: ([^\n]+)" text "${text}")
  set(MM_TOKENIZER_ENVIRONMENT RUSTC_BOOTSTRAP=1 "RUSTFLAGS=${MM_TOKENIZER_RUSTFLAGS}")
  set(MM_TOKENIZER_OPTIONS --target ${CMAKE_MATCH_1})
  set(MM_TOKENIZER_RELEASE ${MM_TOKENIZER_TARGET}/${CMAKE_MATCH_1}/release)
endif()
set(MM_TOKENIZER_ARCHIVE ${MM_TOKENIZER_RELEASE}/libtokenizer_c.a)
add_custom_command(
  OUTPUT ${MM_TOKENIZER_ARCHIVE}
  COMMAND ${CMAKE_COMMAND} -E env CARGO_TARGET_DIR=${MM_TOKENIZER_TARGET} RUSTC=${MM_RUSTC}
          ${MM_TOKENIZER_ENVIRONMENT} ${MM_CARGO} build --release --locked --quiet ${MM_TOKENIZER_OPTIONS} --manifest-path ${MM_TOKENIZER_CRATE}/Cargo.toml
  # cargo keeps the date of an archive that it finds unchanged. Without the touch Ninja would run cargo at every build.
  COMMAND ${CMAKE_COMMAND} -E touch ${MM_TOKENIZER_ARCHIVE}
  DEPENDS ${MM_TOKENIZER_CRATE}/Cargo.toml ${MM_TOKENIZER_CRATE}/Cargo.lock
  DEPFILE ${MM_TOKENIZER_RELEASE}/libtokenizer_c.d
  WORKING_DIRECTORY ${MM_TOKENIZER_CRATE}
  COMMENT "Building the tokenizer crate (about two minutes the first time)"
  USES_TERMINAL VERBATIM)
add_custom_target(mm_tokenizer_build DEPENDS ${MM_TOKENIZER_ARCHIVE})

add_library(mm_tokenizer_archive STATIC IMPORTED GLOBAL)
set_target_properties(mm_tokenizer_archive PROPERTIES IMPORTED_LOCATION ${MM_TOKENIZER_ARCHIVE})
add_dependencies(mm_tokenizer_archive mm_tokenizer_build)
add_library(mm_tokenizer_c INTERFACE)
add_dependencies(mm_tokenizer_c mm_tokenizer_build)
target_link_libraries(mm_tokenizer_c INTERFACE mm_tokenizer_archive Threads::Threads ${CMAKE_DL_LIBS} m)
if(NOT APPLE)
  # The crate's symbols stay inside the shared library.
  target_link_options(mm_tokenizer_c INTERFACE LINKER:--exclude-libs,libtokenizer_c.a)
endif()
