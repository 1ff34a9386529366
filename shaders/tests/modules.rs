//! The table of kernels against the committed modules: what the host believes is what the SPIR-V says.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use unfog_shaders::source::{fingerprint, folder};
use unfog_shaders::{Access, Asks, Constant, KERNELS, Kernel, Reads};

/// What a module declares (SPIR-V 1.0; numbers from its specification).
#[derive(Default)]
struct Module {
    version: u32,
    capabilities: BTreeSet<u32>,
    extensions: BTreeSet<String>,
    names: BTreeMap<u32, String>,
    /// (structure, member) to name.
    member_names: BTreeMap<(u32, u32), String>,
    /// (id, decoration) to value, or 0.
    decorations: BTreeMap<(u32, u32), u32>,
    /// (structure, member, decoration) to value, or 0.
    member_decorations: BTreeMap<(u32, u32, u32), u32>,
    /// Pointer to what it points at.
    pointers: BTreeMap<u32, u32>,
    /// (id, pointer type, storage class).
    variables: Vec<(u32, u32, u32)>,
    /// Barriers among a group's invocations.
    barriers: usize,
}

const SPEC_ID: u32 = 1;
const NON_WRITABLE: u32 = 24;
const NON_READABLE: u32 = 25;
const BINDING: u32 = 33;
const DESCRIPTOR_SET: u32 = 34;
const OFFSET: u32 = 35;

/// Storage classes; the second is that of shared memory.
const UNIFORM: u32 = 2;
const WORKGROUP: u32 = 4;
const STORAGE_BUFFER: u32 = 12;

fn text(words: &[u32]) -> String {
    let bytes = words.iter().flat_map(|w| w.to_le_bytes()).take_while(|&b| b != 0);
    String::from_utf8(bytes.collect()).unwrap()
}

fn read(words: &[u32]) -> Module {
    assert_eq!(words[0], 0x0723_0203, "magic number");
    let mut module = Module { version: words[1], ..Module::default() };
    let mut rest = &words[5..];
    while let Some(&first) = rest.first() {
        let (op, later) = rest.split_at((first >> 16) as usize);
        rest = later;
        let value = |i: usize| op.get(i).copied().unwrap_or(0);
        match first & 0xffff {
            5 => _ = module.names.insert(op[1], text(&op[2..])),
            6 => _ = module.member_names.insert((op[1], op[2]), text(&op[3..])),
            10 => _ = module.extensions.insert(text(&op[1..])),
            17 => _ = module.capabilities.insert(op[1]),
            32 => _ = module.pointers.insert(op[1], op[3]),
            59 => module.variables.push((op[2], op[1], op[3])),
            71 => _ = module.decorations.insert((op[1], op[2]), value(3)),
            224 => module.barriers += 1,
            72 => _ = module.member_decorations.insert((op[1], op[2], op[3]), value(4)),
            _ => {}
        }
    }
    module
}

impl Module {
    /// The structures of the variables of a storage class, with the variables' ids.
    fn blocks(&self, class: u32) -> impl Iterator<Item = (u32, u32)> {
        self.variables.iter().filter(move |v| v.2 == class).map(|v| (v.0, self.pointers[&v.1]))
    }
}

fn each(check: impl Fn(&Kernel, Reads, &Module)) {
    assert!(!KERNELS.is_empty());
    for kernel in KERNELS {
        assert!(kernel.reads().any(|reads| reads == Reads::Storage), "{}", kernel.name);
        kernel.reads().for_each(|reads| check(kernel, reads, &read(kernel.module(reads))));
    }
}

/// Capabilities, by the numbers of the specification.
const SHADER: u32 = 1;
const FLOAT16: u32 = 9;
/// Which every device has.
const SAMPLED_BUFFER: u32 = 46;
const GROUP_NON_UNIFORM: u32 = 61;
const VULKAN_MEMORY_MODEL: u32 = 5345;
const COOPERATIVE_MATRIX: u32 = 6022;

