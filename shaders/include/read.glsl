// What a kernel only reads: a storage buffer, or, in the second module of each kernel (TEXEL), a texel buffer of four words a
// texel. Software drivers load from storage buffers lane by lane, with a branch each; texels they fetch branch-free.
//
// READ declares the buffer, BITS loads four words of it, AT four floats.

#ifdef TEXEL
#define READ(number, Block, name) layout(set = 0, binding = number) uniform usamplerBuffer name
#define BITS(name, i) texelFetch(name, int(i))
#else
#define READ(number, Block, name) layout(set = 0, binding = number) readonly buffer Block { uvec4 name[]; }
#define BITS(name, i) name[i]
#endif
#define AT(name, i) uintBitsToFloat(BITS(name, i))
