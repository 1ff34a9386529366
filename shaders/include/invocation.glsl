// Which invocation this is. The host numbers work groups along x and goes on along y (no dimension may pass 65535);
// z is the image.

uint group_index() {
    return gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
}

uint image_index() {
    return gl_WorkGroupID.z;
}

// For kernels with one row of invocations in a group.
uint item_index() {
    return group_index() * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
}
