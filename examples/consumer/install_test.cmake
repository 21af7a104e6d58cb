# cmake -DBUILD=... -DSOURCE=... -DVERSION=... -DCOMPILER=... -P install_test.cmake: installs BUILD into a fresh prefix, then
# builds and runs the consumer in SOURCE against it, and the installed command. COMPILER is that of BUILD: a sanitized
# library wants the sanitizer's runtime of the compiler that built it.
set(work ${BUILD}/install_consumer)
file(REMOVE_RECURSE ${work})
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT code EQUAL 0)
    message(FATAL_ERROR "${ARGN} ended with ${code}:\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${work}/prefix)
# The generator of BUILD: another one's program may not be installed.
run(${CMAKE_COMMAND} -G ${GENERATOR} -S ${SOURCE} -B ${work}/build -DCMAKE_PREFIX_PATH=${work}/prefix
    -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_CXX_FLAGS=${FLAGS})
run(${CMAKE_COMMAND} --build ${work}/build)
run(${work}/build/consumer)
if(NOT output MATCHES "metal_marlin ${VERSION}")
  message(FATAL_ERROR "the consumer printed: ${output}")
endif()
# The library's errors arrive as its types on the other side of the shared object.
execute_process(COMMAND ${work}/build/consumer ${work}/no_such_model RESULT_VARIABLE code ERROR_VARIABLE output)
if(NOT code EQUAL 1 OR NOT output MATCHES "no_such_model")
  message(FATAL_ERROR "the consumer ended with ${code}: ${output}")
endif()
run(${work}/prefix/bin/metal-marlin --version)
foreach(file share/man/man1/metal-marlin.1 share/bash-completion/completions/metal-marlin
             share/zsh/site-functions/_metal-marlin share/fish/vendor_completions.d/metal-marlin.fish)
  if(NOT EXISTS ${work}/prefix/${file})
    message(FATAL_ERROR "${file} was not installed")
  endif()
endforeach()
