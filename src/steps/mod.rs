//! The kinds of step: one file a kind, all behind one trait.

mod step;

pub use step::{
    BoxFuture, Flow, Registry, Secrets, Shape, Step, StepCx, StepOutput, StopReason, StopSignal, StopTrigger, stop_pair,
};
