//! Buffers that the threads of a parallel region share, each writing its own part.

use std::cell::UnsafeCell;
use std::ops::Range;

/// A fixed buffer, zeroed. Pages never touched take no memory.
pub struct SharedSlice<T>(Box<[UnsafeCell<T>]>);

// SAFETY: access goes through unsafe functions whose callers keep writers apart from everyone else.
unsafe impl<T: Send> Sync for SharedSlice<T> {}

/// Bytes of a huge page, as most systems have them.
pub const HUGE_PAGE: usize = 2 << 20;

/// So much memory from the system itself, untouched; `None` if it does not give it. An allocator that had it
/// back would no longer know that it is zeros, and touch all of it when zeros are asked for.
pub fn try_to_map(bytes: usize) -> Option<memmap2::MmapMut> {
    memmap2::MmapMut::map_anon(bytes.max(1)).ok()
}

/// A number type for which all bits zero is 0.
pub trait Zero: Copy {}
impl Zero for f32 {}
impl Zero for f64 {}
impl Zero for u64 {}
impl Zero for i32 {}
impl Zero for u32 {}
impl Zero for i16 {}
impl Zero for u16 {}
impl Zero for i8 {}
impl Zero for u8 {}

impl<T: Zero> SharedSlice<T> {
    /// `len` zeros.
    pub fn new(len: usize) -> Self {
        // SAFETY: all bits zero is a valid value of every `Zero` type; the zeroed allocation is what keeps
        // pages untouched.
        Self(unsafe { Box::<[UnsafeCell<T>]>::new_zeroed_slice(len).assume_init() })
    }

    /// `len` zeros in huge pages, where the system has some. `None` if it does not give so much memory.
    pub fn in_huge_pages(len: usize) -> Option<Self> {
        // What `new` asks for must not fail.
        try_to_map(len.checked_mul(size_of::<T>())?)?;
        let memory = Self::new(len);
        ask_for_huge_pages(&memory);
        Some(memory)
    }
}

/// Asks the system for huge pages where a buffer spans them.
#[cfg(target_os = "linux")]
fn ask_for_huge_pages<T>(memory: &SharedSlice<T>) {
    use rustix::mm::{Advice, madvise};

    let (start, bytes) = (memory.as_ptr().cast::<u8>(), memory.bytes());
    let lead = start.align_offset(HUGE_PAGE);
    let pages = bytes.saturating_sub(lead) / HUGE_PAGE;
    if pages > 0 {
        // SAFETY: these pages belong to the buffer. The advice changes how they are mapped, not what they
        // hold; a system that refuses it gives small pages.
        let _ = unsafe { madvise(start.wrapping_add(lead).cast(), pages * HUGE_PAGE, Advice::LinuxHugepage) };
    }
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages<T>(_: &SharedSlice<T>) {}

impl<T> SharedSlice<T> {
    /// These values.
    pub fn from_vec(values: Vec<T>) -> Self {
        Self(values.into_iter().map(UnsafeCell::new).collect())
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Size of the buffer.
    pub fn bytes(&self) -> usize {
        self.len() * size_of::<T>()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Part of the buffer.
    /// # Safety
    /// Nobody writes to it while the slice lives.
    #[inline]
    pub unsafe fn read(&self, range: Range<usize>) -> &[T] {
        let cells = &self.0[range];
        // SAFETY: cells have the layout of their values; the caller keeps writers away.
        unsafe { std::slice::from_raw_parts(cells.as_ptr().cast(), cells.len()) }
    }

    /// Part of the buffer, to write.
    /// # Safety
    /// Nobody else reads or writes it while the slice lives.
    #[allow(clippy::mut_from_ref)]
    #[inline]
    pub unsafe fn write(&self, range: Range<usize>) -> &mut [T] {
        let cells = &self.0[range];
        // SAFETY: the cells allow writing through a shared reference; the caller keeps everyone else away.
        unsafe { std::slice::from_raw_parts_mut(cells.as_ptr().cast_mut().cast(), cells.len()) }
    }

    /// Address of the first value, for writes in a pattern no slice describes.
    pub fn as_ptr(&self) -> *mut T {
        self.0.as_ptr().cast_mut().cast()
    }
}
