#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// 2-D convolution with its epilogue: out = act((conv(x) + bias + channel + residual) * scale).
// Twin: core/src/nn/op/conv2d.rs.
//
// An implicit matrix product: pixels x output channels, summed over kernel rows, kernel columns and input channels, in that
// order. An invocation holds PIXELS pixels by OUTS * 4 output channels in registers and shares nothing: no barrier, no
// shared memory. Neighbours along x take neighbouring pixels and read the same weights.
//
// Weights lie as [out4][ky][kx][in4][4 of in][4 of out], so that the four vectors of one step are contiguous.

layout(local_size_x_id = 0, local_size_y_id = 1) in;
layout(constant_id = 2) const uint PIXELS = 4;
layout(constant_id = 3) const uint OUTS = 4;
layout(constant_id = 4) const bool HALF = false;

layout(set = 0, binding = 0) readonly buffer X { vec4 x[]; };
layout(set = 0, binding = 1) readonly buffer Weight { vec4 weight[]; };
layout(set = 0, binding = 1) readonly buffer WeightHalf { uvec2 weight_half[]; };
layout(set = 0, binding = 2) readonly buffer Bias { vec4 bias[]; };
layout(set = 0, binding = 3) readonly buffer Channel { vec4 channel[]; };
layout(set = 0, binding = 4) readonly buffer Residual { vec4 residual[]; };
layout(set = 0, binding = 5) writeonly buffer Out { vec4 result[]; };

layout(push_constant) uniform Push {
    uint in_h;
    uint in_w;
    uint in4;
    uint out_w;
    uint out_pixels;
    uint out4;
    uint out_c;
    uint kernel_h;
    uint kernel_w;
    uint stride;
    uint pad_top;
    uint pad_left;
    uint upsample;
    uint x_image;
    uint channel_image;
    uint residual_image;
    uint out_image;
    uint has;
    float scale;
    uint act;
};

const uint HAS_BIAS = 1;
const uint HAS_CHANNEL = 2;
const uint HAS_RESIDUAL = 4;

#include "invocation.glsl"
#include "lanes.glsl"
#include "act.glsl"

vec4 load_weight(uint i) {
    if (HALF) {
        uvec2 h = weight_half[i];
        return vec4(unpackHalf2x16(h.x), unpackHalf2x16(h.y));
    }
    return weight[i];
}

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

    int height = int(in_h * upsample);
    int width = int(in_w * upsample);
    int row[PIXELS];
    int column[PIXELS];
    [[unroll]] for (uint p = 0; p < PIXELS; ++p) {
        uint pixel = min(first_pixel + p * gl_WorkGroupSize.x, out_pixels - 1);
        row[p] = int(pixel / out_w * stride) - int(pad_top);
        column[p] = int(pixel % out_w * stride) - int(pad_left);
    }
    uint weight_step = kernel_h * kernel_w * in4 * 4;
    uint weight_first[OUTS];
    [[unroll]] for (uint q = 0; q < OUTS; ++q) {
        weight_first[q] = min(first_out + q, out4 - 1) * weight_step;
    }

    vec4 sum[PIXELS * OUTS];
    [[unroll]] for (uint i = 0; i < PIXELS * OUTS; ++i) {
        sum[i] = vec4(0.0);
    }
    uint step = 0;
    for (int ky = 0; ky < int(kernel_h); ++ky) {
        for (int kx = 0; kx < int(kernel_w); ++kx) {
            uint from[PIXELS];
            bool inside[PIXELS];
            [[unroll]] for (uint p = 0; p < PIXELS; ++p) {
                int y = row[p] + ky;
                int c = column[p] + kx;
                inside[p] = y >= 0 && y < height && c >= 0 && c < width;
                uint source = (uint(y) / upsample) * in_w + uint(c) / upsample;
                from[p] = x_first + (inside[p] ? source * in4 : 0);
            }
            for (uint i = 0; i < in4; ++i) {
                vec4 value[PIXELS];
                [[unroll]] for (uint p = 0; p < PIXELS; ++p) {
                    vec4 v = x[from[p] + i];
                    value[p] = mix(vec4(0.0), v, bvec4(inside[p]));
                }
                [[unroll]] for (uint q = 0; q < OUTS; ++q) {
                    uint w = weight_first[q] + step;
                    vec4 w0 = load_weight(w);
                    vec4 w1 = load_weight(w + 1);
                    vec4 w2 = load_weight(w + 2);
                    vec4 w3 = load_weight(w + 3);
                    [[unroll]] for (uint p = 0; p < PIXELS; ++p) {
                        vec4 v = value[p];
                        sum[p * OUTS + q] += w0 * v.x + w1 * v.y + w2 * v.z + w3 * v.w;
                    }
                }
                step += 4;
            }
        }
    }

    [[unroll]] for (uint q = 0; q < OUTS; ++q) {
        uint out_index = first_out + q;
        if (out_index >= out4) {
            continue;
        }
        vec4 add = vec4(0.0);
        if ((has & HAS_BIAS) != 0) {
            add += bias[out_index];
        }
        if ((has & HAS_CHANNEL) != 0) {
            add += channel[image_index() * channel_image + out_index];
        }
        [[unroll]] for (uint p = 0; p < PIXELS; ++p) {
            uint pixel = first_pixel + p * gl_WorkGroupSize.x;
            if (pixel >= out_pixels) {
                continue;
            }
            uint i = pixel * out4 + out_index;
            vec4 v = sum[p * OUTS + q] + add;
            if ((has & HAS_RESIDUAL) != 0) {
                v += residual[image_index() * residual_image + i];
            }
            v = activate(v * scale, act);
            result[image_index() * out_image + i] = keep(v, out_index * 4, out_c);
        }
    }
}
