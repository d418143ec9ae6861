//! Buffers that the threads of a parallel region share, each writing its own part.

use std::cell::UnsafeCell;
use std::ops::Range;

/// A fixed buffer, zeroed. Pages never touched take no memory.
pub struct SharedSlice<T>(Box<[UnsafeCell<T>]>);

// SAFETY: access goes through unsafe functions whose callers keep writers apart from everyone else.
unsafe impl<T: Send> Sync for SharedSlice<T> {}

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
        // SAFETY: all bits zero is a valid value of every `Zero` type; the zeroed allocation is what keeps pages untouched.
        Self(unsafe { Box::<[UnsafeCell<T>]>::new_zeroed_slice(len).assume_init() })
    }
}

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
