# The headers litert/c/*.h and libLiteRt.so, 2.3 or later: github.com/google-ai-edge/LiteRT. The Python package
# ai-edge-litert has the library too.
set(LITERT_INCLUDE_DIR "/usr/include" CACHE PATH "folder that holds litert/c")
find_library(LITERT_LIBRARY NAMES LiteRt)
if(NOT LITERT_LIBRARY)
  message(FATAL_ERROR "libLiteRt.so is not found: give it with -DLITERT_LIBRARY=/path/to/libLiteRt.so")
endif()

set(RUNTIME_INCLUDE_DIR "${LITERT_INCLUDE_DIR}")
set(RUNTIME_LIBRARY "${LITERT_LIBRARY}")
