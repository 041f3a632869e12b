# rknn_api.h and librknnrt.so: github.com/airockchip/rknn-toolkit2, rknpu2/runtime/Linux/librknn_api
set(RKNN_API_DIR "/usr/include" CACHE PATH "folder of rknn_api.h")
find_library(RKNN_LIBRARY NAMES rknnrt rknnmrt HINTS "${RKNN_API_DIR}/../aarch64" "${RKNN_API_DIR}/../armhf")
if(NOT RKNN_LIBRARY)
  message(FATAL_ERROR "librknnrt.so is not found: give it with -DRKNN_LIBRARY=/path/to/librknnrt.so")
endif()

set(RUNTIME_INCLUDE_DIR "${RKNN_API_DIR}")
set(RUNTIME_LIBRARY "${RKNN_LIBRARY}")
