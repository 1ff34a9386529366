#version 450
#extension GL_GOOGLE_include_directive : require
// out = x * (factor + scale) + shift + residual, scale and shift from a vector. Twin: core/src/nn/op/modulate.rs.

layout(local_size_x_id = 0) in;

#include "read.glsl"

READ(0, X, x);
READ(1, Vector, vector);
READ(2, Residual, residual);
layout(set = 0, binding = 3) writeonly buffer Out { vec4 result[]; };

layout(push_constant) uniform Push {
    uint first_group;
    uint items;
    uint c4;
    uint c;
    uint x_image;
    uint vector_image;
    uint residual_image;
    uint out_image;
    uint has;
    float factor;
    uint scale;
    uint shift;
};

const uint HAS_SCALE = 1;
const uint HAS_SHIFT = 2;
const uint HAS_RESIDUAL = 4;

#include "invocation.glsl"
#include "lanes.glsl"

// Four values of the vector, from its value `first` on; the last may lie behind its end.
vec4 part(uint first) {
    uint from = image_index() * vector_image;
    if (first % 4 == 0) {
        return AT(vector, from + first / 4);
    }
    vec4 low = AT(vector, from + first / 4);
    vec4 v;
    for (uint lane = 0; lane < 4; ++lane) {
        uint at = first + lane;
        bool inside = at / 4 == first / 4;
        v[lane] = inside ? low[at % 4] : 0.0;
    }
    // Lanes that are no channels of the result may be anything: only what there is of the next vector is read.
    uint next = first / 4 + 1;
    if (next < vector_image) {
        vec4 high = AT(vector, from + next);
        for (uint lane = 4 - first % 4; lane < 4; ++lane) {
            v[lane] = high[(first + lane) % 4];
        }
    }
    return v;
}

void main() {
    uint i = item_index();
    if (i >= items) {
        return;
    }
    uint first = i % c4 * 4;
    vec4 v = AT(x, image_index() * x_image + i);
    vec4 by = vec4(factor);
    if ((has & HAS_SCALE) != 0) {
        by += part(scale + first);
    }
    v *= by;
    if ((has & HAS_SHIFT) != 0) {
        v += part(shift + first);
    }
    if ((has & HAS_RESIDUAL) != 0) {
        v += AT(residual, image_index() * residual_image + i);
    }
    result[image_index() * out_image + i] = keep(v, first, c);
}
