//! Devices: which there are, which one is taken, and a context on it.

use crate::error::{Doing, GpuError};
use crate::faults::{Fault, Faults};
use crate::matrix::{self, Matrix, matrix};
use crate::memory::{Live, Usage, available, usage};
use crate::pipeline::Pipelines;
use crate::tune::Choice;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use vulkano::command_buffer::allocator::StandardCommandBufferAllocator;
use vulkano::descriptor_set::allocator::StandardDescriptorSetAllocator;
use vulkano::device::physical::{PhysicalDevice, PhysicalDeviceType};
use vulkano::device::{Device, DeviceCreateInfo, Queue, QueueCreateInfo, QueueFlags};
use vulkano::instance::debug::{
    DebugUtilsMessageSeverity, DebugUtilsMessageType, DebugUtilsMessenger, DebugUtilsMessengerCallback,
    DebugUtilsMessengerCreateInfo, ValidationFeatureEnable,
};
use vulkano::instance::{Instance, InstanceCreateFlags, InstanceCreateInfo, InstanceExtensions};
use vulkano::memory::MemoryPropertyFlags;
use vulkano::{Validated, VulkanError, VulkanLibrary};

/// What sort of device it is, the one preferred by [`DeviceChoice::Auto`] first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceKind {
    /// A card with memory of its own.
    Discrete,
    /// Shares the processor's memory.
    Integrated,
    /// Passed through to a virtual machine.
    Virtual,
    /// Something else.
    Other,
    /// Software, run by the processor.
    Cpu,
}

/// A device and the limits that matter here.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceInfo {
    /// Its number, in the driver's order.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// What sort it is.
    pub kind: DeviceKind,
    /// Its maker's number: of the PCI-SIG, or of Khronos.
    pub vendor: u32,
    /// The driver's name and version, as far as it tells.
    pub driver: String,
    /// The Vulkan version, major and minor.
    pub api: (u32, u32),
    /// The host writes to the device's own memory: no staging copies.
    pub unified: bool,
    /// Bytes of its largest memory heap.
    pub memory: u64,
    /// Most bytes of a storage buffer binding.
    pub max_binding: u64,
    /// Most texels of a texel buffer.
    pub max_texels: u64,
    /// Most invocations of a work group.
    pub max_invocations: u32,
    /// Most bytes that the invocations of a work group share.
    pub max_shared: u32,
    /// Its matrix units, where kernels can use them.
    pub matrix: Option<Matrix>,
    /// Most work groups of a dispatch in each dimension.
    pub max_groups: [u32; 3],
    /// Storage buffer bindings start at multiples of this many bytes.
    pub align: u64,
}

/// Which device to take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first of the preferred kind: discrete, integrated, virtual, other, software.
    #[default]
    Auto,
    /// By its number in [`devices`].
    Index(usize),
    /// The first whose name contains this, whatever the case.
    Name(String),
}

impl DeviceChoice {
    /// A number, or part of a name.
    pub fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| DeviceChoice::Name(text.to_owned()), DeviceChoice::Index)
    }
}

/// The devices of this machine that can compute.
///
/// # Errors
/// [`GpuError::Loader`] without a Vulkan loader, [`GpuError::NoDevice`] without a driver.
pub fn devices() -> Result<Vec<DeviceInfo>, GpuError> {
    let found = physical_devices(&instance(None)?)?;
    Ok(found.iter().enumerate().map(|(i, (device, _))| info(i, device)).collect())
}

/// An open device. Cheap to clone; networks keep it alive.
#[derive(Clone)]
pub struct Context {
    pub(crate) device: Arc<Device>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) info: Arc<DeviceInfo>,
    pub(crate) commands: Arc<StandardCommandBufferAllocator>,
    pub(crate) sets: Arc<StandardDescriptorSetAllocator>,
    pub(crate) pipelines: Arc<Mutex<Pipelines>>,
    pub(crate) live: Arc<Mutex<Live>>,
    /// Recorded command buffers that are alive.
    pub(crate) encoded: Arc<AtomicUsize>,
    pub(crate) faults: Arc<Faults>,
    /// What kernels of some shapes are to be, instead of the table's.
    pub(crate) choices: Arc<HashMap<String, Choice>>,
    messages: Messages,
    _messenger: Option<Arc<DebugUtilsMessenger>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("info", &self.info).finish_non_exhaustive()
    }
}

type Messages = Arc<Mutex<Vec<String>>>;

/// What the validation layer has to say of a context.
#[derive(Clone, Debug)]
pub struct Log(Messages);

impl Log {
    /// Warnings and errors so far.
    pub fn messages(&self) -> Vec<String> {
        self.0.lock().map(|m| m.clone()).unwrap_or_default()
    }
}

impl Context {
    /// Opens a device. Compiled pipelines are kept in `cache_dir`, if one is given; it is created when missing, and nothing
    /// that goes wrong there is an error.
    ///
    /// # Errors
    /// [`GpuError::Loader`], [`GpuError::NoDevice`], [`GpuError::UnknownDevice`], or what the driver reports.
    pub fn open(choice: &DeviceChoice, cache_dir: Option<PathBuf>) -> Result<Self, GpuError> {
        Self::open_with(choice, cache_dir, false)
    }