#[test]
fn modules_stay_inside_what_they_ask_for() {
    each(|kernel, reads, module| {
        let name = kernel.name;
        let mut capabilities = BTreeSet::from([SHADER]);
        let mut extensions = BTreeSet::new();
        if reads == Reads::Texel {
            capabilities.insert(SAMPLED_BUFFER);
        }
        let version = match kernel.asks {
            Asks::Matrix => {
                capabilities.extend([FLOAT16, GROUP_NON_UNIFORM, VULKAN_MEMORY_MODEL, COOPERATIVE_MATRIX]);
                extensions.extend(["SPV_KHR_cooperative_matrix", "SPV_KHR_vulkan_memory_model"].map(str::to_owned));
                // Vulkan 1.1.
                0x0001_0300
            }
            // Vulkan 1.0.
            Asks::Floor | Asks::Shared => 0x0001_0000,
        };
        assert_eq!(module.version, version, "{name}");
        assert_eq!(module.capabilities, capabilities, "{name}: no other capability");
        assert_eq!(module.extensions, extensions, "{name}: no other extension");
        let shares = kernel.asks != Asks::Floor;
        assert_eq!(module.blocks(WORKGROUP).next().is_some(), shares, "{name}: shared memory");
        assert_eq!(module.barriers > 0, shares, "{name}: barriers");
        assert!(kernel.bindings.len() <= 8 && kernel.push_bytes <= 128, "{name}");
    });
}

#[test]
fn every_op_has_a_kernel_without_shared_memory() {
    for op in KERNELS.iter().map(|kernel| kernel.op) {
        assert!(KERNELS.iter().any(|kernel| kernel.op == op && kernel.asks == Asks::Floor), "{op}");
    }
}

/// Without a compiler modules are held to their GLSL by fingerprints; see `unfog-spirv`.
#[test]
fn modules_are_those_of_their_source() {
    let mut lines = String::new();
    for (kernel, reads) in KERNELS.iter().flat_map(|kernel| kernel.reads().map(move |reads| (kernel, reads))) {
        let bytes: Vec<u8> = kernel.module(reads).iter().flat_map(|word| word.to_le_bytes()).collect();
        lines.push_str(&fingerprint(&folder(), kernel.name, reads.suffix(), &bytes).unwrap());
    }
    let committed = std::fs::read_to_string(folder().join("spirv").join("fingerprints")).unwrap();
    assert!(committed == lines, "run shaders/build.sh: these are the fingerprints now\n{lines}");
}

#[test]
fn modules_are_valid_for_the_validator() {
    let mut seen = 0;
    for (kernel, reads) in KERNELS.iter().flat_map(|kernel| kernel.reads().map(move |reads| (kernel, reads))) {
        let environment = if kernel.asks == Asks::Matrix { "vulkan1.1" } else { "vulkan1.0" };
        let module = folder().join("spirv").join(format!("{}{}.spv", kernel.name, reads.suffix()));
        let mut command = std::process::Command::new(std::env::var_os("SPIRV_VAL").unwrap_or("spirv-val".into()));
        let Ok(output) = command.args(["--target-env", environment]).arg(&module).output() else {
            let _ = writeln!(std::io::stderr(), "SKIPPED: validation of SPIR-V (no spirv-val; SPIRV_VAL names it)");
            return;
        };
        let text = String::from_utf8_lossy(&output.stderr);
        // SPIRV-Tools before 2023.4 don't know cooperative matrices.
        let old = kernel.asks == Asks::Matrix && text.contains("Invalid capability operand");
        assert!(output.status.success() || old, "{}: {text}", kernel.name);
        seen += usize::from(output.status.success());
    }
    assert!(seen > 0);
}

