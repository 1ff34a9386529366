#version 450
#extension GL_GOOGLE_include_directive : require
// The pixels of a, then those of b, from one of them on. Twin: core/src/nn/op/join.rs.

layout(local_size_x_id = 0) in;

#include "read.glsl"

READ(0, A, a);
READ(1, B, b);
layout(set = 0, binding = 2) writeonly buffer Out { vec4 result[]; };

layout(push_constant) uniform Push {
    uint first_group;
    uint items;
    uint skip;
    uint a_items;
    uint a_image;
    uint b_image;
    uint out_image;
};

#include "invocation.glsl"

void main() {
    uint i = item_index();
    if (i >= items) {
        return;
    }
    uint from = skip + i;
    vec4 v;
    if (from < a_items) {
        v = AT(a, image_index() * a_image + from);
    } else {
        v = AT(b, image_index() * b_image + from - a_items);
    }
    result[image_index() * out_image + i] = v;
}
