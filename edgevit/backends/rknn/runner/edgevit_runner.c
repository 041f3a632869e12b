/* Runs a .rknn on a board without Python and says what edgevit's Python runner says, as JSON lines.

       edgevit_runner MODEL PIXELS OUTPUTS RUNS SECONDS WARM_UP CORES [LIBRARY]

   PIXELS is an .npy of uint8 [n, height, width, channels], or "-" for none: then an image of one grey is timed.
   OUTPUTS becomes an .npy of float32 [n, elements]. CORES is how many the NPU has. LIBRARY is the runtime's path.

   One file of C99 on the public rknn_api.h; the library is opened when it runs, so nothing is linked.
   Not yet run on silicon. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "rknn_api.h"

#define MOST_SAMPLES 100000
#define KEPT_SAMPLES 2000

static struct {
    int (*init)(rknn_context *, void *, uint32_t, uint32_t, rknn_init_extend *);
    int (*destroy)(rknn_context);
    int (*query)(rknn_context, rknn_query_cmd, void *, uint32_t);
    int (*set_core_mask)(rknn_context, rknn_core_mask);
    rknn_tensor_mem *(*create_mem)(rknn_context, uint32_t);
    int (*destroy_mem)(rknn_context, rknn_tensor_mem *);
    int (*set_io_mem)(rknn_context, rknn_tensor_mem *, rknn_tensor_attr *);
    int (*run)(rknn_context, rknn_run_extend *);
} api;

static FILE *said; /* where JSON goes: kept until it is whole */
static int mini; /* librknnmrt of RV1103 and RV1106: it gives integers, and converts nothing */

static const char *PLACES[] = {
    "librknnrt.so", "librknnmrt.so", "/usr/lib/librknnrt.so", "/vendor/lib64/librknnrt.so",
    "/oem/usr/lib/librknnmrt.so", "/usr/lib/librknnmrt.so", NULL,
};

static void quoted(const char *text) {
    fputc('"', said);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') fprintf(said, "\\%c", c);
        else if (c < 32) fprintf(said, "\\u%04x", c);
        else fputc(c, said);
    }
    fputc('"', said);
}

static void fail(const char *format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    said = stdout; /* whatever was said so far is dropped */
    fprintf(said, "{\"error\": {\"why\": ");
    quoted(text);
    fprintf(said, "}}\n");
    fflush(stdout);
    exit(1);
}

static const char *meaning(int code) {
    switch (code) {
    case -1: return "it failed";
    case -2: return "it took too long";
    case -3: return "the NPU is not available: no driver, or another program holds it";
    case -4: return "out of memory";
    case -6: return "it does not take the model: the file is damaged, or made by a newer toolkit than the library";
    case -10: return "library and driver don't fit: update the board's image";
    case -11: return "the model is not compatible with the driver";
    case -12: return "the model's optimization level is not compatible with the driver";
    case -13: return "the model is made for another chip";
    default: return "an argument was refused";
    }
}

static void check(const char *name, int code) {
    if (code != 0) fail("the NPU's runtime failed: %s: %s (code %d)", name, meaning(code), code);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static void *all_of(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) != 0) fail("cannot read %s", path);
    *size = (size_t)ftell(file);
    rewind(file);
    void *data = malloc(*size ? *size : 1);
    if (!data || fread(data, 1, *size, file) != *size) fail("cannot read %s", path);
    fclose(file);
    return data;
}

static void *function(void *library, const char *name, int needed) {
    void *found = dlsym(library, name);
    if (!found && needed) fail("the NPU's runtime library has no %s", name);
    return found;
}

static void open_library(const char *path) {
    void *library = NULL;
    const char *opened = path;
    if (path) library = dlopen(path, RTLD_NOW);
    for (int i = 0; !path && !library && PLACES[i]; i++) library = dlopen(opened = PLACES[i], RTLD_NOW);
    if (!library) fail("there is no runtime library for the NPU that can be used (%s)", dlerror());
    mini = strstr(opened, "librknnmrt") != NULL;
    *(void **)&api.init = function(library, "rknn_init", 1);
    *(void **)&api.destroy = function(library, "rknn_destroy", 1);
    *(void **)&api.query = function(library, "rknn_query", 1);
    *(void **)&api.set_core_mask = function(library, "rknn_set_core_mask", 0);
    *(void **)&api.create_mem = function(library, "rknn_create_mem", 1);
    *(void **)&api.destroy_mem = function(library, "rknn_destroy_mem", 1);
    *(void **)&api.set_io_mem = function(library, "rknn_set_io_mem", 1);
    *(void **)&api.run = function(library, "rknn_run", 1);
}

