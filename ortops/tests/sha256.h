// SPDX-License-Identifier: Apache-2.0
// SHA-256 (FIPS 180-4) for comparing with known answers.
#pragma once

#include <cstddef>
#include <string>

std::string sha256_hex(const unsigned char* data, std::size_t size);
