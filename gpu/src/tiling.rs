//! The table of kernels: which family of them a device runs, and how work is cut up on it. A pure function of what the device
//! says of itself and the shape of one image; [`crate::tune`] puts choices that were measured in its place.
//!
//! | device | convolutions | why |
//! | --- | --- | --- |
//! | software | `conv2d`, large tiles in registers; texel buffers where they are wide | shared memory and barriers cost it much |
//! | discrete; NVIDIA, AMD or Intel inside another chip | `conv2d_tile`, `conv2d_split` | fast shared memory, and many registers |
//! | any other (Broadcom, Arm, Qualcomm, Imagination, Apple, ...) | `conv2d`, small tiles in registers | shared memory is ordinary memory on most, and nobody has measured the others |
//!
//! Norms over the channels go with convolutions: one invocation a pixel (`layer_norm`), or 64 of them (`layer_norm_group`).
//!
//! Matrix units take half floats, so `conv2d_matrix` rounds what it reads, values as well as weights, by up to 2^-11. Neither the
//! table nor tuning takes it: it runs by [`Kernels::Matrix`] alone until a GPU has run it. Vectors (time embeddings) stay in f32
//! there, and so do sums and all other ops.

use crate::device::{DeviceInfo, DeviceKind};
use crate::matrix::Matrix;
use crate::pack::Precision;

/// Which kernels a network runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kernels {
    /// What suits the device.
    #[default]
    Auto,
    /// Register tiles; every buffer is a storage buffer.
    Plain,
    /// The same, reading through texel buffers whatever is not too large for one.
    Texel,
    /// Tiles in shared memory.
    Tile,
    /// The same on matrix units: what convolutions and linear layers read is rounded to half floats, whatever the precision.
    Matrix,
}

impl Kernels {
    /// The families, each with its name.
    pub const NAMES: &[(&str, Kernels)] =
        &[("plain", Kernels::Plain), ("texel", Kernels::Texel), ("tile", Kernels::Tile), ("matrix", Kernels::Matrix)];

    /// The name of a family.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, kernels)| *kernels == self).map_or("auto", |(name, _)| name)
    }
}

/// How the invocations of a group come by what they multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// Each by itself.
    Plain,
    /// From shared memory.
    Tile,
    /// From shared memory, for matrix units.
    Matrix(Matrix),
}

/// A convolution's kernel and how it cuts up the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    pub(crate) kernel: &'static str,
    /// Specialization constants before those of the weights and the enlargement, and after them.
    head: [u32; 4],
    tail: Option<[u32; 4]>,
    /// What a group makes: pixels, and vectors of output channels.
    sides: [u32; 2],
    invocations: u32,
    /// Bytes that they share.
    shared: u32,
}

impl Tile {
    /// Tiles of `conv2d` and `conv2d_tile`: a group's sides, and the pixels and vectors of output channels of an invocation.
    const fn new(kernel: &'static str, [x, y]: [u32; 2], pixels: u32, outs: u32) -> Self {
        let head = [x, y, pixels, outs];
        Self { kernel, head, tail: None, sides: [x * pixels, y * outs], invocations: x * y, shared: 0 }
    }

    /// Of `conv2d_tile`, which shares four steps: a vector a pixel, and four vectors a vector of output channels.
    const fn shared(local: [u32; 2], pixels: u32, outs: u32) -> Self {
        let tile = Self::new("conv2d_tile", local, pixels, outs);
        Self { shared: (tile.sides[0] + 4 * tile.sides[1]) * 4 * 16, ..tile }
    }

    /// Of `conv2d_split`: lanes that share a sum, and vectors of output channels.
    const fn split([lanes, outs]: [u32; 2]) -> Self {
        let tile = Self::new("conv2d_split", [lanes, outs], 1, 1);
        Self { sides: [1, outs], shared: lanes * outs * 16, ..tile }
    }

