// What goes from memory to shared memory, in kernels of convolutions that make a tile by the group: stages of DEPTH steps (four input
// channels at one tap) of TILE_PIXELS pixels and of TILE_OUTS vectors of output channels, all of which the including file has
// declared. An invocation brings the same step of every stage, for every LINES-th pixel and vector of output channels: DEPTH
// neighbours read neighbouring vectors.

const uint LINES = gl_WorkGroupSize.x * gl_WorkGroupSize.y / DEPTH;
const uint X_LOADS = (TILE_PIXELS + LINES - 1) / LINES;
const uint WEIGHT_LOADS = (TILE_OUTS + LINES - 1) / LINES;

// The step that this invocation brings, and its first pixel and vector of output channels.
uint brought;
uint line;
// Steps in all.
uint steps;
// The corner of each pixel's window. What lies before the edge is a large number.
uint top[X_LOADS];
uint left[X_LOADS];
uint weight_first[WEIGHT_LOADS];
// The tap and the input channels that are brought next.
uint next_y;
uint next_x;
uint next_in;
// What is on its way.
vec4 value[X_LOADS];
vec4 kernel[WEIGHT_LOADS * 4];

void start_stages(uint first_pixel, uint first_out) {
    brought = gl_LocalInvocationIndex % DEPTH;
    line = gl_LocalInvocationIndex / DEPTH;
    steps = kernel_h * kernel_w * in4;
    [[unroll]] for (uint l = 0; l < X_LOADS; ++l) {
        uint pixel = min(first_pixel + line + l * LINES, out_pixels - 1);
        uint y = pixel / out_w;
        top[l] = y * stride - pad_top;
        left[l] = (pixel - y * out_w) * stride - pad_left;
    }
    [[unroll]] for (uint l = 0; l < WEIGHT_LOADS; ++l) {
        weight_first[l] = weights_first(min(first_out + line + l * LINES, out4 - 1));
        [[unroll]] for (uint j = 0; j < 4; ++j) {
            kernel[l * 4 + j] = vec4(0.0);
        }
    }
    next_y = 0;
    next_x = 0;
    next_in = brought;
}

// Brings the next stage: values of steps that are none are zeros, their weights anything.
void fetch_stage() {
    for (; next_in >= in4; next_in -= in4) {
        ++next_x;
        if (next_x == kernel_w) {
            next_x = 0;
            ++next_y;
        }
    }
    bool there = next_y < kernel_h;
    uint image = image_index() * x_image;
    [[unroll]] for (uint l = 0; l < X_LOADS; ++l) {
        uint y = top[l] + next_y;
        uint c = left[l] + next_x;
        value[l] = vec4(0.0);
        if (there && y < in_h * UPSAMPLE && c < in_w * UPSAMPLE) {
            value[l] = AT(x, image + (y / UPSAMPLE * in_w + c / UPSAMPLE) * in4 + next_in);
        }
    }
    [[unroll]] for (uint l = 0; l < WEIGHT_LOADS; ++l) {
        if (there && line + l * LINES < TILE_OUTS) {
            vec4 w[4];
            load_weights(weight_first[l], next_y * kernel_w + next_x, next_in, w);
            [[unroll]] for (uint j = 0; j < 4; ++j) {
                kernel[l * 4 + j] = w[j];
            }
        }
    }
    next_in += DEPTH;
}
