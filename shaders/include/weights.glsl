// The weights of a convolution or linear layer, as they are stored, widened while they are loaded: nothing here needs a feature
// of the device. Whoever includes this has declared the buffer `weight` and the push constants kernel_h, kernel_w and in4.
//
// A step is what one input vector is multiplied by: 4 input by 4 output channels. Steps lie as [out4][ky][kx][in4], channels
// that are none are zeros. Everything is whole vectors of 16 bytes:
// - f32, f16: four vectors a step, or two, [4 of in][4 of out].
// - int8: a vector a step, a byte a value, [4 of in][4 of out]. Before the steps of each out4 lies the vector of its four output
//   channels' scales, in f32: they are factors on the finished sums (`weights_scale`), not on each value.
// - 4 bits: value = scale * (bits - 8), a scale for each 32 input channels (8 steps) of an output channel and tap. For each
//   [out4][ky][kx] first the scales, in f16, [in / 32][4 of out], two such quartets a vector; then the steps, 8 bytes each, two a
//   vector, [4 of in][4 of out]. Where a number is odd, the half vector at the end is zeros.
// Within a word the first value has the lowest bits. The host's side: gpu/src/pack/.

const uint STORED_F32 = 0;
const uint STORED_F16 = 1;
const uint STORED_INT8 = 2;
const uint STORED_Q4 = 3;

// Vectors of the scales of a tap, in 4 bits.
uint tap_scales() {
    return (in4 + 15) / 16;
}

// The first vector of an out4.
uint weights_first(uint out_index) {
    uint steps = kernel_h * kernel_w * in4;
    if (STORED == STORED_INT8) {
        return out_index * (steps + 1);
    }
    if (STORED == STORED_Q4) {
        return out_index * (kernel_h * kernel_w * (tap_scales() + (in4 + 1) / 2));
    }
    return out_index * steps * (STORED == STORED_F16 ? 2 : 4);
}

// The four bytes of a word as signed integers.
vec4 signed_bytes(uint word) {
    return vec4(ivec4(uvec4(word << 24, word << 16, word << 8, word)) >> 24);
}

// The lower half of a word as four integers from -8 to 7.
vec4 nibbles(uint word) {
    return vec4(uvec4(word, word >> 4, word >> 8, word >> 12) & 15u) - 8.0;
}

// The weights of a step of the out4 that starts at vector `first`: those of each of the four input channels. `tap` is ky * kernel_w + kx.
void load_weights(uint first, uint tap, uint i, out vec4 w[4]) {
    uint step = tap * in4 + i;
    if (STORED == STORED_Q4) {
        uint start = first + tap * (tap_scales() + (in4 + 1) / 2);
        uvec4 scales = BITS(weight, start + i / 16);
        uvec2 half_scales = (i & 8u) == 0 ? scales.xy : scales.zw;
        vec4 scale = vec4(unpackHalf2x16(half_scales.x), unpackHalf2x16(half_scales.y));
        uvec4 two = BITS(weight, start + tap_scales() + i / 2);
        uvec2 bits = (i & 1u) == 0 ? two.xy : two.zw;
        w[0] = nibbles(bits.x) * scale;
        w[1] = nibbles(bits.x >> 16) * scale;
        w[2] = nibbles(bits.y) * scale;
        w[3] = nibbles(bits.y >> 16) * scale;
    } else if (STORED == STORED_INT8) {
        uvec4 bits = BITS(weight, first + 1 + step);
        w[0] = signed_bytes(bits.x);
        w[1] = signed_bytes(bits.y);
        w[2] = signed_bytes(bits.z);
        w[3] = signed_bytes(bits.w);
    } else if (STORED == STORED_F16) {
        [[unroll]] for (uint j = 0; j < 2; ++j) {
            uvec4 h = BITS(weight, first + step * 2 + j);
            w[j * 2] = vec4(unpackHalf2x16(h.x), unpackHalf2x16(h.y));
            w[j * 2 + 1] = vec4(unpackHalf2x16(h.z), unpackHalf2x16(h.w));
        }
    } else {
        [[unroll]] for (uint j = 0; j < 4; ++j) {
            w[j] = AT(weight, first + step * 4 + j);
        }
    }
}

// The factors on the finished sums of an out4's output channels.
vec4 weights_scale(uint first) {
    return STORED == STORED_INT8 ? AT(weight, first) : vec4(1.0);
}
