//! The allocator: mimalloc.
//!
//! The crate `mimalloc` asks for every alignment, even for those that any block has. mimalloc then takes more than it was
//! asked for where a block is larger than a kilobyte, and is slower to free it. A proxied request makes a hundred blocks, of
//! which only those of new tasks have an alignment of their own.

use std::{
    alloc::{GlobalAlloc, Layout},
    ffi::c_void,
};

use libmimalloc_sys::{
    mi_free, mi_malloc, mi_malloc_aligned, mi_realloc, mi_realloc_aligned, mi_zalloc, mi_zalloc_aligned,
};

pub(crate) struct Mimalloc;

/// What mimalloc aligns every block to that is at least as large (its `MI_MAX_ALIGN_SIZE`).
const ALIGNED: usize = 16;

/// Whether a block has this alignment without being asked for it. Smaller blocks are aligned to 8 bytes, or to their size.
const fn has_by_nature(layout: Layout, size: usize) -> bool {
    layout.align() <= ALIGNED && layout.align() <= size
}

// SAFETY: mimalloc's functions are those of an allocator; each block is aligned as its layout says, by `has_by_nature` or
// because it was asked for; blocks of both kinds are freed alike.
unsafe impl GlobalAlloc for Mimalloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if has_by_nature(layout, layout.size()) {
            // SAFETY: any size is allowed.
            return unsafe { mi_malloc(layout.size()) }.cast();
        }
        // SAFETY: a layout's alignment is a power of two.
        unsafe { mi_malloc_aligned(layout.size(), layout.align()) }.cast()
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if has_by_nature(layout, layout.size()) {
            // SAFETY: any size is allowed.
            return unsafe { mi_zalloc(layout.size()) }.cast();
        }
        // SAFETY: a layout's alignment is a power of two.
        unsafe { mi_zalloc_aligned(layout.size(), layout.align()) }.cast()
    }

    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller says that the block is one of ours.
        unsafe { mi_free(block.cast::<c_void>()) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if has_by_nature(layout, size) {
            // SAFETY: the caller says that the block is one of ours.
            return unsafe { mi_realloc(block.cast::<c_void>(), size) }.cast();
        }
        // SAFETY: the same, and a layout's alignment is a power of two.
        unsafe { mi_realloc_aligned(block.cast::<c_void>(), size, layout.align()) }.cast()
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::{GlobalAlloc, Layout};

    use super::Mimalloc;

    #[test]
    fn blocks_are_aligned_and_keep_their_bytes() {
        let sizes = (1..=64).chain([100, 1000, 1024, 1025, 5000, 70_000, 1 << 20]);
        for (size, shift) in sizes.flat_map(|size| (0..10).map(move |shift| (size, shift))) {
            let align = 1 << shift;
            let layout = Layout::from_size_align(size, align).unwrap();
            let grown = Layout::from_size_align(size * 2, align).unwrap();
            // SAFETY: blocks are used as their layouts say, and freed once.
            unsafe {
                let zeroed = Mimalloc.alloc_zeroed(layout);
                assert!(zeroed.addr().is_multiple_of(align) && *zeroed == 0 && *zeroed.add(size - 1) == 0);
                let block = Mimalloc.alloc(layout);
                assert!(block.addr().is_multiple_of(align), "{layout:?}");
                block.add(size - 1).write(7);
                let block = Mimalloc.realloc(block, layout, size * 2);
                assert!(block.addr().is_multiple_of(align) && *block.add(size - 1) == 7, "{grown:?}");
                Mimalloc.dealloc(block, grown);
                Mimalloc.dealloc(zeroed, layout);
            }
        }
    }
}