typedef struct {
    rknn_context context;
    rknn_tensor_attr in, out;
    rknn_tensor_mem *input, *output;
    uint32_t height, width, channels, stride;
} session;

static session open_session(void *model, size_t size, uint32_t flags, int mask) {
    session s;
    memset(&s, 0, sizeof(s));
    check("rknn_init", api.init(&s.context, model, (uint32_t)size, flags, NULL));
    if (mask && api.set_core_mask) check("rknn_set_core_mask", api.set_core_mask(s.context, (rknn_core_mask)mask));
    rknn_input_output_num count;
    check("rknn_query", api.query(s.context, RKNN_QUERY_IN_OUT_NUM, &count, sizeof(count)));
    if (count.n_input != 1) fail("the model takes %u inputs; models of one can be run", count.n_input);
    if (count.n_output != 1) fail("the model gives %u outputs; models of one can be run", count.n_output);
    check("rknn_query", api.query(s.context, mini ? RKNN_QUERY_NATIVE_INPUT_ATTR : RKNN_QUERY_INPUT_ATTR, &s.in,
                                  sizeof(s.in)));
    if (s.in.n_dims != 4) fail("the model's input has %u dimensions, not the 4 of an image", s.in.n_dims);
    int last = s.in.fmt == RKNN_TENSOR_NHWC;
    s.height = s.in.dims[last ? 1 : 2];
    s.width = s.in.dims[last ? 2 : 3];
    s.channels = s.in.dims[last ? 3 : 1];
    s.stride = s.in.w_stride ? s.in.w_stride : s.width;
    s.in.type = RKNN_TENSOR_UINT8;
    s.in.fmt = RKNN_TENSOR_NHWC;
    uint32_t needed = s.height * s.stride * s.channels;
    if (needed < s.in.size_with_stride) needed = s.in.size_with_stride;
    if (!(s.input = api.create_mem(s.context, needed))) fail("rknn_create_mem: out of memory (%u bytes)", needed);
    check("rknn_set_io_mem", api.set_io_mem(s.context, s.input, &s.in));
    check("rknn_query", api.query(s.context, mini ? RKNN_QUERY_NATIVE_NHWC_OUTPUT_ATTR : RKNN_QUERY_OUTPUT_ATTR,
                                  &s.out, sizeof(s.out)));
    if (!mini) s.out.type = RKNN_TENSOR_FLOAT32;
    needed = mini ? s.out.size_with_stride : 4 * s.out.n_elems;
    if (!(s.output = api.create_mem(s.context, needed))) fail("rknn_create_mem: out of memory (%u bytes)", needed);
    check("rknn_set_io_mem", api.set_io_mem(s.context, s.output, &s.out));
    return s;
}

static void close_session(session *s) {
    api.destroy_mem(s->context, s->input);
    api.destroy_mem(s->context, s->output);
    api.destroy(s->context);
}

static void infer(session *s, const uint8_t *pixels, float *out) {
    uint32_t row = s->width * s->channels, step = s->stride * s->channels;
    for (uint32_t y = 0; y < s->height; y++)
        memcpy((uint8_t *)s->input->virt_addr + y * step, pixels + y * row, row);
    check("rknn_run", api.run(s->context, NULL));
    if (!mini) {
        memcpy(out, s->output->virt_addr, 4 * (size_t)s->out.n_elems);
        return;
    }
    const int8_t *bytes = s->output->virt_addr;
    const int16_t *words = s->output->virt_addr;
    for (uint32_t i = 0; i < s->out.n_elems; i++)
        out[i] = (float)((s->out.type == RKNN_TENSOR_INT16 ? words[i] : bytes[i]) - s->out.zp) * s->out.scale;
}

