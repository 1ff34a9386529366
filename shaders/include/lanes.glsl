// Channels are padded to a multiple of four, and whoever writes a tensor writes zeros into the pad lanes: a NaN there
// would spread through the next convolution, where even a zero weight doesn't stop it.

// `v` holds the channels first, first + 1, ...: those from `count` on become 0.
vec4 keep(vec4 v, uint first, uint count) {
    return mix(v, vec4(0.0), greaterThanEqual(uvec4(first) + uvec4(0, 1, 2, 3), uvec4(count)));
}
