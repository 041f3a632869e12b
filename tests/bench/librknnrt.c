/* A stand-in for librknnrt.so, and, compiled with -DMINI, for librknnmrt.so, which converts nothing: the calls, structures and error codes that edgevit uses, on a made-up model.

   A model is the text "RKNN height width channels classes" and words that make it fail. Output k is the sum of all
   input bytes whose number leaves k when divided by the number of classes, over 1000, plus the core mask. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rknn_api.h"

typedef struct {
    unsigned height, width, channels, classes, stride, mask, flags;
    int fails, no_memory;
    rknn_tensor_mem *input, *output;
} state;

const char *banner = "librknnrt version: 2.5.0 (stand-in)";
int loaded;

int rknn_init(rknn_context *context, void *model, uint32_t size, uint32_t flag, void *extend) {
    char text[512] = {0};
    (void)extend;
    memcpy(text, model, size < 511 ? size : 511);
    if (strncmp(text, "RKNN ", 5) != 0) return -6;
    if (strstr(text, "newer")) return -6;
    if (strstr(text, "busy")) return -3;
    if (strstr(text, "other-chip")) return -13;
    state *made = calloc(1, sizeof(state));
    if (sscanf(text, "RKNN %u %u %u %u", &made->height, &made->width, &made->channels, &made->classes) != 4) return -6;
    made->stride = (made->width + 15) / 16 * 16;
    made->fails = strstr(text, "fails") != NULL;
    made->no_memory = strstr(text, "no-memory") != NULL;
    made->flags = flag;
    loaded++;
    *context = (rknn_context)(uintptr_t)made;
    return 0;
}

int rknn_dup_context(rknn_context *from, rknn_context *to) {
    state *made = malloc(sizeof(state));
    *made = *(state *)(uintptr_t)*from;
    made->input = made->output = NULL;
    *to = (rknn_context)(uintptr_t)made;
    return 0;
}

int rknn_destroy(rknn_context context) {
    free((state *)(uintptr_t)context);
    return 0;
}

int rknn_set_core_mask(rknn_context context, int mask) {
    ((state *)(uintptr_t)context)->mask = (unsigned)mask;
    return 0;
}

static char table[4096];

int rknn_query(rknn_context context, int command, void *info, uint32_t size) {
    state *made = (state *)(uintptr_t)context;
    if (command == 0 && size == sizeof(rknn_input_output_num)) {
        ((rknn_input_output_num *)info)->n_input = ((rknn_input_output_num *)info)->n_output = 1;
    } else if ((command == 1 || command == 8) && size == sizeof(rknn_tensor_attr)) {
        rknn_tensor_attr *attr = info;
        uint32_t dims[4] = {1, made->height, made->width, made->channels};
        attr->n_dims = 4;
        memcpy(attr->dims, dims, sizeof(dims));
        strcpy(attr->name, "input");
        attr->n_elems = attr->size = made->height * made->width * made->channels;
        attr->fmt = 1;
        attr->type = 2;
        attr->qnt_type = 2;
        attr->scale = 1;
        attr->w_stride = made->stride;
        attr->size_with_stride = made->height * made->stride * made->channels;
    } else if ((command == 2 || command == 11) && size == sizeof(rknn_tensor_attr)) {
        rknn_tensor_attr *attr = info;
        attr->n_dims = 2;
        attr->dims[0] = 1;
        attr->dims[1] = made->classes;
        strcpy(attr->name, "output");
        attr->n_elems = attr->size = made->classes;
        attr->type = 2;
        attr->fmt = 3;
#ifdef MINI
        attr->zp = -3;
        attr->scale = 0.5f;
        attr->size_with_stride = made->classes;
#endif
    } else if (command == 3 && size == sizeof(rknn_perf_detail)) {
        if (!(made->flags & 8)) return -1;
        snprintf(table, sizeof(table),
                 "                         Network Layer Information Table\n"
                 "ID   OpType           DataType Target InputShape                       OutputShape      "
                 "Cycles(DDR/NPU/Total)    Time(us)     MacUsage(%%)          WorkLoad(0/1/2)      RW(KB)       FullName\n"
                 "1    InputOperator    UINT8    CPU    \\                                (1,3,%u,%u)      "
                 "0/0/0                    4            \\                    0.0%%/0.0%%/0.0%%       0            InputOperator:images\n"
                 "2    Conv             INT8     NPU    (1,3,%u,%u),(8,3,3,3),(8)        (1,8,4,4)        "
                 "120/300/300              52           2.41/0.00/0.00       100.0%%/0.0%%/0.0%%     1            Conv:/patch embed/Conv\n"
                 "3    OutputOperator   INT8     CPU    (1,%u)                           \\                "
                 "0/0/0                    9                                 0.0%%/0.0%%/0.0%%       0            \n",
                 made->height, made->width, made->height, made->width, made->classes);
        ((rknn_perf_detail *)info)->perf_data = table;
        ((rknn_perf_detail *)info)->data_len = strlen(table);
    } else if (command == 5 && size == sizeof(rknn_sdk_version)) {
        strcpy(((rknn_sdk_version *)info)->api_version, "2.5.0 (stand-in)");
        strcpy(((rknn_sdk_version *)info)->drv_version, "0.9.8");
    } else {
        return -5;
    }
    return 0;
}

rknn_tensor_mem *rknn_create_mem(rknn_context context, uint32_t size) {
    if (((state *)(uintptr_t)context)->no_memory) return NULL;
    rknn_tensor_mem *memory = calloc(1, sizeof(rknn_tensor_mem));
    memory->virt_addr = calloc(1, size);
    memory->size = size;
    return memory;
}

int rknn_destroy_mem(rknn_context context, rknn_tensor_mem *memory) {
    (void)context;
    free(memory->virt_addr);
    free(memory);
    return 0;
}

int rknn_set_io_mem(rknn_context context, rknn_tensor_mem *memory, rknn_tensor_attr *attr) {
    state *made = (state *)(uintptr_t)context;
    if (strcmp(attr->name, "input") == 0) {
        if (attr->type != 3 || attr->fmt != 1 || memory->size < attr->size_with_stride) return -8;
        made->input = memory;
    } else {
#ifdef MINI
        if (attr->type != 2 || memory->size < made->classes) return -9;
#else
        if (attr->type != 0 || memory->size < 4 * made->classes) return -9;
#endif
        made->output = memory;
    }
    return 0;
}

int rknn_run(rknn_context context, void *extend) {
    state *made = (state *)(uintptr_t)context;
    (void)extend;
    if (made->fails || !made->input || !made->output) return -1;
    const uint8_t *pixels = made->input->virt_addr;
    float *out = made->output->virt_addr;
    uint32_t *sums = calloc(made->classes, sizeof(uint32_t));
    unsigned row = made->width * made->channels;
    for (unsigned y = 0; y < made->height; y++)
        for (unsigned x = 0; x < row; x++)
            sums[(y * row + x) % made->classes] += pixels[y * made->stride * made->channels + x];
#ifdef MINI
    for (unsigned k = 0; k < made->classes; k++) ((int8_t *)out)[k] = (int8_t)(sums[k] % 100) - 3;
#else
    for (unsigned k = 0; k < made->classes; k++) out[k] = sums[k] / 1000.0f + (float)made->mask;
#endif
    free(sums);
    return 0;
}

#ifndef MINI
/* The calls of the vendor's general API: pixels are copied in, numbers out. */
int rknn_inputs_set(rknn_context context, uint32_t count, rknn_input inputs[]) {
    state *made = (state *)(uintptr_t)context;
    unsigned row = made->width * made->channels;
    if (count != 1 || inputs[0].type != 3 || inputs[0].fmt != 1 || inputs[0].size != made->height * row) return -8;
    made->input = rknn_create_mem(context, made->height * made->stride * made->channels);
    made->output = rknn_create_mem(context, 4 * made->classes);
    for (unsigned y = 0; y < made->height; y++)
        memcpy((uint8_t *)made->input->virt_addr + y * made->stride * made->channels, (uint8_t *)inputs[0].buf + y * row, row);
    return 0;
}

int rknn_outputs_get(rknn_context context, uint32_t count, rknn_output outputs[], void *extend) {
    state *made = (state *)(uintptr_t)context;
    (void)extend;
    if (count != 1 || !outputs[0].want_float || !made->output) return -9;
    outputs[0].buf = made->output->virt_addr;
    outputs[0].size = 4 * made->classes;
    return 0;
}

int rknn_outputs_release(rknn_context context, uint32_t count, rknn_output outputs[]) {
    state *made = (state *)(uintptr_t)context;
    (void)count;
    (void)outputs;
    rknn_destroy_mem(context, made->input);
    rknn_destroy_mem(context, made->output);
    made->input = made->output = NULL;
    return 0;
}
#endif
