# The installed library: all folders in one shared object, the public headers, and a CMake package.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
get_property(objects GLOBAL PROPERTY MM_OBJECTS)
get_property(libraries GLOBAL PROPERTY MM_LIBRARIES)
list(REMOVE_DUPLICATES libraries)
add_library(metal_marlin SHARED ${objects})
add_library(metal_marlin::metal_marlin ALIAS metal_marlin)
# Before 1.0 a minor version may change the interface: a program asks for the minor version that it was built with.
if(PROJECT_VERSION_MAJOR EQUAL 0)
  set(soversion ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
  set(compatibility SameMinorVersion)
else()
  set(soversion ${PROJECT_VERSION_MAJOR})
  set(compatibility SameMajorVersion)
endif()
set_target_properties(metal_marlin PROPERTIES LINKER_LANGUAGE CXX VERSION ${PROJECT_VERSION} SOVERSION ${soversion})
target_compile_features(metal_marlin PUBLIC cxx_std_20)
target_link_libraries(metal_marlin PRIVATE ${libraries} mm_compile_options)
if(NOT APPLE)
  # Of the C++ library's templates and of the archives nothing is exported; and since threads of the pool may sleep in its
  # code, the library stays in the process until that ends.
  set(exports ${CMAKE_SOURCE_DIR}/cmake/exports.map)
  target_link_options(metal_marlin PRIVATE LINKER:--version-script=${exports} LINKER:--exclude-libs,ALL LINKER:-z,nodelete)
  set_property(TARGET metal_marlin APPEND PROPERTY LINK_DEPENDS ${exports})
endif()
target_include_directories(metal_marlin PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include>
                                               $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
# Somebody may have built the command alone: say so instead of "cannot find".
install(CODE "
  foreach(file IN ITEMS \"$<TARGET_FILE:metal_marlin>\" \"${CMAKE_BINARY_DIR}/cli/share/metal-marlin.1\")
    if(NOT EXISTS \"\${file}\")
      message(FATAL_ERROR \"\${file} is not built yet. Build everything first: cmake --build ${CMAKE_BINARY_DIR}\")
    endif()
  endforeach()")
install(FILES ${CMAKE_SOURCE_DIR}/LICENSE ${CMAKE_SOURCE_DIR}/NOTICE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(TARGETS metal_marlin EXPORT metal_marlin_targets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${CMAKE_SOURCE_DIR}/include/metal_marlin DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT metal_marlin_targets NAMESPACE metal_marlin:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/metal_marlin
        FILE metal_marlin-targets.cmake)
configure_package_config_file(${CMAKE_SOURCE_DIR}/cmake/metal_marlin-config.cmake.in
  ${CMAKE_BINARY_DIR}/metal_marlin-config.cmake INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/metal_marlin)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/metal_marlin-config-version.cmake
                                 COMPATIBILITY ${compatibility})
install(FILES ${CMAKE_BINARY_DIR}/metal_marlin-config.cmake ${CMAKE_BINARY_DIR}/metal_marlin-config-version.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/metal_marlin)

# Tests the installed package as its users see it. The test is declared here because it needs the whole build, not one
# folder.
if(METAL_MARLIN_BUILD_TESTS)
  set(consumer_flags "")
  if(METAL_MARLIN_SANITIZE)
    set(consumer_flags "-fsanitize=${METAL_MARLIN_SANITIZE}")
  endif()
  enable_testing()
  add_test(NAME install_consumer
           COMMAND ${CMAKE_COMMAND} -DBUILD=${CMAKE_BINARY_DIR} -DSOURCE=${CMAKE_SOURCE_DIR}/examples/consumer
                   -DVERSION=${PROJECT_VERSION} -DFLAGS=${consumer_flags} -DCOMPILER=${CMAKE_CXX_COMPILER}
                   -DGENERATOR=${CMAKE_GENERATOR} -P ${CMAKE_SOURCE_DIR}/examples/consumer/install_test.cmake)
endif()
