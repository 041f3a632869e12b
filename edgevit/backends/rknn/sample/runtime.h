// The model through Rockchip's rknn_api.h.
#pragma once
#include <rknn_api.h>

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "model.h"

// Give a file's bytes, then pixels; get one number a class.
class Model {
public:
    explicit Model(std::vector<uint8_t> file) {
        check(rknn_init(&context_, file.data(), static_cast<uint32_t>(file.size()), 0, nullptr), "rknn_init");
        if (NPU_CORES > 1) check(rknn_set_core_mask(context_, RKNN_NPU_CORE_AUTO), "rknn_set_core_mask");
    }
    ~Model() { rknn_destroy(context_); }
    Model(const Model &) = delete;
    Model &operator=(const Model &) = delete;

    std::vector<float> run(std::vector<uint8_t> &pixels) {  // NHWC, normalised by the NPU itself
        rknn_input input;
        std::memset(&input, 0, sizeof(input));
        input.buf = pixels.data();
        input.size = static_cast<uint32_t>(pixels.size());
        input.type = RKNN_TENSOR_UINT8;
        input.fmt = RKNN_TENSOR_NHWC;
        check(rknn_inputs_set(context_, 1, &input), "rknn_inputs_set");
        check(rknn_run(context_, nullptr), "rknn_run");
        rknn_output output;
        std::memset(&output, 0, sizeof(output));
        output.want_float = 1;
        check(rknn_outputs_get(context_, 1, &output, nullptr), "rknn_outputs_get");
        const float *values = static_cast<const float *>(output.buf);
        std::vector<float> found(values, values + output.size / sizeof(float));
        check(rknn_outputs_release(context_, 1, &output), "rknn_outputs_release");
        return found;
    }

private:
    static void check(int code, const char *what) {
        if (code != RKNN_SUCC) throw std::runtime_error(std::string(what) + " failed with " + std::to_string(code));
    }
    rknn_context context_ = 0;
};
