//! The dashboard, seen and used in a real browser.

mod access;
mod ground;
mod live;
mod pictures;
mod texts;
