//! What the fuzz targets share: a file for code that reads files.
//!
//! Each target hands a part of cmx that reads what strangers wrote arbitrary bytes, and states beside "no panic" what
//! else holds. `make fuzz` runs them one after the other, `FUZZ_SECONDS` each; one alone, from the repository's root:
//!
//!     cargo +nightly fuzz run -s none --codegen-units 16 parquet -- -max_total_time=600
//!
//! `-s none` leaves out the address sanitizer: cmx's own `unsafe` is a handful of lines with tests of their own, and
//! without it a build takes half the time and the memory limits are real ones. `corpus/TARGET` holds small seeds that
//! we wrote; what a run adds to them stays out of the repository if it is given a folder of its own as the first corpus,
//! as `make fuzz` does.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::PathBuf;
use std::sync::OnceLock;

/// The largest piece of memory that may be asked for: a page of a Parquet file has at most 2 GiB, which a codec that
/// expands without measure (Brotli) may honestly need. Memory that is asked for and not used counts here, and does not
/// for libFuzzer's `-rss_limit_mb`.
const LARGEST: usize = (2 << 30) + (1 << 20);

struct Limited;

/// Ends the process, as an allocation that fails does.
fn check(size: usize) {
    if size > LARGEST {
        eprintln!("{size} bytes of memory were asked for");
        std::process::abort();
    }
}

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        check(size);
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Limited = Limited;

/// A file of this process that holds `bytes`; the next call with the same name writes it anew.
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("cmx-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        folder
    });
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("a temporary file");
    path
}
