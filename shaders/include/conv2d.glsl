// What the kernels of convolutions share: their buffers and parameters, weights, and the epilogue
// act((conv(x) + bias + channel + residual) * scale).

#include "read.glsl"

READ(0, X, x);
READ(1, Weight, weight);
READ(2, Bias, bias);
READ(3, Channel, channel);
READ(4, Residual, residual);
layout(set = 0, binding = 5) writeonly buffer Out { vec4 result[]; };

layout(push_constant) uniform Push {
    uint first_group;
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
#include "weights.glsl"

// What is added to every pixel's sums of four output channels.
vec4 shift_of(uint out_index) {
    vec4 add = vec4(0.0);
    if ((has & HAS_BIAS) != 0) {
        add += AT(bias, out_index);
    }
    if ((has & HAS_CHANNEL) != 0) {
        add += AT(channel, image_index() * channel_image + out_index);
    }
    return add;
}

// Finishes a pixel's sums of four output channels, and writes them.
void finish(uint pixel, uint out_index, vec4 sum, vec4 add) {
    uint i = pixel * out4 + out_index;
    vec4 v = sum + add;
    if ((has & HAS_RESIDUAL) != 0) {
        v += AT(residual, image_index() * residual_image + i);
    }
    v = activate(v * scale, act);
    result[image_index() * out_image + i] = keep(v, out_index * 4, out_c);
}
