//! The expression language: the only wrapper round the expression library.
//!
//! An [`Expression`] is compiled once, when a definition is loaded. A plain path (`steps.order.output.sku`) never
//! reaches the library: it is looked up on the JSON itself, which is what makes an interpreted step cheap. Everything
//! else is evaluated by minijinja against lazy views of the same JSON, so that nothing is converted which is not read.
//!
//! Names that do not exist are errors, wherever they stand, unless the expression itself asks (`x is defined`,
//! `x | default(…)`). A [`Template`] is a JSON value whose strings may hold `${{ expression }}`.

mod bridge;
mod compile;
mod error;
mod filters;
pub mod limits;
mod path;
mod scope;
mod split;
mod template;

pub use compile::Expression;
pub use error::{ExpressionError, nearest};
pub use path::{Path, Segment};
pub use scope::{Host, Item, LazyJson, LazyRun, Scope, StepIds, StepNames, StepView, Steps, View, map_failures};
pub use split::{Piece, SplitError, has_expression, split};
pub use template::Template;

#[cfg(test)]
mod tests;