#[test]
fn push_constants_agree() {
    each(|kernel, _, module| {
        let (_, block) = module.blocks(9).next().expect(kernel.name);
        let members = module.member_names.range((block, 0)..(block + 1, 0));
        let there: Vec<(&str, usize)> = members
            .map(|(&(_, member), name)| (name.as_str(), module.member_decorations[&(block, member, OFFSET)] as usize))
            .collect();
        let here: Vec<(&str, usize)> = kernel.push.iter().map(|f| (f.name, f.offset)).collect();
        assert_eq!(here, there, "{}", kernel.name);
        // Every field is a 32-bit number.
        assert_eq!(kernel.push_bytes, 4 * here.len(), "{}", kernel.name);
    });
}

#[test]
fn bindings_agree() {
    each(|kernel, reads, module| {
        let mut numbers = BTreeSet::new();
        let mut find = |variable: u32| {
            let number = module.decorations[&(variable, BINDING)];
            assert_eq!(module.decorations[&(variable, DESCRIPTOR_SET)], 0, "{}", kernel.name);
            assert!(numbers.insert(number), "{}: one view of a buffer", kernel.name);
            kernel.bindings[number as usize]
        };
        // Storage buffers are uniforms before SPIR-V 1.3, and have a class of their own since.
        for (variable, block) in module.blocks(UNIFORM).chain(module.blocks(STORAGE_BUFFER)) {
            let binding = find(variable);
            let has = |decoration| module.member_decorations.contains_key(&(block, 0, decoration));
            let access = match (has(NON_WRITABLE), has(NON_READABLE)) {
                (true, false) => Access::Read,
                (false, true) => Access::Write,
                _ => panic!("{}: {} is read and written", kernel.name, binding.name),
            };
            assert_eq!(binding.access, access, "{}: {}", kernel.name, binding.name);
            assert!(reads == Reads::Storage || access == Access::Write, "{}: {}", kernel.name, binding.name);
            assert_eq!(module.names[&block], binding.name, "{}", kernel.name);
        }
        for (variable, _) in module.blocks(0) {
            let binding = find(variable);
            assert_eq!((reads, binding.access), (Reads::Texel, Access::Read), "{}: {}", kernel.name, binding.name);
            let name = module.names[&variable].replace('_', "");
            assert_eq!(name, binding.name.to_lowercase(), "{}", kernel.name);
        }
        assert_eq!(numbers.len(), kernel.bindings.len(), "{}", kernel.name);
    });
}

#[test]
fn specialization_constants_agree() {
    each(|kernel, _, module| {
        let decorations = module.decorations.iter().filter(|((_, decoration), _)| *decoration == SPEC_ID);
        let there: BTreeMap<u32, &str> =
            decorations.map(|((id, _), &number)| (number, module.names.get(id).map_or("", String::as_str))).collect();
        assert_eq!(there.len(), kernel.constants.len(), "{}", kernel.name);
        for (number, constant) in kernel.constants.iter().enumerate() {
            let name = match constant {
                Constant::LocalX | Constant::LocalY => "",
                Constant::Uint(name) | Constant::Bool(name) => name,
            };
            assert_eq!(there[&(number as u32)], name, "{}", kernel.name);
        }
    });
}

#[test]
fn every_shader_is_in_the_table_and_compiled() {
    let names = |folder: &str, extension: &str| -> BTreeSet<String> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let files = std::fs::read_dir(path).unwrap().map(|f| f.unwrap().path());
        let of_kind = files.filter(|f| f.extension().is_some_and(|e| e == extension));
        of_kind.map(|f| f.file_stem().unwrap().to_string_lossy().into_owned()).collect()
    };
    let table: BTreeSet<String> = KERNELS.iter().map(|k| k.name.to_owned()).collect();
    assert_eq!(names(".", "comp"), table);
    let modules = |kernel: &'static Kernel| kernel.reads().map(|reads| format!("{}{}", kernel.name, reads.suffix()));
    assert_eq!(names("spirv", "spv"), KERNELS.iter().flat_map(modules).collect());
}
