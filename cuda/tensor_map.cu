/* tensor_map.cu - how the copies of Hopper's that know tiles are told of a matrix. The function
 * that encodes a map is the driver's, which nobody links.
 */
#include <cudaTypedefs.h>
#include <stdlib.h>

#include "matmul_parts.cuh"

struct tensor_maps {
    PFN_cuTensorMapEncodeTiled_v12000 encode;
};

void tensor_map_prepare(struct device *device) {
    void *encode;
    cudaDriverEntryPointQueryResult found;
    CHECK_CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000,
                                                cudaEnableDefault, &found));
    if (found != cudaDriverEntryPointSuccess)
        check_fail("the CUDA driver has no cuTensorMapEncodeTiled");
    device->tensor_maps = (struct tensor_maps *)check_alloc(1, sizeof *device->tensor_maps);
    device->tensor_maps->encode = (PFN_cuTensorMapEncodeTiled_v12000)encode;
}

void tensor_map_close(struct device *device) {
    free(device->tensor_maps);
}

CUtensorMap tensor_map(const struct device *device, const struct tiling *tiling) {
    CUtensorMap map;
    cuuint32_t step[MOST_DIMENSIONS] = {1, 1, 1, 1};
    CUresult result = device->tensor_maps->encode(
        &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, (cuuint32_t)tiling->n_dimensions,
        (void *)tiling->matrix, tiling->size, tiling->stride_bytes, tiling->box, step,
        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS)
        check_fail("no tensor map of %d dimensions of a matrix with rows %llu bytes apart: CUDA "
                   "error %d",
                   tiling->n_dimensions, (unsigned long long)tiling->stride_bytes[0], (int)result);
    return map;
}

CUtensorMap row_map(const struct device *device, const void *matrix, struct matrix_shape shape,
                    int n_rows, int n_boxes) {
    struct tiling tiling = {3,
                            matrix,
                            {BOX, (cuuint64_t)shape.rows, (cuuint64_t)(shape.columns / BOX)},
                            {(cuuint64_t)shape.stride * 2, BOX_ROW_BYTES},
                            {BOX, (cuuint32_t)n_rows, (cuuint32_t)n_boxes}};
    return tensor_map(device, &tiling);
}
