#version 450
#extension GL_GOOGLE_include_directive : require
// Rows of a learned table; an index out of range reads row 0. A pixel's own row of a second table is added, where there is
// one. Twin: core/src/nn/op/embedding.rs. The tables' rows are padded to whole vectors with zeros.

layout(local_size_x_id = 0) in;

#include "read.glsl"

READ(0, Index, index);
READ(1, Table, table);
READ(2, Positions, positions);
layout(set = 0, binding = 3) writeonly buffer Out { vec4 result[]; };

layout(push_constant) uniform Push {
    uint first_group;
    uint items;
    uint c4;
    uint count;
    uint index_image;
    uint out_image;
    uint has_positions;
};

#include "invocation.glsl"

void main() {
    uint i = item_index();
    if (i >= items) {
        return;
    }
    float value = AT(index, image_index() * index_image + i / c4).x;
    uint row = value >= 0.0 && value < float(count) ? uint(value) : 0;
    vec4 v = AT(table, row * c4 + i % c4);
    if (has_positions != 0) {
        v += AT(positions, i);
    }
    result[image_index() * out_image + i] = v;
}
