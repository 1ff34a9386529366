#version 450
#extension GL_GOOGLE_include_directive : require
// Layer normalisation: out = (x - mean) / deviation * gamma + beta over the channels of each pixel, or of
// each of its heads; with RMS, the mean is 0.
// Twin: core/src/nn/op/layer_norm.rs. One invocation a pixel or head.

layout(local_size_x_id = 0) in;

#include "read.glsl"

READ(0, X, x);
READ(1, Gamma, gamma);
READ(2, Beta, beta);
layout(set = 0, binding = 3) writeonly buffer Out { vec4 result[]; };

layout(push_constant) uniform Push {
    uint first_group;
    uint items;
    uint c4;
    uint c;
    uint x_image;
    uint out_image;
    uint has;
    float eps;
};

const uint HAS_GAMMA = 1;
const uint HAS_BETA = 2;
const uint RMS = 4;

#include "invocation.glsl"
#include "lanes.glsl"

float lanes(vec4 v) {
    return (v.x + v.y) + (v.z + v.w);
}

void main() {
    uint pixel = item_index();
    if (pixel >= items) {
        return;
    }
    uint from = image_index() * x_image + pixel * c4;
    vec4 sum = vec4(0.0);
    for (uint i = 0; i < c4; ++i) {
        sum += AT(x, from + i);
    }
    float about = (has & RMS) != 0 ? 0.0 : lanes(sum) / float(c);
    // What the sum's rounding left of the mean is taken from the deviations (Chan, Golub & LeVeque 1983).
    vec4 rest = vec4(0.0);
    vec4 squares = vec4(0.0);
    for (uint i = 0; i < c4; ++i) {
        vec4 d = keep(AT(x, from + i) - about, i * 4, c);
        rest += d;
        squares += d * d;
    }
    float left = (has & RMS) != 0 ? 0.0 : lanes(rest) / float(c);
    float mean = about + left;
    float inverse = 1.0 / sqrt(max(lanes(squares) / float(c) - left * left, 0.0) + eps);
    uint to = image_index() * out_image + pixel * c4;
    for (uint i = 0; i < c4; ++i) {
        vec4 v = (AT(x, from + i) - mean) * inverse;
        if ((has & HAS_GAMMA) != 0) {
            v *= AT(gamma, i);
        }
        if ((has & HAS_BETA) != 0) {
            v += AT(beta, i);
        }
        result[to + i] = keep(v, i * 4, c);
    }
}
