#version 450
#extension GL_GOOGLE_include_directive : require
// Second stage of group normalisation: the runs of a group joined (Chan, Golub & LeVeque 1983), and what the last stage
// applies to each channel: out = (x - mean) * factor + offset, with gamma, beta, scale and shift folded in.
// Twin: core/src/nn/op/group_norm.rs.
//
// scratch: [run][c4][mean, squares], then from stats_first on [mean, factor, offset][c4]. One invocation a group.

layout(local_size_x_id = 0) in;

layout(set = 0, binding = 0) readonly buffer Gamma { float gamma[]; };
layout(set = 0, binding = 1) readonly buffer Beta { float beta[]; };
layout(set = 0, binding = 2) readonly buffer ScaleShift { float scale_shift[]; };
layout(set = 0, binding = 3) buffer Scratch { float scratch[]; };

layout(push_constant) uniform Push {
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
    uint from = image_index() * image * 4;
    uint runs = (pixels + run - 1) / run;

    // A sum a run, then the sum of those: short chains of additions.
    float sum = 0.0;
    for (uint r = 0; r < runs; ++r) {
        float part = 0.0;
        for (uint i = first; i < first + group_size; ++i) {
            part += scratch[from + (r * c4 + i / 4) * 8 + i % 4];
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
            uint at = from + (r * c4 + i / 4) * 8 + i % 4;
            float d = scratch[at] - mean;
            between += d * d;
            part += scratch[at + 4];
        }
        squares += part + between * float(min(run, pixels - r * run));
    }
    float inverse = 1.0 / sqrt(squares / values + eps);

    uint to = from + stats_first * 4;
    uint shift_from = image_index() * scale_shift_image * 4;
    // The last group also writes the pad lanes.
    uint end = group + 1 == groups ? c4 * 4 : first + group_size;
    for (uint i = first; i < end; ++i) {
        bool real = i < c;
        float factor = real ? inverse * gamma[i] : 0.0;
        float offset = real ? beta[i] : 0.0;
        if (real && has_scale_shift != 0) {
            float scale = 1.0 + scale_shift[shift_from + i];
            factor *= scale;
            offset = offset * scale + scale_shift[shift_from + c + i];
        }
        scratch[to + i] = real ? mean : 0.0;
        scratch[to + c4 * 4 + i] = factor;
        scratch[to + c4 * 8 + i] = offset;
    }
}
