// SPDX-License-Identifier: Apache-2.0
// Runs the C++ tests: noisystore_tests KNOWN_ANSWERS.txt
#include "check.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s known_answers.txt\n", argv[0]);
    return 2;
  }
  test_known_answers(argv[1]);
  test_agreement();
  test_conversions();
  test_storage();
  test_device_loops();
  test_c_api();
  std::printf("%d passed, %d failed\n", checks.passed, checks.failed);
  return checks.failed == 0 && checks.passed > 0 ? 0 : 1;
}
