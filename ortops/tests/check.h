// SPDX-License-Identifier: Apache-2.0
// A check that counts, and the tests that main() runs.
#pragma once

#include <cstdio>

struct Checks {
  int passed = 0;
  int failed = 0;
};

inline Checks checks;

#define CHECK(condition, ...)                                              \
  do {                                                                     \
    if (condition) {                                                       \
      ++checks.passed;                                                     \
    } else {                                                               \
      ++checks.failed;                                                     \
      std::fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      std::fprintf(stderr, __VA_ARGS__);                                   \
      std::fputc('\n', stderr);                                            \
    }                                                                      \
  } while (false)

void test_known_answers(const char* path);
void test_agreement();
void test_conversions();
void test_storage();
void test_device_loops();
void test_c_api();
