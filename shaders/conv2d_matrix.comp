#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#pragma use_vulkan_memory_model
// 2-D convolution with its epilogue, for devices with matrix units: out = act((conv(x) + bias + channel + residual) * scale).
// Twin: core/src/nn/op/conv2d.rs. Values and weights are rounded to half floats; sums and the epilogue are f32.
//
// As conv2d_tile.comp, but a subgroup multiplies PIXELS by OUTS matrices of M pixels x N output channels, K input channels at a
// time; ROWS by COLUMNS subgroups make a group, whose tile they cover. All of a subgroup's invocations must be there.

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint ROWS = 4;
layout(constant_id = 2) const uint PIXELS = 2;
layout(constant_id = 3) const uint OUTS = 4;
// How the weights are stored: weights.glsl.
layout(constant_id = 4) const uint STORED = 0;
layout(constant_id = 5) const uint UPSAMPLE = 1;
layout(constant_id = 6) const uint COLUMNS = 2;
layout(constant_id = 7) const uint M = 16;
layout(constant_id = 8) const uint N = 16;
layout(constant_id = 9) const uint K = 16;

// Steps of a stage: K divides their 32 input channels.
const uint DEPTH = 8;
const uint TILE_PIXELS = ROWS * PIXELS * M;
const uint TILE_OUTS = COLUMNS * OUTS * N / 4;

#include "conv2d.glsl"
#include "stage.glsl"

// [pixel][4 * DEPTH of in] and [out][4 * DEPTH of in], with 16 bytes after each row: eight neighbouring rows begin in different
// banks, whoever stores or loads them.
const uint PITCH = DEPTH + 2;
shared f16vec4 x_tile[TILE_PIXELS * PITCH];
shared f16vec4 weight_tile[TILE_OUTS * 4 * PITCH];
// A matrix of each subgroup, on its way from the matrix unit's registers.
shared vec4 sum_tile[ROWS * COLUMNS * M * N / 4];

void store_stage() {
    [[unroll]] for (uint l = 0; l < X_LOADS; ++l) {
        uint pixel = line + l * LINES;
        if (pixel < TILE_PIXELS) {
            x_tile[pixel * PITCH + brought] = f16vec4(value[l]);
        }
    }
    [[unroll]] for (uint l = 0; l < WEIGHT_LOADS; ++l) {
        uint out_index = line + l * LINES;
        if (out_index < TILE_OUTS) {
            // From [in][out] to [out][in].
            mat4 w = transpose(mat4(kernel[l * 4], kernel[l * 4 + 1], kernel[l * 4 + 2], kernel[l * 4 + 3]));
            [[unroll]] for (uint j = 0; j < 4; ++j) {
                weight_tile[(out_index * 4 + j) * PITCH + brought] = f16vec4(w[j]);
            }
        }
    }
}

void main() {
    uint pixel_tiles = (out_pixels + TILE_PIXELS - 1) / TILE_PIXELS;
    uint group = group_index();
    uint out_tile = group / pixel_tiles;
    uint first_out = out_tile * TILE_OUTS;
    uint first_pixel = (group - out_tile * pixel_tiles) * TILE_PIXELS;
    // The whole group: barriers follow.
    if (first_out >= out4) {
        return;
    }
    // This subgroup's matrices in the tile.
    uint matrix_row = gl_SubgroupID % ROWS * PIXELS;
    uint matrix_column = gl_SubgroupID / ROWS * OUTS;

    coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator> sum[PIXELS * OUTS];
    [[unroll]] for (uint i = 0; i < PIXELS * OUTS; ++i) {
        sum[i] = coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>(0.0);
    }
    start_stages(first_pixel, first_out);
    fetch_stage();
    for (uint first = 0; first < steps; first += DEPTH) {
        store_stage();
        barrier();
        fetch_stage();
        for (uint k = 0; k < DEPTH * 4 / K; ++k) {
            coopmat<float16_t, gl_ScopeSubgroup, M, K, gl_MatrixUseA> v[PIXELS];
            [[unroll]] for (uint p = 0; p < PIXELS; ++p) {
                uint at = (matrix_row + p) * M * PITCH + k * (K / 4);
                coopMatLoad(v[p], x_tile, at, PITCH, gl_CooperativeMatrixLayoutRowMajor);
            }
            [[unroll]] for (uint q = 0; q < OUTS; ++q) {
                coopmat<float16_t, gl_ScopeSubgroup, K, N, gl_MatrixUseB> w;
                uint at = (matrix_column + q) * N * PITCH + k * (K / 4);
                coopMatLoad(w, weight_tile, at, PITCH, gl_CooperativeMatrixLayoutColumnMajor);
                [[unroll]] for (uint p = 0; p < PIXELS; ++p) {
                    sum[p * OUTS + q] = coopMatMulAdd(v[p], w, sum[p * OUTS + q]);
                }
            }
        }
        barrier();
    }

    uint first_sum = gl_SubgroupID * (M * N / 4);
    [[unroll]] for (uint q = 0; q < OUTS; ++q) {
        [[unroll]] for (uint p = 0; p < PIXELS; ++p) {
            coopMatStore(sum[p * OUTS + q], sum_tile, first_sum, N / 4, gl_CooperativeMatrixLayoutRowMajor);
            barrier();
            for (uint v = gl_SubgroupInvocationID; v < M * N / 4; v += gl_SubgroupSize) {
                uint pixel = first_pixel + (matrix_row + p) * M + v / (N / 4);
                uint out_index = first_out + (matrix_column + q) * (N / 4) + v % (N / 4);
                if (pixel < out_pixels && out_index < out4) {
                    vec4 factor = weights_scale(weights_first(out_index));
                    finish(pixel, out_index, sum_tile[first_sum + v] * factor, shift_of(out_index));
                }
            }
            barrier();
        }
    }
}