    /// Of `conv2d_matrix`: 256 invocations, of at most eight subgroups in two columns, with at most so many matrices a side each.
    fn matrix(matrix: Matrix, most: u32) -> Self {
        let Matrix { m, n, k, subgroup } = matrix;
        let subgroups = (256 / subgroup.max(1)).clamp(1, 8);
        let columns = subgroups.min(2);
        let rows = subgroups / columns;
        // 128 pixels and 128 channels at most.
        let fitting = |count: u32, size: u32| (128 / (count * size)).clamp(1, most);
        let (pixels, outs) = (fitting(rows, m), fitting(columns, n));
        let sides = [rows * pixels * m, columns * outs * n / 4];
        Self {
            kernel: "conv2d_matrix",
            head: [subgroups * subgroup, rows, pixels, outs],
            tail: Some([columns, m, n, k]),
            sides,
            invocations: subgroups * subgroup,
            // Rows of 40 half floats, and a matrix of sums for each subgroup.
            shared: (sides[0] + 4 * sides[1]) * 80 + subgroups * m * n * 4,
        }
    }

    /// Groups for an output of so many pixels and vectors of channels.
    pub(crate) fn groups(&self, pixels: u32, out4: u32) -> u64 {
        u64::from(pixels.div_ceil(self.sides[0])) * u64::from(out4.div_ceil(self.sides[1]))
    }

    /// The tile as a choice of tuning has it: invocations along pixels and output channels, and what each holds of them; of
    /// matrices, all invocations, and the matrices that a subgroup holds.
    pub(crate) fn choice(&self) -> [[u32; 2]; 2] {
        let [a, b, pixels, outs] = self.head;
        if self.tail.is_some() { [[a, 1], [pixels, outs]] } else { [[a, b], [pixels, outs]] }
    }

    /// Specialization constants, for weights stored in a way and an enlargement of what is read.
    pub(crate) fn constants(&self, stored: u32, upsample: u32) -> Vec<u32> {
        [&self.head[..], &[stored, upsample], self.tail.as_slice().as_flattened()].concat()
    }
}

/// Tiles in shared memory, the most efficient first: 128 x 128, 64 x 64 and 32 x 32 pixels x channels. Of each f32 from memory
/// they make 64, 32 and 16 products: 32, 16 and 8 operations a byte. Of each vector from shared memory an invocation makes 16, 10.7
/// and 8 products; where a processor has 128 multipliers, and 128 bytes a cycle from there, 16 keep it busy, and neighbours load the
/// same besides. Sums take 64, 32 and 16 registers.
const TILES: [Tile; 3] = [Tile::shared([16, 16], 8, 2), Tile::shared([8, 16], 8, 1), Tile::shared([8, 8], 4, 1)];

/// Few pixels: 32 lanes share each sum.
const SPLIT: Tile = Tile::split([32, 2]);

/// The most pixels for which weights are read anew for each.
const FEW: u32 = 4;

/// What a group of a convolution's kernel with these specialization constants makes: pixels, and vectors of output channels.
pub(crate) fn sides(kernel: &str, constants: &[u32]) -> Option<[u32; 2]> {
    let sides = match (kernel, constants) {
        ("conv2d" | "conv2d_tile", &[x, y, pixels, outs, ..]) => [x * pixels, y * outs],
        ("conv2d_split", &[_, outs, ..]) => [1, outs],
        ("conv2d_matrix", &[_, rows, pixels, outs, _, _, columns, m, n, _]) => {
            [rows * pixels * m, columns * outs * n / 4]
        }
        _ => return None,
    };
    (!sides.contains(&0)).then_some(sides)
}

/// How work is cut up on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tiling {
    /// Invocations of a group.
    pub(crate) local: u32,
    pub(crate) family: Family,
    /// Invocations of a convolution's group: along pixels and along output channels.
    conv_local: [u32; 2],
    /// Pixels and vectors of output channels that an invocation of a convolution holds at most.
    tile: [u32; 2],
    /// The tile of every convolution, in place of the table's.
    fixed: Option<Tile>,
    /// Groups that keep every processor busy.
    enough: u64,
    /// The most invocations of a group on this device, and the most bytes that they share.
    max_invocations: u32,
    max_shared: u32,
    /// Vectors of output channels, of several queries, that an invocation of attention holds at most.
    pub(crate) queries: u32,
    /// Pixels that an invocation of group normalisation's last stage takes.
    pub(crate) apply_run: u32,
    /// Most vectors of one image of what is read through a texel buffer; what is larger is read from a storage buffer.
    pub(crate) texels: u64,
    pub(crate) precision: Precision,
}

