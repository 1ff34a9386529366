#version 450
#extension GL_GOOGLE_include_directive : require
// The channels of a, then those of b. Twin: core/src/nn/op/concat.rs.

layout(local_size_x_id = 0) in;

#include "read.glsl"

READ(0, A, a);
READ(1, B, b);
layout(set = 0, binding = 2) writeonly buffer Out { vec4 result[]; };

layout(push_constant) uniform Push {
    uint first_group;
    uint items;
    uint c4;
    uint ca;
    uint cb;
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
    uint pixel = i / c4;
    uint first = i % c4 * 4;
    uint a_first = image_index() * a_image + pixel * ((ca + 3) / 4);
    uint b_first = image_index() * b_image + pixel * ((cb + 3) / 4);
    vec4 v;
    if (first + 4 <= ca) {
        v = AT(a, a_first + first / 4);
    } else if (first >= ca && ca % 4 == 0) {
        v = AT(b, b_first + (first - ca) / 4);
    } else {
        for (uint lane = 0; lane < 4; ++lane) {
            uint channel = first + lane;
            uint other = channel - ca;
            v[lane] = channel < ca ? AT(a, a_first + channel / 4)[channel % 4]
                : other < cb ? AT(b, b_first + other / 4)[other % 4]
                : 0.0;
        }
    }
    result[image_index() * out_image + i] = v;
}
