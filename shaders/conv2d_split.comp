#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// 2-D convolution with its epilogue, of few output pixels: linear layers of a vector, say. Twin: core/src/nn/op/conv2d.rs.
//
// The invocations of a row share each sum: one takes every LANES-th step (four input channels at one tap), so that neighbours
// read neighbouring weights. Their partial sums are added up in pairs, always in the same order.

layout(local_size_x_id = 0, local_size_y_id = 1) in;
layout(constant_id = 2) const uint PIXELS = 1;
layout(constant_id = 3) const uint OUTS = 1;
// How the weights are stored: weights.glsl.
layout(constant_id = 4) const uint STORED = 0;
layout(constant_id = 5) const uint UPSAMPLE = 1;

#include "conv2d.glsl"

shared vec4 partial[gl_WorkGroupSize.x * gl_WorkGroupSize.y];

void main() {
    const uint lanes = gl_WorkGroupSize.x;
    uint lane = gl_LocalInvocationID.x;
    uint group = group_index();
    uint out_tile = group / out_pixels;
    uint pixel = group - out_tile * out_pixels;
    uint first_out = out_tile * gl_WorkGroupSize.y;
    // The whole group: barriers follow.
    if (first_out >= out4) {
        return;
    }
    uint out_index = first_out + gl_LocalInvocationID.y;
    uint x_first = image_index() * x_image;
    uint steps = kernel_h * kernel_w * in4;
    uint weight_first = weights_first(min(out_index, out4 - 1));
    uint pixel_y = pixel / out_w;
    uint top = pixel_y * stride - pad_top;
    uint left = (pixel - pixel_y * out_w) * stride - pad_left;

    vec4 sum = vec4(0.0);
    uint ky = 0;
    uint kx = 0;
    uint i = lane;
    for (uint step = lane; step < steps; step += lanes) {
        for (; i >= in4; i -= in4) {
            ++kx;
            if (kx == kernel_w) {
                kx = 0;
                ++ky;
            }
        }
        uint y = top + ky;
        uint c = left + kx;
        // What lies before the edge is a large number.
        if (y < in_h * UPSAMPLE && c < in_w * UPSAMPLE) {
            vec4 v = AT(x, x_first + (y / UPSAMPLE * in_w + c / UPSAMPLE) * in4 + i);
            vec4 w[4];
            load_weights(weight_first, ky * kernel_w + kx, i, w);
            sum += w[0] * v.x;
            sum += w[1] * v.y;
            sum += w[2] * v.z;
            sum += w[3] * v.w;
        }
        i += lanes;
    }

    uint place = gl_LocalInvocationID.y * lanes + lane;
    partial[place] = sum;
    for (uint count = lanes / 2; count > 0; count /= 2) {
        barrier();
        if (lane < count) {
            sum += partial[place + count];
            partial[place] = sum;
        }
    }
    if (lane == 0 && out_index < out4) {
        finish(pixel, out_index, sum * weights_scale(weight_first), shift_of(out_index));
    }
}