impl Tiling {
    /// The table of kernels: by the device's kind, maker and limits alone.
    pub(crate) fn new(info: &DeviceInfo, kernels: Kernels, precision: Precision) -> Self {
        /// Texel buffers of fewer elements would cut batches short.
        const WIDE: u64 = 1 << 20;
        // Software drivers run a group's invocations in SIMD lanes, eight of them. lavapipe loads from a storage buffer in a
        // loop over the lanes, with a branch for each (emit_load_mem of Mesa's gallivm), but gathers texels branch-free: 13
        // times as fast, all in all. SwiftShader, with 65536 texels at most, gains nothing.
        let software = info.kind == DeviceKind::Cpu;
        let texel = match kernels {
            Kernels::Auto => software && info.max_texels >= WIDE,
            Kernels::Plain | Kernels::Tile | Kernels::Matrix => false,
            Kernels::Texel => true,
        };
        let family = match (kernels, info.matrix) {
            (Kernels::Auto, _) if has_fast_shared_memory(info) => Family::Tile,
            (Kernels::Auto | Kernels::Plain | Kernels::Texel, _) => Family::Plain,
            (Kernels::Matrix, Some(matrix)) => Family::Matrix(matrix),
            (Kernels::Tile | Kernels::Matrix, _) => Family::Tile,
        };
        let texels = if texel { info.max_texels } else { 0 };
        let (max_invocations, max_shared) = (info.max_invocations, info.max_shared);
        match software {
            // Loads cost far more than arithmetic, so the tile is large: 8 * 4 * 16 products a lane for 8 + 4 * 4 loads.
            true => Self {
                local: 8,
                family,
                conv_local: [8, 1],
                tile: [8, 4],
                fixed: None,
                // A group a core, or fewer: tiles run by force only.
                enough: 1,
                max_invocations,
                max_shared,
                queries: 64,
                apply_run: 16,
                texels,
                precision,
            },
            // What fits the registers of small devices.
            false => Self {
                local: 64,
                family,
                conv_local: [16, 4],
                tile: [4, 2],
                fixed: None,
                // Those of a large GPU: an RTX 3090 has 82, an RX 7900 XTX 96.
                enough: 128,
                max_invocations,
                max_shared,
                queries: 8,
                apply_run: 4,
                texels,
                precision,
            },
        }
    }

    /// The tile of a convolution with so many output pixels and vectors of output channels.
    pub(crate) fn conv2d(&self, pixels: u32, out4: u32) -> Tile {
        if let Some(tile) = self.fixed {
            return tile;
        }
        match self.family {
            Family::Plain => self.registers(pixels),
            Family::Tile | Family::Matrix(_) if pixels <= FEW => SPLIT,
            Family::Tile => self.among(TILES, pixels, out4),
            // Smaller where they are too many for the device's shared memory.
            Family::Matrix(matrix) => self.among(matrix_tiles(matrix), pixels, out4),
        }
    }

    /// The tiles of convolutions that tuning may try in place of the table's, of kernels that share memory.
    pub(crate) fn tiles(&self) -> Vec<Tile> {
        let all = match self.family {
            Family::Plain => Vec::new(),
            Family::Tile => [&TILES[..], &[SPLIT]].concat(),
            Family::Matrix(matrix) => matrix_tiles(matrix).to_vec(),
        };
        all.into_iter().filter(|tile| self.runs(tile)).collect()
    }

    /// The same with this tile for every convolution; `None` where there is no such tile, or the device can't run it.
    pub(crate) fn with_tile(self, local: [u32; 2], tile: [u32; 2]) -> Option<Self> {
        if self.family == Family::Plain {
            let fits = local.iter().map(|&n| u64::from(n)).product::<u64>() <= u64::from(self.max_invocations);
            return fits.then_some(Self { conv_local: local, tile, ..self });
        }
        let fixed = self.tiles().into_iter().find(|known| known.choice() == [local, tile]);
        fixed.map(|fixed| Self { fixed: Some(fixed), ..self })
    }

    /// The same with these for an attention: invocations of a group, and the vectors that each holds at most.
    pub(crate) fn with_queries(self, local: u32, queries: u32) -> Self {
        Self { local, queries, ..self }
    }

    fn runs(&self, tile: &Tile) -> bool {
        tile.invocations <= self.max_invocations && tile.shared <= self.max_shared
    }

