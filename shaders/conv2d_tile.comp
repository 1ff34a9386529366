#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// 2-D convolution with its epilogue, for GPUs with fast shared memory: out = act((conv(x) + bias + channel + residual) * scale).
// Twin: core/src/nn/op/conv2d.rs. conv2d.comp computes the same from registers alone.
//
// An implicit matrix product: pixels x output channels, summed over kernel rows, kernel columns and input channels, in that
// order. A group makes a tile of the product. It goes through the sum in stages: a stage's values and weights are brought to
// shared memory, each once, and every invocation multiplies PIXELS pixels by OUTS * 4 output channels of them, while the next
// stage is on its way to registers.
//
// The sides of a group are multiples of 8 and 4, those of a tile multiples of eight pixels and vectors of output channels.

layout(local_size_x_id = 0, local_size_y_id = 1) in;
layout(constant_id = 2) const uint PIXELS = 8;
layout(constant_id = 3) const uint OUTS = 2;
// How the weights are stored: weights.glsl.
layout(constant_id = 4) const uint STORED = 0;
layout(constant_id = 5) const uint UPSAMPLE = 1;

const uint DEPTH = 4;
const uint TILE_PIXELS = gl_WorkGroupSize.x * PIXELS;
const uint TILE_OUTS = gl_WorkGroupSize.y * OUTS;

#include "conv2d.glsl"
#include "stage.glsl"

// [step][pixel], [step][4 of in][out4]. Who stores has consecutive steps of a column, who loads has consecutive columns of a
// step: columns are exchanged by step, so that eight neighbours always touch different banks.
shared vec4 x_tile[DEPTH * TILE_PIXELS];
shared vec4 weight_tile[DEPTH * 4 * TILE_OUTS];

uint exchanged(uint column, uint step) {
    return column ^ (step * (8 / DEPTH));
}

void store_stage() {
    [[unroll]] for (uint l = 0; l < X_LOADS; ++l) {
        uint pixel = line + l * LINES;
        if (pixel < TILE_PIXELS) {
            x_tile[brought * TILE_PIXELS + exchanged(pixel, brought)] = value[l];
        }
    }
    [[unroll]] for (uint l = 0; l < WEIGHT_LOADS; ++l) {
        uint out_index = line + l * LINES;
        if (out_index < TILE_OUTS) {
            [[unroll]] for (uint j = 0; j < 4; ++j) {
                weight_tile[(brought * 4 + j) * TILE_OUTS + exchanged(out_index, brought)] = kernel[l * 4 + j];
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
    // 32 neighbours make a block of 8 x 4 in the tile: few different values to load.
    uint lane = gl_LocalInvocationIndex;
    uint column = lane % 8 + lane / 32 % (gl_WorkGroupSize.x / 8) * 8;
    uint row = lane / 8 % 4 + lane / (gl_WorkGroupSize.x * 4) * 4;

    vec4 sum[PIXELS * OUTS];
    [[unroll]] for (uint i = 0; i < PIXELS * OUTS; ++i) {
        sum[i] = vec4(0.0);
    }
    start_stages(first_pixel, first_out);
    fetch_stage();
    for (uint first = 0; first < steps; first += DEPTH) {
        store_stage();
        barrier();
        fetch_stage();
        for (uint s = 0; s < DEPTH; ++s) {
            uint from = s * TILE_PIXELS + exchanged(column, s);
            vec4 v[PIXELS];
            [[unroll]] for (uint p = 0; p < PIXELS; ++p) {
                v[p] = x_tile[from + p * gl_WorkGroupSize.x];
            }
            [[unroll]] for (uint q = 0; q < OUTS; ++q) {
                vec4 w[4];
                [[unroll]] for (uint j = 0; j < 4; ++j) {
                    w[j] = weight_tile[(s * 4 + j) * TILE_OUTS + exchanged(q * gl_WorkGroupSize.y + row, s)];
                }
                // One after the other: four fused operations rather than five.
                [[unroll]] for (uint p = 0; p < PIXELS; ++p) {
                    sum[p * OUTS + q] += w[0] * v[p].x;
                    sum[p * OUTS + q] += w[1] * v[p].y;
                    sum[p * OUTS + q] += w[2] * v[p].z;
                    sum[p * OUTS + q] += w[3] * v[p].w;
                }
            }
        }
        barrier();
    }

    [[unroll]] for (uint q = 0; q < OUTS; ++q) {
        uint out_index = first_out + q * gl_WorkGroupSize.y + row;
        if (out_index >= out4) {
            continue;
        }
        vec4 factor = weights_scale(weights_first(out_index));
        vec4 add = shift_of(out_index);
        [[unroll]] for (uint p = 0; p < PIXELS; ++p) {
            uint pixel = first_pixel + p * gl_WorkGroupSize.x + column;
            if (pixel < out_pixels) {
                finish(pixel, out_index, sum[p * OUTS + q] * factor, add);
            }
        }
    }
}