static int upwards(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double rank(const double *sorted, int n, double share) {
    int at = (int)ceil(share * n) - 1;
    return sorted[at < 0 ? 0 : at];
}

/* Times one set of cores and prints its summary. */
static void time_it(session *s, const uint8_t *pixels, float *out, int runs, double seconds, int warm_up) {
    static double samples[MOST_SAMPLES], sorted[MOST_SAMPLES];
    for (int i = 0; i < warm_up; i++) infer(s, pixels, out);
    int n = 0;
    double begun = now(), sum = 0;
    while (n < MOST_SAMPLES && (n < runs || now() - begun < 1e3 * seconds)) {
        double start = now();
        infer(s, pixels, out);
        sum += samples[n++] = now() - start;
    }
    memcpy(sorted, samples, sizeof(double) * (size_t)n);
    qsort(sorted, (size_t)n, sizeof(double), upwards);
    fprintf(said, "{\"n\": %d, \"min\": %.4f, \"p50\": %.4f, \"p90\": %.4f, \"p99\": %.4f, \"mean\": %.4f, "
           "\"throughput\": %.4f, \"samples_ms\": [",
           n, sorted[0], rank(sorted, n, 0.5), rank(sorted, n, 0.9), rank(sorted, n, 0.99), sum / n, 1e3 * n / sum);
    int step = (n + KEPT_SAMPLES - 1) / KEPT_SAMPLES;
    for (int i = 0; i < n; i += step) fprintf(said, "%s%.4f", i ? ", " : "", samples[i]);
    fprintf(said, "]}");
}

/* Pixels of an .npy; `n` images of `size` bytes each. */
static const uint8_t *pixels_of(const char *path, size_t size, size_t *n) {
    size_t bytes, header;
    uint8_t *data = all_of(path, &bytes);
    if (bytes < 12 || memcmp(data, "\x93NUMPY", 6) != 0) fail("%s is no .npy file", path);
    header = data[6] == 1 ? 10 + (size_t)(data[8] | data[9] << 8)
                          : 12 + (size_t)(data[8] | data[9] << 8 | data[10] << 16 | (size_t)data[11] << 24);
    if (bytes < header || (bytes - header) % size != 0)
        fail("%s does not hold images of %zu bytes, as the model takes them", path, size);
    *n = (bytes - header) / size;
    return data + header;
}

static void write_outputs(const char *path, const float *rows, size_t n, size_t elements) {
    char header[128], fields[118];
    int used = snprintf(fields, sizeof(fields), "{'descr': '<f4', 'fortran_order': False, 'shape': (%zu, %zu), }", n,
                        elements);
    memset(header, ' ', sizeof(header));
    memcpy(header, "\x93NUMPY\x01\x00\x76\x00", 10);
    memcpy(header + 10, fields, (size_t)used);
    header[127] = '\n';
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(header, 1, 128, file) != 128 || fwrite(rows, 4 * elements, n, file) != n || fclose(file))
        fail("cannot write %s", path);
}

static void line_of(const char *path, const char *key, char *out, size_t size) {
    char line[512];
    FILE *file = fopen(path, "r");
    out[0] = 0;
    while (file && fgets(line, sizeof(line), file)) {
        char *value = *key ? (strncmp(line, key, strlen(key)) == 0 ? strchr(line, ':') : NULL) : line - 1;
        if (!value) continue;
        value += 1 + strspn(value + 1, " \t");
        snprintf(out, size, "%.*s", (int)strcspn(value, "\n"), value);
        break;
    }
    if (file) fclose(file);
}

