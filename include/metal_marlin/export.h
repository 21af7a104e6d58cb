// What users of the library may link with. Everything else stays hidden inside the shared library.
#pragma once

#if defined(__GNUC__)
#define METAL_MARLIN_API __attribute__((visibility("default")))
#define METAL_MARLIN_LOCAL __attribute__((visibility("hidden")))  // a class inside of an exported one
#else
#define METAL_MARLIN_API
#define METAL_MARLIN_LOCAL
#endif
