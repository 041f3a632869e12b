// The model through LiteRT's C API, on the processor.
#pragma once
#include <litert/c/litert_common.h>
#include <litert/c/litert_compiled_model.h>
#include <litert/c/litert_environment.h>
#include <litert/c/litert_model.h>
#include <litert/c/litert_options.h>
#include <litert/c/litert_tensor_buffer.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "model.h"

// Give a file's bytes, then pixels; get one number a class.
class Model {
public:
    explicit Model(std::vector<uint8_t> file) : file_(std::move(file)) {
        check(LiteRtCreateEnvironment(0, nullptr, &environment_), "LiteRtCreateEnvironment");
        check(LiteRtCreateModelFromBuffer(environment_, file_.data(), file_.size(), &model_), "loading the model");
        LiteRtOptions options;
        check(LiteRtCreateOptions(&options), "LiteRtCreateOptions");
        check(LiteRtSetOptionsHardwareAccelerators(options, kLiteRtHwAcceleratorCpu), "choosing the processor");
        check(LiteRtCreateCompiledModel(environment_, model_, options, &compiled_), "LiteRtCreateCompiledModel");
        LiteRtDestroyOptions(options);
        LiteRtSignature signature;
        check(LiteRtGetModelSignature(model_, 0, &signature), "LiteRtGetModelSignature");
        LiteRtTensorBufferRequirements needs;
        check(LiteRtGetSignatureInputTensorByIndex(signature, 0, &in_.tensor), "finding the input");
        check(LiteRtGetCompiledModelInputBufferRequirements(compiled_, 0, 0, &needs), "sizing the input");
        open(in_, needs);
        check(LiteRtGetSignatureOutputTensorByIndex(signature, 0, &out_.tensor), "finding the output");
        check(LiteRtGetCompiledModelOutputBufferRequirements(compiled_, 0, 0, &needs), "sizing the output");
        open(out_, needs);
    }
    ~Model() {
        if (in_.buffer) LiteRtDestroyTensorBuffer(in_.buffer);
        if (out_.buffer) LiteRtDestroyTensorBuffer(out_.buffer);
        if (compiled_) LiteRtDestroyCompiledModel(compiled_);
        if (model_) LiteRtDestroyModel(model_);
        if (environment_) LiteRtDestroyEnvironment(environment_);
    }
    Model(const Model &) = delete;
    Model &operator=(const Model &) = delete;

    std::vector<float> run(const std::vector<uint8_t> &pixels) {  // NHWC
        if (in_.count != pixels.size()) throw std::runtime_error("the model takes another size");
        void *at;
        check(LiteRtLockTensorBuffer(in_.buffer, &at, kLiteRtTensorBufferLockModeWrite), "writing the input");
        for (size_t each = 0; each < pixels.size(); ++each) {
            float value = (pixels[each] - MEAN[each % CHANNELS]) / STD[each % CHANNELS];
            if (in_.type == kLiteRtElementTypeFloat32) static_cast<float *>(at)[each] = value;
            if (in_.type == kLiteRtElementTypeInt8) static_cast<int8_t *>(at)[each] = in_.rounded<int8_t>(value);
            if (in_.type == kLiteRtElementTypeInt16) static_cast<int16_t *>(at)[each] = in_.rounded<int16_t>(value);
        }
        check(LiteRtUnlockTensorBuffer(in_.buffer), "writing the input");
        check(LiteRtRunCompiledModel(compiled_, 0, 1, &in_.buffer, 1, &out_.buffer), "LiteRtRunCompiledModel");
        check(LiteRtLockTensorBuffer(out_.buffer, &at, kLiteRtTensorBufferLockModeRead), "reading the output");
        std::vector<float> found(out_.count);
        for (size_t each = 0; each < found.size(); ++each) {
            if (out_.type == kLiteRtElementTypeFloat32) found[each] = static_cast<const float *>(at)[each];
            if (out_.type == kLiteRtElementTypeInt8) found[each] = out_.real(static_cast<const int8_t *>(at)[each]);
            if (out_.type == kLiteRtElementTypeInt16) found[each] = out_.real(static_cast<const int16_t *>(at)[each]);
        }
        check(LiteRtUnlockTensorBuffer(out_.buffer), "reading the output");
        return found;
    }

private:
    struct Side {  // input or output
        LiteRtTensor tensor = nullptr;
        LiteRtTensorBuffer buffer = nullptr;
        LiteRtElementType type = kLiteRtElementTypeNone;
        size_t count = 1;
        float scale = 1, zero = 0;  // of integers: real = (integer - zero) * scale

        template <typename Integer>
        Integer rounded(float value) const {
            float least = std::numeric_limits<Integer>::min(), most = std::numeric_limits<Integer>::max();
            return static_cast<Integer>(std::max(least, std::min(most, std::nearbyint(value / scale) + zero)));
        }
        float real(int integer) const { return (static_cast<float>(integer) - zero) * scale; }
    };

    void open(Side &side, LiteRtTensorBufferRequirements needs) {
        LiteRtRankedTensorType type;
        check(LiteRtGetRankedTensorType(side.tensor, &type), "LiteRtGetRankedTensorType");
        side.type = type.element_type;
        for (unsigned axis = 0; axis < type.layout.rank; ++axis)
            side.count *= static_cast<size_t>(type.layout.dimensions[axis]);
        if (side.type == kLiteRtElementTypeInt8 || side.type == kLiteRtElementTypeInt16) {
            LiteRtQuantizationPerTensor how;
            check(LiteRtGetPerTensorQuantization(side.tensor, &how), "LiteRtGetPerTensorQuantization");
            side.scale = how.scale;
            side.zero = static_cast<float>(how.zero_point);
        } else if (side.type != kLiteRtElementTypeFloat32) {
            throw std::runtime_error("what goes in or out is none of float32, int8, int16");
        }
        check(LiteRtCreateManagedTensorBufferFromRequirements(environment_, &type, needs, &side.buffer),
              "LiteRtCreateManagedTensorBufferFromRequirements");
    }
    static void check(LiteRtStatus code, const char *what) {
        if (code != kLiteRtStatusOk) throw std::runtime_error(std::string(what) + " failed with " + std::to_string(code));
    }

    std::vector<uint8_t> file_;  // LiteRT reads the weights from there
    LiteRtEnvironment environment_ = nullptr;
    LiteRtModel model_ = nullptr;
    LiteRtCompiledModel compiled_ = nullptr;
    Side in_, out_;
};
