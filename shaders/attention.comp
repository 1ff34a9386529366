#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// Scaled dot-product attention in one pass over the keys, with a running maximum and no score matrix (Milakov &
// Gimelshein 2018). Twin: core/src/nn/op/attention.rs.
//
// An invocation holds VECTORS * 4 output channels of one head for QUERIES queries (at most four), and takes four keys at a
// time. A longer head is cut into several such blocks, each of which computes the scores anew. A head whose channels start
// between vectors (ALIGNED false) is read lane by lane.

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint VECTORS = 8;
layout(constant_id = 2) const bool ALIGNED = true;
// The whole head fits one block: the query stays in registers.
layout(constant_id = 3) const bool WHOLE = true;
layout(constant_id = 4) const uint QUERIES = 1;
// A query sees the keys up to its own number alone.
layout(constant_id = 5) const bool CAUSAL = false;
// The channel behind those of the heads of each key is added to its scores.
layout(constant_id = 6) const bool BIASED = false;

const uint KEYS = 4;

#include "read.glsl"

READ(0, Q, q);
READ(1, K, k);
READ(2, V, v);
layout(set = 0, binding = 3) writeonly buffer Out { float result[]; };

layout(push_constant) uniform Push {
    uint first_group;
    uint queries;
    uint keys;
    uint heads;
    uint head_dim;
    uint blocks;
    uint c4;
    uint k4;
    uint c;
    uint q_image;
    uint k_image;
    uint v_image;
    uint out_image;
    float scale;
};

#include "invocation.glsl"
#include "lanes.glsl"
#include "act.glsl"

// The loads: channels at .. at + 4 of the head, `left` of which belong to it. `at` counts floats.
#define LANE(name, i, left) (left > i ? AT(name, (at + i) / 4)[(at + i) % 4] : 0.0)
#define LANES(name, left) vec4(LANE(name, 0, left), LANE(name, 1, left), LANE(name, 2, left), LANE(name, 3, left))

vec4 load_q(uint at, uint left) {
    return ALIGNED ? AT(q, at / 4) : LANES(q, left);
}

vec4 load_k(uint at, uint left) {
    return ALIGNED ? AT(k, at / 4) : LANES(k, left);
}

vec4 load_v(uint at, uint left) {
    if (ALIGNED) {
        return WHOLE || left > 0 ? AT(v, at / 4) : vec4(0.0);
    }
    return LANES(v, left);
}

uint left_of(uint channel) {
    return head_dim > channel ? head_dim - channel : 0;
}

