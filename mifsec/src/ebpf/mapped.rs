//! An array map in our address space: single stores instead of system calls.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

/// A mmapable array of `T`. The mapping keeps the map alive.
pub(super) struct MappedArray<T> {
    start: NonNull<T>,
    len: u32,
    octets: usize,
    element: PhantomData<T>,
}

// SAFETY: the mapping belongs to this value alone; nothing is tied to a thread.
unsafe impl<T: Send> Send for MappedArray<T> {}

impl<T: aya::Pod> MappedArray<T> {
    /// Maps the array behind `fd`, which has `len` elements of `T`.
    pub(super) fn new(fd: BorrowedFd<'_>, len: u32) -> Result<Self> {
        const {
            // The kernel rounds elements up to 8 octets.
            assert!(size_of::<T>().is_multiple_of(8) || size_of::<T>() == 4);
        }
        let stride = Self::stride();
        let octets = len as usize * stride;
        // SAFETY: a new shared mapping, placed by the kernel.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                octets,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("mmap of a BPF array");
        }
        let start = NonNull::new(start.cast()).context("mmap returned no address")?;
        Ok(Self {
            start,
            len,
            octets,
            element: PhantomData,
        })
    }

    const fn stride() -> usize {
        size_of::<T>().next_multiple_of(8)
    }

    fn at(&self, index: u32) -> Result<NonNull<T>> {
        anyhow::ensure!(index < self.len, "index {index} of {}", self.len);
        // SAFETY: inside the mapping, whose elements lie `stride` octets apart.
        Ok(unsafe { self.start.byte_add(index as usize * Self::stride()) })
    }

    /// Writes an element no program reads yet.
    pub(super) fn write(&mut self, index: u32, value: T) -> Result<()> {
        let at = self.at(index)?;
        // SAFETY: aligned (page start, stride of 8) and inside the mapping;
        // volatile because other readers exist.
        unsafe { at.as_ptr().write_volatile(value) };
        Ok(())
    }
}

impl MappedArray<u32> {
    /// Stores a word the programs may read at any time. What was written before
    /// is seen by a program that sees the word.
    pub(super) fn flip(&mut self, index: u32, value: u32) -> Result<()> {
        let at = self.at(index)?;
        // SAFETY: aligned, inside the mapping, and only ever accessed atomically.
        unsafe { AtomicU32::from_ptr(at.as_ptr()) }.store(value, Ordering::Release);
        Ok(())
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; no reference into it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.octets) };
    }
}