    /// The same with the Khronos validation layer and its synchronization checks on; see [`Context::messages`].
    ///
    /// # Errors
    /// Those of [`Context::open`], and when the layer is not installed.
    pub fn open_validated(choice: &DeviceChoice, cache_dir: Option<PathBuf>) -> Result<Self, GpuError> {
        Self::open_with(choice, cache_dir, true)
    }

    fn open_with(choice: &DeviceChoice, cache_dir: Option<PathBuf>, validate: bool) -> Result<Self, GpuError> {
        let messages = Messages::default();
        let create_info = validate.then(|| messenger(messages.clone()));
        let instance = instance(create_info.clone())?;
        let messenger = match create_info {
            Some(info) => {
                Some(Arc::new(DebugUtilsMessenger::new(instance.clone(), info).doing("listen to validation")?))
            }
            None => None,
        };
        let found = physical_devices(&instance)?;
        let infos: Vec<DeviceInfo> = found.iter().enumerate().map(|(i, (device, _))| info(i, device)).collect();
        let index = choose(choice, &infos)?;
        let (physical, queue_family_index) = found[index].clone();
        let mut create = DeviceCreateInfo {
            queue_create_infos: vec![QueueCreateInfo { queue_family_index, ..QueueCreateInfo::default() }],
            ..DeviceCreateInfo::default()
        };
        let subgroup = infos[index].matrix.map(|found| found.subgroup);
        if subgroup.is_some() {
            matrix::enable(&mut create);
        }
        let (device, mut queues) = Device::new(physical, create).doing("open the device")?;
        let queue = queues.next().ok_or(GpuError::NoDevice)?;
        Ok(Self {
            commands: Arc::new(StandardCommandBufferAllocator::new(device.clone(), Default::default())),
            sets: Arc::new(StandardDescriptorSetAllocator::new(device.clone(), Default::default())),
            pipelines: Arc::new(Mutex::new(Pipelines::new(&device, cache_dir, subgroup)?)),
            device,
            queue,
            live: Arc::default(),
            encoded: Arc::default(),
            faults: Arc::default(),
            choices: Arc::default(),
            info: Arc::new(infos[index].clone()),
            messages,
            _messenger: messenger,
        })
    }

    /// The device.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// The same device, on which kernels of these shapes ([`crate::shape_key`]) are cut up as chosen, whatever the table says.
    #[must_use]
    pub fn tuned(&self, choices: impl IntoIterator<Item = (String, Choice)>) -> Self {
        Self { choices: Arc::new(choices.into_iter().collect()), ..self.clone() }
    }

    /// What the validation layer had to say so far, warnings and errors, but for what is about the layer itself.
    pub fn messages(&self) -> Vec<String> {
        self.log().messages()
    }

    /// The same, to be read when this context is gone: what was left behind is told then.
    pub fn log(&self) -> Log {
        Log(self.messages.clone())
    }

    /// Bytes of memory that the device can still give to this process, where the driver tells; otherwise all of it but what
    /// this context has taken.
    pub fn available(&self) -> u64 {
        available(self)
    }

    /// What the networks of this context hold.
    pub fn usage(&self) -> Usage {
        Usage { commands: self.encoded.load(Ordering::Relaxed), ..usage(self) }
    }

    /// For tests of what happens then: makes a later call to the driver fail, the one after `calls` of its sort that succeed.
    /// `None` ends that.
    pub fn inject(&self, fault: Option<(Fault, u64)>) {
        self.faults.set(fault);
    }

    /// Distinct pipelines that were created on this context.
    pub fn pipelines(&self) -> usize {
        self.pipelines.lock().map_or(0, |p| p.len())
    }
}

#[expect(unsafe_code, reason = "a callback from the validation layer")]
fn messenger(messages: Messages) -> DebugUtilsMessengerCreateInfo {
    let note = move |_, _, data: vulkano::instance::debug::DebugUtilsMessengerCallbackData<'_>| {
        if !of_the_layer(data.message)
            && let Ok(mut all) = messages.lock()
        {
            all.push(data.message.to_owned());
        }
    };
    let note = std::panic::AssertUnwindSafe(note);
    // SAFETY: the closure makes no Vulkan call.
    let callback = unsafe { DebugUtilsMessengerCallback::new(move |a, b, c| (note.0)(a, b, c)) };
    DebugUtilsMessengerCreateInfo {
        message_severity: DebugUtilsMessageSeverity::ERROR | DebugUtilsMessageSeverity::WARNING,
        message_type: DebugUtilsMessageType::GENERAL
            | DebugUtilsMessageType::VALIDATION
            | DebugUtilsMessageType::PERFORMANCE,
        ..DebugUtilsMessengerCreateInfo::user_callback(callback)
    }
}

