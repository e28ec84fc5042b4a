//! What the kernel knows and std does not say: children that die with their parent, `/proc`, what explains a death, who may write a file;
//! threads where there are none.
//!
//! The only `unsafe` of the crate stands in [`pre_exec`].

#[forbid(unsafe_code)]
pub mod aside;
#[forbid(unsafe_code)]
pub mod evidence;
pub mod pre_exec;
#[forbid(unsafe_code)]
pub mod proc;
#[forbid(unsafe_code)]
pub mod spawner;
#[forbid(unsafe_code)]
pub mod trust;
