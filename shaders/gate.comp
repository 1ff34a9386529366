#version 450
#extension GL_GOOGLE_include_directive : require
// out = a * act(b) over the two halves of each pixel's channels. Twin: core/src/nn/op/gate.rs.

layout(local_size_x_id = 0) in;

#include "read.glsl"

READ(0, X, x);
layout(set = 0, binding = 1) writeonly buffer Out { vec4 result[]; };

layout(push_constant) uniform Push {
    uint first_group;
    uint items;
    uint c4;
    uint c;
    uint x_image;
    uint out_image;
    uint act;
};

#include "invocation.glsl"
#include "lanes.glsl"
#include "act.glsl"

void main() {
    uint i = item_index();
    if (i >= items) {
        return;
    }
    uint first = i % c4 * 4;
    uint from = image_index() * x_image + i / c4 * ((c + 1) / 2);
    vec4 b;
    if (c % 4 == 0) {
        b = AT(x, from + (c + first) / 4);
    } else {
        for (uint lane = 0; lane < 4; ++lane) {
            uint channel = c + first + lane;
            b[lane] = first + lane < c ? AT(x, from + channel / 4)[channel % 4] : 0.0;
        }
    }
    vec4 v = AT(x, from + first / 4) * activate(b, act);
    result[image_index() * out_image + i] = keep(v, first, c);
}