/// A message that is about the layer itself and that no call of ours brings about. A driver newer than the layer has properties that the layer
/// doesn't know, and vulkano asks for all of them when it lists the devices. And among the functions of video encoders that ash looks
/// up for every device there is one of instances, which is noted where there are encoders (NVIDIA 580, layer 1.3.275).
fn of_the_layer(message: &str) -> bool {
    let lists = ["VUID-VkPhysicalDeviceProperties2-pNext-pNext", "VUID-VkPhysicalDeviceFeatures2-pNext-pNext"];
    (message.contains("unknown VkStructureType") && lists.iter().any(|id| message.contains(id)))
        || message
            .contains("vkGetPhysicalDeviceVideoEncodeQualityLevelPropertiesKHR which is an instance level function")
}

fn instance(validation: Option<DebugUtilsMessengerCreateInfo>) -> Result<Arc<Instance>, GpuError> {
    let library = VulkanLibrary::new().map_err(GpuError::Loader)?;
    let validate = validation.is_some();
    let create = InstanceCreateInfo {
        flags: InstanceCreateFlags::ENUMERATE_PORTABILITY,
        application_name: Some("unfog".to_owned()),
        enabled_layers: if validate { vec!["VK_LAYER_KHRONOS_validation".to_owned()] } else { Vec::new() },
        enabled_extensions: InstanceExtensions {
            ext_debug_utils: validate,
            ext_validation_features: validate,
            ..InstanceExtensions::empty()
        },
        enabled_validation_features: match validate {
            true => vec![ValidationFeatureEnable::SynchronizationValidation],
            false => Vec::new(),
        },
        debug_utils_messengers: validation.into_iter().collect(),
        ..InstanceCreateInfo::default()
    };
    match Instance::new(library, create) {
        Err(Validated::Error(VulkanError::IncompatibleDriver)) => Err(GpuError::NoDevice),
        other => other.doing("start"),
    }
}

/// Every device that can compute, with the queue family to use.
fn physical_devices(instance: &Arc<Instance>) -> Result<Vec<(Arc<PhysicalDevice>, u32)>, GpuError> {
    let found: Vec<_> = instance
        .enumerate_physical_devices()
        .doing("list the devices")?
        .filter_map(|device| {
            let families = device.queue_family_properties();
            let family = families.iter().position(|f| f.queue_flags.intersects(QueueFlags::COMPUTE))?;
            Some((device, family as u32))
        })
        .collect();
    if found.is_empty() { Err(GpuError::NoDevice) } else { Ok(found) }
}

fn info(index: usize, device: &PhysicalDevice) -> DeviceInfo {
    let p = device.properties();
    let kind = match p.device_type {
        PhysicalDeviceType::DiscreteGpu => DeviceKind::Discrete,
        PhysicalDeviceType::IntegratedGpu => DeviceKind::Integrated,
        PhysicalDeviceType::VirtualGpu => DeviceKind::Virtual,
        PhysicalDeviceType::Cpu => DeviceKind::Cpu,
        _ => DeviceKind::Other,
    };
    let memory = device.memory_properties();
    let shared = MemoryPropertyFlags::DEVICE_LOCAL | MemoryPropertyFlags::HOST_VISIBLE;
    let driver = [p.driver_name.clone(), p.driver_info.clone(), Some(format!("{:#x}", p.driver_version))];
    DeviceInfo {
        index,
        name: p.device_name.clone(),
        kind,
        vendor: p.vendor_id,
        driver: driver.into_iter().flatten().filter(|s| !s.is_empty()).collect::<Vec<_>>().join(" "),
        api: (p.api_version.major, p.api_version.minor),
        unified: matches!(kind, DeviceKind::Integrated | DeviceKind::Cpu)
            && memory.memory_types.iter().any(|t| t.property_flags.contains(shared)),
        memory: memory.memory_heaps.iter().map(|h| h.size).max().unwrap_or(0),
        max_binding: u64::from(p.max_storage_buffer_range),
        max_texels: u64::from(p.max_texel_buffer_elements),
        max_invocations: p.max_compute_work_group_invocations,
        max_shared: p.max_compute_shared_memory_size,
        matrix: matrix(device),
        max_groups: p.max_compute_work_group_count,
        align: p.min_storage_buffer_offset_alignment.as_devicesize(),
    }
}

fn choose(choice: &DeviceChoice, infos: &[DeviceInfo]) -> Result<usize, GpuError> {
    let names = || infos.iter().map(|i| format!("{} {}", i.index, i.name)).collect();
    match choice {
        DeviceChoice::Auto => infos.iter().min_by_key(|i| (i.kind, i.index)).map(|i| i.index).ok_or(GpuError::NoDevice),
        DeviceChoice::Index(index) if *index < infos.len() => Ok(*index),
        DeviceChoice::Index(index) => Err(GpuError::UnknownDevice(index.to_string(), names())),
        DeviceChoice::Name(name) => infos
            .iter()
            .find(|i| i.name.to_lowercase().contains(&name.to_lowercase()))
            .map(|i| i.index)
            .ok_or_else(|| GpuError::UnknownDevice(name.clone(), names())),
    }
}
