// Activations, numbered as in unfog-core's `Act`. Built on an exponential of our own: drivers may be off by 3 + 2|x| units
// in the last place, and some are.

const uint ACT_NONE = 0;
const uint ACT_SILU = 1;
const uint ACT_MISH = 2;
const uint ACT_GELU = 3;
const uint ACT_RELU = 4;
const uint ACT_QUICK_GELU = 5;
const uint ACT_TANH = 6;
const uint ACT_GELU_TANH = 7;

// e^x to 1e-7 relative for |x| <= 87, and held there beyond: no infinity. x = n ln 2 + r, |r| <= ln(2) / 2, ln 2 in two parts
// (Cody & Waite 1980); Chebyshev fit of e^r.
vec4 exponential(vec4 x) {
    vec4 y = clamp(x, -87.0, 87.0);
    vec4 n = floor(y * 1.44269504 + 0.5);
    vec4 r = (y - n * 0.693359375) + n * 2.12194440e-4;
    vec4 p = vec4(1.3949769781902432e-3);
    p = p * r + 8.37596133351326e-3;
    p = p * r + 4.166619852185249e-2;
    p = p * r + 0.16666404902935028;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    vec4 e = p * intBitsToFloat((ivec4(n) + 127) << 23);
    return mix(e, x, isnan(x));
}

// The error function to 1.2e-7 absolute: below 1 a fit of erf(x) / x in x^2, above one of -ln(1 - erf(x)).
vec4 error_function(vec4 x) {
    vec4 s = x * x;
    vec4 a = vec4(-9.673591193859465e-06);
    a = a * s + 0.00011268253729213029;
    a = a * s - 0.0008484396385028958;
    a = a * s + 0.005221053492277861;
    a = a * s - 0.026865437626838684;
    a = a * s + 0.11283782869577408;
    a = a * s - 0.37612637877464294;
    a = a * s + 1.128379225730896;
    vec4 t = min(abs(x), 4.0);
    vec4 b = vec4(-1.6140616025950294e-06);
    b = b * t + 4.559062290354632e-05;
    b = b * t - 0.0005927695310674608;
    b = b * t + 0.004740222357213497;
    b = b * t - 0.02636471763253212;
    b = b * t + 0.10997824370861053;
    b = b * t + 0.6319370865821838;
    b = b * t + 1.1301666498184204;
    b = b * t - 0.0003032129898201674;
    vec4 large = sign(x) * (1.0 - exponential(-b));
    return mix(a * x, large, greaterThanEqual(abs(x), vec4(1.0)));
}

// The hyperbolic tangent to 2e-7 relative: below 0.625 a fit of tanh(x) / x in x^2 (Cephes' `tanhf`, S. Moshier).
vec4 tangent(vec4 x) {
    vec4 s = x * x;
    vec4 a = vec4(-5.70498872745e-3);
    a = a * s + 2.06390887954e-2;
    a = a * s - 5.37397155531e-2;
    a = a * s + 1.33314422036e-1;
    a = a * s - 3.33332819422e-1;
    vec4 large = sign(x) * (1.0 - 2.0 / (exponential(2.0 * abs(x)) + 1.0));
    return mix(a * s * x + x, large, greaterThanEqual(abs(x), vec4(0.625)));
}

vec4 activate(vec4 x, uint act) {
    if (act == ACT_SILU) {
        return x / (1.0 + exponential(-x));
    }
    if (act == ACT_MISH) {
        // tanh(ln(1 + e)) = (e^2 + 2e) / (e^2 + 2e + 2); from 20 on it is 1 to the last bit.
        vec4 e = exponential(min(x, vec4(20.0)));
        vec4 f = e * (e + 2.0);
        return x * (f / (f + 2.0));
    }
    if (act == ACT_GELU) {
        return 0.5 * x * (1.0 + error_function(x * 0.70710678118654752));
    }
    if (act == ACT_RELU) {
        return mix(x, vec4(0.0), lessThan(x, vec4(0.0)));
    }
    if (act == ACT_QUICK_GELU) {
        return x / (1.0 + exponential(-1.702 * x));
    }
    if (act == ACT_TANH) {
        return tangent(x);
    }
    if (act == ACT_GELU_TANH) {
        // (1 + tanh(z)) / 2 is 1 / (1 + e^(-2 z)).
        return x / (1.0 + exponential(-x * (1.5957691 + 0.07135482 * x * x)));
    }
    return x;
}
