// Runs this folder's model: pictures, a camera, and the self-test. CMakeLists.txt says what it needs.
//
//   cmake -B build && cmake --build build
//   build/run --self-test
//   build/run picture.ppm            with OpenCV also .jpg, .png, and: build/run --camera 0
//
// Without OpenCV pictures are binary .ppm or .pgm of the model's own size; golden/ has some.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "model.h"    // what the model takes and gives
#include "runtime.h"  // class Model, over the library that runs it

#ifdef WITH_OPENCV
#include <opencv2/opencv.hpp>
#endif

using Bytes = std::vector<uint8_t>;
using Floats = std::vector<float>;

static Bytes read_file(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path);
    return Bytes(std::istreambuf_iterator<char>(file), {});
}

// Pixels of a binary .ppm (RGB) or .pgm of the model's size, in the model's order of channels.
static Bytes read_pnm(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    int width = 0, height = 0, most = 0;
    if (!(file >> kind >> width >> height >> most) || most != 255 || kind != (CHANNELS == 3 ? "P6" : "P5"))
        throw std::runtime_error("no binary .ppm or .pgm: " + path);
    if (width != WIDTH || height != HEIGHT)
        throw std::runtime_error(path + " is not " + std::to_string(WIDTH) + "x" + std::to_string(HEIGHT));
    file.get();  // one blank
    Bytes pixels(static_cast<size_t>(WIDTH) * HEIGHT * CHANNELS);
    if (!file.read(reinterpret_cast<char *>(pixels.data()), static_cast<std::streamsize>(pixels.size())))
        throw std::runtime_error(path + " is cut off");
    if (BGR)
        for (size_t at = 0; at + 2 < pixels.size(); at += 3) std::swap(pixels[at], pixels[at + 2]);
    return pixels;
}

#ifdef WITH_OPENCV
static Bytes fitted(const cv::Mat &picture) {  // BGR, any size
    cv::Mat resized, cropped;
    double scale = std::max(double(RESIZE_WIDTH) / picture.cols, double(RESIZE_HEIGHT) / picture.rows);
    cv::Size size = SQUASH ? cv::Size(RESIZE_WIDTH, RESIZE_HEIGHT)
                           : cv::Size(std::max(WIDTH, int(std::lround(picture.cols * scale))),
                                      std::max(HEIGHT, int(std::lround(picture.rows * scale))));
    cv::resize(picture, resized, size, 0, 0, size.width < picture.cols ? cv::INTER_AREA : cv::INTER_CUBIC);
    cropped = resized(cv::Rect((resized.cols - WIDTH) / 2, (resized.rows - HEIGHT) / 2, WIDTH, HEIGHT)).clone();
    if (CHANNELS == 1)
        cv::cvtColor(cropped, cropped, cv::COLOR_BGR2GRAY);
    else if (!BGR)
        cv::cvtColor(cropped, cropped, cv::COLOR_BGR2RGB);
    return Bytes(cropped.datastart, cropped.dataend);
}
#endif

static Bytes read_picture(const std::string &path) {
    std::string end = path.size() > 4 ? path.substr(path.size() - 4) : path;
    if (end == ".ppm" || end == ".pgm") return read_pnm(path);
#ifdef WITH_OPENCV
    cv::Mat picture = cv::imread(path, cv::IMREAD_COLOR);
    if (picture.empty()) throw std::runtime_error("cannot read " + path);
    return fitted(picture);
#else
    throw std::runtime_error(path + ": built without OpenCV, which reads only .ppm and .pgm");
#endif
}

static double cosine_of(const float *ours, const float *theirs, size_t count) {
    double dot = 0, own = 0, other = 0;
    for (size_t at = 0; at < count; ++at) {
        dot += double(ours[at]) * theirs[at];
        own += double(ours[at]) * ours[at];
        other += double(theirs[at]) * theirs[at];
    }
    return dot / std::max(std::sqrt(own * other), 1e-12);
}

