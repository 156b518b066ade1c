//! Header fields and environment variables.

use std::ffi::CStr;
use std::marker::PhantomData;

use super::pool::Board;
use super::sys;

/// A table whose pool lives for `'p`.
#[derive(Clone, Copy)]
pub struct Table<'p> {
    raw: *mut sys::apr_table_t,
    life: PhantomData<&'p ()>,
}

impl<'p> Table<'p> {
    /// # Safety
    ///
    /// `raw` is a table that lives for `'p`.
    pub(super) unsafe fn from_raw(raw: *mut sys::apr_table_t) -> Self {
        Self { raw, life: PhantomData }
    }

    /// The first value of `name`.
    pub fn get(self, name: &CStr) -> Option<&'p CStr> {
        // SAFETY: the table lives, and `name` is terminated.
        let value = unsafe { sys::apr_table_get(self.raw, name.as_ptr()) };
        // SAFETY: a table's values are terminated and live in its pool, or as long as who set them promised.
        (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) })
    }

    /// Appends a field; neither text is copied.
    pub fn add(self, name: &'p CStr, value: &'p CStr) {
        // SAFETY: the table lives, and both texts live as long as it does.
        unsafe { sys::apr_table_addn(self.raw, name.as_ptr(), value.as_ptr()) };
    }

    /// Sets a field in the place of all that have its name; neither text is copied.
    pub fn set(self, name: &'p CStr, value: &'p CStr) {
        // SAFETY: as in `add`.
        unsafe { sys::apr_table_setn(self.raw, name.as_ptr(), value.as_ptr()) };
    }

    /// Removes all fields of a name.
    pub fn unset(self, name: &CStr) {
        // SAFETY: the table lives, and `name` is terminated.
        unsafe { sys::apr_table_unset(self.raw, name.as_ptr()) };
    }

    /// Removes all fields whose name is `unwanted`.
    pub fn unset_if(self, unwanted: impl Fn(&[u8]) -> bool) {
        // SAFETY: the table lives.
        let entries = unsafe { sys::apr_table_elts(self.raw) };
        // SAFETY: APR's own array; one field is read.
        let count = unsafe { (*entries).nelts };
        // SAFETY: as above.
        let first = unsafe { (*entries).elts }.cast::<sys::apr_table_entry_t>();
        let names = (0..usize::try_from(count).unwrap_or(0)).filter_map(|at| {
            // SAFETY: the array holds that many entries.
            let entry = unsafe { first.add(at) };
            // SAFETY: as above; one field is read.
            let name = unsafe { (*entry).key };
            // SAFETY: a table's names are terminated and live in its pool.
            (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) })
        });
        // A removal moves entries: all names are read before.
        let unwanted: Vec<&CStr> = names.filter(|name| unwanted(name.to_bytes())).collect();
        unwanted.into_iter().for_each(|name| self.unset(name));
    }
}

impl<'p> Table<'p> {
    /// Shows a board under `name`.
    pub fn show(self, name: &'p CStr, board: Board<'p>) {
        // SAFETY: the table lives; the name and the board live as long, and the board is always terminated.
        unsafe { sys::apr_table_setn(self.raw, name.as_ptr(), board.raw()) };
    }
}
