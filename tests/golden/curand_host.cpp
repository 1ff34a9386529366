// The normal values that torch's CUDA kernel makes, on a processor: the walk of torch's
// distribution_elementwise_grid_stride_kernel and the sizes of its calc_execution_policy, around cuRAND's own device code,
// which also compiles for the host. make_noise.py runs it.
//
//     curand_host SEED NUMEL DRAWS MULTIPROCESSORS THREADS_EACH > values.f32
#include <cuda_runtime.h>
#include <curand_kernel.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

int main(int, char** argv) {
  const uint64_t seed = strtoull(argv[1], nullptr, 10), numel = strtoull(argv[2], nullptr, 10);
  const uint64_t draws = strtoull(argv[3], nullptr, 10);
  const uint32_t processors = atoi(argv[4]), threads = atoi(argv[5]);
  const uint32_t block = 256, unroll = 4;
  const uint32_t grid = std::min(processors * (threads / block), uint32_t((numel + block - 1) / block));
  const uint64_t counter_offset = ((numel - 1) / (block * grid * unroll) + 1) * 4;
  uint64_t offset = 0;
  for (uint64_t draw = 0; draw < draws; draw++, offset += counter_offset) {
    std::vector<float> out(numel);
    const int64_t stride = int64_t(block) * grid;
    const int64_t rounded = (int64_t(numel - 1) / (stride * unroll) + 1) * stride * unroll;
    for (int64_t idx = 0; idx < stride; idx++) {
      curandStatePhilox4_32_10_t state;
      curand_init(seed, idx, offset, &state);
      for (int64_t linear = idx; linear < rounded; linear += stride * unroll) {
        const float4 rand = curand_normal4(&state);
        const float values[4] = {rand.x, rand.y, rand.z, rand.w};
        for (int ii = 0; ii < 4; ii++) {
          const int64_t li = linear + stride * ii;
          if (li < int64_t(numel)) out[li] = values[ii];
        }
      }
    }
    fwrite(out.data(), sizeof(float), out.size(), stdout);
  }
}
