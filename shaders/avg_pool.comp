#version 450
#extension GL_GOOGLE_include_directive : require
// The mean of each size * size block. Twin: core/src/nn/op/avg_pool.rs.

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
    uint first = (pixel / out_w * size * in_w + pixel % out_w * size) * c4 + i % c4 + image_index() * x_image;
    vec4 sum = vec4(0.0);
    for (uint dy = 0; dy < size; ++dy) {
        for (uint dx = 0; dx < size; ++dx) {
            sum += AT(x, first + (dy * in_w + dx) * c4);
        }
    }
    result[image_index() * out_image + i] = sum / float(size * size);
}
