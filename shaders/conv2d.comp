#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// 2-D convolution with its epilogue: out = act((conv(x) + bias + channel + residual) * scale).
// Twin: core/src/nn/op/conv2d.rs.
//
// An implicit matrix product: pixels x output channels, summed over kernel rows, kernel columns and input channels, in that
// order. An invocation holds PIXELS pixels by OUTS * 4 output channels in registers and shares nothing: no barrier, no
// shared memory. Neighbours along x take neighbouring pixels and read the same weights.

layout(local_size_x_id = 0, local_size_y_id = 1) in;
layout(constant_id = 2) const uint PIXELS = 4;
layout(constant_id = 3) const uint OUTS = 4;
// How the weights are stored: weights.glsl.
layout(constant_id = 4) const uint STORED = 0;
// Nearest-neighbour enlargement of what is read. A constant: software drivers divide lane by lane.
layout(constant_id = 5) const uint UPSAMPLE = 1;

#include "conv2d.glsl"

void main() {
    uint pixel_tile = gl_WorkGroupSize.x * PIXELS;
    uint pixel_tiles = (out_pixels + pixel_tile - 1) / pixel_tile;
    uint group = group_index();
    uint out_tile = group / pixel_tiles;
    uint first_out = (out_tile * gl_WorkGroupSize.y + gl_LocalInvocationID.y) * OUTS;
    uint first_pixel = (group - out_tile * pixel_tiles) * pixel_tile + gl_LocalInvocationID.x;
    uint x_first = image_index() * x_image;
    if (first_out >= out4 || first_pixel >= out_pixels) {
        return;
    }

    int height = int(in_h * UPSAMPLE);
    int width = int(in_w * UPSAMPLE);
    int row[PIXELS];
    int column[PIXELS];
    [[unroll]] for (uint p = 0; p < PIXELS; ++p) {
        uint pixel = min(first_pixel + p * gl_WorkGroupSize.x, out_pixels - 1);
        uint y = pixel / out_w;
        row[p] = int(y * stride) - int(pad_top);
        column[p] = int((pixel - y * out_w) * stride) - int(pad_left);
    }
    uint weight_first[OUTS];
    [[unroll]] for (uint q = 0; q < OUTS; ++q) {
        weight_first[q] = weights_first(min(first_out + q, out4 - 1));
    }

    vec4 sum[PIXELS * OUTS];
    [[unroll]] for (uint i = 0; i < PIXELS * OUTS; ++i) {
        sum[i] = vec4(0.0);
    }
    uint tap = 0;
    for (int ky = 0; ky < int(kernel_h); ++ky) {
        for (int kx = 0; kx < int(kernel_w); ++kx) {
            uint from[PIXELS];
            bool inside[PIXELS];
            [[unroll]] for (uint p = 0; p < PIXELS; ++p) {
                int y = row[p] + ky;
                int c = column[p] + kx;
                inside[p] = y >= 0 && y < height && c >= 0 && c < width;
                uint source = (uint(y) / UPSAMPLE) * in_w + uint(c) / UPSAMPLE;
                from[p] = x_first + (inside[p] ? source * in4 : 0);
            }
            for (uint i = 0; i < in4; ++i) {
                vec4 value[PIXELS];
                [[unroll]] for (uint p = 0; p < PIXELS; ++p) {
                    vec4 v = AT(x, from[p] + i);
                    value[p] = mix(vec4(0.0), v, bvec4(inside[p]));
                }
                [[unroll]] for (uint q = 0; q < OUTS; ++q) {
                    vec4 w[4];
                    load_weights(weight_first[q], tap, i, w);
                    [[unroll]] for (uint p = 0; p < PIXELS; ++p) {
                        vec4 v = value[p];
                        sum[p * OUTS + q] += w[0] * v.x + w[1] * v.y + w[2] * v.z + w[3] * v.w;
                    }
                }
            }
            ++tap;
        }
    }

    [[unroll]] for (uint q = 0; q < OUTS; ++q) {
        uint out_index = first_out + q;
        if (out_index >= out4) {
            continue;
        }
        vec4 factor = weights_scale(weight_first[q]);
        vec4 add = shift_of(out_index);
        [[unroll]] for (uint p = 0; p < PIXELS; ++p) {
            uint pixel = first_pixel + p * gl_WorkGroupSize.x;
            if (pixel < out_pixels) {
                finish(pixel, out_index, sum[p * OUTS + q] * factor, add);
            }
        }
    }
}
