//! Pipelines: one for each kernel and set of specialization constants, and their cache on disk.

#![expect(unsafe_code, reason = "creates shader modules and pipeline caches from bytes")]

use crate::error::{Doing, GpuError};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use unfog_shaders::{Access, Asks, Constant, Kernel, Reads};
use vulkano::descriptor_set::layout::{
    DescriptorSetLayout, DescriptorSetLayoutBinding, DescriptorSetLayoutCreateInfo, DescriptorType,
};
use vulkano::device::Device;
use vulkano::pipeline::cache::{PipelineCache, PipelineCacheCreateInfo};
use vulkano::pipeline::compute::ComputePipelineCreateInfo;
use vulkano::pipeline::layout::{PipelineLayout, PipelineLayoutCreateInfo, PushConstantRange};
use vulkano::pipeline::{ComputePipeline, PipelineShaderStageCreateInfo};
use vulkano::shader::{ShaderModule, ShaderStages, SpecializationConstant};

/// A kernel's module with the values of its specialization constants, in their order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    pub(crate) kernel: &'static str,
    pub(crate) reads: Reads,
    pub(crate) constants: Vec<u32>,
}

/// Every pipeline that was created on a device.
pub(crate) struct Pipelines {
    device: Arc<Device>,
    modules: HashMap<(&'static str, Reads), Arc<ShaderModule>>,
    made: HashMap<Variant, Arc<ComputePipeline>>,
    cache: Arc<PipelineCache>,
    file: Option<PathBuf>,
    /// Invocations of a subgroup of kernels with matrices.
    subgroup: Option<u32>,
    /// How many pipelines the file knows.
    saved: usize,
}

impl Pipelines {
    pub(crate) fn new(
        device: &Arc<Device>,
        cache_dir: Option<PathBuf>,
        subgroup: Option<u32>,
    ) -> Result<Self, GpuError> {
        let key = key(device);
        let file = cache_dir.map(|dir| dir.join(format!("unfog-pipelines-{:016x}.bin", hash(&key))));
        let initial_data = file.as_deref().and_then(|f| load(f, &key)).unwrap_or_default();
        let create = |initial_data| PipelineCacheCreateInfo { initial_data, ..PipelineCacheCreateInfo::default() };
        // SAFETY: the data is what this driver returned (key and checksum of the file agree).
        let cache = unsafe { PipelineCache::new(device.clone(), create(initial_data)) }
            // SAFETY: no data.
            .or_else(|_| unsafe { PipelineCache::new(device.clone(), create(Vec::new())) })
            .doing("create a pipeline cache")?;
        Ok(Self {
            device: device.clone(),
            modules: HashMap::new(),
            made: HashMap::new(),
            cache,
            file,
            subgroup,
            saved: 0,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.made.len()
    }

    /// The pipeline of a variant, compiled if it is new.
    pub(crate) fn get(&mut self, variant: &Variant) -> Result<Arc<ComputePipeline>, GpuError> {
        if let Some(pipeline) = self.made.get(variant) {
            return Ok(pipeline.clone());
        }
        let kernel = Kernel::named(variant.kernel).ok_or(GpuError::Bug("a kernel that is not in the table"))?;
        let module = self.module(kernel, variant.reads)?;
        let values = kernel.constants.iter().zip(&variant.constants).zip(0..).map(|((constant, &value), id)| {
            let value = match constant {
                Constant::Bool(_) => SpecializationConstant::Bool(value != 0),
                _ => SpecializationConstant::U32(value),
            };
            (id, value)
        });
        let module = module.specialize(values.collect()).doing("specialize a shader")?;
        let entry_point = module.entry_point("main").ok_or(GpuError::Bug("a shader without main"))?;
        let required_subgroup_size = self.subgroup.filter(|_| kernel.asks == Asks::Matrix);
        let stage =
            PipelineShaderStageCreateInfo { required_subgroup_size, ..PipelineShaderStageCreateInfo::new(entry_point) };
        let create = ComputePipelineCreateInfo::stage_layout(stage, layout(&self.device, kernel, variant.reads)?);
        let pipeline = ComputePipeline::new(self.device.clone(), Some(self.cache.clone()), create);
        let pipeline = pipeline.doing("create a pipeline")?;
        self.made.insert(variant.clone(), pipeline.clone());
        Ok(pipeline)
    }

    fn module(&mut self, kernel: &Kernel, reads: Reads) -> Result<Arc<ShaderModule>, GpuError> {
        if let Some(module) = self.modules.get(&(kernel.name, reads)) {
            return Ok(module.clone());
        }
        let module = create_module(&self.device, kernel, reads)?;
        self.modules.insert((kernel.name, reads), module.clone());
        Ok(module)
    }

    /// Writes the cache file if there are new pipelines. A cache that can't be written is no error.
    pub(crate) fn save(&mut self) {
        let Some(file) = self.file.as_deref().filter(|_| self.made.len() > self.saved) else {
            return;
        };
        if let Ok(data) = self.cache.get_data() {
            let _ = store(file, &key(&self.device), &data);
            self.saved = self.made.len();
        }
    }
}

fn create_module(device: &Arc<Device>, kernel: &Kernel, reads: Reads) -> Result<Arc<ShaderModule>, GpuError> {
    #[cfg(feature = "compile")]
    if let Some(load) = kernel.load[reads as usize] {
        return load(device.clone()).doing("load a shader");
    }
    let create = vulkano::shader::ShaderModuleCreateInfo::new(kernel.module(reads));
    // SAFETY: the module was compiled from this repository's GLSL, which the SPIR-V check holds it to.
    unsafe { ShaderModule::new(device.clone(), create) }.doing("load a shader")
}

fn layout(device: &Arc<Device>, kernel: &Kernel, reads: Reads) -> Result<Arc<PipelineLayout>, GpuError> {
    let buffer = |access: Access| DescriptorSetLayoutBinding {
        stages: ShaderStages::COMPUTE,
        ..DescriptorSetLayoutBinding::descriptor_type(match (reads, access) {
            (Reads::Texel, Access::Read) => DescriptorType::UniformTexelBuffer,
            _ => DescriptorType::StorageBuffer,
        })
    };
    let bindings: BTreeMap<u32, _> = (0..).zip(kernel.bindings.iter().map(|b| buffer(b.access))).collect();
    let set = DescriptorSetLayoutCreateInfo { bindings, ..DescriptorSetLayoutCreateInfo::default() };
    let set = DescriptorSetLayout::new(device.clone(), set).doing("describe a shader's buffers")?;
    let range = PushConstantRange { stages: ShaderStages::COMPUTE, offset: 0, size: kernel.push_bytes as u32 };
    let create = PipelineLayoutCreateInfo {
        set_layouts: vec![set],
        push_constant_ranges: vec![range],
        ..PipelineLayoutCreateInfo::default()
    };
    PipelineLayout::new(device.clone(), create).doing("describe a shader's parameters")
}

/// What a cache file must be for: another driver, device or version of this crate starts anew.
fn key(device: &Device) -> Vec<u8> {
    let p = device.physical_device().properties();
    let mut key = b"unfog pipelines 1 ".to_vec();
    key.extend(env!("CARGO_PKG_VERSION").as_bytes());
    for number in [p.vendor_id, p.device_id, p.driver_version] {
        key.extend(number.to_le_bytes());
    }
    key.extend(p.pipeline_cache_uuid);
    key
}

/// FNV-1a (Fowler, Noll & Vo), 64 bits: against damage, not against malice.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// The cache data of a file made for `key`: the key, a hash of the data, the data.
fn load(file: &Path, key: &[u8]) -> Option<Vec<u8>> {
    let bytes = std::fs::read(file).ok()?;
    let (sum, data) = bytes.strip_prefix(key)?.split_first_chunk::<8>()?;
    (u64::from_le_bytes(*sum) == hash(data)).then(|| data.to_vec())
}

fn store(file: &Path, key: &[u8], data: &[u8]) -> std::io::Result<()> {
    let dir = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let part = file.with_extension(format!("{}.part", std::process::id()));
    let whole = [key, &hash(data).to_le_bytes(), data].concat();
    std::fs::write(&part, whole).and_then(|()| std::fs::rename(&part, file)).inspect_err(|_| {
        let _ = std::fs::remove_file(&part);
    })
}
