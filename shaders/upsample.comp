#version 450
#extension GL_GOOGLE_include_directive : require
// Enlargement by nearest neighbour. Twin: core/src/nn/op/upsample.rs.

layout(local_size_x_id = 0) in;

#include "read.glsl"

READ(0, X, x);
layout(set = 0, binding = 1) writeonly buffer Out { vec4 result[]; };

layout(push_constant) uniform Push {
    uint first_group;
    uint items;
    uint c4;
    uint in_w;
    uint out_w;
    uint factor;
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
    uint from = (pixel / out_w / factor * in_w + pixel % out_w / factor) * c4 + i % c4;
    result[image_index() * out_image + i] = AT(x, image_index() * x_image + from);
}
