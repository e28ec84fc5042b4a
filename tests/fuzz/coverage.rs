//! Which code an input reaches: the counters that `-C instrument-coverage` puts into every region of the program.
//!
//! Whether a region was ever reached is enough: an input is kept when it reaches one that none before it did.

/// Was this program built with coverage?
pub const IS_ON: bool = cfg!(fuzzing);

/// What was reached so far.
#[derive(Default)]
pub struct Coverage {
    seen: Vec<bool>,
    reached: usize,
}

impl Coverage {
    /// How many regions were reached so far.
    pub fn reached(&self) -> usize {
        self.reached
    }

    /// Has anything been reached since the last [`Coverage::forget`] that was not reached before? Marks nothing.
    pub fn is_new(&mut self) -> bool {
        let counters = counters();
        self.seen.resize(counters.len(), false);
        counters.iter().zip(&self.seen).any(|(n, seen)| *n != 0 && !seen)
    }

    /// As if nothing had been executed.
    pub fn forget(&self) {
        counters().fill(0);
    }

    /// Marks what has been reached as reached; true where some of it is new.
    pub fn take(&mut self) -> bool {
        let before = self.reached;
        let counters = counters();
        self.seen.resize(counters.len(), false);
        for (n, seen) in counters.iter().zip(&mut self.seen) {
            if *n != 0 && !*seen {
                *seen = true;
                self.reached += 1;
            }
        }
        self.reached > before
    }
}

#[cfg(not(fuzzing))]
fn counters() -> &'static mut [u64] {
    &mut []
}

#[cfg(fuzzing)]
#[allow(unsafe_code)]
fn counters() -> &'static mut [u64] {
    unsafe extern "C" {
        fn __llvm_profile_begin_counters() -> *mut u64;
        fn __llvm_profile_end_counters() -> *mut u64;
    }
    // SAFETY: the counters lie between these two places of the program's memory for as long as it runs. Other threads may count meanwhile,
    // without an order, as they do with each other: a count that is lost changes nothing here.
    unsafe {
        let (begin, end) = (__llvm_profile_begin_counters(), __llvm_profile_end_counters());
        let bytes = end.addr() - begin.addr();
        std::slice::from_raw_parts_mut(begin, bytes / size_of::<u64>())
    }
}
