//! What the kernel knows and std does not say: children that die with their parent, `/proc`, and what explains a death.
//!
//! The only `unsafe` of the crate stands in [`pre_exec`].

pub mod evidence;
pub mod pre_exec;
pub mod proc;
pub mod spawner;
