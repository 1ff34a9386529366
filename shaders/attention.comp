#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// Scaled dot-product attention in one pass over the keys, with a running maximum and no score matrix (Milakov &
// Gimelshein 2018). Twin: core/src/nn/op/attention.rs.
//
// An invocation holds one query's VECTORS * 4 output channels of one head. A longer head is cut into several such blocks,
// each of which computes the scores anew. A head whose channels start between vectors (ALIGNED false) is read lane by lane.

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint VECTORS = 8;
layout(constant_id = 2) const bool ALIGNED = true;
// The whole head fits one block: the query stays in registers.
layout(constant_id = 3) const bool WHOLE = true;

layout(set = 0, binding = 0) readonly buffer Q { float q[]; };
layout(set = 0, binding = 0) readonly buffer Q4 { vec4 q4[]; };
layout(set = 0, binding = 1) readonly buffer K { float k[]; };
layout(set = 0, binding = 1) readonly buffer K4 { vec4 k4[]; };
layout(set = 0, binding = 2) readonly buffer V { float v[]; };
layout(set = 0, binding = 2) readonly buffer V4 { vec4 v4[]; };
layout(set = 0, binding = 3) writeonly buffer Out { float result[]; };

layout(push_constant) uniform Push {
    uint queries;
    uint keys;
    uint heads;
    uint head_dim;
    uint blocks;
    uint c4;
    uint c;
    uint q_image;
    uint k_image;
    uint v_image;
    uint out_image;
    float scale;
};

#include "invocation.glsl"
#include "act.glsl"

// The loads: channels at .. at + 4 of the head, `left` of which belong to it. `at` counts floats.
vec4 load_q(uint at, uint left) {
    if (ALIGNED) {
        return q4[at / 4];
    }
    return vec4(left > 0 ? q[at] : 0.0, left > 1 ? q[at + 1] : 0.0, left > 2 ? q[at + 2] : 0.0, left > 3 ? q[at + 3] : 0.0);
}

vec4 load_k(uint at, uint left) {
    if (ALIGNED) {
        return k4[at / 4];
    }
    return vec4(left > 0 ? k[at] : 0.0, left > 1 ? k[at + 1] : 0.0, left > 2 ? k[at + 2] : 0.0, left > 3 ? k[at + 3] : 0.0);
}

vec4 load_v(uint at, uint left) {
    if (ALIGNED) {
        return WHOLE || left > 0 ? v4[at / 4] : vec4(0.0);
    }
    return vec4(left > 0 ? v[at] : 0.0, left > 1 ? v[at + 1] : 0.0, left > 2 ? v[at + 2] : 0.0, left > 3 ? v[at + 3] : 0.0);
}

uint left_of(uint channel) {
    return head_dim > channel ? head_dim - channel : 0;
}

void main() {
    // Groups are numbered head by head, block by block: all invocations of a group read the same keys.
    uint query_groups = (queries + gl_WorkGroupSize.x - 1) / gl_WorkGroupSize.x;
    uint group = group_index();
    uint part = group / query_groups;
    uint query = (group - part * query_groups) * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    uint head = part / blocks;
    uint block = part - head * blocks;
    if (query >= queries || head >= heads) {
        return;
    }
    uint width = c4 * 4;
    uint q_at = image_index() * q_image * 4 + query * width + head * head_dim;
    uint k_at = image_index() * k_image * 4 + head * head_dim;
    uint v_at = image_index() * v_image * 4 + head * head_dim;
    uint first = block * VECTORS * 4;
    uint head_vectors = (head_dim + 3) / 4;

    vec4 kept[VECTORS];
    vec4 sum[VECTORS];
    [[unroll]] for (uint i = 0; i < VECTORS; ++i) {
        sum[i] = vec4(0.0);
        kept[i] = WHOLE ? load_q(q_at + i * 4, left_of(i * 4)) : vec4(0.0);
    }
    float most = 0.0;
    float total = 0.0;
    for (uint key = 0; key < keys; ++key) {
        vec4 products = vec4(0.0);
        if (WHOLE) {
            [[unroll]] for (uint i = 0; i < VECTORS; ++i) {
                products += kept[i] * load_k(k_at + i * 4, left_of(i * 4));
            }
        } else {
            for (uint i = 0; i < head_vectors; ++i) {
                uint left = left_of(i * 4);
                products += load_q(q_at + i * 4, left) * load_k(k_at + i * 4, left);
            }
        }
        float score = ((products.x + products.y) + (products.z + products.w)) * scale;
        // Branch-free: one exponential shrinks the past, the other weighs this key; one of them is 1.
        float next = key == 0 ? score : max(most, score);
        vec4 e = exponential(vec4(most - next, score - next, 0.0, 0.0));
        float shrink = key == 0 ? 0.0 : e.x;
        total = total * shrink + e.y;
        [[unroll]] for (uint i = 0; i < VECTORS; ++i) {
            uint at = first + i * 4;
            sum[i] = sum[i] * shrink + e.y * load_v(v_at + at, left_of(at));
        }
        most = next;
        k_at += width;
        v_at += width;
    }

    uint to = image_index() * out_image * 4 + query * width;
    [[unroll]] for (uint i = 0; i < VECTORS; ++i) {
        vec4 value = sum[i] / total;
        for (uint lane = 0; lane < 4; ++lane) {
            uint channel = first + i * 4 + lane;
            if (channel < head_dim) {
                result[to + head * head_dim + channel] = value[lane];
            }
        }
    }
    // The last head's last block also writes the pad lanes.
    if (head + 1 == heads && block + 1 == blocks) {
        for (uint channel = c; channel < width; ++channel) {
            result[to + channel] = 0.0;
        }
    }
}