void main() {
    // Groups are numbered head by head, block by block: all invocations of a group read the same keys.
    uint tile = gl_WorkGroupSize.x * QUERIES;
    uint tiles = (queries + tile - 1) / tile;
    uint group = group_index();
    uint part = group / tiles;
    uint first_query = (group - part * tiles) * tile + gl_LocalInvocationID.x;
    uint head = part / blocks;
    uint block = part - head * blocks;
    if (first_query >= queries || head >= heads) {
        return;
    }
    uint width = c4 * 4;
    uint k_at = image_index() * k_image * 4 + head * head_dim;
    uint v_at = image_index() * v_image * 4 + head * head_dim;
    uint first = block * VECTORS * 4;
    uint head_vectors = (head_dim + 3) / 4;

    uint q_at[QUERIES];
    // Keys that a query sees.
    uint seen[QUERIES];
    vec4 kept[QUERIES * VECTORS];
    vec4 sum[QUERIES * VECTORS];
    [[unroll]] for (uint p = 0; p < QUERIES; ++p) {
        uint query = min(first_query + p * gl_WorkGroupSize.x, queries - 1);
        seen[p] = CAUSAL ? query + 1 : keys;
        q_at[p] = image_index() * q_image * 4 + query * width + head * head_dim;
        [[unroll]] for (uint i = 0; i < VECTORS; ++i) {
            sum[p * VECTORS + i] = vec4(0.0);
            kept[p * VECTORS + i] = WHOLE ? load_q(q_at[p] + i * 4, left_of(i * 4)) : vec4(0.0);
        }
    }
    // Of up to four queries.
    vec4 most = vec4(0.0);
    vec4 total = vec4(0.0);
    // The last query's number is the largest.
    for (uint key = 0; key < seen[QUERIES - 1]; key += KEYS) {
        // Beyond the last key it is read again, and weighs nothing.
        uint from[KEYS];
        uint from_k[KEYS];
        vec4 bias = vec4(0.0);
        [[unroll]] for (uint j = 0; j < KEYS; ++j) {
            uint number = min(key + j, keys - 1);
            from[j] = number * width;
            from_k[j] = number * k4 * 4;
            if (BIASED) {
                bias[j] = AT(k, image_index() * k_image + number * k4 + c / 4)[c % 4];
            }
        }
        vec4 scores[QUERIES];
        [[unroll]] for (uint p = 0; p < QUERIES; ++p) {
            scores[p] = vec4(0.0);
        }
        if (WHOLE) {
            [[unroll]] for (uint i = 0; i < VECTORS; ++i) {
                uint left = left_of(i * 4);
                [[unroll]] for (uint j = 0; j < KEYS; ++j) {
                    vec4 k = load_k(k_at + from_k[j] + i * 4, left);
                    [[unroll]] for (uint p = 0; p < QUERIES; ++p) {
                        scores[p][j] += dot(kept[p * VECTORS + i], k);
                    }
                }
            }
        } else {
            for (uint i = 0; i < head_vectors; ++i) {
                uint left = left_of(i * 4);
                vec4 q[QUERIES];
                [[unroll]] for (uint p = 0; p < QUERIES; ++p) {
                    q[p] = load_q(q_at[p] + i * 4, left);
                }
                [[unroll]] for (uint j = 0; j < KEYS; ++j) {
                    vec4 k = load_k(k_at + from_k[j] + i * 4, left);
                    [[unroll]] for (uint p = 0; p < QUERIES; ++p) {
                        scores[p][j] += dot(q[p], k);
                    }
                }
            }
        }
        vec4 next = most;
        [[unroll]] for (uint p = 0; p < QUERIES; ++p) {
            scores[p] = scores[p] * scale + bias;
            if (CAUSAL) {
                // Key 0 is seen by all, so that the largest is one that counts.
                bvec4 unseen = greaterThanEqual(uvec4(key) + uvec4(0, 1, 2, 3), uvec4(seen[p]));
                scores[p] = mix(scores[p], vec4(-3.0e38), unseen);
            }
            float largest = max(max(scores[p].x, scores[p].y), max(scores[p].z, scores[p].w));
            next[p] = key == 0 ? largest : max(most[p], largest);
        }
        vec4 shrink = key == 0 ? vec4(0.0) : exponential(most - next);
        most = next;
        [[unroll]] for (uint p = 0; p < QUERIES; ++p) {
            scores[p] = keep(exponential(scores[p] - next[p]), key, seen[p]);
            total[p] = total[p] * shrink[p] + ((scores[p].x + scores[p].y) + (scores[p].z + scores[p].w));
        }
        [[unroll]] for (uint i = 0; i < VECTORS; ++i) {
            uint at = v_at + first + i * 4;
            uint left = left_of(first + i * 4);
            vec4 v0 = load_v(at + from[0], left);
            vec4 v1 = load_v(at + from[1], left);
            vec4 v2 = load_v(at + from[2], left);
            vec4 v3 = load_v(at + from[3], left);
            [[unroll]] for (uint p = 0; p < QUERIES; ++p) {
                vec4 e = scores[p];
                vec4 more = (v0 * e.x + v1 * e.y) + (v2 * e.z + v3 * e.w);
                sum[p * VECTORS + i] = sum[p * VECTORS + i] * shrink[p] + more;
            }
        }
    }

    [[unroll]] for (uint p = 0; p < QUERIES; ++p) {
        uint query = first_query + p * gl_WorkGroupSize.x;
        if (query >= queries) {
            continue;
        }
        uint to = image_index() * out_image * 4 + query * width;
        [[unroll]] for (uint i = 0; i < VECTORS; ++i) {
            vec4 value = sum[p * VECTORS + i] / total[p];
            [[unroll]] for (uint lane = 0; lane < 4; ++lane) {
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
}
