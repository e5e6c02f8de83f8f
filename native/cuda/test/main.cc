/** Host-side tests: everything of the engine that needs no device. ctest runs each case in a process of its own. */
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
