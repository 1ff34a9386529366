#version 450
#extension GL_GOOGLE_include_directive : require
// Last stage of group normalisation: out = act((x - mean) * factor + offset). Twin: core/src/nn/op/group_norm.rs.
//
// An invocation takes four channels of `run` pixels, so that what it applies is loaded once.
// scratch, from stats_first on: [mean, factor, offset][c4], by group_norm_stats.comp, zeros in the pad lanes.

layout(local_size_x_id = 0) in;

#include "read.glsl"

READ(0, X, x);
READ(1, Scratch, scratch);
layout(set = 0, binding = 2) writeonly buffer Out { vec4 result[]; };

layout(push_constant) uniform Push {
    uint first_group;
    uint items;
    uint c4;
    uint pixels;
    uint run;
    uint x_image;
    uint stats_first;
    uint stats_image;
    uint out_image;
    uint act;
};

#include "invocation.glsl"
#include "act.glsl"

void main() {
    uint i = item_index();
    if (i >= items) {
        return;
    }
    uint s = image_index() * stats_image + stats_first + i % c4;
    vec4 mean = AT(scratch, s);
    vec4 factor = AT(scratch, s + c4);
    vec4 offset = AT(scratch, s + c4 * 2);
    uint first = i / c4 * run;
    uint count = min(run, pixels - first);
    uint at = first * c4 + i % c4;
    for (uint p = 0; p < count; ++p) {
        vec4 v = (AT(x, image_index() * x_image + at) - mean) * factor + offset;
        result[image_index() * out_image + at] = activate(v, act);
        at += c4;
    }
}
