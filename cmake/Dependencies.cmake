# Every third-party library, found where the system's package manager put it.
find_package(Threads REQUIRED)
# OpenBLAS and oneDNN ask the runtime of OpenMP for a number of threads; we call it to answer (kernels/one_thread.cc), so it
# must be the one that they use: GCC's where there is one, whatever compiles us. Our own code is compiled without OpenMP.
include(CheckLibraryExists)
check_library_exists(gomp omp_set_num_threads "" MM_HAVE_GOMP)
add_library(mm_openmp INTERFACE)
if(MM_HAVE_GOMP)
  target_link_libraries(mm_openmp INTERFACE gomp)
else()
  find_package(OpenMP REQUIRED COMPONENTS CXX)
  target_link_libraries(mm_openmp INTERFACE ${OpenMP_CXX_LIBRARIES})
endif()
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
if(NOT METAL_MARLIN_LOW_FOLDERS)
  find_package(spdlog REQUIRED)
  find_package(CLI11 REQUIRED)
endif()
find_package(dnnl REQUIRED)  # target DNNL::dnnl; its config also wants OpenCL
find_package(hwy REQUIRED)
set(BLA_VENDOR OpenBLAS)
find_package(BLAS REQUIRED)
find_package(LAPACK REQUIRED)
find_package(PkgConfig REQUIRED)
# xxHash is compiled into core/files/digest.cc, so its header is all that it takes.
find_path(MM_XXHASH_INCLUDE_DIR xxhash.h REQUIRED)
add_library(mm_xxhash INTERFACE)
target_include_directories(mm_xxhash SYSTEM INTERFACE ${MM_XXHASH_INCLUDE_DIR})
pkg_check_modules(libzip REQUIRED IMPORTED_TARGET libzip)  # its CMake config needs tools that nobody installs
