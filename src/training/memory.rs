//! Memory of this process: what it keeps for the next step, instead of giving it back to the system and faulting it in again,
//! and how much that was at most.

/// Tells the C library to keep what is freed. A training step frees all its activations, and the next one wants the
/// same sizes: without this a tenth of the time went into clearing pages. Holds for the whole process; does nothing
/// where the C library is not glibc.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // From glibc's malloc.h.
        const M_TRIM_THRESHOLD: i32 = -1;
        const M_MMAP_THRESHOLD: i32 = -3;
        /// The largest that glibc takes.
        const MMAP_THRESHOLD_MAX: i32 = 32 << 20;
        unsafe extern "C" {
            fn mallopt(parameter: i32, value: i32) -> i32;
        }
        // SAFETY: glibc's documented signature; it only sets two numbers under the allocator's own lock.
        unsafe {
            mallopt(M_TRIM_THRESHOLD, i32::MAX);
            mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_MAX);
        }
    }
}

/// The most bytes that this process had in memory at one time; `None` where the system does not say.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}
