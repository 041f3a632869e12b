// What the sample in C++ needs of LiteRT's C API, declared for tests: its packages hold the library, not the headers.
// The layout of what is passed is that of the library 2.3; the test runs it.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef int LiteRtStatus;
enum { kLiteRtStatusOk = 0 };
typedef size_t LiteRtParamIndex;
typedef int LiteRtHwAcceleratorSet;
enum { kLiteRtHwAcceleratorCpu = 1 };

#define LITERT_TEST_HANDLE(name) typedef struct name##T *name
LITERT_TEST_HANDLE(LiteRtEnvironment);
LITERT_TEST_HANDLE(LiteRtModel);
LITERT_TEST_HANDLE(LiteRtOptions);
LITERT_TEST_HANDLE(LiteRtCompiledModel);
LITERT_TEST_HANDLE(LiteRtSignature);
LITERT_TEST_HANDLE(LiteRtTensor);
LITERT_TEST_HANDLE(LiteRtTensorBuffer);
LITERT_TEST_HANDLE(LiteRtTensorBufferRequirements);

typedef enum {
    kLiteRtElementTypeNone = 0,
    kLiteRtElementTypeFloat32 = 1,
    kLiteRtElementTypeInt16 = 7,
    kLiteRtElementTypeInt8 = 9
} LiteRtElementType;
typedef struct {
    unsigned int rank : 7;
    unsigned int has_strides : 1;
    int32_t dimensions[8];
    uint32_t strides[8];
} LiteRtLayout;
typedef struct {
    LiteRtElementType element_type;
    LiteRtLayout layout;
} LiteRtRankedTensorType;
typedef struct {
    float scale;
    int64_t zero_point;
} LiteRtQuantizationPerTensor;
typedef enum { kLiteRtTensorBufferLockModeRead = 0, kLiteRtTensorBufferLockModeWrite = 1 } LiteRtTensorBufferLockMode;

#ifdef __cplusplus
}
#endif
