//! Hard limits of expressions.

/// Instructions of one evaluation. A filter over 100,000 items costs a few per item; past a million an expression
/// is a program, and a step should do its work.
pub const FUEL: u64 = 1_000_000;

/// Bytes of JSON text that one expression, or one step, may give: what a checkpoint row holds comfortably.
pub const RESULT_BYTES: usize = 16 * 1024 * 1024;

/// Bytes of one expression's text.
pub const SOURCE_BYTES: usize = 16 * 1024;

/// Links of the longest chain in an expression, a bracket for three: what two megabytes of stack hold some times over.
pub const LINKS: usize = 200;

/// Brackets of an expression: what is built of lists within lists is bounded by them.
pub const BRACKETS: usize = 100;

/// Items of one `map`: each is at least one checkpoint row, and all belong to one run.
pub const MAP_ITEMS: usize = 100_000;

/// Nesting of a result; serde_json reads no deeper than 128.
pub const DEPTH: usize = 120;
