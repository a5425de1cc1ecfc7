# SPDX-License-Identifier: Apache-2.0
# Adds the CUDA kernels to the library (NOISYSTORE_CUDA, NOISYSTORE_CUDA_ARCHITECTURES).
if(NOT NOISYSTORE_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "NOISYSTORE_CUDA: expected AUTO, ON or OFF, got '${NOISYSTORE_CUDA}'")
endif()
foreach(architecture ${NOISYSTORE_CUDA_ARCHITECTURES})
  if(NOT architecture MATCHES "^[0-9]+[af]?$")
    message(FATAL_ERROR "NOISYSTORE_CUDA_ARCHITECTURES: expected compute capabilities such as 87;90, "
                        "got '${architecture}'")
  endif()
endforeach()
if(NOT NOISYSTORE_CUDA)
  return()
endif()

# Leaves this file: CUDA was asked for, or would have been nice.
macro(noisystore_no_cuda expected got)
  if(NOT NOISYSTORE_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "NOISYSTORE_CUDA=${NOISYSTORE_CUDA}: expected ${expected}, got ${got}; set "
                        "CUDACXX to nvcc's path, or NOISYSTORE_CUDA=OFF")
  endif()
  message(STATUS "NoisyStore: without CUDA (expected ${expected}, got ${got})")
  return()
endmacro()

if(NOISYSTORE_CUDA_RUNTIME MATCHES " ")
  message(FATAL_ERROR "NOISYSTORE_CUDA_RUNTIME: expected a path without spaces, at which CMake cuts "
                      "what it gives to nvcc, got '${NOISYSTORE_CUDA_RUNTIME}'")
endif()
if(NOISYSTORE_CUDA_RUNTIME)
  find_program(CMAKE_CUDA_COMPILER NAMES $ENV{CUDACXX} nvcc)
else()
  include(CheckLanguage)
  check_language(CUDA)
endif()
if(NOT CMAKE_CUDA_COMPILER)
  noisystore_no_cuda("a CUDA compiler that works" "none")
endif()
execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --version OUTPUT_VARIABLE noisystore_nvcc)
if(NOT noisystore_nvcc MATCHES "release ([0-9]+)" OR CMAKE_MATCH_1 LESS 12)
  noisystore_no_cuda("a compiler of CUDA 12 or newer" "one of CUDA ${CMAKE_MATCH_1}")
endif()
if(NOISYSTORE_CUDA_RUNTIME)
  # The target's runtime comes with its headers but for crt/, which is the compiler's. In the
  # environment, so that CMake's trial of the compiler finds both as well.
  execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --dryrun -E -x cu /dev/null
                  ERROR_VARIABLE noisystore_nvcc OUTPUT_QUIET)
  string(REGEX MATCH "_HERE_=([^\n]*)" noisystore_nvcc "${noisystore_nvcc}")
  file(GLOB noisystore_nvcc "${CMAKE_MATCH_1}/../include" "${CMAKE_MATCH_1}/../targets/*/include")
  find_path(NOISYSTORE_CRT crt/host_config.h PATHS ${noisystore_nvcc} NO_DEFAULT_PATH
            NO_CMAKE_FIND_ROOT_PATH)
  if(NOT NOISYSTORE_CRT)
    noisystore_no_cuda("crt/host_config.h among the headers of ${CMAKE_CUDA_COMPILER}" "none")
  endif()
  set(ENV{CUDAFLAGS} "-I${NOISYSTORE_CUDA_RUNTIME}/include -I${NOISYSTORE_CRT} \
-L${NOISYSTORE_CUDA_RUNTIME}/lib $ENV{CUDAFLAGS}")
endif()

# Jetsons are 72, 87 and 110 (101 to CUDA 12); code for one runs on later ones of the same ten.
# (Variables have a prefix: CMake 3.18 to 3.22 have an `architectures` of their own here.)
set(noisystore_architectures ${NOISYSTORE_CUDA_ARCHITECTURES})
if(NOT noisystore_architectures)
  execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-code OUTPUT_VARIABLE noisystore_nvcc)
  foreach(architecture 72 75 80 86 87 88 89 90 100 101 103 110 120 121)
    if(noisystore_nvcc MATCHES "sm_${architecture}(\n|$)")
      list(APPEND noisystore_architectures ${architecture})
    endif()
  endforeach()
endif()
set(NOISYSTORE_KNOWN_ARCHITECTURES "${noisystore_architectures}" CACHE INTERNAL
    "What there is code for")
# For what comes later, code that the driver compiles.
list(GET noisystore_architectures -1 noisystore_newest)
list(TRANSFORM noisystore_architectures APPEND "-real" OUTPUT_VARIABLE CMAKE_CUDA_ARCHITECTURES)
list(APPEND CMAKE_CUDA_ARCHITECTURES "${noisystore_newest}-virtual")
enable_language(CUDA)

add_library(noisystore_cuda OBJECT src/cuda.cu)
target_link_libraries(noisystore_cuda PRIVATE noisystore_flags)
set_target_properties(noisystore_cuda PROPERTIES
  CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_VISIBILITY_PRESET hidden
  VISIBILITY_INLINES_HIDDEN ON POSITION_INDEPENDENT_CODE ON CUDA_RUNTIME_LIBRARY Static)
# Products and sums are rounded apart, as on the host.
target_compile_options(noisystore_cuda PRIVATE -fmad=false -ftz=false -prec-div=true --threads=0
                                               -Xfatbin=-compress-all -Xcompiler=-Wall,-Wextra)
if(NOISYSTORE_WERROR)
  target_compile_options(noisystore_cuda PRIVATE --Werror=all-warnings -Xcompiler=-Werror)
endif()
string(REPLACE ";" " " noisystore_architectures "${noisystore_architectures}")
set_property(SOURCE src/c_api_cuda.cc APPEND PROPERTY COMPILE_DEFINITIONS
             "NOISYSTORE_CUDA_ARCHITECTURES=\"${noisystore_architectures}\"")
target_sources(noisystore PRIVATE $<TARGET_OBJECTS:noisystore_cuda>)
# The runtime is linked in, so that a machine without a driver loads the library, and none of its
# symbols is seen outside.
set_target_properties(noisystore PROPERTIES CUDA_ARCHITECTURES OFF CUDA_RUNTIME_LIBRARY Static
                                            LINKER_LANGUAGE CXX)
if(NOISYSTORE_CUDA_RUNTIME)
  target_link_directories(noisystore PRIVATE ${NOISYSTORE_CUDA_RUNTIME}/lib)
endif()
target_link_options(noisystore PRIVATE -Wl,--exclude-libs,ALL)
message(STATUS "NoisyStore: CUDA kernels for ${noisystore_architectures}")