int main(int count, char **words) {
    if (count < 8) {
        fprintf(stderr, "edgevit_runner MODEL PIXELS OUTPUTS RUNS SECONDS WARM_UP CORES [LIBRARY]\n");
        return 2;
    }
    int runs = atoi(words[4]), warm_up = atoi(words[6]), cores = atoi(words[7]);
    double seconds = atof(words[5]);
    open_library(count > 8 ? words[8] : NULL);
    size_t size, n = 0;
    void *model = all_of(words[1], &size);
    double begun = now();
    session first = open_session(model, size, 0, cores > 1 ? 1 : 0);
    double load_ms = now() - begun;
    size_t image = (size_t)first.height * first.width * first.channels, elements = first.out.n_elems;
    uint8_t *grey = malloc(image);
    if (!grey) fail("out of memory");
    memset(grey, 128, image);
    const uint8_t *pixels = strcmp(words[2], "-") ? pixels_of(words[2], image, &n) : grey;
    float *rows = malloc(4 * elements * (n ? n : 1));
    if (!rows) fail("out of memory");
    begun = now();
    infer(&first, pixels, rows);
    double first_ms = now() - begun;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);

    char cpu[256], board[256], driver[256], memory[64];
    struct utsname system;
    uname(&system);
    line_of("/proc/cpuinfo", "model name", cpu, sizeof(cpu));
    line_of("/proc/device-tree/model", "", board, sizeof(board));
    line_of("/proc/meminfo", "MemTotal", memory, sizeof(memory));
    if (!cpu[0]) snprintf(cpu, sizeof(cpu), "%s", system.machine);
    rknn_sdk_version version;
    memset(&version, 0, sizeof(version));
    if (api.query(first.context, RKNN_QUERY_SDK_VERSION, &version, sizeof(version)) != 0)
        strcpy(version.api_version, "unknown");
    snprintf(driver, sizeof(driver), "%s", version.drv_version[0] ? version.drv_version : "not readable");

    char *text;
    size_t length;
    said = open_memstream(&text, &length);
    if (!said) fail("out of memory");
    fprintf(said, "{\"result\": {\"machine\": {\"model\": ");
    quoted(board[0] ? board : cpu);
    fprintf(said, ", \"cpu\": ");
    quoted(cpu);
    fprintf(said, ", \"cores\": %ld, \"memory_mb\": %ld, \"kernel\": ", sysconf(_SC_NPROCESSORS_ONLN), atol(memory) / 1024);
    quoted(system.release);
    fprintf(said, ", \"python\": null}, \"versions\": {\"librknnrt\": ");
    quoted(version.api_version);
    fprintf(said, ", \"rknpu driver\": ");
    quoted(driver);
    fprintf(said, "}, \"warnings\": [], \"load_ms\": %.4f, \"first_ms\": %.4f, \"peak_rss_mb\": %.2f, ", load_ms, first_ms,
           (double)usage.ru_maxrss / 1024);
    fprintf(said, "\"latency\": {\"threads\": {\"1\": ");
    time_it(&first, pixels, rows, runs, seconds, warm_up);
    fprintf(said, "}, \"best\": \"1\"}, \"core_masks\": ");
    if (cores > 1) {
        static const char *NAMES[] = {"0", "0_1", "0_1_2"};
        fprintf(said, "{");
        for (int used = 1; used <= cores && used <= 3; used++) {
            session s = open_session(model, size, 0, (1 << used) - 1);
            fprintf(said, "%s\"%s\": ", used > 1 ? ", " : "", NAMES[used - 1]);
            time_it(&s, pixels, rows, runs, seconds, warm_up);
            close_session(&s);
        }
        fprintf(said, "}");
    } else {
        fprintf(said, "null");
    }
    for (size_t i = 0; i < n; i++) infer(&first, pixels + i * image, rows + i * elements);
    if (n) write_outputs(words[3], rows, n, elements);
    close_session(&first);

    /* After everything else: to collect them slows an inference down. */
    fprintf(said, ", \"images\": %zu, \"tensors\": false, \"layer_times\": ", n);
    rknn_perf_detail detail;
    memset(&detail, 0, sizeof(detail));
    session watched = open_session(model, size, RKNN_FLAG_COLLECT_PERF_MASK, 0);
    infer(&watched, grey, rows);
    if (api.query(watched.context, RKNN_QUERY_PERF_DETAIL, &detail, sizeof(detail)) == 0 && detail.perf_data)
        quoted(detail.perf_data);
    else
        fprintf(said, "null");
    close_session(&watched);
    fprintf(said, "}}\n");
    fclose(said);
    fputs(text, stdout);
    return 0;
}
