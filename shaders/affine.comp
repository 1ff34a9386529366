#version 450
#extension GL_GOOGLE_include_directive : require
// out = act((x * scale + shift) / divisor). Twin: core/src/nn/op/affine.rs.

layout(local_size_x_id = 0) in;

#include "read.glsl"

READ(0, X, x);
READ(1, Divisor, divisor);
layout(set = 0, binding = 2) writeonly buffer Out { vec4 result[]; };

layout(push_constant) uniform Push {
    uint first_group;
    uint items;
    uint c4;
    uint c;
    uint x_image;
    uint divisor_image;
    uint out_image;
    uint has_divisor;
    float scale;
    float shift;
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
    vec4 v = AT(x, image_index() * x_image + i) * scale + shift;
    if (has_divisor != 0) {
        v /= AT(divisor, image_index() * divisor_image).x;
    }
    result[image_index() * out_image + i] = keep(activate(v, act), i % c4 * 4, c);
}
