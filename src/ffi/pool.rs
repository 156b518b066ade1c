//! Memory that httpd frees at a known time.

use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use super::sys;

/// A pool that lives for `'p`.
#[derive(Clone, Copy)]
pub struct Pool<'p> {
    raw: NonNull<sys::apr_pool_t>,
    life: PhantomData<&'p ()>,
}

impl<'p> Pool<'p> {
    /// # Safety
    ///
    /// `raw` is a pool that lives for `'p` and is used by one thread at a time.
    pub(super) unsafe fn from_raw(raw: *mut sys::apr_pool_t) -> Self {
        Self { raw: NonNull::new(raw).expect("httpd passes a pool"), life: PhantomData }
    }

    pub(super) fn raw(self) -> *mut sys::apr_pool_t {
        self.raw.as_ptr()
    }

    /// A copy of `text` that lives as long as the pool; it ends before the first NUL in it.
    pub fn text(self, text: &[u8]) -> &'p CStr {
        let len = text.len();
        // SAFETY: the pool lives; httpd ends the process where memory is short, so what it gives is not null.
        let copy = unsafe { sys::apr_palloc(self.raw(), len + 1) }.cast::<u8>();
        // SAFETY: `copy` has `len + 1` bytes that nobody else has, and `text` has `len`.
        unsafe { copy.copy_from_nonoverlapping(text.as_ptr(), len) };
        // SAFETY: the last of the bytes.
        let end = unsafe { copy.add(len) };
        // SAFETY: as above.
        unsafe { end.write(0) };
        // SAFETY: terminated a line above, and not changed while the pool lives.
        unsafe { CStr::from_ptr(copy.cast::<c_char>()) }
    }

    /// Moves `value` into the pool's care: it is dropped when the pool is cleared.
    pub fn keep<T: 'p>(self, value: T) -> &'p T {
        let kept = Box::into_raw(Box::new(value));
        let cleanup = Some(drop_kept::<T> as unsafe extern "C" fn(*mut c_void) -> sys::apr_status_t);
        // SAFETY: the pool lives, and the cleanup takes what it is registered with.
        unsafe { sys::apr_pool_cleanup_register(self.raw(), kept.cast(), cleanup, Some(sys::apr_pool_cleanup_null)) };
        // SAFETY: it is dropped by the cleanup, at the end of `'p`.
        unsafe { &*kept }
    }

    /// Keeps `value` alive until the pool is cleared.
    pub fn hold<T: 'p>(self, value: Arc<T>) -> &'p T {
        let held = Arc::into_raw(value);
        let cleanup = Some(drop_held::<T> as unsafe extern "C" fn(*mut c_void) -> sys::apr_status_t);
        // SAFETY: the pool lives, and the cleanup takes what it is registered with.
        unsafe { sys::apr_pool_cleanup_register(self.raw(), held.cast(), cleanup, Some(sys::apr_pool_cleanup_null)) };
        // SAFETY: it is let go by the cleanup, at the end of `'p`.
        unsafe { &*held }
    }

    /// Plain memory for a value that needs no drop.
    pub(super) fn place<T: Copy>(self, value: T) -> *mut T {
        const { assert!(align_of::<T>() <= 8, "apr_palloc aligns to 8") };
        // SAFETY: as in `text`.
        let place = unsafe { sys::apr_palloc(self.raw(), size_of::<T>()) }.cast::<T>();
        // SAFETY: it has the size, and the alignment by the assertion above.
        unsafe { place.write(value) };
        place
    }
}

unsafe extern "C" fn drop_kept<T>(kept: *mut c_void) -> sys::apr_status_t {
    super::guard::catch(sys::APR_EGENERAL, || {
        if super::child::is_over() {
            return sys::APR_SUCCESS;
        }
        // SAFETY: `keep` made it by `Box::into_raw`, and httpd runs a cleanup once.
        drop(unsafe { Box::from_raw(kept.cast::<T>()) });
        sys::APR_SUCCESS
    })
}

unsafe extern "C" fn drop_held<T>(held: *mut c_void) -> sys::apr_status_t {
    super::guard::catch(sys::APR_EGENERAL, || {
        if super::child::is_over() {
            return sys::APR_SUCCESS;
        }
        // SAFETY: `hold` made it by `Arc::into_raw`, and httpd runs a cleanup once.
        drop(unsafe { Arc::from_raw(held.cast_const().cast::<T>()) });
        sys::APR_SUCCESS
    })
}

/// A short text at a fixed place, which can be changed while a table shows it.
#[derive(Clone, Copy)]
pub struct Board<'p> {
    place: NonNull<u8>,
    len: usize,
    life: PhantomData<&'p ()>,
}

impl<'p> Board<'p> {
    /// A board for texts of up to `len` bytes.
    pub fn new(pool: Pool<'p>, len: usize) -> Self {
        // SAFETY: as in `Pool::text`.
        let place = unsafe { sys::apr_palloc(pool.raw(), len + 1) }.cast::<u8>();
        let place = NonNull::new(place).expect("httpd ends the process where memory is short");
        let board = Self { place, len, life: PhantomData };
        board.write(b"");
        board
    }

    /// Writes `text`, cut where it is too long.
    pub fn write(self, text: &[u8]) {
        let len = text.len().min(self.len);
        // SAFETY: the place has `self.len + 1` bytes, and only the thread of the request reads or writes it.
        unsafe { self.place.as_ptr().copy_from_nonoverlapping(text.as_ptr(), len) };
        // SAFETY: within the place.
        let end = unsafe { self.place.as_ptr().add(len) };
        // SAFETY: as above.
        unsafe { end.write(0) };
    }

    pub(super) fn raw(self) -> *const c_char {
        self.place.as_ptr().cast()
    }
}
