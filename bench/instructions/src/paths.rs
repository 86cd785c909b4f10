//! The hot paths: what a request goes through on its way, each as an operation by itself.

mod msgpack;
mod pdk;
mod protobuf;
mod requests;
mod router;
mod values;

/// Operations that are counted together, after one that is not.
pub(crate) const OPERATIONS: usize = 100;

/// Code that runs for every request, or for every call of a plugin.
pub(crate) struct HotPath {
    pub name: String,
    operation: Box<dyn FnMut(usize)>,
}

impl HotPath {
    /// `operation` is given its number, so that it can work on another input each time.
    fn new(name: impl Into<String>, operation: impl FnMut(usize) + 'static) -> Self {
        Self { name: name.into(), operation: Box::new(operation) }
    }

    /// Runs it: once so that what is done once only is done, then to be counted.
    pub(crate) fn run(&mut self) {
        (self.operation)(0);
        counted(&mut *self.operation);
    }
}

/// All of them, with their inputs made.
pub(crate) fn all() -> Vec<HotPath> {
    [router::paths(), pdk::paths(), msgpack::paths(), protobuf::paths()].into_iter().flatten().collect()
}

/// Callgrind counts from the entry of this function to its end: `callgrind.rs` knows its name.
#[inline(never)]
fn counted(operation: &mut dyn FnMut(usize)) {
    for number in 0..OPERATIONS {
        operation(number);
    }
}
