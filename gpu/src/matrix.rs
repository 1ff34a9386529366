//! Matrix units, by VK_KHR_cooperative_matrix: whether a device has some that the kernels can use.

#![expect(unsafe_code, reason = "a query that vulkano does not wrap")]

use vulkano::VulkanObject;
use vulkano::device::physical::PhysicalDevice;
use vulkano::device::{DeviceCreateInfo, DeviceExtensions, DeviceFeatures};
use vulkano::shader::ShaderStages;
use vulkano::{Version, VulkanError};

/// Matrix units: products of half floats, summed in f32. A subgroup multiplies `m` x `k` by `k` x `n` values at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Rows of the product: pixels.
    pub m: u32,
    /// Columns of the product: output channels.
    pub n: u32,
    /// Products that are summed at once: input channels.
    pub k: u32,
    /// Invocations of a subgroup.
    pub subgroup: u32,
}

/// What the smallest tiles of matrices may take of a group: bytes that it shares, and invocations.
const MOST_SHARED: u32 = 32 << 10;
const MOST_INVOCATIONS: u32 = 256;

/// What a device must have for the kernels with matrices.
fn features() -> DeviceFeatures {
    DeviceFeatures {
        cooperative_matrix: true,
        vulkan_memory_model: true,
        shader_float16: true,
        subgroup_size_control: true,
        ..DeviceFeatures::empty()
    }
}

/// The matrices of a device that kernels use: of 16 x 16 x 16 if there are such, or the first that its driver lists and kernels can
/// use. `None` without them.
pub(crate) fn matrix(device: &PhysicalDevice) -> Option<Matrix> {
    let there = device.api_version() >= Version::V1_3
        && device.supported_extensions().khr_cooperative_matrix
        && device.supported_features().contains(&features());
    if !there {
        return None;
    }
    let p = device.properties();
    if p.max_compute_shared_memory_size < MOST_SHARED || p.max_compute_work_group_invocations < MOST_INVOCATIONS {
        return None;
    }
    let stages = [p.cooperative_matrix_supported_stages, p.required_subgroup_size_stages];
    if !stages.iter().all(|stages| stages.is_some_and(|stages| stages.contains(ShaderStages::COMPUTE))) {
        return None;
    }
    choose(&listed(device).ok()?, p.subgroup_size?)
}

/// Asks for what [`matrix`] found.
pub(crate) fn enable(create: &mut DeviceCreateInfo) {
    create.enabled_features |= features();
    create.enabled_extensions |= DeviceExtensions { khr_cooperative_matrix: true, ..DeviceExtensions::empty() };
}

/// What the driver lists.
fn listed(device: &PhysicalDevice) -> Result<Vec<ash::vk::CooperativeMatrixPropertiesKHR<'static>>, VulkanError> {
    let fns = device.instance().fns();
    let query = fns.khr_cooperative_matrix.get_physical_device_cooperative_matrix_properties_khr;
    let mut count = 0;
    // SAFETY: the device is of this instance and has the extension; without an array, only the count is written.
    unsafe { query(device.handle(), &mut count, std::ptr::null_mut()) }.result().map_err(VulkanError::from)?;
    let mut all = vec![ash::vk::CooperativeMatrixPropertiesKHR::default(); count as usize];
    // SAFETY: as above; the array has `count` elements.
    unsafe { query(device.handle(), &mut count, all.as_mut_ptr()) }.result().map_err(VulkanError::from)?;
    all.truncate(count as usize);
    Ok(all)
}

fn choose(listed: &[ash::vk::CooperativeMatrixPropertiesKHR<'_>], subgroup: u32) -> Option<Matrix> {
    use ash::vk::{ComponentTypeKHR as Component, ScopeKHR};
    let usable = |p: &&ash::vk::CooperativeMatrixPropertiesKHR<'_>| {
        let inputs = [p.a_type, p.b_type].iter().all(|&t| t == Component::FLOAT16);
        let sums = [p.c_type, p.result_type].iter().all(|&t| t == Component::FLOAT32);
        // Four channels are a vector, a stage has 32 input channels, and what is larger would leave no choice of tiles.
        let sizes =
            [8, 16, 32].contains(&p.m_size) && [8, 16, 32].contains(&p.n_size) && [4, 8, 16, 32].contains(&p.k_size);
        inputs && sums && sizes && p.scope == ScopeKHR::SUBGROUP
    };
    let mut all = listed.iter().filter(usable).map(|p| Matrix { m: p.m_size, n: p.n_size, k: p.k_size, subgroup });
    let best = all.clone().find(|matrix| [matrix.m, matrix.n, matrix.k] == [16; 3]);
    best.or_else(|| all.next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ash::vk::{ComponentTypeKHR as Component, CooperativeMatrixPropertiesKHR as Listed, ScopeKHR};

    fn listed(sizes: [u32; 3], sums: Component, scope: ScopeKHR) -> Listed<'static> {
        let [m, n, k] = sizes;
        let half = Component::FLOAT16;
        Listed::default()
            .m_size(m)
            .n_size(n)
            .k_size(k)
            .a_type(half)
            .b_type(half)
            .c_type(sums)
            .result_type(sums)
            .scope(scope)
    }

    #[test]
    fn matrices_of_half_floats_with_f32_sums_are_found() {
        let sizes = |all: &[Listed<'_>]| choose(all, 32).map(|found| [found.m, found.n, found.k]);
        let subgroup = |sizes| listed(sizes, Component::FLOAT32, ScopeKHR::SUBGROUP);
        let narrow = listed([16, 16, 16], Component::FLOAT16, ScopeKHR::SUBGROUP);
        let group = listed([16, 16, 16], Component::FLOAT32, ScopeKHR::WORKGROUP);
        assert_eq!(sizes(&[]), None);
        assert_eq!(sizes(&[narrow, group, subgroup([16, 16, 48])]), None);
        assert_eq!(sizes(&[narrow, subgroup([16, 8, 16]), subgroup([16, 16, 16])]), Some([16, 16, 16]));
        assert_eq!(sizes(&[subgroup([8, 16, 16]), subgroup([16, 8, 8])]), Some([8, 16, 16]));
    }
}