// A class; of what is none, what there is, and of an embedding how near it is to the first picture's.
static std::string said(const Floats &outputs, Floats &first) {
    char text[64];
    if (!CLASSIFIES) {
        if (first.empty()) first = outputs;
        std::snprintf(text, sizeof(text), ", cosine to the first %.3f",
                      cosine_of(outputs.data(), first.data(), std::min(outputs.size(), first.size())));
        return EMBEDS ? std::string(OUTPUT) + text : OUTPUT;
    }
    size_t best = static_cast<size_t>(std::max_element(outputs.begin(), outputs.end()) - outputs.begin());
    double sum = 0;
    for (float each : outputs) sum += std::exp(double(each) - outputs[best]);
    std::snprintf(text, sizeof(text), " %.1f %%", 100 / sum);
    return (best < LABELS.size() ? LABELS[best] : "class " + std::to_string(best)) + text;
}

// The float32 rows of golden/outputs.npy.
static Floats read_npy(const std::string &path) {
    Bytes file = read_file(path);
    if (file.size() < 10 || std::memcmp(file.data(), "\x93NUMPY", 6) != 0) throw std::runtime_error("no .npy: " + path);
    size_t start = 10 + file[8] + 256u * file[9];
    Floats values((file.size() - std::min(start, file.size())) / sizeof(float));
    std::memcpy(values.data(), file.data() + start, values.size() * sizeof(float));
    return values;
}

static int self_test(Model &model, const std::string &folder) {
    const Floats expected = read_npy(folder + "golden/outputs.npy");
    int failed = 0;
    for (int number = 0; number < GOLDEN; ++number) {
        std::string name = std::to_string(number) + (CHANNELS == 3 ? ".ppm" : ".pgm");
        Bytes pixels = read_pnm(folder + "golden/" + name);
        Floats found = model.run(pixels);
        const float *wanted = expected.data() + static_cast<size_t>(number) * VALUES;
        double apart = 0, largest = 1e-12;
        size_t count = std::min(found.size(), VALUES);
        for (size_t at = 0; at < count; ++at) {
            apart = std::max(apart, std::fabs(double(found[at]) - wanted[at]));
            largest = std::max(largest, std::fabs(double(wanted[at])));
        }
        double cosine = cosine_of(found.data(), wanted, count);
        bool same = found.size() == VALUES && (apart <= 0.1 * largest || cosine >= 0.99);
        std::printf("%s %s (largest difference %.1f %%, cosine %.4f)\n", same ? "ok   " : "FAIL ", name.c_str(),
                    100 * apart / largest, cosine);
        failed += !same;
    }
    std::printf(failed ? "%d of %d pictures are computed otherwise than by the %s\n"
                       : "this device computes what it should: %d failures in %d pictures, as by the %s\n",
                failed, GOLDEN, HOW);
    return failed ? 1 : 0;
}

int main(int count, char **words) try {
    std::string folder = FOLDER;
    Model model(read_file(folder + FILE_NAME));
    Floats first;  // picture's outputs
    for (int at = 1; at < count; ++at) {
        std::string word = words[at];
        if (word == "--self-test") return self_test(model, folder);
#ifdef WITH_OPENCV
        if (word == "--camera" && at + 1 < count) {
            cv::VideoCapture camera(std::stoi(words[at + 1]));
            cv::Mat frame;
            auto begun = std::chrono::steady_clock::now();
            for (int frames = 1; camera.read(frame); ++frames) {
                Bytes pixels = fitted(frame);
                std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begun;
                std::printf("%5.1f frames a second  %s\n", frames / spent.count(), said(model.run(pixels), first).c_str());
            }
            return 0;
        }
#endif
        Bytes pixels = read_picture(word);
        auto begun = std::chrono::steady_clock::now();
        Floats outputs = model.run(pixels);
        std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begun;
        std::printf("%s: %s (%.1f ms)\n", word.c_str(), said(outputs, first).c_str(), took.count());
    }
    return 0;
} catch (const std::exception &error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
}
