#version 450
#extension GL_GOOGLE_include_directive : require
// Second stage of group normalisation: the runs of a group joined (Chan, Golub & LeVeque 1983), and what the last stage
// applies to each channel: out = (x - mean) * factor + offset, with gamma, beta, scale and shift folded in.
// Twin: core/src/nn/op/group_norm.rs.
//
// scratch: [run][c4][mean, squares], then from stats_first on [mean, factor, offset][c4]. One invocation a group.

layout(local_size_x_id = 0) in;

#include "read.glsl"

READ(0, Gamma, gamma);
READ(1, Beta, beta);
READ(2, ScaleShift, scale_shift);
READ(3, Scratch, scratch);
// The same memory, behind what is read.
layout(set = 0, binding = 4) writeonly buffer Stats { float stats[]; };

layout(push_constant) uniform Push {
    uint first_group;
    uint groups;
    uint group_size;
    uint c4;
    uint c;
    uint pixels;
    uint run;
    uint image;
    uint stats_first;
    uint scale_shift_image;
    uint has_scale_shift;
    float eps;
};

#include "invocation.glsl"

void main() {
    uint group = item_index();
    if (group >= groups) {
        return;
    }
    uint first = group * group_size;
    uint from = image_index() * image;
    uint runs = (pixels + run - 1) / run;

    // A sum a run, then the sum of those: short chains of additions.
    float sum = 0.0;
    for (uint r = 0; r < runs; ++r) {
        float part = 0.0;
        for (uint i = first; i < first + group_size; ++i) {
            part += AT(scratch, from + (r * c4 + i / 4) * 2)[i % 4];
        }
        sum += part * float(min(run, pixels - r * run));
    }
    float values = float(pixels) * float(group_size);
    float mean = sum / values;

    float squares = 0.0;
    for (uint r = 0; r < runs; ++r) {
        float part = 0.0;
        float between = 0.0;
        for (uint i = first; i < first + group_size; ++i) {
            uint at = from + (r * c4 + i / 4) * 2;
            float d = AT(scratch, at)[i % 4] - mean;
            between += d * d;
            part += AT(scratch, at + 1)[i % 4];
        }
        squares += part + between * float(min(run, pixels - r * run));
    }
    float inverse = 1.0 / sqrt(squares / values + eps);

    uint to = (from + stats_first) * 4;
    uint shift_from = image_index() * scale_shift_image;
    // The last group also writes the pad lanes.
    uint end = group + 1 == groups ? c4 * 4 : first + group_size;
    for (uint i = first; i < end; ++i) {
        bool real = i < c;
        float factor = real ? inverse * AT(gamma, i / 4)[i % 4] : 0.0;
        float offset = real ? AT(beta, i / 4)[i % 4] : 0.0;
        if (real && has_scale_shift != 0) {
            uint j = c + i;
            float scale = 1.0 + AT(scale_shift, shift_from + i / 4)[i % 4];
            factor *= scale;
            offset = offset * scale + AT(scale_shift, shift_from + j / 4)[j % 4];
        }
        stats[to + i] = real ? mean : 0.0;
        stats[to + c4 * 4 + i] = factor;
        stats[to + c4 * 8 + i] = offset;
    }
}
