/* libnvidia-ml.so.1 of a machine with three GPUs: one that tells all, one that tells its memory only, one that is lost. */
#include <string.h>

typedef struct { unsigned int gpu, memory; } utilization;
typedef struct { unsigned long long total, free, used; } memory;

enum { SUCCESS = 0, NOT_SUPPORTED = 3, GPU_IS_LOST = 15 };

static int gpus[3];
static int is_first(const int *gpu) { return gpu == &gpus[0]; }

int nvmlInitWithFlags(unsigned int flags) { return SUCCESS; }
const char *nvmlErrorString(int error) { return "an error"; }

int nvmlDeviceGetCount_v2(unsigned int *count) {
    *count = 3;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, int **gpu) {
    *gpu = &gpus[index];
    return index == 2 ? GPU_IS_LOST : SUCCESS;
}

int nvmlDeviceGetUUID(int *gpu, char *uuid, unsigned int length) {
    strncpy(uuid, is_first(gpu) ? "GPU-a" : "GPU-b", length);
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(int *gpu, utilization *rates) {
    rates->gpu = 87;
    return is_first(gpu) ? SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetMemoryInfo(int *gpu, memory *info) {
    info->total = 80000000000ULL;
    info->used = is_first(gpu) ? 72000000000ULL : 1000000000ULL;
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(int *gpu, unsigned int *milliwatts) {
    *milliwatts = 512500;
    return is_first(gpu) ? SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetTemperature(int *gpu, int sensor, unsigned int *celsius) {
    *celsius = 61;
    return is_first(gpu) ? SUCCESS : NOT_SUPPORTED;
}