    /// Sides of a group of layer normalisation: lanes that share a pixel, and pixels. `None`: one invocation a pixel.
    pub(crate) fn layer_norm(&self) -> Option<[u32; 2]> {
        // 64 lanes bring 1 KiB at once, of a pixel that has 1 to 5 KiB as a rule.
        (self.family != Family::Plain).then_some([64, 2])
    }

    fn registers(&self, out_pixels: u32) -> Tile {
        let [local_x, local_y] = self.conv_local;
        if out_pixels == 1 {
            // A linear layer of a vector: lanes take output channels.
            return Tile::new("conv2d", [1, local_x * local_y], 1, 1);
        }
        // No more pixels than there are, in powers of two: few pipelines.
        let pixels = out_pixels.div_ceil(local_x).next_power_of_two().min(self.tile[0]);
        Tile::new("conv2d", self.conv_local, pixels, self.tile[1])
    }

    /// The first tile of which there are enough to keep the device busy, and that doesn't reach far beyond the output; the last if
    /// there is none.
    fn among(&self, tiles: [Tile; 3], pixels: u32, out4: u32) -> Tile {
        let suits = |tile: &&Tile| {
            let groups = tile.groups(pixels, out4);
            let covered = groups * u64::from(tile.sides[0]) * u64::from(tile.sides[1]);
            let needed = u64::from(pixels) * u64::from(out4);
            self.runs(tile) && groups >= self.enough && covered * 3 <= needed * 4
        };
        let [.., smallest] = tiles;
        tiles.iter().find(suits).copied().unwrap_or(smallest)
    }
}

/// Tiles of matrices, the most efficient first.
fn matrix_tiles(matrix: Matrix) -> [Tile; 3] {
    [4, 2, 1].map(|most| Tile::matrix(matrix, most))
}

