#version 450
#extension GL_GOOGLE_include_directive : require
// Channels as pixels. Twin: core/src/nn/op/unpatchify.rs.

layout(local_size_x_id = 0) in;

#include "read.glsl"

READ(0, X, x);
layout(set = 0, binding = 1) writeonly buffer Out { vec4 result[]; };

layout(push_constant) uniform Push {
    uint first_group;
    uint items;
    uint c4;
    uint c;
    uint in4;
    uint in_w;
    uint out_w;
    uint size;
    uint x_image;
    uint out_image;
};

#include "invocation.glsl"

void main() {
    uint i = item_index();
    if (i >= items) {
        return;
    }
    uint pixel = i / c4;
    uint y = pixel / out_w;
    uint column = pixel - y * out_w;
    uint from = image_index() * x_image + (y / size * in_w + column / size) * in4;
    uint first = i % c4 * 4;
    uint channel = (y % size * size + column % size) * c + first;
    vec4 v;
    if (c % 4 == 0) {
        v = AT(x, from + channel / 4);
    } else {
        for (uint lane = 0; lane < 4; ++lane) {
            uint at = channel + lane;
            v[lane] = first + lane < c ? AT(x, from + at / 4)[at % 4] : 0.0;
        }
    }
    result[image_index() * out_image + i] = v;
}
