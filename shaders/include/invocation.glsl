// Which invocation this is. The host numbers work groups along x and goes on along y (no dimension may pass 65535), from
// first_group on, the first push constant of every kernel: what one dispatch would take too long for is run by several. z is the
// image.

uint group_index() {
    return first_group + gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
}

uint image_index() {
    return gl_WorkGroupID.z;
}

// For kernels with one row of invocations in a group.
uint item_index() {
    return group_index() * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
}
