#version 450
#extension GL_GOOGLE_include_directive : require
// Layer normalisation, for GPUs with fast shared memory: out = (x - mean) / deviation * gamma + beta over the channels of each
// pixel, or of each of its heads; with RMS, the mean is 0. Twin: core/src/nn/op/layer_norm.rs. layer_norm.comp computes the same with one invocation a pixel.
//
// The invocations of a row share a pixel: one takes every LANES-th vector of channels, so that neighbours read neighbouring
// ones. Their partial sums are added up in pairs, always in the same order.

layout(local_size_x_id = 0, local_size_y_id = 1) in;

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

// Sums of values and of their squares.
shared vec2 partial[gl_WorkGroupSize.x * gl_WorkGroupSize.y];

float lanes(vec4 v) {
    return (v.x + v.y) + (v.z + v.w);
}

// The sums of a row's invocations, known to all of them.
vec2 total(vec2 sum) {
    uint lane = gl_LocalInvocationID.x;
    uint first = gl_LocalInvocationID.y * gl_WorkGroupSize.x;
    // Whoever still reads the last total is waited for.
    barrier();
    partial[first + lane] = sum;
    for (uint count = gl_WorkGroupSize.x / 2; count > 0; count /= 2) {
        barrier();
        if (lane < count) {
            sum += partial[first + lane + count];
            partial[first + lane] = sum;
        }
    }
    barrier();
    return partial[first];
}

void main() {
    uint lane = gl_LocalInvocationID.x;
    uint pixel = group_index() * gl_WorkGroupSize.y + gl_LocalInvocationID.y;
    bool there = pixel < items;
    // All go on, for the barriers.
    uint end = there ? c4 : 0;
    uint from = image_index() * x_image + pixel * c4;
    vec4 sum = vec4(0.0);
    for (uint i = lane; i < end; i += gl_WorkGroupSize.x) {
        sum += AT(x, from + i);
    }
    float about = total(vec2(lanes(sum), 0.0)).x / float(c);
    about = (has & RMS) != 0 ? 0.0 : about;
    // What the sum's rounding left of the mean is taken from the deviations (Chan, Golub & LeVeque 1983).
    vec4 rest = vec4(0.0);
    vec4 squares = vec4(0.0);
    for (uint i = lane; i < end; i += gl_WorkGroupSize.x) {
        vec4 d = keep(AT(x, from + i) - about, i * 4, c);
        rest += d;
        squares += d * d;
    }
    vec2 second = total(vec2(lanes(rest), lanes(squares))) / float(c);
    float left = (has & RMS) != 0 ? 0.0 : second.x;
    float mean = about + left;
    float inverse = 1.0 / sqrt(max(second.y - left * left, 0.0) + eps);
    uint to = image_index() * out_image + pixel * c4;
    for (uint i = lane; i < end; i += gl_WorkGroupSize.x) {
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
