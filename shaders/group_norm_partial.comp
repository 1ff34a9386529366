#version 450
#extension GL_GOOGLE_include_directive : require
// First stage of group normalisation: mean and sum of squared deviations of every channel over a run of pixels.
// Twin: core/src/nn/op/group_norm.rs. Two passes over the run, so that nothing cancels.
//
// scratch: [run][c4][mean, squares].

layout(local_size_x_id = 0) in;

#include "read.glsl"

READ(0, X, x);
layout(set = 0, binding = 1) writeonly buffer Scratch { vec4 scratch[]; };

layout(push_constant) uniform Push {
    uint first_group;
    uint items;
    uint c4;
    uint pixels;
    uint run;
    uint x_image;
    uint partial_image;
};

#include "invocation.glsl"

void main() {
    uint i = item_index();
    if (i >= items) {
        return;
    }
    uint first = i / c4 * run;
    uint count = min(run, pixels - first);
    uint from = image_index() * x_image + first * c4 + i % c4;
    vec4 sum = vec4(0.0);
    for (uint p = 0; p < count; ++p) {
        sum += AT(x, from + p * c4);
    }
    vec4 mean = sum / float(count);
    vec4 squares = vec4(0.0);
    for (uint p = 0; p < count; ++p) {
        vec4 d = AT(x, from + p * c4) - mean;
        squares += d * d;
    }
    uint to = image_index() * partial_image + i * 2;
    scratch[to] = mean;
    scratch[to + 1] = squares;
}