/// Whether a device is known to have shared memory near its arithmetic units, and registers for tiles of it.
fn has_fast_shared_memory(info: &DeviceInfo) -> bool {
    /// As assigned by the PCI-SIG.
    const NVIDIA: u32 = 0x10de;
    const AMD: u32 = 0x1002;
    const INTEL: u32 = 0x8086;
    match info.kind {
        DeviceKind::Discrete => true,
        DeviceKind::Integrated | DeviceKind::Virtual => matches!(info.vendor, NVIDIA | AMD | INTEL),
        DeviceKind::Other | DeviceKind::Cpu => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device with the least that Vulkan asks for.
    fn device(kind: DeviceKind, vendor: u32) -> DeviceInfo {
        DeviceInfo {
            index: 0,
            name: String::new(),
            kind,
            vendor,
            driver: String::new(),
            api: (1, 1),
            unified: false,
            memory: 0,
            max_binding: 1 << 27,
            max_texels: 1 << 16,
            max_invocations: 128,
            max_shared: 16 << 10,
            matrix: None,
            max_groups: [65535; 3],
            align: 256,
        }
    }

    fn family(kind: DeviceKind, vendor: u32, kernels: Kernels) -> Family {
        Tiling::new(&device(kind, vendor), kernels, Precision::F32).family
    }

    #[test]
    fn families_go_by_the_kind_and_the_maker() {
        let auto = |kind, vendor| family(kind, vendor, Kernels::Auto);
        assert_eq!(auto(DeviceKind::Discrete, 0x10de), Family::Tile);
        assert_eq!(auto(DeviceKind::Integrated, 0x10de), Family::Tile, "Orin");
        assert_eq!(auto(DeviceKind::Integrated, 0x8086), Family::Tile);
        for vendor in [0x14e4, 0x13b5, 0x5143, 0x1010, 0x106b, 0x10005] {
            assert_eq!(auto(DeviceKind::Integrated, vendor), Family::Plain, "{vendor:#x}");
        }
        assert_eq!(auto(DeviceKind::Cpu, 0x10005), Family::Plain);
        assert_eq!(family(DeviceKind::Cpu, 0x10005, Kernels::Tile), Family::Tile);
        assert_eq!(family(DeviceKind::Discrete, 0x10de, Kernels::Plain), Family::Plain);
    }

    #[test]
    fn matrices_run_by_force_alone() {
        let found = Matrix { m: 16, n: 16, k: 16, subgroup: 32 };
        let family = |kind, precision, kernels| {
            Tiling::new(&DeviceInfo { matrix: Some(found), ..device(kind, 0x10de) }, kernels, precision).family
        };
        assert_eq!(family(DeviceKind::Discrete, Precision::F16, Kernels::Auto), Family::Tile);
        assert_eq!(family(DeviceKind::Discrete, Precision::Q4, Kernels::Auto), Family::Tile);
        assert_eq!(family(DeviceKind::Discrete, Precision::F32, Kernels::Auto), Family::Tile);
        assert_eq!(family(DeviceKind::Discrete, Precision::F16, Kernels::Tile), Family::Tile);
        assert_eq!(family(DeviceKind::Cpu, Precision::F16, Kernels::Auto), Family::Plain);
        assert_eq!(family(DeviceKind::Cpu, Precision::F32, Kernels::Matrix), Family::Matrix(found));
    }

    #[test]
    fn tiles_are_inside_the_portable_floor() {
        for tile in TILES {
            assert!(tile.invocations <= 256 && tile.shared <= 16 << 10);
            // What the kernel asks of them.
            let [local_x, local_y, ..] = tile.head;
            assert!(local_x % 8 == 0 && local_y % 4 == 0 && tile.sides.iter().all(|side| side % 8 == 0));
        }
        let [.., smallest] = TILES;
        assert!(smallest.invocations <= 128 && SPLIT.invocations <= 128, "what every device can run");
        assert!(SPLIT.head[0].is_power_of_two());
    }

    #[test]
    fn tiles_of_matrices_have_whole_subgroups() {
        for (m, n, subgroup) in [(16, 16, 32), (16, 16, 64), (8, 8, 8), (8, 16, 16), (16, 8, 32), (32, 32, 128)] {
            let tiles = [4, 2, 1].map(|most| Tile::matrix(Matrix { m, n, k: 16, subgroup }, most));
            for tile in tiles {
                let ([local, rows, pixels, outs], Some([columns, ..])) = (tile.head, tile.tail) else {
                    panic!("{tile:?}")
                };
                assert_eq!(local, rows * columns * subgroup);
                assert_eq!(tile.sides, [rows * pixels * m, columns * outs * n / 4]);
                assert!(local <= 256 && tile.shared <= 32 << 10, "{tile:?}");
            }
        }
        let largest = Tile::matrix(Matrix { m: 16, n: 16, k: 16, subgroup: 32 }, 4);
        assert_eq!((largest.sides, largest.head), ([128, 32], [256, 4, 2, 4]));
    }

    #[test]
    fn sides_follow_from_the_constants() {
        let found = Matrix { m: 16, n: 8, k: 16, subgroup: 32 };
        let plain = Tile::new("conv2d", [16, 4], 4, 2);
        for tile in [&TILES[..], &matrix_tiles(found), &[SPLIT, plain]].concat() {
            assert_eq!(sides(tile.kernel, &tile.constants(1, 2)), Some(tile.sides), "{tile:?}");
        }
        assert_eq!(sides("gate", &[64, 1, 1, 1]), None);
        assert_eq!(sides("conv2d", &[64, 0, 1, 1]), None);
    }

    #[test]
    fn tiles_go_by_the_shape_of_one_image() {
        let gpu = DeviceInfo { max_invocations: 1024, ..device(DeviceKind::Discrete, 0x10de) };
        let tiling = Tiling::new(&gpu, Kernels::Auto, Precision::F32);
        let tile = |pixels, channels: u32| tiling.conv2d(pixels, channels / 4);
        // Stable Diffusion's largest layers, its middle, its last, and a vector's.
        assert_eq!(tile(64 * 64, 1280), TILES[0]);
        assert_eq!(tile(64 * 64, 320), TILES[1], "96 large tiles would leave processors idle");
        assert_eq!(tile(8 * 8, 1280), TILES[2]);
        assert_eq!(tile(512 * 512, 4), TILES[2], "what lies beyond the output is computed too");
        assert_eq!(tile(1, 1280), SPLIT);
        // A device of few invocations.
        let small = Tiling::new(&device(DeviceKind::Discrete, 0), Kernels::Auto, Precision::F32);
        assert_eq!(small.conv2d(64 * 64, 1280), TILES[1]);
    }
}
